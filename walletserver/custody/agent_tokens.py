"""Agent tokens: minted once, kept as hashes, each bound to one wallet."""

import hashlib
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from walletserver.codes import Code
from walletserver.errors import AuthError, FlowError
from walletserver.ledger.store import Row, Store, real, text

TOKEN_PREFIX: Final = "mpc_key_"  # noqa: S105 (public prefix)
_TOKEN: Final = re.compile(r"mpc_key_[0-9a-f]{64}")
_COLUMNS: Final = "id, wallet, label, created_at, expires_at, revoked_at"


@dataclass(frozen=True, slots=True)
class AgentToken:
    """What is known of a token; never the token."""

    token_id: str
    wallet: str
    label: str | None
    created_at: float
    expires_at: float
    revoked_at: float | None


class AgentTokens:
    """The tokens in the ledger file."""

    def __init__(self, store: Store, now: Callable[[], float] = time.time) -> None:
        """Keep the parts.

        Args:
            store: The ledger file.
            now: Wall clock, in seconds since the epoch.
        """
        self._store = store
        self._now = now

    def issue(
        self, wallet: str, *, label: str | None, ttl_days: int, deliver: Callable[[str], None]
    ) -> AgentToken:
        """Mint a token; older ones of the wallet stay good.

        Args:
            wallet: The one wallet the token may act for.
            label: A name for people.
            ttl_days: Days until it expires.
            deliver: Takes the token to where it is used. If it fails, nothing was issued.
        """
        token = TOKEN_PREFIX + secrets.token_hex(32)
        now = self._now()
        record = AgentToken(
            f"tok_{secrets.token_hex(8)}", wallet, label, now, now + ttl_days * 86_400, None
        )
        with self._store.write():
            self._store.rows(
                "INSERT INTO agent_tokens VALUES (?, ?, ?, ?, ?, ?, NULL)",
                record.token_id,
                wallet,
                _hash(token),
                label,
                record.created_at,
                record.expires_at,
            )
            # Delivered before the commit: a token nobody has must not be left behind as good.
            deliver(token)
        return record

    def verify(self, token: str | None, wallet: str) -> AgentToken:
        """Check that a token may act for a wallet now.

        Raises:
            FlowError: There is no token at all.
            AuthError: It is unknown, expired, revoked, or another wallet's.
        """
        if token is None:
            raise FlowError(
                Code.AGENT_TOKEN_MISSING,
                "Agent mode needs an agent token.",
                "Have the owner run create_agent_api_key, set MPC_AGENT_TOKEN and restart.",
            )
        # Looked up by hash: the time it takes tells nothing about a good token.
        row = None
        if _TOKEN.fullmatch(token):
            row = self._store.row(
                f"SELECT {_COLUMNS} FROM agent_tokens WHERE hash=?",  # noqa: S608 (constant)
                _hash(token),
            )
        if row is None:
            raise AuthError(Code.AGENT_TOKEN_INVALID, "The agent token is not known.")
        record = _record(row)
        if record.revoked_at is not None:
            raise AuthError(Code.AGENT_TOKEN_REVOKED, "The agent token was revoked.")
        if record.expires_at <= self._now():
            raise AuthError(Code.AGENT_TOKEN_EXPIRED, "The agent token has expired.")
        if record.wallet != wallet:
            raise AuthError(Code.WALLET_NOT_ALLOWED, "The agent token is bound to another wallet.")
        return record

    def of_wallet(self, wallet: str) -> list[AgentToken]:
        """Return the tokens of a wallet that are good now, oldest first."""
        rows = self._store.rows(
            f"SELECT {_COLUMNS} FROM agent_tokens WHERE wallet=?"  # noqa: S608 (constant)
            " AND revoked_at IS NULL AND expires_at>? ORDER BY rowid",
            wallet,
            self._now(),
        )
        return [_record(row) for row in rows]

    def revoke(self, token_id: str) -> bool:
        """Make a token useless at once; the second time does nothing.

        Returns:
            Whether a token of that id exists.
        """
        with self._store.write():
            known = self._store.row("SELECT 1 FROM agent_tokens WHERE id=?", token_id)
            self._store.rows(
                "UPDATE agent_tokens SET revoked_at=? WHERE id=? AND revoked_at IS NULL",
                self._now(),
                token_id,
            )
        return known is not None


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _record(row: Row) -> AgentToken:
    token_id, wallet, label, created_at, expires_at, revoked_at = row
    return AgentToken(
        token_id=text(token_id),
        wallet=text(wallet),
        label=None if label is None else text(label),
        created_at=real(created_at),
        expires_at=real(expires_at),
        revoked_at=None if revoked_at is None else real(revoked_at),
    )
