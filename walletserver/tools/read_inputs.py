"""What the read band's tools take."""

from typing import Annotated

from pydantic import Field

from walletserver.tools.bound import ToolInput
from walletserver.tools.fields import (
    AddressText,
    AmountWei,
    ChainName,
    ContractText,
    Fiat,
    Symbol,
    TxHash,
)


class GetBalance(ToolInput):
    """Input of `get_balance`."""

    address: AddressText
    chain: ChainName
    fiat: Fiat = "USD"


class GetAllBalances(ToolInput):
    """Input of `get_all_balances`."""

    address: AddressText
    chain: ChainName
    fiat: Fiat = "USD"
    asset_ids: Annotated[
        list[ContractText] | None,
        Field(max_length=50, description="Only these token contracts; all when left out."),
    ] = None
    include_native: Annotated[bool, Field(description="Whether to list the native coin.")] = True


class GetPrice(ToolInput):
    """Input of `get_price`."""

    symbol: Symbol | None = None
    contract_address: ContractText | None = None
    chain: ChainName | None = None
    base: Fiat = "USD"


class GetFeeQuote(ToolInput):
    """Input of `get_fee_quote`."""

    chain: ChainName
    sender: Annotated[AddressText, Field(alias="from")]
    to: AddressText
    amount_wei: AmountWei
    token_contract: ContractText | None = None
    memo: Annotated[
        str | None, Field(max_length=256, description="Tron only; no effect on EVM fees.")
    ] = None
    fiat: Fiat = "USD"


class ResolveAsset(ToolInput):
    """Input of `resolve_asset`."""

    chain: ChainName
    token_contract: ContractText | None = None
    symbol: Symbol | None = None
    name: Annotated[str | None, Field(min_length=1, max_length=64)] = None
    limit: Annotated[int, Field(ge=1, le=10, description="Most candidates to return.")] = 5


class GetTxStatus(ToolInput):
    """Input of `get_tx_status`."""

    tx_hash: TxHash
    chain: ChainName


class GetTxHistory(ToolInput):
    """Input of `get_tx_history`."""

    address: AddressText
    chain: ChainName
    limit: Annotated[int, Field(ge=1, le=100, description="Most transactions to return.")] = 20
    cursor: Annotated[
        str | None,
        Field(
            max_length=18, pattern=r"^[0-9]{1,18}$", description="nextCursor of the page before."
        ),
    ] = None
