"""The seam between the tools and a chain: one protocol, today with one implementation."""

from dataclasses import dataclass
from typing import Protocol

from walletserver.evm.address import Address
from walletserver.evm.signed import SignedTransaction
from walletserver.ledger.catalogue import Chain


@dataclass(frozen=True, slots=True)
class FeeTerms:
    """What a transaction would have to offer now, in wei a gas."""

    gas_limit: int
    base_fee: int
    priority_fee: int
    max_fee: int


@dataclass(frozen=True, slots=True)
class ChainTransaction:
    """A transaction in a block."""

    tx_hash: str
    block: int
    at: int
    sender: Address
    nonce: int
    envelope_to: Address
    recipient: Address
    token: Address | None
    units: int
    gas_used: int
    fee: int

    @property
    def kind(self) -> str:
        """The transaction type's documented name."""
        return "TRANSFER_NATIVE" if self.token is None else "TRANSFER_TOKEN"


class Backend(Protocol):
    """A chain as the tools see it. Every method may raise `UpstreamError`."""

    def balance(self, chain: Chain, address: Address, token: Address | None = None) -> int:
        """Return a balance in smallest units; an unknown address has 0."""
        ...

    def next_nonce(self, chain: Chain, address: Address) -> int:
        """Return the nonce the next transaction of an address must carry."""
        ...

    def fee_terms(self, chain: Chain, token: Address | None) -> FeeTerms:
        """Return the present fee terms of a native or a token transfer."""
        ...

    def submit(self, chain: Chain, signed: SignedTransaction) -> ChainTransaction:
        """Check and apply one signed transaction, wholly or not at all.

        Raises:
            InvalidInputError: The chain would never take it.
            FlowError: The nonce is not the next one, or the funds do not suffice.
        """
        ...

    def transaction(self, chain: Chain, tx_hash: str) -> ChainTransaction | None:
        """Look a transaction up by its on-chain hash."""
        ...

    def history(
        self, chain: Chain, address: Address, *, before: int | None, limit: int
    ) -> list[ChainTransaction]:
        """Return the transactions an address sent or received, newest first.

        Args:
            chain: The chain to look on.
            address: Sender or recipient.
            before: Only blocks below this one, or all.
            limit: Most transactions to return.
        """
        ...

    def welcome(self, address: Address) -> None:
        """Take note of a new wallet; the embedded ledger grants it its demo funds."""
        ...
