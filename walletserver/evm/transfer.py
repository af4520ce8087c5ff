"""What a transaction does: a native transfer, or an ERC-20 one told by its calldata."""

from dataclasses import dataclass
from typing import Final

from walletserver.codes import Code
from walletserver.errors import InvalidInputError
from walletserver.evm.address import Address, address_bytes, address_from_bytes
from walletserver.evm.transaction import UnsignedTransaction

TRANSFER_SELECTOR: Final = bytes.fromhex("a9059cbb")
_LENGTH: Final = 4 + 32 + 32
_PADDING: Final = bytes(12)


@dataclass(frozen=True, slots=True)
class Transfer:
    """The true effect of a transaction."""

    recipient: Address
    amount: int
    token_contract: Address | None

    @property
    def kind(self) -> str:
        """The transaction type's documented name."""
        return "TRANSFER_NATIVE" if self.token_contract is None else "TRANSFER_TOKEN"


def encode_token_transfer(recipient: Address, amount: int) -> bytes:
    """Return the 68 bytes that call `transfer(recipient, amount)`."""
    return TRANSFER_SELECTOR + _PADDING + address_bytes(recipient) + amount.to_bytes(32, "big")


def read_transfer(transaction: UnsignedTransaction) -> Transfer:
    """Tell what the transaction moves, and to whom.

    Raises:
        InvalidInputError: It has calldata other than a plain token transfer, or moves native
            value together with tokens.
    """
    data = transaction.data
    if not data:
        return Transfer(transaction.to, transaction.value, None)
    if (
        len(data) != _LENGTH
        or data[:4] != TRANSFER_SELECTOR
        or data[4:16] != _PADDING
        or transaction.value
    ):
        raise InvalidInputError(
            Code.INVALID_CALLDATA, "Only plain ERC-20 transfers without native value are served."
        )
    recipient = address_from_bytes(data[16:36])
    return Transfer(recipient, int.from_bytes(data[36:], "big"), transaction.to)
