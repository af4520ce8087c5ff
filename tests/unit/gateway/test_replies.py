"""The table of errors, and what a caller sees of each."""

import asyncio
import inspect
import json
from datetime import timedelta
from types import MappingProxyType
from typing import cast

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from orchestrator import errors
from orchestrator.audit.record import CallRecord
from orchestrator.clock import SystemClock
from orchestrator.gateway.app import Application
from orchestrator.gateway.asgi import Body, Received, Scope, Start
from orchestrator.gateway.context import Exchange
from orchestrator.gateway.head import Head
from orchestrator.gateway.replies import TABLE, refuse
from orchestrator.gateway.server import Gateway
from orchestrator.gateway.settings import GatewaySettings
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.names import AgentName, RoleName, ServerName, ToolName
from orchestrator.model.rules import RolePolicy
from orchestrator.model.snapshot import Route, Snapshot
from orchestrator.protocol import jsonrpc, mcp
from orchestrator.tokens.mint import mint
from orchestrator.tokens.record import TokenRecord
from orchestrator.tokens.verify import TokenIndex


def leaves(base: type[errors.AgentsError]) -> set[type[errors.AgentsError]]:
    """Find the errors that nothing derives from."""
    below = {leaf for child in base.__subclasses__() for leaf in leaves(child)}
    return below or {base}


async def silence() -> Received:
    """Hear nothing."""
    return Received(type="http.disconnect")


async def discard(message: Start | Body) -> None:
    """Send nothing."""
    del message


def exchange(method: str = "", era: str = "modern") -> Exchange:
    """Make a request that got as far as its method."""
    made = Exchange(
        "r1", RoleName("treasury"), Head("POST", []), receive=silence, send=discard, started=0.0
    )
    made.method, made.era = method, "legacy" if era == "legacy" else "modern"
    made.request_id = 5 if method else None
    return made


def make(kind: type[errors.AgentsError], message: str) -> errors.AgentsError:
    """Make an error of a class, whatever it wants to know."""
    needed = inspect.signature(kind).parameters
    if kind is errors.RoleFileError:
        problem = errors.FileProblem(message, 1, 1, message, message, message)
        return errors.RoleFileError((problem,))
    if issubclass(kind, errors.RuleError):
        return kind(message, rule=message)
    if kind is errors.AttestationError:
        return errors.AttestationError(message, tools=(message,))
    if issubclass(kind, errors.ApprovalError):
        return kind(message)
    assert len(needed) <= 2
    return kind(message)


def test_every_leaf_is_in_the_table() -> None:
    """Whoever adds an error has to decide how an agent sees it."""
    # Modules of the command line and of the control plane have leaves of their own.
    ours = {leaf for leaf in leaves(errors.AgentsError) if leaf.__module__ == errors.__name__}
    # This one is raised itself, too.
    assert set(TABLE) == ours | {errors.RuntimeUnavailableError}


OWN_WORDS = {
    errors.CallDeniedError,
    errors.RateLimitedError,
    errors.BusyError,
    errors.ArgumentsRefusedError,
    errors.SecretInArgumentsError,
    errors.SumExceededError,
    errors.RoleFrozenError,
    errors.ToolDisabledError,
    errors.ShadowedError,
    errors.ApprovalRequiredError,
    errors.ApprovalDeniedError,
    errors.ApprovalTakenError,
    errors.UnknownToolError,
    errors.UnknownResourceError,
    errors.UnknownPromptError,
    errors.SessionRequiredError,
    errors.SessionUnknownError,
    errors.StateUnknownError,
    errors.NotRelayedError,
    errors.CallCancelledError,
    errors.UnreadableMessageError,
    errors.MalformedMessageError,
    errors.HeaderMismatchError,
    errors.UnsupportedVersionError,
    errors.InvalidParamsError,
    errors.MethodNotAllowedError,
}


@pytest.mark.parametrize("kind", TABLE)
@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_nothing_internal_leaks(kind: type[errors.AgentsError], era: str) -> None:
    """Only errors that are written for agents repeat their words, in one of the six categories."""
    secret = "/home/somebody/.env: WALLET_KEY"
    for method in ("", "tools/list", "tools/call"):
        reply = refuse(exchange(method, era), make(kind, secret))
        if kind not in OWN_WORDS:
            assert "somebody" not in reply.body.decode()
            assert "WALLET_KEY" not in reply.body.decode()
        body = cast("dict[str, JsonObject]", json.loads(reply.body))
        told = body["error"]["data"] if "error" in body else body["result"]["structuredContent"]
        assert isinstance(told, dict)
        assert {"category", "code", "message"} <= set(told)
        assert told["category"] in {
            "validation",
            "upstream",
            "flow",
            "auth",
            "limit",
            "not_available",
        }
        assert ("error" in body) or method == "tools/call"


def test_own_codes_are_outside_of_the_reserved_range() -> None:
    """A code of the gateway's own is none of JSON-RPC's or MCP's."""
    reply = refuse(exchange("tools/list"), errors.TargetUnavailableError("x"))
    code = cast("dict[str, dict[str, int]]", json.loads(reply.body))["error"]["code"]
    assert not -32768 <= code <= -32000


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_a_limit_is_told_in_http_before_the_message_is_known(era: str) -> None:
    """Too many calls are a 429 while nobody knows the request's id, and an answer to it after."""
    reply = refuse(exchange("", era), errors.TooManyCallsError("x"))
    assert (reply.status, reply.category, reply.code) == (429, "limit", "policy.too_many_calls")
    told = cast("dict[str, JsonObject]", json.loads(reply.body))
    assert told["id"] is None
    assert told["error"]["code"] == -31004
    data = cast("JsonObject", told["error"]["data"])
    assert (data["category"], data["retryAfterMs"], data["requestId"]) == ("limit", 1000, "r1")
    assert refuse(exchange("tools/call", era), errors.TooManyCallsError("x")).status == 200


class Nowhere:
    """A recorder that keeps nothing."""

    reads_on: bool = False

    def admit(self) -> None:
        """Let everything in."""

    def intend(self, entry: CallRecord) -> asyncio.Future[None]:
        """Forget it."""
        del entry
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def record(self, entry: CallRecord) -> None:
        """Forget it."""
        del entry


ROUTE = Route(
    RoleName("r"),
    ServerName("s"),
    None,
    ({"name": "echo", "inputSchema": {"type": "object"}},),
    MappingProxyType({ToolName("echo"): "READ"}),
    policy=RolePolicy(resources="all", prompts="all", asks=("elicitation",)),
)


def application(tokens: TokenIndex) -> Application:
    """Make the application of one role whose instance is away."""
    bounds = GatewaySettings(hosts=("h",), max_body_bytes=2000, target_patience_seconds=0)
    made = Gateway(tokens, clock=SystemClock(), settings=bounds, recorder=Nowhere())
    made.app.allow(bounds, frozenset())
    made.swap(Snapshot(1, MappingProxyType({RoleName("r"): ROUTE})))
    return made.app


HEADER_NAMES = st.sampled_from(
    [
        b"accept",
        b"authorization",
        b"content-type",
        b"content-length",
        b"mcp-protocol-version",
        b"mcp-method",
        b"mcp-name",
        b"origin",
    ]
)
HEADER_VALUES = st.sampled_from(
    [b"application/json", b"2026-07-28", b"2025-11-25", b"tools/call", b"=?base64?x?=", b"99", b""]
) | st.binary(max_size=20)
PATHS = st.sampled_from(["/r/mcp", "/ready", "/health", "/.well-known/x"]) | st.text(max_size=12)
ANY: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(width=16) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
METAS: st.SearchStrategy[Json] = st.just(mcp.envelope({"name": "c", "version": "1"})) | ANY
OPENING: JsonObject = {"protocolVersion": "2025-11-25"}
NOTE: JsonObject = {"jsonrpc": "2.0", "method": "initialize", "params": OPENING}
METHODS = [
    "initialize",
    "ping",
    "tools/list",
    "tools/call",
    "resources/read",
    "resources/subscribe",
    "prompts/get",
    "completion/complete",
    "logging/setLevel",
    "subscriptions/listen",
    "server/discover",
    "notifications/cancelled",
    "x",
    "",
]
PARAMS = st.fixed_dictionaries(
    {},
    optional={
        "_meta": METAS,
        "name": st.sampled_from(["echo", "é", ""]) | ANY,
        "arguments": ANY,
        "cursor": ANY,
        "uri": ANY,
        "ref": st.just({"type": "ref/prompt", "name": "p"}) | ANY,
        "level": st.just("info") | ANY,
        "requestId": ANY,
        "requestState": ANY,
        "inputResponses": ANY,
        "notifications": ANY,
        "protocolVersion": st.sampled_from(["2025-06-18", "2026-07-28"]) | ANY,
    },
)
REQUESTS = st.fixed_dictionaries(
    {
        "jsonrpc": st.just("2.0"),
        "id": st.integers() | st.text(max_size=3),
        "method": st.sampled_from(METHODS),
    },
    optional={"params": PARAMS},
)
NOTES = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0"), "method": st.sampled_from(METHODS), "params": PARAMS}
)
WILD = st.fixed_dictionaries(
    {"jsonrpc": st.sampled_from(["2.0", "2.0", "2.0", "1.0"])},
    optional={
        "id": st.integers() | st.text(max_size=3) | ANY,
        "method": st.sampled_from(METHODS) | ANY,
        "params": PARAMS | ANY,
        "result": ANY,
        "error": ANY,
    },
)
MESSAGES = REQUESTS | NOTES | WILD
WRITTEN = MESSAGES.map(lambda message: json.dumps(message).encode())
BODIES = st.binary(max_size=60) | WRITTEN


async def open_session(app: Application, like: Scope) -> bytes:
    """Open a session with the headers of another request; it has a token."""
    told: list[Start | Body] = []
    kept = {b"host", b"authorization"}
    head = [(name, value) for name, value in like["headers"] if name in kept]
    head += [(b"content-type", b"application/json"), (b"accept", b"*/*")]
    opening = jsonrpc.request_body(1, "initialize", OPENING)

    async def receive() -> Received:
        return Received(type="http.request", body=jsonrpc.encode(opening), more_body=False)

    async def send(message: Start | Body) -> None:
        told.append(message)

    await app({**like, "method": "POST", "headers": head}, receive, send)
    start = told[0]
    assert start["type"] == "http.response.start"
    return dict(start["headers"])[b"mcp-session-id"]


async def answer(
    path: str,
    method: str,
    headers: list[tuple[bytes, bytes]],
    body: bytes,
    *,
    known: bool,
    session: bool = False,
) -> tuple[int, bytes]:
    """Send one request to a gateway that has one agent, and tell the reply."""
    tokens, minted = TokenIndex(SystemClock()), mint()
    now = SystemClock().now()
    record = TokenRecord(
        minted.id,
        AgentName("a"),
        RoleName("r"),
        minted.digest,
        "active",
        now,
        now + timedelta(hours=1),
    )
    tokens.add(record)
    head = [(b"host", b"h"), *headers]
    if known:
        head.append((b"authorization", b"Bearer " + minted.text.get_secret_value().encode()))
    pieces = [body[:20], body[20:]]
    queue = [
        Received(type="http.request", body=piece, more_body=more)
        for piece, more in zip(pieces, (True, False), strict=True)
    ]
    sent: list[Start | Body] = []

    async def receive() -> Received:
        return queue.pop(0) if queue else Received(type="http.disconnect")

    async def send(message: Start | Body) -> None:
        sent.append(message)

    scope = Scope(type="http", method=method, path=path, query_string=b"", headers=head)
    app = application(tokens)
    if session:
        head.append((b"mcp-session-id", await open_session(app, scope)))
    await app(scope, receive, send)
    start, content = sent[0], b""
    assert start["type"] == "http.response.start"
    for message in sent[1:]:
        assert message["type"] == "http.response.body"
        content += message["body"]
    return start["status"], content.rpartition(b"data: ")[2]


@given(
    st.just("/r/mcp") | PATHS,
    st.sampled_from(["POST", "GET", "DELETE", "X"]),
    st.lists(st.tuples(HEADER_NAMES, HEADER_VALUES), max_size=8),
    BODIES,
    st.booleans(),
)
async def test_no_head_is_unexpected(
    path: str, method: str, headers: list[tuple[bytes, bytes]], body: bytes, known: bool
) -> None:
    """Whatever a request's head is, it is answered, and never with 500."""
    status, _ = await answer(path, method, headers, body, known=known)
    assert 200 <= status < 500 or path == "/ready"


@given(
    st.sampled_from([b"", b"2025-06-18", b"2026-07-28", b"x"]),
    st.booleans(),
    MESSAGES,
    st.booleans(),
)
@example(version=b"", honest=True, message=NOTE, session=False)
@example(version=b"", honest=True, message=NOTE, session=True)
@settings(max_examples=300)
async def test_no_message_is_unexpected(
    version: bytes, honest: bool, message: JsonObject, session: bool
) -> None:
    """Whatever an agent's message is, it is answered in its form, and never as an internal one."""
    method = str(message.get("method")).encode() if honest else b"tools/call"
    headers = [(b"content-type", b"application/json"), (b"accept", b"*/*")]
    headers += [(b"mcp-method", method), (b"mcp-name", b"echo")]
    if version:
        headers.append((b"mcp-protocol-version", version))
    body = json.dumps(message).encode()
    status, content = await answer("/r/mcp", "POST", headers, body, known=True, session=session)
    assert 200 <= status < 500
    assert b"Internal error" not in content
    event(f"status {status}")
    if content:
        assert cast("JsonObject", json.loads(content))["jsonrpc"] == "2.0"
    else:
        assert status == 202
