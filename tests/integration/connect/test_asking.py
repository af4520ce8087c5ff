"""A person's single requests: what is sent, and what is made of whatever comes back."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias, cast

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from orchestrator.errors import AgentsError, TargetLostError, UpstreamProtocolError
from orchestrator.model.base import Json, JsonObject
from orchestrator.shim.ask import Asker
from orchestrator.shim.request import Endpoint

Requests: TypeAlias = list[tuple[str, JsonObject]]
Play: TypeAlias = Callable[..., AbstractAsyncContextManager[tuple[Asker, Requests]]]
SECONDS = 60


@pytest.fixture
def play() -> Play:
    """Give the way to open a gateway that gives these answers, one a connection."""

    @asynccontextmanager
    async def opened(*answers: bytes) -> AsyncGenerator[tuple[Asker, Requests]]:
        waiting, seen = list(answers), Requests()

        async def serve(stream: SocketStream) -> None:
            async with stream:
                source = BufferedByteReceiveStream(stream)
                head = (await source.receive_until(b"\r\n\r\n", 65_536)).decode()
                length = int(head.split("content-length: ")[1].split("\r\n")[0])
                seen.append(
                    (head, cast("JsonObject", json.loads(await source.receive_exactly(length))))
                )
                await stream.send(waiting.pop(0))

        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, serve)
            port = listener.extra(SocketAttribute.local_port)  # noqa: S610  no Django
            with anyio.fail_after(SECONDS):
                yield Asker(Endpoint("127.0.0.1", port, "/reader/mcp"), "secret", "1"), seen
            group.cancel_scope.cancel()

    return opened


def pass_over(_: str, __: JsonObject) -> None:
    """Tell nobody."""


def http(body: bytes, media: str = "application/json", status: str = "200 OK") -> bytes:
    """Write an HTTP answer."""
    head = f"HTTP/1.1 {status}\r\ncontent-type: {media}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def message(request_id: Json = 1, **fields: Json) -> bytes:
    """Write a JSON-RPC message."""
    return json.dumps({"jsonrpc": "2.0", "id": request_id, **fields}).encode()


def event(data: bytes) -> bytes:
    """Write an event."""
    return b"data: " + data + b"\n\n"


async def test_a_call_is_a_modern_request_with_its_headers(play: Play) -> None:
    """Arguments that the listed schema wants in headers are there, and the token is."""
    schema: JsonObject = {
        "type": "object",
        "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
    }
    listed: JsonObject = {"tools": [{"name": "look", "inputSchema": schema}]}
    async with play(http(message(result=listed)), http(message(result={}))) as (asker, seen):
        assert (await asker.list_tools()).result == listed
        answer = await asker.call_tool("look", {"region": "eu"}, pass_over)
    assert answer.result == {}
    (_, (head, body)) = seen
    lines = head.lower().split("\r\n")
    for line in (
        "post /reader/mcp http/1.1",
        "mcp-protocol-version: 2026-07-28",
        "mcp-method: tools/call",
        "mcp-name: look",
        "mcp-param-region: eu",
        "authorization: bearer secret",
    ):
        assert line in lines
    params = cast("JsonObject", body["params"])
    assert (params["name"], params["arguments"]) == ("look", {"region": "eu"})


async def test_pages_are_put_together(play: Play) -> None:
    """A list of several pages is one; what is no tool in it is left out."""
    pages: list[JsonObject] = [
        {"tools": [{"name": "a"}, 5], "nextCursor": "2"},
        {"tools": [{"name": "b"}]},
    ]
    async with play(*(http(message(result=page)) for page in pages)) as (asker, seen):
        found = (await asker.list_tools()).result
    assert found == {"tools": [{"name": "a"}, {"name": "b"}]}
    assert [cast("JsonObject", body["params"]).get("cursor") for _, body in seen] == [None, "2"]


async def test_notifications_come_before_the_answer(play: Play) -> None:
    """They are told as they come, in whatever pieces."""
    progress = json.dumps(
        {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1}}
    )
    stream = b": hello\n\n" + event(progress.encode()) + event(message(result={"content": []}))
    told: list[tuple[str, JsonObject]] = []
    async with play(http(stream, "text/event-stream; charset=utf-8")) as (asker, _):
        answer = await asker.call_tool(
            "look", {}, lambda method, params: told.append((method, params))
        )
    assert answer.result == {"content": []}
    assert told == [("notifications/progress", {"progress": 1})]


async def test_a_refusal_without_an_id_is_the_answer(play: Play) -> None:
    """What the gateway says before it has read the id, with whatever status."""
    refused: JsonObject = {"code": -31003, "message": "no", "data": {"code": "token"}}
    async with play(http(message(None, error=refused), status="401 Unauthorized")) as (asker, _):
        assert (await asker.list_tools()).error == refused


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (http(b"no", "text/plain", "502 Bad Gateway"), UpstreamProtocolError),
        (http(b"{"), UpstreamProtocolError),
        (http(b"[]"), UpstreamProtocolError),
        (http(message(method="ping")), UpstreamProtocolError),
        (http(event(message(method="ping")), "text/event-stream"), TargetLostError),
        (b"220 mail.example ESMTP\r\n", UpstreamProtocolError),
        (b"", TargetLostError),
        (http(b"{}")[:-1], TargetLostError),
    ],
    ids=["status", "half", "batch", "request", "ended", "mail", "nothing", "cut"],
)
async def test_rubbish_is_told_as_such(play: Play, answer: bytes, kind: type[AgentsError]) -> None:
    """Whatever answers, it ends as an error of ours."""
    async with play(answer) as (asker, _):
        with pytest.raises(kind):
            _ = await asker.call_tool("look", {}, pass_over)


async def test_a_list_without_end_is_given_up(play: Play) -> None:
    """A cursor after every page leads nowhere."""
    page = http(message(result={"tools": [], "nextCursor": "x"}))
    async with play(*[page] * 100) as (asker, _):
        with pytest.raises(UpstreamProtocolError, match="no end"):
            _ = await asker.list_tools()
