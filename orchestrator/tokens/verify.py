"""From the text of a token to a principal, in memory, on every request."""

import hashlib
import hmac
import os
import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, final

from orchestrator.clock import Clock
from orchestrator.errors import TokenExpiredError, TokenRevokedError, TokenUnknownError
from orchestrator.model.names import AgentName, RoleName, TokenId
from orchestrator.tokens.mint import digest, read_id
from orchestrator.tokens.record import USABLE, TokenRecord

_USE_PRECISION: Final = timedelta(minutes=1)
# How many headers that were verified are known by their hash.
_SEEN: Final = 4096
_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Proof:
    """What an access token of an identity provider said, as far as a denial may ask for it.

    Attributes:
        issuer: The provider.
        subject: Whom it was issued to.
        issued_at: When.
        account: What its agent has open is counted under this name, whatever token it shows.
    """

    issuer: str
    subject: str
    issued_at: datetime
    account: str


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a token proved to be.

    Attributes:
        agent: The agent; limits, sessions and records belong to it, whatever token it shows.
        role: The role that the token opens.
        token_id: The token's public id.
        expires_at: When the token ends.
        proof: What it said, if an identity provider issued it.
        is_replaced: Whether it ends because another one took its place.
    """

    agent: AgentName
    role: RoleName
    token_id: TokenId
    expires_at: datetime
    proof: Proof | None = None
    is_replaced: bool = False


def _ignore(_: TokenId) -> None:
    """Tell nobody."""


@final
class TokenIndex:
    """Tokens by id.

    Attributes:
        on_closed: Is told of each token that stops being usable before its time.
    """

    def __init__(self, clock: Clock) -> None:
        """Start empty: every token is refused."""
        self.on_closed: Callable[[TokenId], None] = _ignore
        self._clock = clock
        self._records: dict[TokenId, TokenRecord] = {}
        self._lock = threading.Lock()
        self._closed: frozenset[RoleName] = frozenset()
        # What ended for good. A rotation may have read its rows just before that.
        self._ended: set[TokenId] = set()
        self._used: dict[TokenId, datetime] = {}
        self._reported: dict[TokenId, datetime] = {}
        # By the hash of a whole header: what it was verified to be. Tokens themselves are not kept.
        self._seen: dict[bytes, tuple[TokenRecord, Principal]] = {}
        # Compared with when the id is unknown, so that both ways take the same time.
        self._dummy = os.urandom(32)

    def load(self, records: Iterable[TokenRecord]) -> None:
        """Replace all that is known, at once.

        Args:
            records: Every usable token; what is left out is refused from now on.
        """
        before, self._records = self._records, {record.id: record for record in records}
        self._seen.clear()
        for token_id, record in before.items():
            now = self._records.get(token_id)
            if record.state in USABLE and (now is None or now.state not in USABLE):
                self.on_closed(token_id)

    def add(self, record: TokenRecord) -> None:
        """Accept one token more, or another record of it; never one that was removed."""
        with self._lock:
            if record.id not in self._ended:
                self._records[record.id] = record

    def remove(self, token_id: TokenId) -> None:
        """Refuse a token from now on and for good, and end what it has opened."""
        with self._lock:
            self._ended.add(token_id)
            was_known = self._records.pop(token_id, None) is not None
        if was_known:
            self.on_closed(token_id)

    def close(self, role: RoleName) -> None:
        """Refuse every token of a role from now on, until `reopen`; what is open stays so."""
        self._closed |= {role}

    def reopen(self, role: RoleName) -> None:
        """Accept tokens of a role again."""
        self._closed -= {role}

    def is_closed(self, role: RoleName) -> bool:
        """Tell whether every token of a role is refused."""
        return role in self._closed

    def record(self, token_id: TokenId) -> TokenRecord | None:
        """Tell what is known of a token here; None of one that ended."""
        return self._records.get(token_id)

    def of_roles(self, roles: Collection[RoleName]) -> tuple[TokenRecord, ...]:
        """Tell every token of some roles that did not end here."""
        return tuple(one for one in self._records.copy().values() if one.role in roles)

    def verify_header(self, value: bytes, audience: RoleName) -> Principal:
        """Tell who sent an `Authorization` header, and note that the token was used.

        What was verified once is found again by the hash of the whole header, as long as its
        record is the same.

        Args:
            value: The header's value.
            audience: The role at whose URL it was shown.

        Raises:
            TokenError: It is no bearer token that opens the role now.
        """
        key = hashlib.sha256(value).digest()
        seen = self._seen.get(key)
        if seen is not None:
            record, principal = seen
            if (
                self._records.get(record.id) is record
                and record.role == audience
                and audience not in self._closed
            ):
                now = self._clock.now()
                if now < record.ends_at:
                    self._note_use(record, now)
                    return principal
        scheme, _, text = value.decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            raise TokenUnknownError("No bearer token")
        principal = self.verify(text.strip(), audience)
        record = self._records.get(principal.token_id)
        if record is None:  # it ended meanwhile, in another thread
            raise TokenRevokedError("The token was revoked")
        if len(self._seen) >= _SEEN:
            self._seen.clear()
        if record.ends_at == principal.expires_at:
            self._seen[key] = (record, principal)
        return principal

    def verify(self, text: str, audience: RoleName) -> Principal:
        """Tell who shows a token, and note that it was used. Arguments and errors as `look`."""
        principal = self.look(text, audience)
        record = self._records.get(principal.token_id)
        if record is not None:
            self._note_use(record, self._clock.now())
        return principal

    def look(self, text: str, audience: RoleName) -> Principal:
        """Tell whose token a text is.

        Args:
            text: What was shown.
            audience: The role whose URL it was shown at.

        Raises:
            TokenUnknownError: It is no token, not ours, or opens another role.
            TokenRevokedError: It was revoked.
            TokenExpiredError: Its time is over.
        """
        token_id = read_id(text)
        record = None if token_id is None else self._records.get(token_id)
        known = self._dummy if record is None else record.digest
        matches = hmac.compare_digest(digest(text), known)
        if record is None or not matches or record.role != audience:
            raise TokenUnknownError("The token is not known here")
        return self._judge(record)

    def look_by_id(self, token_id: TokenId, audience: RoleName) -> Principal:
        """Tell what `look` would say to the text of a token, which nobody keeps.

        Raises:
            TokenError: As `look`.
        """
        record = self._records.get(token_id)
        if record is None or record.role != audience:
            raise TokenUnknownError("The token is not known here")
        return self._judge(record)

    def _judge(self, record: TokenRecord) -> Principal:
        if self._clock.now() >= record.ends_at:
            raise TokenExpiredError("The token's time is over")
        if record.state not in USABLE or record.role in self._closed:
            raise TokenRevokedError("The token was revoked")
        return Principal(
            record.agent, record.role, record.id, record.ends_at, is_replaced=record.is_replaced
        )

    def take_used(self) -> dict[TokenId, datetime]:
        """Tell tokens that were used since the last time, each at most once a minute."""
        used, self._used = self._used, {}
        return used

    def was_used(self, token_id: TokenId) -> bool:
        """Tell whether a token was used since this was asked last, or since it is known here."""
        record = self._records.get(token_id)
        if record is None:
            return False
        last = self._reported.get(token_id, record.last_used_at)
        # The next use is noted, however soon it comes.
        self._reported[token_id] = _LONG_AGO
        return last is not None and last != _LONG_AGO

    def _note_use(self, record: TokenRecord, now: datetime) -> None:
        reported = self._reported.get(record.id, record.last_used_at)
        if reported is None or now - reported >= _USE_PRECISION:
            self._reported[record.id] = now
            self._used[record.id] = now
