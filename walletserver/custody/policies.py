"""Keeps policies and the record of signatures their rate limits count."""

import hashlib
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from walletserver.codes import Code
from walletserver.custody.policy import WINDOW_SECONDS, Intent, Policy, Verdict, evaluate
from walletserver.errors import InvalidInputError
from walletserver.evm.address import Address
from walletserver.evm.transaction import UnsignedTransaction
from walletserver.evm.transfer import Transfer
from walletserver.ledger.store import Store, number, real, text

_KEEP_SECONDS: Final = 2 * WINDOW_SECONDS


@dataclass(frozen=True, slots=True)
class Constraints:
    """What a policy asks for, before it is registered."""

    allowlist: frozenset[Address] | None
    max_value_wei: int | None
    rate_per_hour: int | None

    @property
    def fingerprint(self) -> str:
        """Equal for equal constraints, whatever the order they came in."""
        listed = None if self.allowlist is None else sorted(self.allowlist)
        value = None if self.max_value_wei is None else str(self.max_value_wei)
        content = json.dumps([listed, value, self.rate_per_hour])
        return hashlib.sha256(content.encode()).hexdigest()


class Policies:
    """The policies in the ledger file."""

    def __init__(self, store: Store, now: Callable[[], float] = time.time) -> None:
        """Keep the parts.

        Args:
            store: The ledger file.
            now: Wall clock, in seconds since the epoch.
        """
        self._store = store
        self._now = now

    def register(self, wallet: str, constraints: Constraints) -> tuple[str, float]:
        """Add a policy to a wallet, or find the equal one it has.

        Returns:
            The policy's id, and since when it applies, in seconds since the epoch.

        Raises:
            InvalidInputError: There is not one constraint.
        """
        if constraints == Constraints(None, None, None):
            raise InvalidInputError(
                Code.MISSING_POLICY_GUARDRAIL,
                "A policy needs at least one of allowlist, maxValueEth and rateLimitPerHour.",
            )
        fingerprint = constraints.fingerprint
        with self._store.write():
            row = self._store.row(
                "SELECT id, applied_at FROM policies WHERE wallet=? AND fingerprint=?",
                wallet,
                fingerprint,
            )
            if row is not None:
                return text(row[0]), real(row[1])
            policy_id, applied_at = f"pol_{secrets.token_hex(8)}", self._now()
            allowlist, value = constraints.allowlist, constraints.max_value_wei
            self._store.rows(
                "INSERT INTO policies VALUES (?, ?, ?, ?, ?, ?, ?)",
                policy_id,
                wallet,
                fingerprint,
                None if allowlist is None else json.dumps(sorted(allowlist)),
                None if value is None else str(value),
                constraints.rate_per_hour,
                applied_at,
            )
        return policy_id, applied_at

    def of_wallet(self, wallet: str) -> tuple[Policy, ...]:
        """Return a wallet's policies, oldest first."""
        rows = self._store.rows(
            "SELECT id, allowlist, max_value, rate FROM policies WHERE wallet=? ORDER BY rowid",
            wallet,
        )
        return tuple(
            Policy(
                policy_id=text(policy_id),
                allowlist=None if listed is None else _addresses(text(listed)),
                max_value_wei=None if value is None else int(text(value)),
                rate_per_hour=None if rate is None else number(rate),
            )
            for policy_id, listed, value, rate in rows
        )

    def admit(self, wallet: str, transaction: UnsignedTransaction, transfer: Transfer) -> Verdict:
        """Judge one signature and, if it is allowed, count it.

        Must run inside `Store.write`: check and count are one step for all processes, and a
        later failure takes the count back.
        """
        now = self._now()
        payload = transaction.signing_hash
        rows = self._store.rows(
            "SELECT at, payload FROM signatures WHERE wallet=? AND at>? ORDER BY at",
            wallet,
            now - WINDOW_SECONDS,
        )
        intent = Intent(
            destinations=frozenset({transaction.to, transfer.recipient}),
            value_wei=transaction.value,
            signed_at=tuple(real(at) for at, _ in rows),
            is_repeat=any(text(known) == payload for _, known in rows),
            now=now,
        )
        verdict = evaluate(self.of_wallet(wallet), intent)
        if verdict.deny_reason is None and not intent.is_repeat:
            self._store.rows("INSERT INTO signatures VALUES (?, ?, ?)", wallet, payload, now)
            self._store.rows("DELETE FROM signatures WHERE at<?", now - _KEEP_SECONDS)
        return verdict


def _addresses(content: str) -> frozenset[Address]:
    return frozenset(cast("list[Address]", json.loads(content)))
