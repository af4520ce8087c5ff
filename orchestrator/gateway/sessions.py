"""Sessions of legacy callers: sealed ids that hold the session's own facts.

Any gateway with the same key knows a session again, so a restart ends none. Kept beside the ids,
in a journal, is only what changed after they were given out: that a session was ended, its log
level, its subscriptions.

Source: MCP 2025-11-25, Transports, session management.
"""

import secrets
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Protocol, TypeAlias, TypeVar, final

from orchestrator.audit.summary import name_client
from orchestrator.clock import Clock
from orchestrator.errors import SessionRequiredError, SessionUnknownError
from orchestrator.gateway.seal import Seal
from orchestrator.model.base import JsonObject
from orchestrator.model.names import AgentName, RoleName
from orchestrator.protocol import jsonrpc, mcp

HEADER: Final = b"mcp-session-id"
T = TypeVar("T")
_PURPOSE: Final = "session"
# A session is at most this old: what is remembered of ended ones has an end, too.
LIFE: Final = timedelta(days=90)
# How many opened ids are kept at hand; any other is opened again.
_AT_HAND: Final = 4096
_LONGEST_ID: Final = 4096
# What is kept of the parts of a capability; there are two of any that there is.
_LONGEST_PART: Final = 32
_MAX_PARTS: Final = 8
# How many ended and how many changed sessions are remembered, the newest. A session opens nothing
# without its agent's token, so one that is forgotten to have ended harms nobody.
_REMEMBERED: Final = 10_000
MAX_SUBSCRIPTIONS: Final = 256
# Characters: of one subscription, and of all of one session, which each change writes down again.
LONGEST_URI: Final = 4_096
LONGEST_URIS: Final = 4 * LONGEST_URI
# How much is written down before it is looked what of it still counts.
_MANY_BYTES: Final = 32 * 1024 * 1024


@dataclass(slots=True)
class Session:
    """One session of one agent.

    Attributes:
        id: The sealed text that the caller repeats.
        key: Short name, for records and for the instance that is its own.
        role: The role that it was opened at.
        agent: Who opened it.
        version: The revision that was agreed on.
        capabilities: What its client can be asked.
        opened_at: When, in seconds since 1970.
        level: Least serious log messages that it wants; empty for the server's own choice.
        uris: Resources whose changes it wants to hear of.
        client: The program that its caller says it is, for records.
    """

    id: str
    key: str
    role: RoleName
    agent: AgentName
    version: str
    capabilities: JsonObject
    opened_at: int
    level: str = ""
    uris: set[str] = field(default_factory=set[str])
    client: str = ""

    def wants_level(self, level: str) -> bool:
        """Whether it wants log messages of this level."""
        if not self.level:
            return True
        if level not in mcp.LOG_LEVELS:
            return False
        return mcp.LOG_LEVELS.index(level) >= mcp.LOG_LEVELS.index(self.level)


# When it was opened, its level, its subscriptions.
_Change: TypeAlias = tuple[int, str, tuple[str, ...]]


class SessionJournal(Protocol):
    """Keeps what changed; an append-only file."""

    def append(self, line: bytes) -> None:
        """Keep one line."""
        ...

    def compact(self, lines: Iterable[bytes]) -> None:
        """Keep these lines in place of all before."""
        ...


@final
class Sessions:
    """All sessions. Its memory does not grow with their number."""

    def __init__(self, seal: Seal, clock: Clock, journal: SessionJournal | None = None) -> None:
        """Seal ids with `seal`, and keep changes in `journal`, or nowhere."""
        self._seal = seal
        self._clock = clock
        self._journal = journal
        self._noted_bytes = 0
        self._kept_bytes = 0
        self._at_hand: OrderedDict[str, Session] = OrderedDict()
        # By key, the oldest first: when the session was opened, and what was changed.
        self._ended: OrderedDict[str, int] = OrderedDict()
        self._changed: OrderedDict[str, _Change] = OrderedDict()

    def open(self, role: RoleName, agent: AgentName, params: JsonObject, version: str) -> Session:
        """Open a session, as an `initialize` asks for it."""
        declared = params.get("capabilities")
        capabilities = mcp.cut_capabilities(declared, tuple(mcp.ASKED_CAPABILITY.values()))
        facts: JsonObject = {
            "k": secrets.token_hex(8),
            "r": role,
            "a": agent,
            "v": version,
            "c": _shorten(capabilities),
            "t": int(self._clock.now().timestamp()),
            "n": name_client(params.get("clientInfo")),
        }
        session = self._remember(self._seal.close(_PURPOSE, facts), facts)
        if session is None:
            raise AssertionError("made without a fact")
        return session

    def find(self, text: bytes | None, role: RoleName, agent: AgentName) -> Session:
        """Find the session that a request names.

        Raises:
            SessionRequiredError: It names none.
            SessionUnknownError: It is none of this agent's at this role, or was ended.
        """
        if not text:
            raise SessionRequiredError("Bad Request: Missing session ID")
        name = text.decode("latin-1")
        session = self._at_hand.get(name)
        if session is None:
            session = self._open_again(name)
        else:
            self._at_hand.move_to_end(name)
        if (
            session is None
            or session.role != role
            or session.agent != agent
            or session.key in self._ended
            or self._clock.now().timestamp() - session.opened_at > LIFE.total_seconds()
        ):
            raise SessionUnknownError("Session not found")
        return session

    def end(self, session: Session) -> None:
        """End a session for ever."""
        _put(self._ended, session.key, session.opened_at)
        _ = self._at_hand.pop(session.id, None)
        _ = self._changed.pop(session.key, None)
        self._note({"k": session.key, "t": session.opened_at, "end": True})

    def change(self, session: Session) -> None:
        """Keep a session's level and subscriptions, which were just changed."""
        kept = (session.opened_at, session.level, tuple(sorted(session.uris)))
        _put(self._changed, session.key, kept)
        self._note(_change_line(session.key, kept))

    def lowest_level(self, role: RoleName) -> str:
        """Tell the least serious level that any session at hand of a role wants."""
        wanted = {one.level for one in self._at_hand.values() if one.role == role and one.level}
        return next((level for level in mcp.LOG_LEVELS if level in wanted), "")

    def restore(self, lines: list[bytes]) -> list[bytes]:
        """Take what an earlier gateway kept.

        Args:
            lines: The journal's lines; those that are no JSON are passed over.

        Returns:
            What of it is still worth keeping, as lines.
        """
        for line in lines:
            self._take(line)
        oldest = self._clock.now().timestamp() - LIFE.total_seconds()
        for key in [key for key, at in self._ended.items() if at < oldest]:
            del self._ended[key]
        for key in [key for key, kept in self._changed.items() if kept[0] < oldest]:
            del self._changed[key]
        return self._lines()

    def _lines(self) -> list[bytes]:
        ended: list[JsonObject] = [
            {"k": key, "t": at, "end": True} for key, at in self._ended.items()
        ]
        changed = [_change_line(key, kept) for key, kept in self._changed.items()]
        return [jsonrpc.encode(line) for line in (*ended, *changed)]

    def _take(self, line: bytes) -> None:
        try:
            value = jsonrpc.decode(line)
        except Exception:  # noqa: BLE001 - a line that a crash cut off
            return
        match value:
            case {"k": str(key), "t": int(at), "end": True}:
                _put(self._ended, key, at)
                _ = self._changed.pop(key, None)
            case {"k": str(key), "t": int(at), "level": str(level), "uris": list(uris)}:
                texts = tuple(uri for uri in uris if isinstance(uri, str))
                _put(self._changed, key, (at, level, texts))
            case _:
                pass

    def _open_again(self, text: str) -> Session | None:
        if len(text) > _LONGEST_ID:
            return None
        facts = self._seal.open(_PURPOSE, text)
        return self._remember(text, facts) if isinstance(facts, dict) else None

    def _remember(self, text: str, facts: JsonObject) -> Session | None:
        match facts:
            case {
                "k": str(key),
                "r": str(role),
                "a": str(agent),
                "v": str(version),
                "c": dict(capabilities),
                "t": int(opened_at),
            }:
                pass
            case _:
                return None
        session = Session(
            text, key, RoleName(role), AgentName(agent), version, capabilities, opened_at
        )
        client = facts.get("n")  # ids of earlier versions have none
        session.client = client if isinstance(client, str) else ""
        if key in self._changed:
            _, session.level, uris = self._changed[key]
            session.uris = set(uris)
        self._at_hand[text] = session
        if len(self._at_hand) > _AT_HAND:
            _ = self._at_hand.popitem(last=False)
        return session

    def _note(self, value: JsonObject) -> None:
        if self._journal is None:
            return
        line = jsonrpc.encode(value)
        self._journal.append(line)
        self._noted_bytes += len(line)
        if self._noted_bytes > max(_MANY_BYTES, 2 * self._kept_bytes):
            kept = self._lines()
            self._journal.compact(kept)
            self._kept_bytes, self._noted_bytes = sum(map(len, kept)), 0


def _put(kept: "OrderedDict[str, T]", key: str, value: T) -> None:
    """Keep a value as the newest, and forget the oldest if there are too many."""
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > _REMEMBERED:
        _ = kept.popitem(last=False)


def _change_line(key: str, kept: _Change) -> JsonObject:
    at, level, uris = kept
    return {"k": key, "t": at, "level": level, "uris": [*uris]}


def _shorten(capabilities: JsonObject) -> JsonObject:
    """Keep of each capability only which parts of it there are: ids stay short."""
    shortened: JsonObject = {}
    for name, value in capabilities.items():
        if isinstance(value, dict):
            named = [part for part, told in value.items() if isinstance(told, dict)]
            parts = [part for part in named if len(part) <= _LONGEST_PART]
            shortened[name] = {part: {} for part in parts[:_MAX_PARTS]}
    return shortened
