"""The read band: balances, prices, fees, assets and transactions."""

from collections.abc import Sequence

from walletserver.codes import Code
from walletserver.errors import InvalidInputError
from walletserver.evm.address import Address, checksum, parse_address
from walletserver.evm.units import format_units, parse_smallest
from walletserver.ledger.backend import Backend, ChainTransaction
from walletserver.ledger.catalogue import (
    CHAINS,
    Asset,
    Chain,
    chain_named,
    fiat_value,
    price_text,
)
from walletserver.tools.bound import BoundTool, Listing, Result, bind
from walletserver.tools.read_inputs import (
    GetAllBalances,
    GetBalance,
    GetFeeQuote,
    GetPrice,
    GetTxHistory,
    GetTxStatus,
    ResolveAsset,
)


class ReadTools:
    """Handlers of the read band."""

    def __init__(self, backend: Backend) -> None:
        """Keep the chain to read from."""
        self._backend = backend

    def bound(self) -> tuple[BoundTool, ...]:
        """Return the band's seven tools."""
        return (
            bind(_BALANCE, GetBalance, self.get_balance),
            bind(_ALL_BALANCES, GetAllBalances, self.get_all_balances),
            bind(_PRICE, GetPrice, get_price),
            bind(_FEE_QUOTE, GetFeeQuote, self.get_fee_quote),
            bind(_RESOLVE, ResolveAsset, resolve_asset),
            bind(_STATUS, GetTxStatus, self.get_tx_status),
            bind(_HISTORY, GetTxHistory, self.get_tx_history),
        )

    def get_balance(self, asked: GetBalance) -> Result:
        """Answer with one native balance."""
        chain = chain_named(asked.chain)
        address = parse_address(asked.address)
        return {
            "address": checksum(address),
            "chain": chain.name,
            **self._holding(chain, chain.native, address, asked.fiat),
        }

    def get_all_balances(self, asked: GetAllBalances) -> Result:
        """Answer with the native and token balances of one address."""
        chain = chain_named(asked.chain)
        address = parse_address(asked.address)
        if asked.asset_ids is not None:
            contracts = dict.fromkeys(parse_address(text) for text in asked.asset_ids)
            tokens = [chain.token(contract) for contract in contracts]
        else:
            tokens = list(chain.assets[1:])
        assets = [chain.native, *tokens] if asked.include_native else tokens
        return {
            "address": checksum(address),
            "chain": chain.name,
            "balances": [self._holding(chain, asset, address, asked.fiat) for asset in assets],
        }

    def get_fee_quote(self, asked: GetFeeQuote) -> Result:
        """Answer with what a transfer would cost now."""
        chain = chain_named(asked.chain)
        parse_address(asked.sender)
        parse_address(asked.to)
        parse_smallest(asked.amount_wei)
        token = None if asked.token_contract is None else parse_address(asked.token_contract)
        if token is not None:
            chain.token(token)
        terms = self._backend.fee_terms(chain, token)
        expected = terms.gas_limit * (terms.base_fee + terms.priority_fee)
        highest = terms.gas_limit * terms.max_fee
        native = chain.native
        return {
            "chain": chain.name,
            "mode": "EIP1559" if chain.is_eip1559 else "LEGACY",
            "gasLimit": str(terms.gas_limit),
            "baseFeePerGas": str(terms.base_fee),
            "maxPriorityFeePerGas": str(terms.priority_fee),
            "maxFeePerGas": str(terms.max_fee),
            "estimatedFeeWei": str(expected),
            "estimatedMaxCost": str(highest),
            "symbol": native.symbol,
            "estimatedFee": format_units(expected, native.decimals),
            "fiat": {
                "currency": asked.fiat,
                "value": fiat_value(native, expected, asked.fiat),
            },
        }

    def get_tx_status(self, asked: GetTxStatus) -> Result:
        """Answer with where a transaction stands."""
        chain = chain_named(asked.chain)
        found = self._backend.transaction(chain, asked.tx_hash)
        if found is None:
            return {
                "txHash": asked.tx_hash.lower(),
                "chain": chain.name,
                "status": "UNKNOWN",
                "success": False,
                "txType": "UNKNOWN",
            }
        return _status(chain, found)

    def get_tx_history(self, asked: GetTxHistory) -> Result:
        """Answer with one page of an address's transactions."""
        chain = chain_named(asked.chain)
        address = parse_address(asked.address)
        before = None if asked.cursor is None else int(asked.cursor)
        # One more than asked for tells whether there is a next page.
        found = self._backend.history(chain, address, before=before, limit=asked.limit + 1)
        page = found[: asked.limit]
        return {
            "address": checksum(address),
            "chain": chain.name,
            "transactions": [
                {
                    **_status(chain, item),
                    "nonce": str(item.nonce),
                    "fee": str(item.fee),
                    "direction": "out" if item.sender == address else "in",
                }
                for item in page
            ],
            "nextCursor": str(page[-1].block) if len(found) > asked.limit else None,
        }

    def _holding(
        self, chain: Chain, asset: Asset, address: Address, fiat: str
    ) -> dict[str, object]:
        units = self._backend.balance(chain, address, asset.contract)
        return {
            **_describe(asset),
            "amount": format_units(units, asset.decimals),
            "smallestUnit": str(units),
            "fiat": {
                "currency": fiat,
                "price": price_text(asset, fiat),
                "value": fiat_value(asset, units, fiat),
            },
        }


def get_price(asked: GetPrice) -> Result:
    """Answer with a price of the fixed table."""
    asset = _priced_asset(asked)
    return {
        "symbol": asset.symbol,
        "base": asked.base,
        "price": price_text(asset, asked.base),
        "source": "fixed development table",
    }


def resolve_asset(asked: ResolveAsset) -> Result:
    """Answer with the assets of a chain that fit a contract, a symbol or a part of a name."""
    chain = chain_named(asked.chain)
    given = [asked.token_contract, asked.symbol, asked.name]
    if sum(value is not None for value in given) != 1:
        raise InvalidInputError(
            Code.INVALID_ARGUMENT, "Give exactly one of tokenContract, symbol and name."
        )
    candidates = _candidates(chain, asked)
    match len(candidates):
        case 0:
            status = "not_found"
        case 1:
            status = "unique"
        case _:
            status = "ambiguous"
    return {
        "chain": chain.name,
        "status": status,
        "candidates": [_describe(asset) for asset in candidates[: asked.limit]],
    }


def _candidates(chain: Chain, asked: ResolveAsset) -> Sequence[Asset]:
    if asked.token_contract is not None:
        contract = parse_address(asked.token_contract)
        return [asset for asset in chain.assets if asset.contract == contract]
    if asked.symbol is not None:
        symbol = asked.symbol.upper()
        return [asset for asset in chain.assets if asset.symbol == symbol]
    part = (asked.name or "").casefold()
    return [asset for asset in chain.assets if part in asset.name.casefold()]


def _priced_asset(asked: GetPrice) -> Asset:
    by_contract = asked.contract_address is not None
    if by_contract == (asked.symbol is not None) or by_contract != (asked.chain is not None):
        raise InvalidInputError(
            Code.INVALID_ARGUMENT, "Give either symbol, or contractAddress together with chain."
        )
    if asked.contract_address is not None and asked.chain is not None:
        return chain_named(asked.chain).token(parse_address(asked.contract_address))
    symbol = (asked.symbol or "").upper()
    for chain in CHAINS.values():
        for asset in chain.assets:
            if asset.symbol == symbol:
                return asset
    raise InvalidInputError(Code.UNKNOWN_ASSET, "There is no price for that symbol.")


def _describe(asset: Asset) -> dict[str, object]:
    return {
        "assetId": "native" if asset.contract is None else checksum(asset.contract),
        "symbol": asset.symbol,
        "name": asset.name,
        "decimals": asset.decimals,
        "tokenContract": None if asset.contract is None else checksum(asset.contract),
    }


def _status(chain: Chain, found: ChainTransaction) -> dict[str, object]:
    status: dict[str, object] = {
        "txHash": found.tx_hash,
        "chain": chain.name,
        "status": "SUCCEEDED",
        "success": True,
        "txType": found.kind,
        "blockNumber": found.block,
        "txIndex": 0,
        "blockTimestamp": found.at,
        "gasUsed": str(found.gas_used),
        "from": checksum(found.sender),
        "to": checksum(found.envelope_to),
        "value": "0" if found.token else str(found.units),
    }
    asset = chain.native if found.token is None else chain.token(found.token)
    status["displayValue"] = f"{format_units(found.units, asset.decimals)} {asset.symbol}"
    if found.token is not None:
        status |= {
            "tokenContract": checksum(found.token),
            "tokenTo": checksum(found.recipient),
            "tokenValue": str(found.units),
            "methodId": "0xa9059cbb",
        }
    return status


_BALANCE = Listing(
    "get_balance", "Get native balance", "Native coin balance of one address, with fiat value."
)
_ALL_BALANCES = Listing(
    "get_all_balances",
    "Get all balances",
    "Native and token balances of one address on one chain, with fiat values.",
)
_PRICE = Listing(
    "get_price",
    "Get price",
    "Price of an asset, by symbol, or by contractAddress together with chain."
    " A fixed table on this development ledger.",
)
_FEE_QUOTE = Listing(
    "get_fee_quote",
    "Get fee quote",
    "Network fee of a native transfer, or of a token transfer when tokenContract is given.",
)
_RESOLVE = Listing(
    "resolve_asset",
    "Resolve asset",
    "Find an asset by exactly one of tokenContract, symbol or name."
    " The status is unique, ambiguous or not_found.",
)
_STATUS = Listing(
    "get_tx_status",
    "Get transaction status",
    "Status of one on-chain transaction hash: PENDING, SUCCEEDED, FAILED or UNKNOWN.",
)
_HISTORY = Listing(
    "get_tx_history",
    "Get transaction history",
    "Transactions an address sent or received, newest first, in pages.",
)
