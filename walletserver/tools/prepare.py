"""The prepare band: unsigned transfers and on-ramp links; nothing here touches a key or a chain."""

from dataclasses import dataclass
from typing import Annotated, Final
from urllib.parse import urlencode

from pydantic import Field

from walletserver.codes import Code
from walletserver.errors import InvalidInputError
from walletserver.evm.address import Address, checksum, parse_address
from walletserver.evm.transaction import (
    MAX_NONCE,
    Eip1559Fee,
    LegacyFee,
    UnsignedTransaction,
)
from walletserver.evm.transfer import Transfer, encode_token_transfer, read_transfer
from walletserver.evm.units import WHOLE_PATTERN, parse_smallest, parse_units
from walletserver.ledger.backend import Backend
from walletserver.ledger.catalogue import Asset, Chain, chain_named
from walletserver.tools.bound import BoundTool, Listing, Result, ToolInput, bind
from walletserver.tools.fields import (
    AddressText,
    Amount,
    AmountWei,
    ChainName,
    ContractText,
    Fiat,
    Symbol,
)

_ONRAMP: Final = "https://buy.moonpay.com/"


class PrepareTransfer(ToolInput):
    """Input of both prepare tools."""

    chain: ChainName
    sender: Annotated[AddressText, Field(alias="from")]
    to: AddressText
    amount: Amount | None = None
    amount_wei: AmountWei | None = None
    token_contract: ContractText | None = None
    nonce: Annotated[
        str | None,
        Field(
            max_length=16,
            pattern=WHOLE_PATTERN,
            description="Nonce to use; the sender's next one when left out.",
        ),
    ] = None


class PrepareOnramp(ToolInput):
    """Input of `prepare_onramp`."""

    address: AddressText
    chain: ChainName
    asset: Annotated[Symbol | None, Field(description="Symbol; the native coin by default.")] = None
    fiat_amount: Annotated[
        str,
        Field(
            max_length=9,
            pattern=r"^[1-9][0-9]{0,5}(\.[0-9]{1,2})?$",
            description="Amount to pay, from 1 to 999999.99.",
        ),
    ]
    fiat: Fiat = "USD"


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A transfer ready to be encoded."""

    chain: Chain
    sender: Address
    transaction: UnsignedTransaction
    transfer: Transfer
    base_fee: int


class PrepareTools:
    """Handlers of the prepare band."""

    def __init__(self, backend: Backend) -> None:
        """Keep the chain that nonces and fees come from."""
        self._backend = backend

    def bound(self) -> tuple[BoundTool, ...]:
        """Return the band's three tools."""
        return (
            bind(_TRANSFER, PrepareTransfer, self.prepare_transfer),
            bind(_SERIALIZED, PrepareTransfer, self.prepare_serialized),
            bind(_ONRAMP_LISTING, PrepareOnramp, prepare_onramp),
        )

    def prepare_transfer(self, asked: PrepareTransfer) -> Result:
        """Answer with the fields of an unsigned transfer."""
        prepared = self._prepare(asked)
        transaction = prepared.transaction
        return {
            "chain": "ethereum",
            "chainId": transaction.chain_id,
            "from": checksum(prepared.sender),
            "to": checksum(transaction.to),
            "valueWei": str(transaction.value),
            "data": "0x" + transaction.data.hex() if transaction.data else None,
            "txType": prepared.transfer.kind,
            "tokenContract": _optional(prepared.transfer.token_contract),
            "nonce": str(transaction.nonce),
            "fee": _fee(transaction, prepared.base_fee),
        }

    def prepare_serialized(self, asked: PrepareTransfer) -> Result:
        """Answer with signing-ready hex, its hash, and a review for a person."""
        prepared = self._prepare(asked)
        transaction = prepared.transaction
        is_1559 = isinstance(transaction.fee, Eip1559Fee)
        return {
            "chain": "ethereum",
            "unsignedTx": transaction.unsigned_hex,
            "txHash": transaction.signing_hash,
            "metadata": {
                "txType": prepared.transfer.kind,
                "feeMode": "EIP1559" if is_1559 else "LEGACY",
                "evmTxType": 2 if is_1559 else 0,
            },
            "review": {
                "chain": "ethereum",
                "txType": prepared.transfer.kind,
                "from": checksum(prepared.sender),
                "recipient": checksum(prepared.transfer.recipient),
                "amount": str(prepared.transfer.amount),
                "tokenContract": _optional(prepared.transfer.token_contract),
                "nonce": str(transaction.nonce),
                "chainId": transaction.chain_id,
                "fee": {
                    **_fee(transaction, prepared.base_fee),
                    "estimatedMaxCost": str(transaction.max_cost),
                },
            },
        }

    def _prepare(self, asked: PrepareTransfer) -> _Prepared:
        chain = chain_named(asked.chain)
        sender, recipient = parse_address(asked.sender), parse_address(asked.to)
        token = None if asked.token_contract is None else parse_address(asked.token_contract)
        amount = _amount(asked, chain.native if token is None else chain.token(token))
        terms = self._backend.fee_terms(chain, token)
        nonce = self._backend.next_nonce(chain, sender) if asked.nonce is None else int(asked.nonce)
        if nonce > MAX_NONCE:
            raise InvalidInputError(Code.INVALID_ARGUMENT, "The nonce is out of range.")
        transaction = UnsignedTransaction(
            chain_id=chain.chain_id,
            nonce=nonce,
            gas_limit=terms.gas_limit,
            to=token or recipient,
            value=0 if token else amount,
            data=encode_token_transfer(recipient, amount) if token else b"",
            fee=Eip1559Fee(terms.priority_fee, terms.max_fee)
            if chain.is_eip1559
            else LegacyFee(terms.max_fee),
        )
        return _Prepared(chain, sender, transaction, read_transfer(transaction), terms.base_fee)


def prepare_onramp(asked: PrepareOnramp) -> Result:
    """Answer with a link that buys an asset; no request is made."""
    chain = chain_named(asked.chain)
    address = checksum(parse_address(asked.address))
    symbol = (asked.asset or chain.native.symbol).upper()
    if symbol not in {asset.symbol for asset in chain.assets}:
        raise InvalidInputError(Code.UNKNOWN_ASSET, "The chain has no asset of that symbol.")
    query = urlencode(
        {
            "currencyCode": symbol.lower(),
            "walletAddress": address,
            "baseCurrencyAmount": asked.fiat_amount,
            "baseCurrencyCode": asked.fiat.lower(),
        }
    )
    return {
        "provider": "moonpay",
        "url": f"{_ONRAMP}?{query}",
        "chain": chain.name,
        "address": address,
        "asset": symbol,
        "fiatAmount": asked.fiat_amount,
        "fiat": asked.fiat,
    }


def _amount(asked: PrepareTransfer, asset: Asset) -> int:
    if asked.amount is not None and asked.amount_wei is None:
        return parse_units(asked.amount, asset.decimals)
    if asked.amount_wei is not None and asked.amount is None:
        return parse_smallest(asked.amount_wei)
    raise InvalidInputError(Code.INVALID_AMOUNT, "Give exactly one of amount and amountWei.")


def _fee(transaction: UnsignedTransaction, base_fee: int) -> dict[str, object]:
    match transaction.fee:
        case Eip1559Fee(max_priority_fee, max_fee):
            return {
                "mode": "EIP1559",
                "gasLimit": str(transaction.gas_limit),
                "baseFeePerGas": str(base_fee),
                "maxPriorityFeePerGas": str(max_priority_fee),
                "maxFeePerGas": str(max_fee),
            }
        case LegacyFee(gas_price):
            return {
                "mode": "LEGACY",
                "gasLimit": str(transaction.gas_limit),
                "gasPrice": str(gas_price),
            }


def _optional(address: Address | None) -> str | None:
    return None if address is None else checksum(address)


_RULE: Final = (
    " Give exactly one of amount (human) and amountWei (smallest unit);"
    " for a token give the tokenContract found with resolve_asset."
)
_TRANSFER = Listing(
    "prepare_transfer",
    "Prepare transfer",
    "Unsigned native or token transfer with nonce, fees and calldata, for a signer of your own."
    + _RULE,
)
_SERIALIZED = Listing(
    "prepare_serialized_unsigned_tx",
    "Prepare signing-ready transfer",
    "Unsigned transfer as hex for sign_transaction or send_transaction, with a review." + _RULE,
)
_ONRAMP_LISTING = Listing(
    "prepare_onramp",
    "Prepare on-ramp link",
    "MoonPay link to buy an asset for an address. Only a link: no request is made.",
)
