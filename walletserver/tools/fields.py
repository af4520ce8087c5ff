"""The argument types the tools share, each with its bounds."""

from typing import Annotated, Literal

from pydantic import Field

from walletserver.evm.address import ADDRESS_PATTERN
from walletserver.evm.transaction import HEX_PATTERN, MAX_HEX_LENGTH
from walletserver.evm.units import AMOUNT_PATTERN, WHOLE_PATTERN

ChainName = Annotated[
    Literal["ethereum", "bnb", "tron"],
    Field(description="Chain name. The embedded ledger answers not_available for tron."),
]
AddressText = Annotated[
    str,
    Field(
        max_length=42,
        pattern=ADDRESS_PATTERN,
        description="Address; one in mixed case must carry a correct EIP-55 checksum.",
    ),
]
ContractText = Annotated[
    str, Field(max_length=42, pattern=ADDRESS_PATTERN, description="Token contract address.")
]
Symbol = Annotated[
    str, Field(max_length=12, pattern=r"^[A-Za-z0-9.]{1,12}$", description="Asset symbol.")
]
Fiat = Annotated[Literal["USD", "EUR", "GBP"], Field(description="Currency of fiat values.")]
Amount = Annotated[
    str,
    Field(
        max_length=59,
        pattern=AMOUNT_PATTERN,
        description='Human amount as a plain decimal string, such as "1.5".',
    ),
]
AmountWei = Annotated[
    str,
    Field(
        max_length=78,
        pattern=WHOLE_PATTERN,
        description="Amount in the smallest unit, as a whole number string.",
    ),
]
TxHash = Annotated[
    str,
    Field(
        max_length=66,
        pattern=r"^0x[0-9a-fA-F]{64}$",
        description="On-chain transaction hash.",
    ),
]
WalletName = Annotated[
    str,
    Field(
        max_length=64,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$",
        description="Wallet name: letters, digits, _ and -.",
    ),
]
UnsignedHex = Annotated[
    str,
    Field(
        max_length=MAX_HEX_LENGTH,
        pattern=HEX_PATTERN,
        description="Unsigned transaction from prepare_serialized_unsigned_tx, as 0x hex.",
    ),
]
