"""A signed transaction."""

from dataclasses import dataclass

from walletserver.evm.address import Address
from walletserver.evm.transaction import UnsignedTransaction


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """A transaction, its signature, and the sender recovered from it."""

    transaction: UnsignedTransaction
    raw: bytes
    tx_hash: str
    r: int
    s: int
    y_parity: int
    sender: Address

    @property
    def signature_hex(self) -> str:
        """The signature as `0x`, r, s and the recovery bit; 65 bytes."""
        body = self.r.to_bytes(32, "big") + self.s.to_bytes(32, "big") + bytes([self.y_parity])
        return "0x" + body.hex()
