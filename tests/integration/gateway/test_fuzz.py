"""Bytes without sense, from callers and from servers: nothing fails, and nothing waits for ever.

The gateway runs in a thread of its own, so that hundreds of examples meet one and the same.
"""

from __future__ import annotations

import json
import socket
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from orchestrator.gateway.settings import GatewaySettings
from orchestrator.model.rules import RolePolicy

if TYPE_CHECKING:
    from collections.abc import Generator

    from integration.gateway.conftest import Instance, OpenRig, Rig

    from orchestrator.model.base import Json, JsonObject

EVERYTHING = RolePolicy(resources="all", prompts="all", asks=("elicitation", "sampling", "roots"))
STREAM = b"text/event-stream"
PINGING = GatewaySettings(ping_seconds=0.05)
BOUNDED = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@dataclass(slots=True, repr=False)
class Place:
    """A gateway that serves, and a caller that it knows."""

    rig: Rig
    instance: Instance
    token: str
    session: str

    def speak(self, pieces: list[bytes]) -> bytes:
        """Send bytes on a connection of their own; tell what comes back until its end."""
        with socket.create_connection(("127.0.0.1", self.rig.port), timeout=60) as stream:
            told = b""
            try:
                for piece in pieces:
                    stream.sendall(piece)
                stream.shutdown(socket.SHUT_WR)
                # A stream does not end by itself.
                while STREAM not in told and (data := stream.recv(65536)):
                    told += data
            except TimeoutError as error:
                raise AssertionError((pieces, told)) from error
            except OSError:
                pass  # it was let go, which is an answer, too
            return told

    def call(self, word: str) -> JsonObject:
        """Make a good call on a connection of its own."""
        steps: list[Json] = [["word", word]]
        params: JsonObject = {"name": "look", "arguments": {"steps": steps}}
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
        return self.ask("POST", body.encode())

    def ask(self, method: str, body: bytes) -> JsonObject:
        """Make one good request; its answer has to be there."""
        head = (
            f"{method} /treasury/mcp HTTP/1.1\r\nhost: 127.0.0.1:{self.rig.port}\r\n"
            f"authorization: Bearer {self.token}\r\nmcp-session-id: {self.session}\r\n"
            "accept: application/json, text/event-stream\r\ncontent-type: application/json\r\n"
            f"connection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", self.rig.port), timeout=60) as stream:
            stream.sendall(head.encode() + body)
            told = b""
            while data := stream.recv(65536):
                told += data
        _, _, content = told.partition(b"\r\n\r\n")
        assert told.startswith(b"HTTP/1.1 200"), told
        # A server's log may have gone before.
        lines = [line.removeprefix(b"data: ") for line in content.splitlines()]
        messages = [cast("JsonObject", json.loads(line)) for line in lines if line[:1] == b"{"]
        return messages[-1]


@contextmanager
def opened(open_rig: OpenRig) -> Generator[Place]:
    """Run a gateway with one quick server in a thread; nothing unexpected may be logged."""
    with (
        capture_logs() as logs,
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(open_rig(PINGING, seconds=600)) as rig,
    ):

        async def prepare() -> tuple[Instance, str]:
            instance = await rig.talker("legacy", policy=EVERYTHING)
            async with rig.caller("legacy", token=token) as caller:
                return instance, caller.session

        token = rig.token()
        instance, session = portal.call(prepare)
        yield Place(rig, instance, token, session)
        # Whoever went away in the middle is noticed, at the latest when a stream shows its life.
        portal.call(lambda: rig.until(lambda: not rig.gateway.app._open))
    assert [log for log in logs if log["log_level"] in {"error", "warning"}] == []


HEADERS = st.sampled_from(
    [
        b"host: 127.0.0.1:PORT",
        b"host: evil.example",
        b"authorization: Bearer TOKEN",
        b"authorization: Bearer x",
        b"mcp-session-id: SESSION",
        b"mcp-session-id: x",
        b"mcp-protocol-version: 2025-11-25",
        b"mcp-protocol-version: 2026-07-28",
        b"mcp-method: tools/call",
        b"mcp-name: =?base64?x?=",
        b"accept: application/json, text/event-stream",
        b"accept: */*;q=,",
        b"content-type: application/json",
        b"content-type: text/plain",
        b"content-length: 10",
        b"content-length: 99999999999999999999",
        b"content-length: -1",
        b"transfer-encoding: chunked",
        b"transfer-encoding: gzip, chunked",
        b"expect: 100-continue",
        b"connection: close",
        b"connection: upgrade",
        b"upgrade: h2c",
        b"origin: null",
        b"traceparent: 00-0-0-0",
        b" folded: x",
        b"no colon",
        b": no name",
        b"x: \xff\x00",
    ]
)
GOOD = [
    b"host: 127.0.0.1:PORT",
    b"authorization: Bearer TOKEN",
    b"mcp-session-id: SESSION",
    b"accept: application/json, text/event-stream",
    b"content-type: application/json",
]
FIRST = st.sampled_from(
    [
        b"POST /treasury/mcp HTTP/1.1",
        b"GET /treasury/mcp HTTP/1.1",
        b"DELETE /nobody/mcp HTTP/1.1",
        b"POST /treasury/mcp?access_token=x HTTP/1.0",
        b"PUT /%74reasury/mcp HTTP/1.1",
        b"GET /health HTTP/1.1",
        b"GET http://127.0.0.1/ready HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"CONNECT 127.0.0.1:1 HTTP/1.1",
        b"PRI * HTTP/2.0",
        b"GET /\xff HTTP/1.1",
        b"GET",
    ]
)
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
    "notifications/cancelled",
]
VALUES: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
MESSAGES = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0")},
    optional={
        "id": st.integers() | st.text(max_size=5) | VALUES,
        "method": st.sampled_from(METHODS) | VALUES,
        "params": st.fixed_dictionaries(
            {},
            optional={
                "name": st.sampled_from(["look", "hidden"]) | VALUES,
                "arguments": VALUES,
                "uri": st.just("demo://a") | VALUES,
                "_meta": VALUES,
                "level": st.just("info") | VALUES,
                "requestId": VALUES,
                "protocolVersion": st.just("2025-11-25") | VALUES,
            },
        )
        | VALUES,
        "result": VALUES,
    },
)
BODIES = MESSAGES.map(lambda message: json.dumps(message).encode()) | st.binary(max_size=60)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Write something like a request."""
    headers = draw(st.lists(HEADERS, max_size=6))
    if draw(st.booleans()):
        headers = GOOD + headers
    body = draw(BODIES)
    form = draw(st.sampled_from(["length", "chunks", "none"]))
    if form == "length":
        headers = [*headers, b"content-length: %d" % len(body)]
    elif form == "chunks":
        headers = [*headers, b"transfer-encoding: chunked"]
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    text = b"\r\n".join([draw(FIRST), *headers, b"", body])
    for place, put in draw(
        st.lists(st.tuples(st.integers(0, 500), st.binary(max_size=4)), max_size=3)
    ):
        at = place % (len(text) + 1)
        text = text[:at] + put + text[at + draw(st.integers(0, 3)) :]
    return text


@pytest.fixture(scope="module")
def place(open_rig: OpenRig) -> Generator[Place]:
    """Give a gateway to all examples of a test."""
    with opened(open_rig) as one:
        yield one


@given(
    texts=st.lists(requests(), min_size=1, max_size=3),
    places=st.lists(st.integers(0, 3000), max_size=4),
)
@BOUNDED
def test_no_bytes_of_a_caller_do_harm(place: Place, texts: list[bytes], places: list[int]) -> None:
    """Whatever bytes come on a connection, it is answered or ended, and the next one works."""
    text = b"".join(texts)
    text = text.replace(b"PORT", b"%d" % place.rig.port)
    text = text.replace(b"TOKEN", place.token.encode()).replace(b"SESSION", place.session.encode())
    ends = sorted({one % (len(text) + 1) for one in places} | {len(text)})
    pieces = [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    told = place.speak(pieces)
    event(told[:12].decode("latin-1") or "let go")
    assert b" 500 " not in told[:20]
    assert b"Internal error" not in told
    health = place.speak([b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"])
    assert health.startswith(b"HTTP/1.1 200"), health


LINES = st.binary(max_size=200) | MESSAGES.map(lambda message: json.dumps(message).encode())


@given(
    texts=st.lists(LINES, min_size=1, max_size=5),
    glue=st.sampled_from([b"\n", b"", b"\r\n", b"\x00"]),
)
@example(texts=[b"[" * 100_000], glue=b"\n")
@example(texts=[b"\xff" * 1000, b'{"id":'], glue=b"\n")
@BOUNDED
def test_no_bytes_of_a_server_do_harm(place: Place, texts: list[bytes], glue: bytes) -> None:
    """Whatever bytes come from a server, the next call is answered."""
    with (place.instance.directory / "out").open("r+b", buffering=0) as out:
        _ = out.write(glue.join(texts) + b"\n")
    answer = place.call("still here")
    assert "still here" in json.dumps(answer.get("result")), answer


def test_the_server_heard_of_good_calls_only(place: Place) -> None:
    """Nothing that a caller wrote beside a call's own parameters got through."""
    for params in place.instance.calls():
        assert set(params) <= {"name", "arguments", "_meta"}
    assert place.call("last")["id"] == 1
