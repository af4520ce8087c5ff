"""Readiness of a stdio server: a real MCP handshake and its whole list of tools.

Source: MCP 2026-07-28 and 2025-11-25, Lifecycle and Tools; stdio clients that speak both eras send
`server/discover` first and take any error, or silence, as the sign of a server of the older one.
"""

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from itertools import count
from typing import Final, TypeGuard, cast, final

import anyio
import orjson

from orchestrator.errors import (
    MalformedMessageError,
    UpstreamError,
    UpstreamProtocolError,
    WorkloadNotReadyError,
)
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.rules import Asking
from orchestrator.model.server import EraChoice
from orchestrator.model.snapshot import Era
from orchestrator.protocol import jsonrpc
from orchestrator.runtimes.wire import Wire

MODERN = "2026-07-28"
LEGACY = "2025-11-25"
LEGACY_SPOKEN = frozenset({"2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"})

SILENCE = timedelta(seconds=5)
PAGES = 100
TOOLS = 10_000
_LISTINGS = 5
_SHOWN = 200
_META = "io.modelcontextprotocol/"
_METHOD_NOT_FOUND = -32601
_UNSUPPORTED_VERSION = -32022
_INSTRUCTIONS: Final = 16_384
# What is relayed, with the flags that say how; whatever else a server claims is left out.
_ABILITIES: Final[Mapping[str, tuple[str, ...]]] = {
    "tools": ("listChanged",),
    "resources": ("listChanged", "subscribe"),
    "prompts": ("listChanged",),
    "completions": (),
    "logging": (),
}
# Source: MCP 2025-11-25 and 2026-07-28, client capabilities; an empty `elicitation` would mean
# forms only.
_ASKING: Final[Mapping[Asking, JsonObject]] = {
    "elicitation": {"form": {}, "url": {}},
    "sampling": {},
    "roots": {},
}


@final
class EraRefusedError(UpstreamError):
    """The server says that it does not speak the era that it was opened in."""

    code = "upstream.protocol"


@dataclass(frozen=True, slots=True)
class Attested:
    """What a server proved to be.

    Attributes:
        era: The era that its process is in from now on.
        protocol_version: The revision agreed with it.
        server_info: What it says of itself (`name`, `title`, `version`, `websiteUrl`), a claim.
        capabilities: What it says it can, cut to what is relayed.
        tools: All its tools as it described them, in its order.
        rubbish: The first line on its stdout that was no MCP, shortened; empty without one.
        instructions: What it says that models should know, shortened; empty if it said nothing.
    """

    era: Era
    protocol_version: str
    server_info: JsonObject
    capabilities: JsonObject
    tools: tuple[JsonObject, ...]
    rubbish: str = ""
    instructions: str = ""


def declared(asks: Collection[Asking]) -> JsonObject:
    """Tell the client capabilities that allow a server to ask for exactly this."""
    return {name: dict(settings) for name, settings in _ASKING.items() if name in asks}


async def probe(  # noqa: PLR0913  each is a thing of its own
    channel: Wire,
    era: EraChoice,
    *,
    prefix: str,
    startup: timedelta = timedelta(seconds=60),
    silence: timedelta = SILENCE,
    asks: Collection[Asking] = (),
) -> Attested:
    """Open a fresh server and learn its tools. Nobody else may read the channel meanwhile.

    Args:
        channel: The channel to a process that nobody has talked to yet.
        era: Which era to open it in; `auto` finds out.
        prefix: Beginning of every request id, unique for each boot of the caller.
        startup: How long all of it may take.
        silence: How long an unanswered `server/discover`, or rubbish without any answer, is borne.
        asks: What it is told that it may ask its callers.

    Raises:
        WorkloadNotReadyError: It did not answer in time, or what it writes is no MCP.
        EraRefusedError: It does not speak the era.
        UpstreamProtocolError: It answered against the protocol.
    """
    talk = _Conversation(channel, prefix, silence.total_seconds(), declared(asks))
    with anyio.move_on_after(startup.total_seconds()):
        opened = await _open(talk, era)
        tools: tuple[JsonObject, ...] = ()
        if "tools" in opened.capabilities:
            tools = await _list_tools(talk, opened.era)
        return Attested(
            era=opened.era,
            protocol_version=opened.protocol_version,
            server_info=opened.server_info,
            capabilities=opened.capabilities,
            tools=tools,
            rubbish=talk.rubbish,
            instructions=opened.instructions,
        )
    raise talk.not_ready(f"within {startup.total_seconds():g} s")


async def list_tools(
    channel: Wire,
    era: Era,
    *,
    prefix: str,
    startup: timedelta,
    asks: Collection[Asking] = (),
) -> tuple[JsonObject, ...]:
    """Learn the tools of a server that an earlier run of the caller opened already.

    Args:
        channel: The channel; nobody else may read it meanwhile.
        era: The era in which it was opened.
        prefix: Beginning of every request id, unique for each boot of the caller.
        startup: How long all of it may take.
        asks: What it was told that it may ask its callers.

    Raises:
        WorkloadNotReadyError: It did not answer in time.
        UpstreamProtocolError: It answered against the protocol.
    """
    talk = _Conversation(channel, prefix, SILENCE.total_seconds(), declared(asks))
    with anyio.move_on_after(startup.total_seconds()):
        return await _list_tools(talk, era)
    raise talk.not_ready(f"within {startup.total_seconds():g} s")


@final
class Dialogue:
    """A fresh server, opened for a few calls of our own, one after the other."""

    def __init__(self, talk: "_Conversation", era: Era) -> None:
        """Keep the conversation; use `open`."""
        self._talk = talk
        self._era: Era = era

    @classmethod
    async def open(cls, channel: Wire, era: EraChoice, *, prefix: str) -> "Dialogue":
        """Open a server that nobody has talked to yet; the caller bounds the wait.

        Raises:
            WorkloadNotReadyError: What it writes is no MCP.
            EraRefusedError: It does not speak the era.
            UpstreamProtocolError: It answered against the protocol.
        """
        talk = _Conversation(channel, prefix, SILENCE.total_seconds(), {})
        opened = await _open(talk, era)
        return cls(talk, opened.era)

    @classmethod
    def resume(cls, channel: Wire, era: Era, *, prefix: str) -> "Dialogue":
        """Go on with a server that was opened over the same channel already.

        Args:
            channel: The channel; nobody else may read it meanwhile.
            era: The era in which the server was opened.
            prefix: Beginning of every request id, unique for each dialogue.
        """
        return cls(_Conversation(channel, prefix, SILENCE.total_seconds(), {}), era)

    async def call_tool(self, name: str, arguments: JsonObject) -> JsonObject:
        """Call a tool and return its result, which may say `isError`.

        Raises:
            UpstreamProtocolError: The server refused the call itself.
        """
        params: JsonObject = {"name": name, "arguments": arguments}
        wanted = await self._talk.request(
            "tools/call", self._talk.envelope(params) if self._era == "modern" else params
        )
        reply = await self._talk.answer({wanted})
        if reply.error is not None:
            raise UpstreamProtocolError(f"the server refused {name}: {reply.reason}")
        return reply.result


# --- opening -----------------------------------------------------------------------------------


async def _open(talk: "_Conversation", era: EraChoice) -> Attested:
    match era:
        case "modern":
            discover, reply = await _discover(talk)
            if reply is None:
                reply = await talk.answer({discover})
            if reply.error is not None:
                raise EraRefusedError(f"the server refused server/discover: {reply.reason}")
            return _discovered(reply.result)
        case "legacy":
            return await _initialize(talk, None)
        case "auto":
            discover, reply = await _discover(talk)
            if reply is None:
                return await _initialize(talk, discover)
            if reply.error is None and _speaks_modern(reply.result):
                return _discovered(reply.result)
            return await _initialize(talk, None)


async def _discover(talk: "_Conversation") -> "tuple[str, _Reply | None]":
    """Ask what the server is; once more if it refuses our version, and names it as its own.

    Source: MCP 2026-07-28, UnsupportedProtocolVersionError: a client should choose one of
    `data.supported`, and ask again.

    Returns:
        The request's id, and the reply, None when there is none for some seconds.
    """
    discover = await talk.request("server/discover", talk.envelope({}))
    reply = await talk.answer_or_silence({discover})
    if reply is not None and _offers_modern(reply.error):
        discover = await talk.request("server/discover", talk.envelope({}))
        reply = await talk.answer_or_silence({discover})
    return discover, reply


async def _initialize(talk: "_Conversation", discover: str | None) -> Attested:
    """Open the older way.

    Args:
        talk: The conversation.
        discover: A `server/discover` that is still unanswered. A server that was only slow reads
            it first and answers it after all; then its answer counts, and its refusal of the
            handshake that came later does not.
    """
    params: JsonObject = {
        "protocolVersion": LEGACY,
        "capabilities": talk.capabilities,
        "clientInfo": _client_info(),
    }
    initialize = await talk.request("initialize", params)
    waiting = {initialize} if discover is None else {initialize, discover}
    refusal = ""
    while waiting:
        reply = await talk.answer(waiting)
        waiting.discard(reply.id)
        if reply.id == initialize and reply.error is None:
            opened = _initialized(reply.result)
            await talk.notify("notifications/initialized")
            return opened
        if reply.id == discover and reply.error is None and _speaks_modern(reply.result):
            return _discovered(reply.result)
        if reply.id == initialize:
            refusal = reply.reason
    raise EraRefusedError(f"the server refused initialize: {refusal}")


def _initialized(result: JsonObject) -> Attested:
    spoken = result.get("protocolVersion")
    if not isinstance(spoken, str) or spoken not in LEGACY_SPOKEN:
        raise EraRefusedError("the server agreed to no protocol revision that we speak")
    return Attested(
        era="legacy",
        protocol_version=spoken,
        server_info=_claims(_object(result.get("serverInfo"), "serverInfo")),
        capabilities=_abilities(_object(result.get("capabilities"), "capabilities")),
        tools=(),
        instructions=_instructions(result),
    )


def _speaks_modern(result: JsonObject) -> bool:
    versions = result.get("supportedVersions")
    return isinstance(versions, list) and MODERN in versions


def _offers_modern(error: JsonObject | None) -> bool:
    if error is None or error.get("code") != _UNSUPPORTED_VERSION:
        return False
    data = error.get("data")
    supported = data.get("supported") if isinstance(data, dict) else None
    return isinstance(supported, list) and MODERN in supported


def _discovered(result: JsonObject) -> Attested:
    _require_complete(result, "server/discover")
    if not _speaks_modern(result):
        raise EraRefusedError(f"the server does not speak {MODERN}")
    meta = _object(result.get("_meta", {}), "_meta")
    return Attested(
        era="modern",
        protocol_version=MODERN,
        server_info=_claims(_object(meta.get(_META + "serverInfo", {}), "serverInfo")),
        capabilities=_abilities(_object(result.get("capabilities"), "capabilities")),
        tools=(),
        instructions=_instructions(result),
    )


# --- tools -------------------------------------------------------------------------------------


async def _list_tools(talk: "_Conversation", era: Era) -> tuple[JsonObject, ...]:
    """List all tools, again if the server says meanwhile that they changed."""
    for _ in range(_LISTINGS):
        talk.tools_changed = False
        tools = await _list_once(talk, era)
        if not talk.tools_changed:
            return tools
    raise UpstreamProtocolError("the server changes its tools without end")


async def _list_once(talk: "_Conversation", era: Era) -> tuple[JsonObject, ...]:
    tools: dict[str, JsonObject] = {}
    cursors: set[str] = set()
    params: JsonObject = {}
    for _ in range(PAGES):
        request = await talk.request(
            "tools/list", talk.envelope(params) if era == "modern" else params
        )
        reply = await talk.answer({request})
        if reply.error is not None:
            raise UpstreamProtocolError(f"the server refused tools/list: {reply.reason}")
        _require_complete(reply.result, "tools/list")
        for name, tool in _tools_of(reply.result):
            if name in tools:
                raise UpstreamProtocolError(f"the server lists {_shorten(name)} twice")
            tools[name] = tool
        if len(tools) > TOOLS:
            raise UpstreamProtocolError(f"the server lists more than {TOOLS} tools")
        cursor = reply.result.get("nextCursor")
        if cursor is None:
            return tuple(tools.values())
        if not isinstance(cursor, str) or cursor in cursors:
            raise UpstreamProtocolError("the server's pages of tools/list lead in a circle")
        cursors.add(cursor)
        params = {"cursor": cursor}
    raise UpstreamProtocolError(f"the server's tools/list has more than {PAGES} pages")


def _tools_of(result: JsonObject) -> Iterator[tuple[str, JsonObject]]:
    tools = result.get("tools")
    if not isinstance(tools, list):
        raise UpstreamProtocolError("the server's tools/list has no list of tools")
    for tool in tools:
        if not _is_object(tool):
            raise UpstreamProtocolError("the server lists a tool that is no object")
        name = tool.get("name")
        if not isinstance(name, str) or not name:
            raise UpstreamProtocolError("the server lists a tool without a name")
        if not _is_object(tool.get("inputSchema")):
            raise UpstreamProtocolError(f"the server's tool {_shorten(name)} has no inputSchema")
        yield name, tool


# --- the conversation --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Reply:
    id: str
    result: JsonObject
    error: JsonObject | None

    @property
    def reason(self) -> str:
        """The error in words fit for a person; the server's text is cut and escaped."""
        error = self.error or {}
        code, message = error.get("code"), error.get("message")
        words = _shorten(message) if isinstance(message, str) else "no reason given"
        return f"{code if isinstance(code, int) else 'error'} {words}"


@final
class _Conversation:
    """Requests and their replies; everything else that a server may say is dealt with."""

    def __init__(
        self, channel: Wire, prefix: str, silence: float, capabilities: JsonObject
    ) -> None:
        self.capabilities = capabilities
        self._channel = channel
        self._prefix = prefix
        self._silence = silence
        self._numbers = count(1)
        self._asked = ""
        self._heard = False
        self._rubbish_at: float | None = None
        self.rubbish = ""
        self.tools_changed = False

    def not_ready(self, when: str) -> WorkloadNotReadyError:
        if self.rubbish and not self._heard:
            return WorkloadNotReadyError(
                f"the server writes something else than MCP to its stdout: {self.rubbish}",
                hint="Nothing but MCP may go to stdout; send logs to stderr.",
            )
        return WorkloadNotReadyError(
            f"the server did not answer {self._asked} {when}",
            hint="Look into its log; its start may need more time (probe.startup).",
        )

    def envelope(self, params: JsonObject) -> JsonObject:
        """Add what every modern request says of its sender."""
        meta: JsonObject = {
            _META + "protocolVersion": MODERN,
            _META + "clientCapabilities": self.capabilities,
            _META + "clientInfo": _client_info(),
        }
        return {**params, "_meta": meta}

    async def request(self, method: str, params: JsonObject) -> str:
        self._asked = method
        identity = f"{self._prefix}p{next(self._numbers)}"
        message = {"jsonrpc": "2.0", "id": identity, "method": method, "params": params}
        await self._channel.send(orjson.dumps(message))
        return identity

    async def notify(self, method: str) -> None:
        await self._channel.send(orjson.dumps({"jsonrpc": "2.0", "method": method}))

    async def answer(self, wanted: Collection[str]) -> _Reply:
        """Wait for the first reply to one of these requests."""
        while True:
            with anyio.move_on_after(self._rubbish_left()):
                reply = await self._hear(wanted)
                if reply is not None:
                    return reply
                continue
            raise self.not_ready("in time")

    async def answer_or_silence(self, wanted: Collection[str]) -> _Reply | None:
        """Wait for the first reply, None when there is none for some seconds."""
        with anyio.move_on_after(self._silence):
            return await self.answer(wanted)
        return None

    def _rubbish_left(self) -> float:
        if self._heard or self._rubbish_at is None:
            return float("inf")
        return max(0.0, self._rubbish_at + self._silence - time.monotonic())

    async def _hear(self, wanted: Collection[str]) -> _Reply | None:
        """Take one line; a reply to one of these requests is returned, anything else is not."""
        line = await self._channel.receive()
        message = _read(line)
        identity = None if message is None else message.get("id")
        answers = isinstance(identity, str) and identity in wanted
        # A program that gives back what it reads is none; a method beside our own id shows it.
        if message is None or ("method" in message and answers):
            if not self.rubbish:
                self.rubbish = _shorten(line[: 4 * _SHOWN].decode(errors="replace"))
                self._rubbish_at = time.monotonic()
            return None
        self._heard = True
        method = message.get("method")
        if isinstance(method, str):
            # An id of any other type is no id, and might be nested beyond what can be written.
            if isinstance(identity, str | int):
                await self._serve(method, identity)
            elif method == "notifications/tools/list_changed":
                self.tools_changed = True
            return None
        if not answers or not isinstance(identity, str):
            return None
        error = message.get("error")
        if error is not None:
            return _Reply(identity, {}, _object(error, "error"))
        return _Reply(identity, _object(message.get("result"), "result"), None)

    async def _serve(self, method: str, identity: str | int) -> None:
        """Answer a request of the server: it may ask callers, and there is none yet but `ping`."""
        message: JsonObject = {"jsonrpc": "2.0", "id": identity}
        if method == "ping":
            message["result"] = {}
        else:
            message["error"] = {"code": _METHOD_NOT_FOUND, "message": "Method not found"}
        await self._channel.send(orjson.dumps(message))


def _read(line: bytes) -> JsonObject | None:
    """Read a JSON-RPC message, None for anything else."""
    try:
        if len(line) > jsonrpc.MAX_VALUES:  # a value takes a byte at least
            jsonrpc.check_breadth(line, jsonrpc.MAX_ANSWER_VALUES)
        message = cast("Json", orjson.loads(line))
    except (orjson.JSONDecodeError, MalformedMessageError):
        return None
    if not _is_object(message) or message.get("jsonrpc") != "2.0":
        return None
    return message


def _client_info() -> JsonObject:
    return {"name": "bandmaster", "version": version("bandmaster")}


def _require_complete(result: JsonObject, method: str) -> None:
    # A result without a type is complete: servers of the older era know no types.
    if result.get("resultType", "complete") != "complete":
        raise UpstreamProtocolError(f"the server's answer to {method} is not complete")


def _claims(info: JsonObject) -> JsonObject:
    """Keep the names and versions that a server gives itself, short.

    They are written into the state: a server must not be able to fill it, or to nest it so deeply
    that nobody can read it again.
    """
    return {
        key: _shorten(value)
        for key in ("name", "title", "version", "websiteUrl")
        if isinstance(value := info.get(key), str)
    }


def _abilities(claimed: JsonObject) -> JsonObject:
    """Keep what a server says it can, as far as it is relayed; it goes into the state, too."""
    kept: JsonObject = {}
    for name, flags in _ABILITIES.items():
        settings = claimed.get(name)
        if isinstance(settings, dict):
            kept[name] = {flag: True for flag in flags if settings.get(flag) is True}
    return kept


def _instructions(result: JsonObject) -> str:
    said = result.get("instructions")
    return said[:_INSTRUCTIONS] if isinstance(said, str) else ""


def _object(value: Json, what: str) -> JsonObject:
    if not _is_object(value):
        raise UpstreamProtocolError(f"the server's {what} is no object")
    return value


def _is_object(value: Json) -> TypeGuard[JsonObject]:
    return isinstance(value, dict)


def _shorten(text: str) -> str:
    """Cut a text of the server's, and make every character of it visible."""
    shown = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text[: _SHOWN + 1]
    )
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
