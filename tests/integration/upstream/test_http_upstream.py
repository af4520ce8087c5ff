"""The gateway's connection to a server over HTTP, against servers that do what a test says."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from functools import partial
from typing import TYPE_CHECKING, cast

import anyio
import pytest

from orchestrator.errors import (
    AgentsError,
    TargetLostError,
    TargetUnavailableError,
    UpstreamProtocolError,
)
from orchestrator.gateway.upstream.base import Outgoing
from orchestrator.protocol import jsonrpc
from orchestrator.protocol.headers import ParameterHeader

if TYPE_CHECKING:
    from pathlib import Path

    from integration.upstream.conftest import Connect, Ears, Got, Out, Scripted

    from orchestrator.model.base import JsonObject
    from orchestrator.model.snapshot import Era

ERAS: list[Era] = ["modern", "legacy"]


def given(got: Got) -> JsonObject:
    """Tell the parameters of a request."""
    params = got.body["params"]
    assert isinstance(params, dict)
    return params


def token_of(got: Got) -> str:
    """Tell the progress token that a request carries."""
    meta = given(got)["_meta"]
    assert isinstance(meta, dict)
    return str(meta["progressToken"])


# --- what is sent ------------------------------------------------------------------------------


async def test_a_modern_call_describes_itself(scripted: Scripted, connect: Connect) -> None:
    """Its headers repeat the body, and nothing else goes along."""
    rules = (
        ParameterHeader(b"mcp-param-region", ("region",), "string"),
        ParameterHeader(b"mcp-param-n", ("deep", "n"), "integer"),
        ParameterHeader(b"mcp-param-none", ("none",), "string"),
    )
    arguments: JsonObject = {"region": "Zürich", "deep": {"n": 7}}
    params: JsonObject = {"name": "a\tb", "arguments": arguments, "_meta": {}}
    async with connect(scripted.address, "modern") as line:
        answer = await line.upstream.request(Outgoing("tools/call", params, rules), _wait)
        assert answer.result is not None
        _ = await line.ask("tools/list", {})
    call, listing = scripted.got
    assert call.headers == {
        "host": "localhost:80",
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/call",
        "mcp-name": "=?base64?YQli?=",
        "mcp-param-region": "=?base64?WsO8cmljaA==?=",
        "mcp-param-n": "7",
        "content-length": call.headers["content-length"],
    }
    assert "mcp-name" not in listing.headers
    assert call.connection == listing.connection


async def test_a_legacy_server_is_opened_first(scripted: Scripted, connect: Connect) -> None:
    """A session is opened with what may be asked, told to begin, and named ever after."""
    async with connect(scripted.address, "legacy", {"elicitation": {}}) as line:
        assert await line.text() == "done"
        line.upstream.notify("notifications/roots/list_changed", {})
        await scripted.until(lambda: len(scripted.got) == 5)
    kinds = set(scripted.methods())
    assert kinds >= {"initialize", "notifications/initialized", "GET", "tools/call"}
    opening, told = scripted.got[:2]
    assert given(opening) == {
        "protocolVersion": "2025-11-25",
        "capabilities": {"elicitation": {}},
        "clientInfo": {"name": "gateway", "version": "1"},
    }
    assert not {"mcp-session-id", "mcp-protocol-version"} & opening.headers.keys()
    assert told.method == "notifications/initialized"
    for got in scripted.got[1:]:
        assert got.headers["mcp-session-id"] == "s-1"
        assert got.headers["mcp-protocol-version"] == "2025-11-25"
        assert "mcp-method" not in got.headers


async def test_a_session_is_ended_with_the_connection(scripted: Scripted, connect: Connect) -> None:
    """The server is told that its session is not needed any more."""
    async with connect(scripted.address, "legacy") as line:
        await scripted.until(lambda: "GET" in scripted.methods())
        _ = await line.text()
    await scripted.until(lambda: "DELETE" in scripted.methods())
    assert scripted.got[-1].headers["mcp-session-id"] == "s-1"


async def test_no_cookie_is_kept_and_no_redirect_followed(
    scripted: Scripted, connect: Connect
) -> None:
    """What a server sets is not sent back, and where it points to is not gone to."""

    async def act(got: Got, out: Out) -> None:
        name = given(got)["name"]
        if name == "moved":
            await out.reply(status="307 Temporary Redirect", location="/elsewhere")
        else:
            await out.result(got, set_cookie="a=b", mcp_session_id="s-9")

    scripted.acts["tools/call"] = act
    async with connect(scripted.address, "modern") as line:
        _ = await line.text()
        _ = await line.text()
        with pytest.raises(UpstreamProtocolError, match="307"):
            _ = await line.text("moved")
    assert len(scripted.got) == 3
    assert not {"cookie", "mcp-session-id"} & scripted.got[1].headers.keys()


# --- what a server says on the way -------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
async def test_notifications_go_to_the_caller_of_their_stream(
    scripted: Scripted, connect: Connect, ears: type[Ears], era: Era
) -> None:
    """Two callers with the same progress token hear their own progress and logs, and no other's."""

    async def act(got: Got, out: Out) -> None:
        await scripted.until(lambda: scripted.methods().count("tools/call") == 2)
        name, token = str(given(got)["name"]), token_of(got)
        other = next(each for each in scripted.got if each.body.get("id") not in {None, got.id})
        note = partial(scripted.message, "notifications/progress")
        await out.events(
            note({"progressToken": token, "progress": 1, "message": name}),
            note({"progressToken": "p", "progress": 2}),
            note({"progressToken": other.id, "progress": 3}),
            scripted.message("notifications/message", {"level": "info", "data": name}),
            scripted.message("notifications/cancelled", {"requestId": 1}),
            scripted.message("notifications/tools/list_changed", {}),
            scripted.result(got.id, name),
        )

    scripted.acts["tools/call"] = act
    callers = {name: ears(owner=name) for name in ("a", "b")}
    async with connect(scripted.address, era) as line:

        async def ask(name: str) -> None:
            answer = await line.ask("tools/call", {"name": name}, callers[name], token="p")
            assert answer.result is not None

        async with anyio.create_task_group() as group:
            for name in callers:
                group.start_soon(ask, name)
        assert line.broadcasts == [("notifications/tools/list_changed", {})] * 2
    for name, caller in callers.items():
        assert caller.told == [
            ("notifications/progress", {"progressToken": "p", "progress": 1, "message": name}),
            ("notifications/message", {"level": "info", "data": name}),
        ]
    tokens = {token_of(got) for got in scripted.got if got.method == "tools/call"}
    assert len(tokens) == 2
    assert "p" not in tokens


async def test_questions_go_to_the_caller_of_their_stream(
    scripted: Scripted, connect: Connect, ears: type[Ears]
) -> None:
    """The caller is asked, and its answer is posted in the session; a ping is answered here."""

    async def act(got: Got, out: Out) -> None:
        await out.events(
            scripted.message("ping", {}, 1),
            scripted.message("elicitation/create", {"message": "?"}, "q"),
            scripted.message("tasks/list", {}, 3),
            end=False,
        )
        await scripted.until(lambda: scripted.methods().count("POST") == 3)
        await out.event(scripted.result(got.id, "thanks"))
        await out.end()

    scripted.acts["tools/call"] = act
    caller = ears(replies={"action": "accept"})
    async with connect(scripted.address, "legacy", {"elicitation": {}}) as line:
        assert await line.text(ears=caller) == "thanks"
    assert [(each.method, each.params) for each in caller.asked] == [
        ("elicitation/create", {"message": "?"})
    ]
    answers = {got.body["id"]: got for got in scripted.got if got.method == "POST"}
    assert answers[1].body == {"jsonrpc": "2.0", "id": 1, "result": {}}
    assert answers["q"].body == {"jsonrpc": "2.0", "id": "q", "result": {"action": "accept"}}
    assert answers[3].body["error"] == {"code": -32601, "message": "Method not found"}
    assert {got.headers["mcp-session-id"] for got in answers.values()} == {"s-1"}


async def test_a_caller_that_cannot_be_asked(
    scripted: Scripted, connect: Connect, ears: type[Ears]
) -> None:
    """The server hears that nobody answers, and later answers of the caller change nothing."""

    async def act(got: Got, out: Out) -> None:
        await out.events(scripted.message("roots/list", {}, 1), end=False)
        await scripted.until(lambda: "POST" in scripted.methods())
        await out.event(scripted.result(got.id, "then not"))
        await out.end()

    scripted.acts["tools/call"] = act
    caller = ears()
    async with connect(scripted.address, "legacy") as line:
        assert await line.text(ears=caller) == "then not"
        caller.asked[0].answer({"roots": []})
        assert await line.text() == "then not"
    refused = next(got for got in scripted.got if got.method == "POST")
    assert refused.body["error"] == {"code": -32601, "message": "The caller cannot be asked"}
    assert scripted.methods().count("POST") == 2


async def test_a_modern_server_asks_nothing(
    scripted: Scripted, connect: Connect, ears: type[Ears]
) -> None:
    """A request of a modern server is against the protocol, and passed over."""

    async def act(got: Got, out: Out) -> None:
        question = scripted.message("elicitation/create", {}, 1)
        await out.events(question, scripted.result(got.id, "done"))

    scripted.acts["tools/call"] = act
    caller = ears(replies={})
    async with connect(scripted.address, "modern") as line:
        assert await line.text(ears=caller) == "done"
    assert (caller.asked, len(scripted.got)) == ([], 1)


async def test_the_sessions_own_stream(
    scripted: Scripted, connect: Connect, ears: type[Ears]
) -> None:
    """It brings what concerns all; what concerns one reaches it if all in flight is its own."""
    ready = asyncio.Event()

    async def listen(got: Got, out: Out) -> None:
        assert got.headers["accept"] == "text/event-stream"
        await out.events(scripted.message("notifications/tools/list_changed", {}), end=False)
        await out.event(scripted.message("notifications/message", {"data": "to nobody"}))
        await ready.wait()
        for call in [each for each in scripted.got if each.method == "tools/call"]:
            note: JsonObject = {"progressToken": token_of(call), "progress": 1}
            await out.event(scripted.message("notifications/progress", note))
        await out.event(scripted.message("notifications/message", {"data": "to one"}))
        await out.event(scripted.message("sampling/createMessage", {}, 1))

    async def call(got: Got, out: Out) -> None:
        if given(got)["name"] == "last":
            ready.set()
        await scripted.until(lambda: "POST" in scripted.methods())
        await out.result(got)

    scripted.acts |= {"GET": listen, "tools/call": call}
    caller = ears(replies={"role": "assistant"})
    async with connect(scripted.address, "legacy") as line:
        await line.until_broadcasts(2)
        params: JsonObject = {"name": "last"}
        _ = await line.ask("tools/call", params, caller, token=5)
        assert line.broadcasts == [
            ("notifications/tools/list_changed", {}),
            ("notifications/message", {"data": "to nobody"}),
        ]
    assert caller.told == [
        ("notifications/progress", {"progressToken": 5, "progress": 1}),
        ("notifications/message", {"data": "to one"}),
    ]
    answer = next(got for got in scripted.got if got.method == "POST")
    assert answer.body["result"] == {"role": "assistant"}


async def test_calls_wait_for_the_sessions_own_stream(
    scripted: Scripted, connect: Connect, ears: type[Ears]
) -> None:
    """A server that asks on that stream alone reaches even the first caller of a session."""
    streams: list[Out] = []

    async def listen(_got: Got, out: Out) -> None:
        for _ in range(50):  # time enough for a call that does not wait
            await anyio.lowlevel.checkpoint()
        assert scripted.methods().count("tools/call") == 2 * len(streams)
        streams.append(out)
        await out.events(end=False)

    async def act(got: Got, out: Out) -> None:
        if got.headers["mcp-session-id"] != scripted.session:
            await out.reply(status="404 Not Found")
            return
        session = scripted.session
        await streams[-1].event(scripted.message("roots/list", {}, session))
        await scripted.until(lambda: session in [each.body.get("id") for each in answers()])
        await out.result(got)

    def answers() -> list[Got]:
        return [each for each in scripted.got if each.method == "POST"]

    scripted.acts |= {"GET": listen, "tools/call": act}
    caller = ears(replies={"roots": []})
    async with connect(scripted.address, "legacy") as line:
        assert await line.text(ears=caller) == "done"
        scripted.session = "s-2"
        assert await line.text(ears=caller) == "done"
    assert [got.body["result"] for got in answers()] == [{"roots": []}] * 2


async def test_a_stream_that_does_not_begin_holds_no_call_for_long(
    scripted: Scripted, connect: Connect
) -> None:
    """A server that says nothing of the stream before it has news is called after a while."""

    async def listen(_: Got, out: Out) -> None:
        await scripted.until(lambda: "tools/call" in scripted.methods())
        await out.events(scripted.message("notifications/tools/list_changed", {}), end=False)

    scripted.acts["GET"] = listen
    async with connect(scripted.address, "legacy") as line:
        assert await line.text() == "done"
        await line.until_broadcasts(1)


async def test_nobody_is_asked_when_it_is_not_known_whom(
    scripted: Scripted, connect: Connect, ears: type[Ears]
) -> None:
    """With two sessions in flight the session's own stream reaches neither of them."""

    async def listen(_: Got, out: Out) -> None:
        await scripted.until(lambda: scripted.methods().count("tools/call") == 2)
        note = scripted.message("notifications/message", {"data": "secret"})
        await out.events(note, scripted.message("elicitation/create", {}, 1), end=False)

    async def call(got: Got, out: Out) -> None:
        await scripted.until(lambda: "POST" in scripted.methods())
        await out.result(got)

    scripted.acts |= {"GET": listen, "tools/call": call}
    callers = [ears(owner=name, replies={}) for name in "ab"]
    async with connect(scripted.address, "legacy") as line:
        async with anyio.create_task_group() as group:
            for caller in callers:
                group.start_soon(line.text, "echo", None, caller)
        assert line.broadcasts == []
    assert [(caller.told, caller.asked) for caller in callers] == [([], []), ([], [])]
    refused = next(got for got in scripted.got if got.method == "POST")
    assert "error" in refused.body


async def test_a_listener_is_no_call(
    scripted: Scripted, connect: Connect, ears: type[Ears]
) -> None:
    """A subscription lasts, hears all that comes on its stream, and does not count as in flight."""

    async def act(got: Got, out: Out) -> None:
        await out.events(
            scripted.message("notifications/subscriptions/acknowledged", {}),
            scripted.message("notifications/tools/list_changed", {}),
            end=False,
        )
        await scripted.until(lambda: "tools/call" in scripted.methods())
        await out.event(scripted.result(got.id, ""))
        await out.end()

    scripted.acts["subscriptions/listen"] = act
    wanted: JsonObject = {"notifications": {"toolsListChanged": True}}
    caller = ears()
    async with connect(scripted.address, "modern") as line, anyio.create_task_group() as group:
        group.start_soon(line.ask, "subscriptions/listen", wanted, caller)
        await caller.until_told(2)
        assert (line.upstream.in_flight, line.upstream.oldest_call) == (0, None)
        assert await line.text() == "done"
    assert [method for method, _ in caller.told] == [
        "notifications/subscriptions/acknowledged",
        "notifications/tools/list_changed",
    ]
    assert line.broadcasts == []


# --- answers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("streams", [False, True])
async def test_large_results(scripted: Scripted, connect: Connect, era: Era, streams: bool) -> None:
    """Results beyond what clients' streams take arrive whole, as JSON and as an event."""
    sizes = [1_048_577, 50_000_000]

    async def act(got: Got, out: Out) -> None:
        arguments = given(got)["arguments"]
        assert isinstance(arguments, dict)
        answer = scripted.result(got.id, "x" * cast("int", arguments["size"]))
        await (out.events(answer) if streams else out.reply(answer))

    scripted.acts["tools/call"] = act
    async with connect(scripted.address, era) as line:
        for size in sizes:
            assert len(await line.text("huge", {"size": size})) == size


@pytest.mark.parametrize("streams", [False, True])
async def test_results_without_end_are_refused(
    scripted: Scripted, connect: Connect, streams: bool
) -> None:
    """A result larger than the bound ends its call, and no other."""

    async def act(got: Got, out: Out) -> None:
        if given(got)["name"] == "echo":
            await out.result(got)
            return
        kind = "text/event-stream" if streams else "application/json"
        await out.raw(f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n\r\n".encode())
        while True:
            await out.raw(b"data: " + b"x" * 1_000_000)

    scripted.acts["tools/call"] = act
    async with connect(scripted.address, "modern") as line:
        with pytest.raises(UpstreamProtocolError, match="more than"):
            _ = await line.text("huge")
        await scripted.until(lambda: scripted.closed == [0])
        assert await line.text() == "done"


@pytest.mark.parametrize("streams", [False, True])
async def test_results_of_too_many_values_are_refused(
    scripted: Scripted, connect: Connect, streams: bool
) -> None:
    """What would become gigabytes once it is read is not read at all."""

    async def act(got: Got, out: Out) -> None:
        body = b'{"jsonrpc":"2.0","id":"%b","result":{"a":[' % str(got.id).encode()
        body += b"[]," * 2_000_000 + b"[]]}}"
        kind = b"text/event-stream" if streams else b"application/json"
        body = b"data: " + body + b"\n\n" if streams else body
        length = b"content-length: %d\r\n" % len(body)
        await out.raw(b"HTTP/1.1 200 OK\r\ncontent-type: " + kind + b"\r\n" + length + b"\r\n")
        await out.raw(body)

    scripted.acts["tools/call"] = act
    async with connect(scripted.address, "modern") as line:
        with pytest.raises(UpstreamProtocolError):
            _ = await line.text("huge")


async def test_an_error_is_an_answer(scripted: Scripted, connect: Connect) -> None:
    """A JSON-RPC error is passed on, whatever HTTP status it came with."""

    async def act(got: Got, out: Out) -> None:
        body = jsonrpc.encode(jsonrpc.error_body(got.id, -32602, "no", {"why": 1}))
        await out.reply(body, str(given(got)["name"]), "application/json; charset=utf-8")

    scripted.acts["tools/call"] = act
    async with connect(scripted.address, "modern") as line:
        for status in ("200 OK", "400 Bad Request", "404 Not Found", "500 Oh No"):
            answer = await line.ask("tools/call", {"name": status})
            assert answer.error == {"code": -32602, "message": "no", "data": {"why": 1}}
    assert {got.connection for got in scripted.got} == {0}


def plain(status: str, kind: str, body: bytes) -> bytes:
    """Write a response that has nothing to do with a request."""
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


CHUNKED = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
STRANGE = json.dumps({"jsonrpc": "2.0", "id": "x", "result": {}}).encode()


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("written", "error"),
    [
        (plain("200 OK", "application/json", STRANGE), UpstreamProtocolError),
        (plain("200 OK", "application/json", b"[1, 2"), UpstreamProtocolError),
        (plain("200 OK", "application/json", b""), UpstreamProtocolError),
        (plain("200 OK", "text/html", b"<html>"), UpstreamProtocolError),
        (plain("202 Accepted", "application/json", b""), UpstreamProtocolError),
        (plain("500 Oh No", "text/plain", b"Traceback"), UpstreamProtocolError),
        (plain("200 OK", "application/json", b'{"jsonrpc":"2.0","id":ID,"result":1}'),
         UpstreamProtocolError),
        (plain("200 OK", "application/json", b'{"jsonrpc":"2.0","id":ID,"result":NaN}'),
         UpstreamProtocolError),
        (plain("400 Bad", "application/json", b'{"jsonrpc":"2.0","id":ID,"result":{}}'),
         UpstreamProtocolError),
        (CHUNKED + b"9\r\ndata: x\n\n\r\n", UpstreamProtocolError),
        (CHUNKED + b"0\r\n\r\n", UpstreamProtocolError),
        (CHUNKED + b"zz\r\n", UpstreamProtocolError),
        (b"SSH-2.0-OpenSSH_9.9\r\n", UpstreamProtocolError),
        (b"HTTP/1.1 200 OK\r\nx: " + b"x" * 100_000, UpstreamProtocolError),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 4_000, UpstreamProtocolError),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
         UpstreamProtocolError),
        (CHUNKED + b"1;" + b"x" * 600_000, UpstreamProtocolError),
        (b"", TargetLostError),
        (b"HTTP/1.1 200 OK\r\ncontent-ty", TargetLostError),
        (CHUNKED, TargetLostError),
        (CHUNKED + b"9\r\ndata", TargetLostError),
    ],
)  # fmt: skip
async def test_what_is_no_answer(
    scripted: Scripted, connect: Connect, era: Era, written: bytes, error: type[AgentsError]
) -> None:
    """Whatever a server writes, the call that it was for ends, at once, and the next one works."""

    async def act(got: Got, out: Out) -> None:
        if given(got)["name"] == "echo":
            await out.result(got)
            return
        await out.raw(written.replace(b"ID", json.dumps(got.id).encode()))
        if error is TargetLostError:
            out.writer.close()

    scripted.acts["tools/call"] = act
    async with connect(scripted.address, era) as line:
        with pytest.raises(error) as caught:
            _ = await line.text("bad")
        assert "Traceback" not in str(caught.value)
        assert await line.text() == "done"
        assert line.upstream.in_flight == 0


async def test_answers_that_were_not_asked_for(scripted: Scripted, connect: Connect) -> None:
    """A second answer, on the same stream or after it, is nobody's."""

    async def act(got: Got, out: Out) -> None:
        name = given(got)["name"]
        if name == "events":
            await out.events(
                scripted.result("boot-99", "not yours"),
                scripted.result(got.id, "first"),
                scripted.result(got.id, "second"),
            )
        elif name == "twice":
            answer = plain("200 OK", "application/json", scripted.result(got.id, "first"))
            await out.raw(answer + answer)
        else:
            await out.result(got, "third")

    scripted.acts["tools/call"] = act
    async with connect(scripted.address, "modern") as line:
        assert await line.text("events") == "first"
        assert await line.text("twice") == "first"
        assert await line.text() == "third"
    assert [got.connection for got in scripted.got] == [0, 0, 1]


async def test_an_answer_in_a_body_without_length(scripted: Scripted, connect: Connect) -> None:
    """A body that ends with the connection is whole."""

    async def act(got: Got, out: Out) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"
        await out.raw(head + scripted.result(got.id, "whole"))
        out.writer.close()

    scripted.acts["tools/call"] = act
    async with connect(scripted.address, "modern") as line:
        assert await line.text() == "whole"


# --- ends --------------------------------------------------------------------------------------


async def test_a_server_that_never_answers(scripted: Scripted, connect: Connect) -> None:
    """Its calls are seen to wait, and end when the process is given up."""

    async def act(_got: Got, _out: Out) -> None:
        pass

    scripted.acts["tools/call"] = act
    ended: list[type[Exception]] = []
    async with connect(scripted.address, "modern") as line:

        async def ask() -> None:
            try:
                _ = await line.text()
            except TargetLostError as error:
                ended.append(type(error))

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(ask)
            await scripted.until(lambda: len(scripted.got) == 3)
            assert line.upstream.in_flight == 3
            assert line.upstream.oldest_call is not None
            line.upstream.fail(TargetLostError("gone"))
        with pytest.raises(TargetUnavailableError):
            _ = await line.text()
    assert ended == [TargetLostError] * 3


async def test_nobody_listens(directory: Path, connect: Connect) -> None:
    """A request to a server that does not listen was not sent; a legacy one is given up."""
    address = f"unix:{directory}/none.sock:/mcp"
    async with connect(address, "modern") as line:
        with pytest.raises(TargetUnavailableError, match="does not listen"):
            _ = await line.text()
    with pytest.RaisesGroup(TargetUnavailableError):
        async with connect(address, "legacy") as line:
            with pytest.raises(TargetUnavailableError, match="opens no session"):
                _ = await line.text()
            with anyio.fail_after(30):
                await anyio.sleep_forever()


async def test_a_cancelled_modern_call(scripted: Scripted, connect: Connect) -> None:
    """Whoever stops waiting has the connection closed: that is how the server hears of it."""

    async def act(got: Got, out: Out) -> None:
        if given(got)["name"] == "echo":
            await out.result(got)

    scripted.acts["tools/call"] = act
    async with connect(scripted.address, "modern") as line:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(line.text, "hold")
                await scripted.until(lambda: scripted.got)
                scope.cancel()
        await scripted.until(lambda: scripted.closed == [0])
        assert line.upstream.in_flight == 0
        assert await line.text() == "done"
    assert "notifications/cancelled" not in scripted.methods()


async def test_a_cancelled_legacy_call(scripted: Scripted, connect: Connect) -> None:
    """A legacy server is told by a notification, and its stream let go when it took that."""

    async def act(_got: Got, out: Out) -> None:
        await out.events(scripted.message("notifications/message", {"data": "begun"}), end=False)

    scripted.acts["tools/call"] = act
    async with connect(scripted.address, "legacy") as line:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(line.text, "hold")
                await scripted.until(lambda: "tools/call" in scripted.methods())
                scope.cancel()
        await scripted.until(lambda: "notifications/cancelled" in scripted.methods())
        call = next(got for got in scripted.got if got.method == "tools/call")
        told = next(got for got in scripted.got if got.method == "notifications/cancelled")
        assert given(told)["requestId"] == call.id
        await scripted.until(lambda: call.connection in scripted.closed)


# --- kept connections --------------------------------------------------------------------------


async def test_a_kept_connection_that_was_closed(scripted: Scripted, connect: Connect) -> None:
    """A request of which nothing was taken is sent again, and arrives once."""
    async with connect(scripted.address, "modern") as line:
        _ = await line.text()
        # Closed in the very moment in which the next request goes out: nobody could know.
        raw = cast("socket.socket", scripted.connections[0].get_extra_info("socket"))
        with socket.socket(fileno=os.dup(raw.fileno())) as same:
            same.shutdown(socket.SHUT_RDWR)
        assert await line.text() == "done"
    assert [got.connection for got in scripted.got] == [0, 1]


async def test_a_connection_that_was_closed_while_it_was_idle(
    scripted: Scripted, connect: Connect
) -> None:
    """Over TCP, too, nothing goes out on a connection whose end has arrived already."""
    listener = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    port = cast("tuple[str, int]", listener.sockets[0].getsockname())[1]
    async with listener, connect(f"http://127.0.0.1:{port}/mcp", "modern") as line:
        _ = await line.text()
        line.upstream._client._on_tick()
        raw = cast("socket.socket", scripted.connections[0].get_extra_info("socket"))
        with socket.socket(fileno=os.dup(raw.fileno())) as same:
            same.shutdown(socket.SHUT_RDWR)
        assert await line.text() == "done"
    assert [got.connection for got in scripted.got] == [0, 1]


async def test_a_connection_closed_after_the_request(scripted: Scripted, connect: Connect) -> None:
    """A request that was taken may have been carried out: it is lost, and not sent again."""

    async def act(got: Got, out: Out) -> None:
        if len(scripted.got) == 2:
            out.writer.close()
        else:
            await out.result(got)

    scripted.acts["tools/call"] = act
    async with connect(scripted.address, "modern") as line:
        _ = await line.text()
        with pytest.raises(TargetLostError):
            _ = await line.text()
        assert await line.text() == "done"
    assert [got.connection for got in scripted.got] == [0, 0, 1]


async def test_a_server_that_keeps_no_connection(scripted: Scripted, connect: Connect) -> None:
    """Each request gets a connection of its own if the server says so."""

    async def act(got: Got, out: Out) -> None:
        await out.result(got, connection="close")
        out.writer.close()

    scripted.acts["tools/call"] = act
    async with connect(scripted.address, "modern") as line:
        for _ in range(3):
            assert await line.text() == "done"
    assert [got.connection for got in scripted.got] == [0, 1, 2]


async def test_idle_connections_are_closed_soon(scripted: Scripted, connect: Connect) -> None:
    """One that nobody used for a few seconds is closed before the server would."""
    async with connect(scripted.address, "modern") as line:
        _ = await line.text()
        client = line.upstream._client
        client._on_tick()
        assert await line.text() == "done"
        client._on_tick()
        client._on_tick()
        await scripted.until(lambda: scripted.closed == [0])
        assert await line.text() == "done"
    assert [got.connection for got in scripted.got] == [0, 0, 1]


async def test_a_stream_that_goes_on_after_its_answer(scripted: Scripted, connect: Connect) -> None:
    """The call has its answer at once; the connection is closed when nothing more comes."""

    async def act(got: Got, out: Out) -> None:
        await out.events(scripted.result(got.id, "done"), end=False)

    scripted.acts["tools/call"] = act
    async with connect(scripted.address, "modern") as line:
        assert await line.text() == "done"
        for _ in range(3):
            line.upstream._client._on_tick()
        await scripted.until(lambda: scripted.closed == [0])


async def test_a_server_that_does_not_read(directory: Path, connect: Connect) -> None:
    """What it is sent is kept up to a bound; from there on nothing is sent."""
    params: JsonObject = {"name": "echo", "arguments": {"text": "x" * 20_000_000}}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "deaf.sock"))
        listener.listen(8)
        async with connect(f"unix:{directory}/deaf.sock:/mcp", "modern") as line:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    for _ in range(3):
                        group.start_soon(line.ask, "tools/call", params)
                    await anyio.wait_all_tasks_blocked()
                    with pytest.raises(TargetUnavailableError, match="does not read"):
                        _ = line.upstream.request(Outgoing("tools/call", params), _wait)
                    scope.cancel()


# --- sessions and streams ----------------------------------------------------------------------


async def test_a_forgotten_session_is_opened_again(scripted: Scripted, connect: Connect) -> None:
    """Calls that it refused are sent again in the new one, once, and its tools are looked at."""
    calls = 0

    async def act(got: Got, out: Out) -> None:
        nonlocal calls
        calls += 1
        if got.headers["mcp-session-id"] == scripted.session:
            await out.result(got)
        else:
            body = jsonrpc.encode(jsonrpc.error_body(None, -32600, "Session not found"))
            await out.reply(body, "404 Not Found")

    scripted.acts["tools/call"] = act
    async with connect(scripted.address, "legacy") as line:
        assert await line.text() == "done"
        scripted.session = "s-2"
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(line.text)
        scripted.session = "s-3"
        assert await line.text() == "done"
        assert line.broadcasts == [("notifications/tools/list_changed", {})] * 2
    assert scripted.methods().count("initialize") == 3
    assert calls == 1 + 8 + 2


async def test_a_server_that_forgets_every_session(scripted: Scripted, connect: Connect) -> None:
    """A call is sent again once and no more."""

    async def act(_got: Got, out: Out) -> None:
        await out.reply(status="404 Not Found", kind="text/plain")

    scripted.acts["tools/call"] = act
    async with connect(scripted.address, "legacy") as line:
        with pytest.raises(UpstreamProtocolError, match="forgets its sessions"):
            _ = await line.text()
    assert scripted.methods().count("tools/call") == 2


async def test_an_answer_in_two_parts(
    scripted: Scripted, connect: Connect, ears: type[Ears]
) -> None:
    """A stream that the server ended before the answer is asked for again, from where it was."""

    async def act(got: Got, out: Out) -> None:
        if got.verb == "GET" and "last-event-id" not in got.headers:
            await out.reply(status="405 Method Not Allowed")
            return
        if got.verb == "POST":
            await out.events(end=False)
            piece = b"id: e-1\nretry: 5\ndata:\n\n"
            await out.raw(b"%x\r\n%b\r\n" % (len(piece), piece))
            await out.end()
            return
        call = next(each for each in scripted.got if each.method == "tools/call")
        note: JsonObject = {"progressToken": token_of(call), "progress": 1}
        if got.headers["last-event-id"] == "e-1":
            await out.events(end=False)
            await out.event(scripted.message("notifications/progress", note), b"id: e-2\n")
            out.writer.close()
        else:
            await out.events(scripted.result(call.id, "at last"))

    scripted.acts |= {"tools/call": act, "GET": act}
    caller = ears()
    async with connect(scripted.address, "legacy") as line:
        answer = await line.ask("tools/call", {"name": "echo"}, caller, token=1)
        assert answer.result is not None
    assert caller.told == [("notifications/progress", {"progressToken": 1, "progress": 1})]
    asked = [got.headers["last-event-id"] for got in scripted.got if "last-event-id" in got.headers]
    assert asked == ["e-1", "e-2"]


async def test_a_stream_that_is_not_given_again(scripted: Scripted, connect: Connect) -> None:
    """A call whose rest cannot be had is lost: it may have been carried out."""

    async def act(_got: Got, out: Out) -> None:
        await out.events(end=False)
        await out.event(b"", b"id: e-1\nretry: 1\n")
        await out.end()

    scripted.acts["tools/call"] = act
    async with connect(scripted.address, "legacy") as line:
        with pytest.raises(TargetLostError):
            _ = await line.text()


async def test_the_sessions_stream_is_asked_for_again(scripted: Scripted, connect: Connect) -> None:
    """A stream that ends is opened again from its last event, until the server has none."""
    count = 0

    async def listen(_got: Got, out: Out) -> None:
        nonlocal count
        count += 1
        if count > 2:
            await out.reply(status="405 Method Not Allowed")
            return
        await out.events(end=False)
        note = scripted.message("notifications/tools/list_changed", {})
        await out.event(note, f"id: {count}\nretry: 1\n".encode())
        await out.end()

    scripted.acts["GET"] = listen
    async with connect(scripted.address, "legacy") as line:
        await scripted.until(lambda: count == 3)
        assert len(line.broadcasts) == 2
    asked = [got.headers.get("last-event-id") for got in scripted.got if got.verb == "GET"]
    assert asked == [None, "1", "2"]


async def test_a_stream_that_the_server_cannot_give_yet(
    scripted: Scripted, connect: Connect
) -> None:
    """A server that still holds the last one open is asked again."""
    statuses = ["409 Conflict", "503 Service Unavailable"]

    async def listen(_got: Got, out: Out) -> None:
        if statuses:
            await out.reply(b"later", statuses.pop(), "text/plain")
        else:
            await out.events(scripted.message("notifications/tools/list_changed", {}), end=False)

    scripted.acts["GET"] = listen
    async with connect(scripted.address, "legacy") as line:
        await line.until_broadcasts(1)
    assert scripted.methods().count("GET") == 3


async def test_a_message_whose_reply_does_not_end(scripted: Scripted, connect: Connect) -> None:
    """The status of a notification's reply is enough to go on."""

    async def accept(_: Got, out: Out) -> None:
        await out.raw(b"HTTP/1.1 202 Accepted\r\ncontent-length: 100\r\n\r\n")

    scripted.acts["notifications/initialized"] = accept
    async with connect(scripted.address, "legacy") as line:
        assert await line.text() == "done"


@pytest.mark.parametrize("session", ["", "two words", "ünï"])
async def test_session_ids(scripted: Scripted, connect: Connect, session: str) -> None:
    """A server may keep no session; an id that no header can hold is refused."""
    scripted.session = session
    if not session:
        async with connect(scripted.address, "legacy") as line:
            assert await line.text() == "done"
        assert not any("mcp-session-id" in got.headers for got in scripted.got)
        return
    with pytest.RaisesGroup(UpstreamProtocolError):
        async with connect(scripted.address, "legacy"):
            with anyio.fail_after(30):
                await anyio.sleep_forever()


async def _wait(future: asyncio.Future[jsonrpc.Response]) -> jsonrpc.Response:
    return await future
