"""Issues and revokes tokens: on disk before they count, and refused before that is on disk."""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, final

from pydantic import SecretStr

from orchestrator.clock import Clock
from orchestrator.errors import (
    RotationError,
    SettingsError,
    StateUnwritableError,
    TokenError,
    TokenUnknownError,
)
from orchestrator.files import make_private_directory, read_regular, write_atomically
from orchestrator.model.auth import WORKSTATION, Auth
from orchestrator.model.base import JsonObject
from orchestrator.model.names import AgentName, RoleName, TokenId
from orchestrator.model.notes import Mention, mention_nothing
from orchestrator.tokens.denial import Denial, make_denial
from orchestrator.tokens.jwt import OAuthTokens
from orchestrator.tokens.record import LONGEST_LIFE, USABLE, TokenRecord
from orchestrator.tokens.store import TokenStore, Word
from orchestrator.tokens.verify import TokenIndex

# Tokens are replaced by rotations, days earlier. This is the net under them.
RENEW_BEFORE: Final = timedelta(days=1)
_LONGEST_FILE_BYTES: Final = 4096
# How long the end of what a revoked token has open is waited for, and how often it is looked at.
_CUT_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.005


@dataclass(frozen=True, slots=True)
class Revocation:
    """How the end of a token went.

    Attributes:
        record: The token.
        requested_at: When its end was asked for.
        refused_at: When it was first seen refused; None if it was not.
        refused_after: Seconds from the request to that.
        cut: Requests and streams that it had open, and that were ended.
        left: Those that were still open afterwards.
        is_durable: Whether its end is on disk; else it is written as soon as that can be, and is
            forgotten if this process ends before.
    """

    record: TokenRecord
    requested_at: datetime
    refused_at: datetime | None
    refused_after: float
    cut: int
    left: int
    is_durable: bool

    def describe(self) -> JsonObject:
        """Tell all of it, as a receipt."""
        return {
            "token": self.record.id,
            "role": self.record.role,
            "agent": self.record.agent,
            "requested_at": self.requested_at.isoformat(),
            "refused_at": None if self.refused_at is None else self.refused_at.isoformat(),
            "refused_after_ms": round(self.refused_after * 1000, 3),
            "calls_cut": self.cut,
            "streams_left": self.left,
            "durable": self.is_durable,
        }


def not_durable(what: str) -> StateUnwritableError:
    """Say that something holds now, and would be forgotten."""
    return StateUnwritableError(
        f"{what} holds now and is NOT on disk: it is forgotten if the daemon ends before it is",
        hint="Free space on the disk and repeat the command. Until then `agents status` shows it, "
        "and the daemon goes on trying to write it.",
    )


def _revoked(record: TokenRecord, word: Word) -> TokenRecord:
    return replace(record, state="revoked", revoked_at=word.at)


def _none_open(_: TokenId) -> int:
    return 0


@final
class TokenDesk:
    """All changes of tokens go through here. Its methods block: call them in a thread.

    Attributes:
        count_open: Tells how many requests and streams of a token are open.
        mention: Keeps for the record what happened.
    """

    def __init__(self, store: TokenStore, index: TokenIndex, clock: Clock, folder: Path) -> None:
        """Load every usable token.

        Args:
            store: Where tokens are kept.
            index: What the gateway asks.
            clock: Where time comes from.
            folder: The workstation's own tokens, one file a role.
        """
        self.count_open: Callable[[TokenId], int] = _none_open
        self.mention: Mention = mention_nothing
        self._store = store
        self._index = index
        self._clock = clock
        self._folder = folder
        self._files = threading.Lock()
        # What is refused already and not on disk yet.
        self._writing = threading.Lock()
        self._words: dict[TokenId, Word] = {}
        self._denials: list[Denial] = []
        self._auth = Auth()
        self._access: OAuthTokens | None = None
        index.load(store.load_usable())

    def attend(self, auth: Auth, access: OAuthTokens | None = None) -> None:
        """Care for the access tokens of an identity provider, too.

        Args:
            auth: Which tokens agents show.
            access: What the gateway asks; it refuses from now on what was denied earlier.
        """
        self._auth, self._access = auth, access
        if access is not None:
            access.load(self._store.load_denials())

    def deny(self, *, token_id: str = "", jti: str = "", subject: str = "") -> Denial:
        """Refuse access tokens: one by either id, or a subject's; refused before this returns.

        Raises:
            SettingsError: No identity provider issues tokens here, or it is not exactly one.
            StateUnwritableError: It is refused, and tried again to be written.
        """
        now = self._clock.now()
        denial = make_denial(self._auth, now, token_id=token_id, jti=jti, subject=subject)
        # In memory first: neither a full disk nor one that is waited for may leave a token open.
        if self._access is not None:
            self._access.deny(denial)
        self._denials.append(denial)
        named = {"denied": token_id or jti, "subject": subject}
        self.mention("token.denied", {name: value for name, value in named.items() if value})
        if not self._try_to_write():
            raise not_durable("the denial")
        return denial

    def close(self, role: RoleName) -> None:
        """Refuse every token of a role until `reopen`, whoever issued it; never blocks.

        An identity provider's tokens that were issued before are not accepted after it, either.
        """
        self._index.close(role)
        self.mention("role.closed", {"role": role})
        issuer, now = self._auth.issuer, self._clock.now()
        if self._access is not None and issuer is not None:
            denial = Denial("role", issuer, role, now + self._auth.leeway, now)
            self._access.deny(denial)
            self._denials.append(denial)

    def reopen(self, role: RoleName) -> None:
        """Accept and issue tokens of a role again."""
        self._index.reopen(role)
        self.mention("role.reopened", {"role": role})

    def is_closed(self, role: RoleName) -> bool:
        """Tell whether every token of a role is refused."""
        return self._index.is_closed(role)

    def require_open(self, role: RoleName) -> None:
        """Refuse to go on where a role is closed.

        Raises:
            RotationError: It is.
        """
        if self.is_closed(role):
            raise RotationError(
                f"role {role} is closed and gets no credentials",
                hint=f"After `agents revoke-all`, `agents reopen {role}` lets it run again, with "
                "fresh ones; in an incident, `agents incident close` does.",
            )

    @property
    def unwritten(self) -> int:
        """Tell how many revocations and denials hold, and are not on disk yet."""
        return len(self._words) + len(self._denials)

    def catch_up(self) -> None:
        """Write down the revocations and denials that are not on disk yet.

        Raises:
            StateUnwritableError: It still cannot be.
        """
        with self._writing:
            words, denials = self._words.copy(), self._denials.copy()
            if words:
                self._store.revoke(words)
            for token_id in words:
                del self._words[token_id]
            if denials:
                self._store.deny(denials)
            del self._denials[: len(denials)]

    def _try_to_write(self) -> bool:
        try:
            self.catch_up()
        except StateUnwritableError:
            return False
        return True

    def issue(
        self, agent: AgentName, role: RoleName, ttl: timedelta, *, rotation: str = ""
    ) -> tuple[TokenRecord, SecretStr]:
        """Issue a token; the text is returned once and kept nowhere.

        Args:
            agent: Who will show it.
            role: The only role that it opens.
            ttl: How long it is good for.
            rotation: The rotation that it is a part of.

        Raises:
            SettingsError: Static tokens are for this machine alone.
            RotationError: The role is closed.
        """
        self.require_open(role)
        if not self.issues_to(agent):
            raise SettingsError(
                "agents get their tokens from the identity provider here",
                hint="`auth:` in agents.yaml says so.",
            )
        record, text = self._store.issue(agent, role, ttl, rotation=rotation)
        self._index.add(record)
        told = {"token": record.id, "role": role, "agent": agent, "rotation": rotation}
        self.mention("token.issued", {name: value for name, value in told.items() if value})
        if self._index.is_closed(role):  # meanwhile
            _ = self.revoke_many([record.id], by="", reason="the role was closed")
            self.require_open(role)
        return record, text

    def issues_to(self, agent: AgentName) -> bool:
        """Tell whether an agent gets its tokens here, not from an identity provider."""
        return self._auth.mode != "oauth" or agent == WORKSTATION

    def overlap(self, new: TokenId, old: TokenId, retire_at: datetime) -> None:
        """Let the new token of a rotation count, and the old one go on until a moment."""
        for record in self._store.overlap(new, old, retire_at):
            if record.state in USABLE:
                self._index.add(record)

    def undo_overlap(self, new: TokenId, old: TokenId) -> None:
        """Let the old token of a rotation count again."""
        for record in self._store.undo_overlap(new, old):
            if record.state in USABLE:
                self._index.add(record)

    def get(self, token_id: TokenId) -> TokenRecord | None:
        """Tell one token, None if there is none with this id."""
        record = self._store.get(token_id)
        return None if record is None else self._true(record)

    def of_rotation(self, rotation: str) -> tuple[TokenRecord, ...]:
        """Tell the tokens that a rotation made, the oldest first."""
        return tuple(map(self._true, self._store.of_rotation(rotation)))

    def list(self) -> tuple[TokenRecord, ...]:
        """Tell all tokens, the oldest first."""
        return tuple(map(self._true, self._store.list()))

    def of_roles(self, roles: Collection[RoleName]) -> tuple[TokenId, ...]:
        """Tell the tokens of some roles that were not ended yet; needs no disk."""
        return tuple(record.id for record in self._index.of_roles(roles))

    def _true(self, record: TokenRecord) -> TokenRecord:
        """Tell what is so of what is on disk."""
        word = self._words.get(record.id)
        return record if word is None else _revoked(record, word)

    def revoke(self, token_id: TokenId, reason: str) -> TokenRecord:
        """Revoke a token; it is refused, and that is on disk, before this returns.

        Raises:
            TokenUnknownError: There is none with this id.
            StateUnwritableError: It is refused, and tried again to be written.
        """
        return self.revoke_with_receipt(token_id, by="operator", reason=reason).record

    def revoke_with_receipt(self, token_id: TokenId, *, by: str, reason: str) -> Revocation:
        """Revoke a token, see it refused, and tell how that went.

        Raises:
            TokenUnknownError: There is none with this id.
            StateUnwritableError: It is refused, and tried again to be written.
        """
        [done] = self.revoke_many([token_id], by=by, reason=reason)
        if not done.is_durable:
            raise not_durable("the revocation")
        return done

    def revoke_many(
        self, token_ids: Sequence[TokenId], *, by: str, reason: str
    ) -> tuple[Revocation, ...]:
        """Revoke tokens, see them refused, and tell how that went, in their order.

        What cannot be written now is refused all the same, and written later.

        Raises:
            TokenUnknownError: There is none with one of the ids; the others are revoked.
            StateUnwritableError: One of the ids is not that of a good token, and what else it may
                be cannot be read.
        """
        word, began = Word(self._clock.now(), by, reason), time.perf_counter()
        cut = [self.count_open(token_id) for token_id in token_ids]
        known = [self._index.record(token_id) for token_id in token_ids]
        # In memory first: not even a full disk may leave one open.
        for token_id in token_ids:
            self._index.remove(token_id)
        refused = [self._see_refused(one, began) for one in known]
        for record in known:
            if record is not None:
                _ = self._words.setdefault(record.id, word)
        is_durable = self._try_to_write()
        records = [
            self._note(token_id, word) if one is None else _revoked(one, word)
            for token_id, one in zip(token_ids, known, strict=True)
        ]
        for record in records:
            told = {"token": record.id, "role": record.role, "agent": record.agent}
            self.mention("token.revoked", {**told, "by": by, "reason": reason})
        is_durable = self._try_to_write() and is_durable
        give_up = time.monotonic() + _CUT_SECONDS
        while any(map(self.count_open, token_ids)) and time.monotonic() < give_up:
            time.sleep(_LOOK_SECONDS)
        return tuple(
            Revocation(record, word.at, moment, took, count, self.count_open(record.id), is_durable)
            for record, (moment, took), count in zip(records, refused, cut, strict=True)
        )

    def _note(self, token_id: TokenId, word: Word) -> TokenRecord:
        """Have a token written down as revoked that opens nothing anyway."""
        record = self.get(token_id)
        if record is None:
            raise TokenUnknownError(
                f"There is no token with the id {token_id}", hint="See `agents token list`."
            )
        if record.state == "revoked":
            return record
        _ = self._words.setdefault(token_id, word)
        return _revoked(record, word)

    def _see_refused(
        self, record: TokenRecord | None, began: float
    ) -> tuple[datetime | None, float]:
        moment: datetime | None = None
        try:
            if record is None:
                raise TokenUnknownError("The token is not known here")
            _ = self._index.look_by_id(record.id, record.role)
        except TokenError:
            moment = self._clock.now()
        return moment, time.perf_counter() - began

    def keep_workstation_tokens(self, roles: Iterable[RoleName]) -> None:
        """Make sure that every role's file holds a token that is good for a while."""
        make_private_directory(self._folder)
        # The gateway's start and an apply may ask for the same files at once.
        with self._files:
            for role in roles:
                if not (self._index.is_closed(role) or self._is_good(role)):
                    self._replace(role)

    def file_of(self, role: RoleName) -> Path:
        """Tell where the workstation's own token for a role is."""
        return self._folder / role

    def note_uses(self) -> None:
        """Write down when tokens were last used."""
        self._store.note_use(self._index.take_used())

    def _is_good(self, role: RoleName) -> bool:
        try:
            content, _ = read_regular(self.file_of(role), _LONGEST_FILE_BYTES, follow=False)
            principal = self._index.look(content.decode().strip(), role)
        except (OSError, UnicodeDecodeError, TokenError):
            return False
        return principal.expires_at - self._clock.now() > RENEW_BEFORE

    def _replace(self, role: RoleName) -> None:
        earlier = [
            record
            for record in self.list()
            if record.agent == WORKSTATION and record.role == role and record.state in USABLE
        ]
        _, text = self.issue(WORKSTATION, role, LONGEST_LIFE)
        write_atomically(self.file_of(role), text.get_secret_value().encode() + b"\n")
        # One that ends soon goes on until then: a client may hold it. Others were lost.
        for record in earlier:
            if record.expires_at - self._clock.now() > RENEW_BEFORE:
                _ = self.revoke(record.id, "its file was lost")
