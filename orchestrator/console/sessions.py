"""Who is logged in to the console: one-time codes, sessions, and what forms have to carry."""

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, final

from pydantic import SecretStr

CODE_SECONDS: Final = 600.0
IDLE_SECONDS: Final = 30 * 60.0
LONGEST_SECONDS: Final = 12 * 3600.0
MOST_SESSIONS: Final = 32
MOST_CODES: Final = 32
# Codes that are over are known for a while, so that a second use is told from a guess.
_REMEMBERED: Final = 256
TICKET_CODE: Final = "approval.approver"
Refusal: TypeAlias = Literal["unknown", "replayed", "expired"]


@dataclass(slots=True)
class Session:
    """One browser that is logged in.

    Attributes:
        csrf: What every form has to carry.
        began: When, in monotonic seconds.
        seen: When a person did something last.
        approver: Who proved to be an approver here; empty for nobody.
        ticket: What the daemon gave for that.
        said: What the next page tells first: whether it went well, and a sentence.
    """

    csrf: str
    began: float
    seen: float
    approver: str = ""
    ticket: SecretStr = field(default_factory=lambda: SecretStr(""))
    said: list[tuple[bool, str]] = field(default_factory=list[tuple[bool, str]])

    def forget_approver(self) -> None:
        """Take back who proved to be an approver."""
        self.approver, self.ticket = "", SecretStr("")

    def forget_approver_if(self, code: str) -> None:
        """Take it back where the daemon says that the ticket is none any more."""
        if code == TICKET_CODE:
            self.forget_approver()


@final
class Sessions:
    """Codes and sessions, in memory only: both end with the console. Texts are kept as hashes."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """Begin without any."""
        self._monotonic = monotonic
        self._codes: dict[str, float] = {}
        self._over: dict[str, Refusal] = {}
        self._sessions: dict[str, Session] = {}

    def make_code(self) -> str:
        """Make a code that opens one session, once, within ten minutes."""
        code = secrets.token_urlsafe(24)
        self._codes[_hash(code)] = self._monotonic() + CODE_SECONDS
        while len(self._codes) > MOST_CODES:
            self._end_code(next(iter(self._codes)), "expired")
        return code

    def open(self, code: str) -> tuple[str, Refusal | None]:
        """Take a code.

        Returns:
            The text that the browser shows from now on, and None; or nothing, and why.
        """
        name, now = _hash(code), self._monotonic()
        end = self._codes.get(name)
        if end is None:
            return "", self._over.get(name, "unknown")
        if now > end:
            self._end_code(name, "expired")
            return "", "expired"
        self._end_code(name, "replayed")
        text = secrets.token_urlsafe(32)
        self._sweep(now)
        while len(self._sessions) >= MOST_SESSIONS:
            oldest = min(self._sessions, key=lambda key: self._sessions[key].seen)
            del self._sessions[oldest]
        self._sessions[_hash(text)] = Session(secrets.token_urlsafe(24), now, now)
        return text, None

    def find(self, text: str, *, is_person: bool) -> Session | None:
        """Find the session of a browser; None if it has none, or was idle for too long.

        Args:
            text: What the browser shows.
            is_person: Whether a person asks; a page that looks by itself keeps nobody logged in.
        """
        now = self._monotonic()
        self._sweep(now)
        session = self._sessions.get(_hash(text))
        if session is not None and is_person:
            session.seen = now
        return session

    def close(self, text: str) -> None:
        """End a session."""
        _ = self._sessions.pop(_hash(text), None)

    def _sweep(self, now: float) -> None:
        for name, session in list(self._sessions.items()):
            if now - session.seen > IDLE_SECONDS or now - session.began > LONGEST_SECONDS:
                del self._sessions[name]

    def _end_code(self, name: str, how: Refusal) -> None:
        _ = self._codes.pop(name, None)
        self._over[name] = how
        while len(self._over) > _REMEMBERED:
            del self._over[next(iter(self._over))]


def is_same(shown: str, expected: str) -> bool:
    """Compare two texts without telling by time how far they are alike."""
    return hmac.compare_digest(shown.encode(), expected.encode())


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()
