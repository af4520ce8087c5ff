"""The outermost filter with the real record behind it."""

import asyncio
import gc
import os
import resource
import weakref
from collections.abc import Awaitable, Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import anyio
import pytest
from structlog.testing import capture_logs

from orchestrator.audit.log import AuditLog
from orchestrator.audit.reader import parse
from orchestrator.audit.record import hash_arguments
from orchestrator.clock import SystemClock
from orchestrator.errors import (
    CallDeniedError,
    StateUnwritableError,
    TokenRevokedError,
    TokenUnknownError,
    UnknownToolError,
    UpstreamTimeoutError,
)
from orchestrator.gateway.asgi import Body, RawHeaders, Received, Start
from orchestrator.gateway.context import Exchange, Reply, give
from orchestrator.gateway.filters.record import Record, require_record
from orchestrator.gateway.head import Head
from orchestrator.journal import segments
from orchestrator.model.audit import Audit
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.names import AgentName, RoleName, TokenId
from orchestrator.model.server import ToolClass
from orchestrator.protocol import jsonrpc
from orchestrator.protocol.mcp import ToolCall
from orchestrator.tokens.mint import mint
from orchestrator.tokens.verify import Principal

if TYPE_CHECKING:
    from orchestrator.gateway.hub import Stream
    from orchestrator.gateway.sessions import Session
    from orchestrator.gateway.table import Place
    from orchestrator.gateway.target import Target

TRACE = "0af7651916cd43dd8448eb211c80319c"
ALICE = Principal(AgentName("alice"), RoleName("treasury"), TokenId("t1"), datetime.now(UTC))
OK = Reply(200, b'{"answer":"secret-result"}')


async def hear() -> Received:
    """Hear nothing."""
    return Received(type="http.disconnect")


async def send(_: Start | Body) -> None:
    """Send nowhere."""


@dataclass
class Desk:
    """The filter, its record, and requests."""

    home: Path
    rule: Audit = field(default_factory=Audit)
    log: AuditLog = field(init=False)
    record: Record = field(init=False)

    def __post_init__(self) -> None:
        """Open the record."""
        clock = SystemClock()
        self.log = AuditLog(
            self.home / "audit", self.home / "audit.key", clock, "1", lambda: self.rule
        )
        self.record = Record(self.log, clock)

    def request(self, headers: RawHeaders | None = None, role: str = "treasury") -> Exchange:
        """Make a request as it comes."""
        head = Head("POST", headers or [])
        clock = SystemClock()
        return Exchange(
            os.urandom(8).hex(),
            RoleName(role),
            head,
            receive=hear,
            send=send,
            started=clock.monotonic(),
        )

    async def ask(
        self, then: Callable[[Exchange], Awaitable[Reply]], exchange: Exchange | None = None
    ) -> Reply:
        """Have a request answered."""
        return await self.record(exchange or self.request(), then)

    def lines(self) -> list[JsonObject]:
        """Read the lines about requests."""
        whole = b"".join(path.read_bytes() for path in segments(self.home / "audit"))
        told = [parse(line) for line in whole.splitlines()]
        own = {"start", "checkpoint"}
        return [line for line in told if line is not None and line["event"] not in own]


@pytest.fixture
def desk(home: Path) -> Generator[Desk]:
    """Open a record."""
    desk = Desk(home)
    yield desk
    desk.log.close()


def learn(
    exchange: Exchange, kind: ToolClass = "READ", arguments: JsonObject | None = None
) -> None:
    """Let the filters learn what a tool call is about, up to the claim."""
    exchange.principal = ALICE
    exchange.method, exchange.request_id = "tools/call", 1
    exchange.call, exchange.kind = ToolCall("send", arguments), kind
    exchange.params = {"name": "send", "arguments": arguments or {}}
    exchange.session = cast("Session", SimpleNamespace(key="0123456789abcdef", client="cli/1"))
    names = SimpleNamespace(identifies={"send": ("to",)})
    policy = SimpleNamespace(revision="ba9876543210", policy=names)
    exchange.place = cast("Place", SimpleNamespace(policy=policy))


def claim(exchange: Exchange) -> None:
    """Give the request an instance."""
    ref = SimpleNamespace(workload="treasury.wallet.g1", pid=42)
    exchange.target = cast("Target", SimpleNamespace(ref=ref))


def answer_of(reply: Reply) -> JsonObject:
    """Read what a refused caller is told."""
    body = cast("JsonObject", jsonrpc.decode(reply.body))
    if "error" in body:
        return cast("JsonObject", cast("JsonObject", body["error"])["data"])
    return cast("JsonObject", cast("JsonObject", body["result"])["structuredContent"])


async def test_a_read_leaves_one_line(desk: Desk) -> None:
    """Who called what, by which rules, where, how it ended, and the hash of the arguments."""
    arguments: JsonObject = {"to": "0x1", "amount": 10**21}
    exchange = desk.request([(b"traceparent", f"00-{TRACE}-b7ad6b7169203331-01".encode())])

    async def then(asked: Exchange) -> Reply:
        learn(asked, arguments=arguments)
        claim(asked)
        return OK

    assert await desk.ask(then, exchange) is OK
    (line,) = desk.lines()
    assert line.pop("duration_us")
    assert line.pop("time")
    assert line.pop("prev")
    assert line == {
        "agent": "alice",
        "arguments_sha256": hash_arguments(arguments),
        "class": "READ",
        "client": "cli/1",
        "event": "outcome",
        "method": "tools/call",
        "outcome": "ok",
        "pid": 42,
        "policy": "ba9876543210",
        "request": exchange.id,
        "resources": {"to": "0x1"},
        "role": "treasury",
        "run": "0123456789abcdef",
        "seq": 3,
        "session": "0123456789abcdef",
        "status": 200,
        "summary": {"amount": "integer", "to": "text(3)"},
        "token": "t1",
        "tool": "send",
        "trace": TRACE,
        "v": 2,
        "workload": "treasury.wallet.g1",
    }


async def test_a_call_that_changes_something_is_announced(desk: Desk) -> None:
    """Its intent is there before it is sent, and its outcome tells the same hash."""

    async def then(asked: Exchange) -> Reply:
        learn(asked, "DESTRUCTIVE", {"amount": "1"})
        claim(asked)
        await asked.intend()
        (intent,) = desk.lines()
        assert (intent["event"], intent["class"], intent["pid"]) == ("intent", "DESTRUCTIVE", 42)
        assert "outcome" not in intent
        assert "status" not in intent
        # What was sent is let go of.
        asked.call, asked.params = ToolCall("send", None), {}
        raise UpstreamTimeoutError("late")

    reply = await desk.ask(then)
    assert answer_of(reply)["code"] == "upstream.timeout"
    intent, outcome = desk.lines()
    assert (outcome["event"], outcome["code"]) == ("outcome", "upstream.timeout")
    assert (
        outcome["arguments_sha256"] == intent["arguments_sha256"] == hash_arguments({"amount": "1"})
    )
    assert outcome["request"] == intent["request"]


async def test_refusals_are_decisions(desk: Desk) -> None:
    """What no instance heard of is told apart from what failed there, with the rule."""

    async def stranger(_: Exchange) -> Reply:
        raise TokenUnknownError("unknown")

    async def hidden(asked: Exchange) -> Reply:
        learn(asked)
        asked.kind = None
        raise UnknownToolError("send")

    async def denied(asked: Exchange) -> Reply:
        learn(asked)
        raise CallDeniedError("no", rule="sums[0]")

    for then in (stranger, hidden, denied):
        _ = await desk.ask(then)
    first, second, third = desk.lines()
    assert [line["event"] for line in desk.lines()] == ["decision"] * 3
    assert (first["code"], first["status"], "agent" in first) == ("token.unknown", 401, False)
    assert (second["code"], second["tool"]) == ("policy.unknown_tool", "send")
    assert (third["code"], third["rule"]) == ("policy.denied", "sums[0]")


async def test_an_unexpected_error_is_recorded_too(desk: Desk) -> None:
    """Nothing ends without a line, not even a mistake of ours or a cancelled task."""
    canary = "canary-4711"

    async def mistake(asked: Exchange) -> Reply:
        learn(asked, arguments={"key": canary})
        raise KeyError(canary)

    async def inner(_: Exchange) -> Reply:
        raise StateUnwritableError("/a/path of nobody's business")

    async def cancelled(_: Exchange) -> Reply:
        raise asyncio.CancelledError

    with capture_logs() as logs:
        assert (await desk.ask(mistake)).status == 500
        assert answer_of(await desk.ask(inner))["code"] == "internal"
        with pytest.raises(asyncio.CancelledError):
            _ = await desk.ask(cancelled)
    assert [line["code"] for line in desk.lines()] == [
        *("internal", "state.unwritable", "upstream.cancelled")
    ]
    assert canary not in repr(logs)


async def test_a_stream_has_a_line_at_both_ends(desk: Desk) -> None:
    """One when the caller begins to listen, one when it ends, with the reason."""
    exchange = desk.request()

    async def then(asked: Exchange) -> Reply:
        asked.principal = ALICE
        return Reply(200, stream=cast("Stream", object()))

    _ = await desk.ask(then, exchange)
    assert [line["event"] for line in desk.lines()] == ["stream"]
    exchange.interrupt(TokenRevokedError("revoked"))
    exchange.finish()
    opened, ended = desk.lines()
    assert (ended["event"], ended["code"], ended["status"]) == ("outcome", "token.revoked", 200)
    assert ended["request"] == opened["request"]


async def test_no_argument_result_or_token_is_in_the_record(desk: Desk) -> None:
    """Wherever somebody writes a secret, the record does not hold it."""
    token = mint().text.get_secret_value()
    secret = token.rpartition("_")[2]
    canaries = (token, secret, f"x {token}", "ghp_0123456789abcdef0123", "s\u00e9cret\n{}")
    headers = [
        (b"authorization", f"Bearer {token}".encode()),
        (b"traceparent", f"00-{token}-01".encode()),
        (b"mcp-session-id", token.encode()),
    ]

    def writing(text: str) -> Callable[[Exchange], Awaitable[Reply]]:
        async def then(asked: Exchange) -> Reply:
            learn(asked, "WRITE", {text: text, "result": "canary-argument"})
            asked.place = None
            asked.params["_meta"] = {"traceparent": text}
            await asked.intend()
            asked.method, asked.call, asked.kind = text, ToolCall(text, {text: text}), None
            if text == token:
                return Reply(200, b"canary-result")
            raise UnknownToolError(text)

        return then

    for text in canaries:
        _ = await desk.ask(writing(text), desk.request(headers, role=text))
    lines = desk.lines()
    assert [line["event"] for line in lines] == ["intent", "outcome", *["intent", "decision"] * 4]
    assert {(line["role"], line.get("method")) for line in lines[1::2]} == {("?", "?")}
    assert not any("trace" in line for line in lines)
    files = b"".join(path.read_bytes() for path in (desk.home / "audit").iterdir())
    for canary in (*canaries, "canary", "cret"):
        assert canary.encode() not in files
        assert jsonrpc.encode(canary).strip(b'"') not in files


@contextmanager
def full_disk(desk: Desk) -> Generator[None]:
    """Let no file grow beyond what the record is now."""
    size = segments(desk.home / "audit")[-1].stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_without_its_intent_no_call_is_made(desk: Desk) -> None:
    """When the announcement cannot be written, the call ends there, and nothing was done."""
    sent = False

    async def then(asked: Exchange) -> Reply:
        nonlocal sent
        learn(asked, "WRITE")
        claim(asked)
        with full_disk(desk):
            await asked.intend()
        sent = True
        return OK

    reply = await desk.ask(then)
    assert not sent
    told = answer_of(reply)
    assert (told["code"], told["category"]) == ("audit.unavailable", "not_available")
    assert "nothing was done" in str(told["message"])
    assert [line.get("code") for line in desk.lines()] == ["audit.unavailable"]


@pytest.mark.parametrize(
    ("kind", "code"), [("READ", "audit.unavailable"), ("DESTRUCTIVE", "audit.unrecorded")]
)
async def test_what_cannot_be_recorded_is_not_told(desk: Desk, kind: ToolClass, code: str) -> None:
    """A result does not leave before its record; who changed something is told to look first."""

    async def then(asked: Exchange) -> Reply:
        learn(asked, kind)
        claim(asked)
        if kind != "READ":
            await asked.intend()
        return OK

    with capture_logs() as logs, ExitStack() as stack:

        async def late(asked: Exchange) -> Reply:
            reply = await then(asked)
            stack.enter_context(full_disk(desk))
            return reply

        reply = await desk.ask(late)
    told = answer_of(reply)
    assert told["code"] == code
    assert b"secret-result" not in reply.body
    assert ("requiredAction" in told) == (kind != "READ")
    assert [log["event"] for log in logs] == ["record_unavailable"]

    async def ping(_: Exchange) -> Reply:
        return OK

    with capture_logs() as logs:
        assert await desk.ask(ping) is OK
    assert [log["event"] for log in logs] == ["record_available"]
    gap, outcome = desk.lines()[-2:]
    assert (gap["event"], gap["count"], outcome["outcome"]) == ("gap", 1, "ok")


async def test_who_comes_while_nothing_can_be_recorded_is_refused_at_once(home: Path) -> None:
    """Not even a token is looked at, and it ends by itself when there is room."""
    (home / "audit").mkdir(mode=0o700)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    asked = 0

    async def then(_: Exchange) -> Reply:
        nonlocal asked
        asked += 1
        return OK

    try:
        desk = Desk(home)
        with capture_logs() as logs:
            replies = [await desk.ask(then) for _ in range(3)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert asked == 0
    assert {reply.status for reply in replies} == {503}
    assert {str(answer_of(reply)["code"]) for reply in replies} == {"audit.unavailable"}
    assert len(logs) == 1
    assert await desk.ask(then) is OK
    desk.log.close()


async def test_a_call_that_is_interrupted_while_it_is_announced_is_not_made(desk: Desk) -> None:
    """A token that ends while the disk is busy ends the call unsent; the intent stays."""

    async def then(asked: Exchange) -> Reply:
        learn(asked, "WRITE")
        claim(asked)
        _ = asyncio.get_running_loop().call_soon(
            asked.interrupt, TokenRevokedError("The token was revoked")
        )
        await asked.intend()
        asked.require_whole()
        return OK

    with anyio.fail_after(30):
        assert (await desk.ask(then)).status == 401
        await asyncio.wait_for(desk.log._open().journal.durable(), 30)
    assert [line["event"] for line in desk.lines()] == ["intent", "outcome"]
    assert desk.lines()[1]["code"] == "token.revoked"


async def test_a_line_is_short_whatever_the_arguments_are(desk: Desk) -> None:
    """Megabytes, thousands of names and long ones leave a line of a few kilobytes."""
    arguments: JsonObject = {"to": "x" * 10_000_000, "\x1b[2J\n": 1, "n" * 5000: 2}
    arguments |= {f"name-{number}": number for number in range(5000)}

    async def then(asked: Exchange) -> Reply:
        learn(asked, arguments=arguments)
        claim(asked)
        return OK

    assert await desk.ask(then) is OK
    (path,) = segments(desk.home / "audit")
    assert path.stat().st_size < 8192
    (line,) = desk.lines()
    resources, summary = cast("JsonObject", line["resources"]), cast("JsonObject", line["summary"])
    assert resources["to"] == "x" * 125 + "..."
    assert summary["?"] == "5003 in all"


READ_ON = Audit(when_full="read-on")


@pytest.mark.parametrize(
    ("method", "kind", "is_let"),
    [
        ("tools/call", "READ", True),
        ("tools/call", "WRITE", False),
        ("tools/call", "DESTRUCTIVE", False),
        ("tools/list", None, True),
        ("resources/read", None, True),
        ("subscriptions/listen", None, False),
        ("logging/setLevel", None, False),
        ("", None, False),
    ],
)
async def test_a_full_disk_lets_only_reads_through_where_that_is_chosen(
    home: Path, method: str, kind: ToolClass | None, is_let: bool
) -> None:
    """READ calls and lists go on without a line, are counted, and everything else stops."""
    desk = Desk(home, READ_ON)
    asked = 0

    async def make(_: Exchange) -> Reply:
        nonlocal asked
        asked += 1
        return OK

    async def then(exchange: Exchange) -> Reply:
        if kind is not None:
            learn(exchange, kind)
        exchange.method, exchange.kind = method, kind
        return await require_record(exchange, make)

    with capture_logs() as logs, full_disk(desk):
        # The first one finds out.
        _ = await desk.ask(lambda _: give(OK))
        replies = [await desk.ask(then) for _ in range(3)]
        assert desk.log.trouble
    assert asked == (3 if is_let else 0)
    assert all((reply is OK) == is_let for reply in replies)
    if not is_let:
        assert {str(answer_of(reply)["code"]) for reply in replies} == {"audit.unavailable"}
    assert [log["event"] for log in logs] == ["record_unavailable"]
    assert logs[0]["reads_on"]
    assert await desk.ask(then) is OK
    assert not desk.log.trouble
    assert [line["count"] for line in desk.lines() if line["event"] == "gap"] == [4]
    desk.log.close()


async def test_streams_do_not_begin_without_a_record(home: Path) -> None:
    """Only what is posted may go on: a stream would outlast the full disk."""
    desk = Desk(home, READ_ON)
    exchange = desk.request()
    exchange.head = Head("GET", [])

    async def then(_: Exchange) -> Reply:
        return OK

    with full_disk(desk):
        assert (await desk.ask(then, exchange)).status == 503
    desk.log.close()


async def test_a_read_whose_end_cannot_be_recorded_is_told_where_that_is_chosen(
    home: Path,
) -> None:
    """The disk fills up while it is under way; what was changed is not told all the same."""
    desk = Desk(home, READ_ON)
    for kind, code in (("READ", ""), ("WRITE", "audit.unrecorded")):
        with ExitStack() as stack:

            async def then(asked: Exchange, kind: str = kind) -> Reply:
                learn(asked, "READ" if kind == "READ" else "WRITE")
                claim(asked)
                if kind != "READ":
                    await asked.intend()
                stack.enter_context(full_disk(desk))
                return OK

            reply = await desk.ask(then)
        assert (reply is OK) == (not code)
        if code:
            assert answer_of(reply)["code"] == code
    desk.log.close()


async def test_nothing_holds_a_finished_request(desk: Desk) -> None:
    """Memory is freed at once, not when garbage is next collected."""

    class Marked(dict[str, Json]):
        """Something that the request holds."""

    marks: list[weakref.ref[Marked]] = []

    async def then(asked: Exchange) -> Reply:
        learn(asked, "WRITE")
        mark = Marked()
        marks.append(weakref.ref(mark))
        asked.params = mark
        await asked.intend()
        return OK

    gc.disable()
    try:
        _ = await desk.ask(then)
        assert marks[0]() is None
    finally:
        gc.enable()
