"""The development chain: it confirms at once, each transaction in a block of its own."""

import time
from collections.abc import Callable
from typing import Final

from walletserver.codes import Code
from walletserver.errors import FlowError, InvalidInputError
from walletserver.evm.address import Address
from walletserver.evm.signed import SignedTransaction
from walletserver.evm.transaction import Eip1559Fee
from walletserver.evm.transfer import read_transfer
from walletserver.evm.units import UINT256_MAX
from walletserver.ledger.backend import ChainTransaction, FeeTerms
from walletserver.ledger.catalogue import CHAINS, NATIVE_GAS, TOKEN_GAS, TOKEN_GAS_LIMIT, Chain
from walletserver.ledger.store import Row, Store, number, text

_NATIVE: Final = "native"
_RESERVE: Final = "native coin for the value and the maximum fee"
_COLUMNS: Final = "hash, block, at, sender, nonce, envelope, recipient, token, units, gas_used, fee"


class EmbeddedLedger:
    """A `Backend` over the shared ledger file."""

    def __init__(self, store: Store, now: Callable[[], float] = time.time) -> None:
        """Keep the file and the clock.

        Args:
            store: The ledger file.
            now: Wall clock, in seconds since the epoch.
        """
        self._store = store
        self._now = now

    def balance(self, chain: Chain, address: Address, token: Address | None = None) -> int:
        """Return a balance in smallest units; an unknown address has 0."""
        row = self._store.row(
            "SELECT units FROM balances WHERE chain=? AND address=? AND asset=?",
            chain.name,
            address,
            token or _NATIVE,
        )
        return int(text(row[0])) if row else 0

    def next_nonce(self, chain: Chain, address: Address) -> int:
        """Return the nonce the next transaction of an address must carry."""
        row = self._store.row(
            "SELECT nonce FROM accounts WHERE chain=? AND address=?", chain.name, address
        )
        return number(row[0]) if row else 0

    def fee_terms(self, chain: Chain, token: Address | None) -> FeeTerms:
        """Return the fixed fee terms of a native or a token transfer."""
        top = 2 * chain.base_fee + chain.priority_fee if chain.is_eip1559 else chain.base_fee
        return FeeTerms(
            gas_limit=TOKEN_GAS_LIMIT if token else NATIVE_GAS,
            base_fee=chain.base_fee,
            priority_fee=chain.priority_fee,
            max_fee=top,
        )

    def submit(self, chain: Chain, signed: SignedTransaction) -> ChainTransaction:
        """Check and apply one signed transaction, wholly or not at all.

        Raises:
            InvalidInputError: The token is unknown, or the gas or fee offer too low.
            FlowError: The nonce is not the next one, or the funds do not suffice.
        """
        transaction, sender = signed.transaction, signed.sender
        transfer = read_transfer(transaction)
        if transfer.token_contract is not None:
            chain.token(transfer.token_contract)
        gas_used = NATIVE_GAS if transfer.token_contract is None else TOKEN_GAS
        gas_price = _effective_price(chain, signed)
        if transaction.gas_limit < gas_used:
            raise InvalidInputError(Code.GAS_LIMIT_TOO_LOW, "The gas limit is below the need.")
        with self._store.write():
            self._check_nonce(chain, signed)
            # What the offer may cost at most must be there, though less is taken.
            reserved = transaction.value + transaction.max_cost
            if self.balance(chain, sender) < reserved:
                raise _insufficient(_RESERVE)
            fee = gas_used * gas_price
            self._take(chain, sender, _NATIVE, fee, "native coin for the fee")
            asset = transfer.token_contract or _NATIVE
            self._take(chain, sender, asset, transfer.amount, "units of the asset")
            self._give(chain, transfer.recipient, asset, transfer.amount)
            done = ChainTransaction(
                tx_hash=signed.tx_hash,
                block=self._next_block(chain, fee),
                at=int(self._now()),
                sender=sender,
                nonce=transaction.nonce,
                envelope_to=transaction.to,
                recipient=transfer.recipient,
                token=transfer.token_contract,
                units=transfer.amount,
                gas_used=gas_used,
                fee=fee,
            )
            self._record(chain, done)
        return done

    def transaction(self, chain: Chain, tx_hash: str) -> ChainTransaction | None:
        """Look a transaction up by its on-chain hash."""
        row = self._store.row(
            f"SELECT {_COLUMNS} FROM transactions WHERE chain=? AND hash=?",  # noqa: S608 (constant)
            chain.name,
            tx_hash.lower(),
        )
        return _transaction(row) if row else None

    def history(
        self, chain: Chain, address: Address, *, before: int | None, limit: int
    ) -> list[ChainTransaction]:
        """Return the transactions an address sent or received, newest first."""
        rows = self._store.rows(
            f"SELECT {_COLUMNS} FROM transactions WHERE chain=?"  # noqa: S608 (constant)
            " AND (sender=? OR recipient=?) AND block<? ORDER BY block DESC LIMIT ?",
            chain.name,
            address,
            address,
            2**62 if before is None else before,
            limit,
        )
        return [_transaction(row) for row in rows]

    def welcome(self, address: Address) -> None:
        """Grant a new wallet the demo funds of every asset, out of nothing."""
        with self._store.write():
            for chain in CHAINS.values():
                for asset in chain.assets:
                    self._give(chain, address, asset.asset_id, asset.demo_units)

    def _check_nonce(self, chain: Chain, signed: SignedTransaction) -> None:
        if self.transaction(chain, signed.tx_hash) is not None:
            raise FlowError(
                Code.TRANSACTION_ALREADY_BROADCAST,
                "This very transaction was broadcast before.",
                "Look its result up with get_tx_status or get_tx_history; do not send it again.",
            )
        expected = self.next_nonce(chain, signed.sender)
        if signed.transaction.nonce != expected:
            is_used = signed.transaction.nonce < expected
            raise FlowError(
                Code.NONCE_ALREADY_USED if is_used else Code.NONCE_GAP,
                "The nonce is not the next one of the sender.",
                "Check get_tx_history, then prepare the transfer again for the current nonce.",
            )

    def _take(self, chain: Chain, address: Address, asset: str, units: int, what: str) -> None:
        token = None if asset == _NATIVE else Address(asset)
        left = self.balance(chain, address, token) - units
        if left < 0:
            raise _insufficient(what)
        self._set(chain, address, asset, left)

    def _give(self, chain: Chain, address: Address, asset: str, units: int) -> None:
        token = None if asset == _NATIVE else Address(asset)
        total = self.balance(chain, address, token) + units
        if total > UINT256_MAX:
            raise InvalidInputError(Code.INVALID_AMOUNT, "The balance would not fit 256 bits.")
        self._set(chain, address, asset, total)

    def _set(self, chain: Chain, address: Address, asset: str, units: int) -> None:
        self._store.rows(
            "INSERT INTO balances VALUES (?, ?, ?, ?)"
            " ON CONFLICT (chain, address, asset) DO UPDATE SET units=excluded.units",
            chain.name,
            address,
            asset,
            str(units),
        )

    def _next_block(self, chain: Chain, fee: int) -> int:
        row = self._store.row("SELECT height, fees FROM chains WHERE chain=?", chain.name)
        height, fees = (number(row[0]), int(text(row[1]))) if row else (chain.first_block, 0)
        self._store.rows(
            "INSERT INTO chains VALUES (?, ?, ?) ON CONFLICT (chain)"
            " DO UPDATE SET height=excluded.height, fees=excluded.fees",
            chain.name,
            height + 1,
            str(fees + fee),
        )
        return height + 1

    def _record(self, chain: Chain, done: ChainTransaction) -> None:
        self._store.rows(
            "INSERT INTO accounts VALUES (?, ?, ?)"
            " ON CONFLICT (chain, address) DO UPDATE SET nonce=excluded.nonce",
            chain.name,
            done.sender,
            done.nonce + 1,
        )
        self._store.rows(
            f"INSERT INTO transactions (chain, {_COLUMNS})"  # noqa: S608 (constant)
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            chain.name,
            done.tx_hash,
            done.block,
            done.at,
            done.sender,
            done.nonce,
            done.envelope_to,
            done.recipient,
            done.token,
            str(done.units),
            done.gas_used,
            str(done.fee),
        )


def _effective_price(chain: Chain, signed: SignedTransaction) -> int:
    fee = signed.transaction.fee
    if signed.transaction.max_fee_per_gas < chain.base_fee:
        raise InvalidInputError(Code.FEE_TOO_LOW, "The fee offer is below the chain's base fee.")
    if isinstance(fee, Eip1559Fee):
        return min(fee.max_fee, chain.base_fee + fee.max_priority_fee)
    return fee.gas_price


def _insufficient(what: str) -> FlowError:
    return FlowError(
        Code.INSUFFICIENT_FUNDS,
        f"The sender has not enough {what}.",
        "Fund the wallet or lower the amount, then prepare the transfer again.",
    )


def _transaction(row: Row) -> ChainTransaction:
    tx_hash, block, at, sender, nonce, envelope, recipient, token, units, gas_used, fee = row
    return ChainTransaction(
        tx_hash=text(tx_hash),
        block=number(block),
        at=number(at),
        sender=Address(text(sender)),
        nonce=number(nonce),
        envelope_to=Address(text(envelope)),
        recipient=Address(text(recipient)),
        token=None if token is None else Address(text(token)),
        units=int(text(units)),
        gas_used=number(gas_used),
        fee=int(text(fee)),
    )
