"""Readiness of servers over HTTP that do what a test says."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import pytest

from orchestrator.errors import UpstreamProtocolError, WorkloadNotReadyError
from orchestrator.runtimes.address import Address
from orchestrator.runtimes.http_wire import HttpWire
from orchestrator.runtimes.probe import EraRefusedError, probe

if TYPE_CHECKING:
    from integration.upstream.conftest import Got, Out, Scripted

    from orchestrator.model.base import JsonObject
    from orchestrator.model.server import EraChoice
    from orchestrator.runtimes.probe import Attested

TOOLS: JsonObject = {"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]}
DISCOVERED: JsonObject = {
    "resultType": "complete",
    "supportedVersions": ["2026-07-28"],
    "capabilities": {"tools": {}},
    "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "scripted", "version": "1"}},
}


STRANGE = b'{"jsonrpc":"2.0","id":"x","result":{}}'
REFUSED = b'{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":"no"}}'


async def attest(
    scripted: Scripted, era: EraChoice = "auto", startup: float = 60.0, silence: float = 60.0
) -> Attested:
    """Probe the scripted server."""
    with anyio.fail_after(120):
        async with HttpWire(Address("/mcp", socket=str(scripted.path))) as wire:
            return await probe(
                wire,
                era,
                prefix="t-",
                startup=timedelta(seconds=startup),
                silence=timedelta(seconds=silence),
                asks=("roots",),
            )


def answer(got: Got, result: JsonObject) -> bytes:
    """Write an answer."""
    return json.dumps({"jsonrpc": "2.0", "id": got.id, "result": result}).encode()


async def list_tools(got: Got, out: Out) -> None:
    """List one tool."""
    await out.reply(answer(got, TOOLS))


async def refuse(_: Got, out: Out) -> None:
    """Refuse as servers of the older era do, without the request's id."""
    error = {"code": -32000, "message": "Bad Request: Server not initialized"}
    body = json.dumps({"jsonrpc": "2.0", "error": error, "id": None}).encode()
    await out.reply(body, "400 Bad Request")


async def test_a_legacy_server_is_opened_in_a_session(scripted: Scripted) -> None:
    """A refusal leads to the older era; the session is named, confirmed, and ended."""
    scripted.acts |= {"server/discover": refuse, "tools/list": list_tools}
    found = await attest(scripted)
    assert (found.era, found.protocol_version) == ("legacy", "2025-11-25")
    assert found.tools == tuple(TOOLS["tools"])  # pyright: ignore[reportArgumentType]  a list
    assert scripted.methods() == [
        "server/discover",
        "initialize",
        "notifications/initialized",
        "tools/list",
        "DELETE",
    ]
    discover, initialize, *rest = scripted.got
    assert discover.headers["mcp-method"] == "server/discover"
    assert discover.headers["mcp-protocol-version"] == "2026-07-28"
    assert not {"mcp-method", "mcp-session-id", "mcp-protocol-version"} & initialize.headers.keys()
    params = initialize.body["params"]
    assert isinstance(params, dict)
    assert params["capabilities"] == {"roots": {}}
    for got in rest:
        assert got.headers["mcp-session-id"] == "s-1"
        assert got.headers["mcp-protocol-version"] == "2025-11-25"


async def test_a_server_that_is_not_ready_yet(scripted: Scripted) -> None:
    """One that is too busy to answer is asked again."""

    async def discover(got: Got, out: Out) -> None:
        if len(scripted.got) < 3:
            await out.reply(status="503 Service Unavailable", kind="text/plain")
        else:
            await out.events(answer(got, DISCOVERED))

    scripted.acts |= {"server/discover": discover, "tools/list": list_tools}
    found = await attest(scripted)
    assert (found.era, found.server_info["name"]) == ("modern", "scripted")
    assert scripted.methods() == ["server/discover"] * 3 + ["tools/list"]


@pytest.mark.parametrize("era", ["auto", "modern"])
async def test_a_server_that_names_our_version_as_its_own(
    scripted: Scripted, era: EraChoice
) -> None:
    """One that refused the version is asked once more with it, and not a third time."""
    refusals = 1

    async def discover(got: Got, out: Out) -> None:
        if scripted.methods().count("server/discover") <= refusals:
            data = {"supported": ["2026-07-28"], "requested": "2026-07-28"}
            error = {"code": -32022, "message": "Unsupported protocol version", "data": data}
            body = json.dumps({"jsonrpc": "2.0", "id": got.id, "error": error}).encode()
            await out.reply(body, "400 Bad Request")
        else:
            await out.reply(answer(got, DISCOVERED))

    scripted.acts |= {"server/discover": discover, "tools/list": list_tools}
    found = await attest(scripted, era)
    assert found.era == "modern"
    assert scripted.methods() == ["server/discover"] * 2 + ["tools/list"]
    scripted.got.clear()
    refusals = 3
    if era == "modern":
        with pytest.raises(EraRefusedError, match="-32022"):
            _ = await attest(scripted, era)
    else:
        assert (await attest(scripted, era)).era == "legacy"
    assert scripted.methods().count("server/discover") == 2


async def test_a_server_that_is_silent_to_the_newer_era(scripted: Scripted) -> None:
    """Silence leads to the older era, too."""

    async def silent(_got: Got, _out: Out) -> None:
        await anyio.sleep(30)

    scripted.acts |= {"server/discover": silent, "tools/list": list_tools}
    assert (await attest(scripted, silence=0.2)).era == "legacy"


async def test_questions_of_a_server_are_answered(scripted: Scripted) -> None:
    """A ping on the way is answered; whatever else it asks is refused."""

    async def ask(got: Got, out: Out) -> None:
        await out.events(
            scripted.message("ping", {}, 1), scripted.message("roots/list", {}, 2), end=False
        )
        await scripted.until(lambda: scripted.methods().count("POST") == 2)
        await out.event(answer(got, TOOLS))
        await out.end()

    scripted.acts |= {"server/discover": refuse, "tools/list": ask}
    _ = await attest(scripted)
    answers = [got.body for got in scripted.got if got.method == "POST"]
    assert [("result" in body, body["id"]) for body in answers] == [(True, 1), (False, 2)]


@pytest.mark.parametrize(
    ("status", "kind", "body", "words"),
    [
        ("404 Not Found", "text/plain", b"Not Found", "initialize: -32000 HTTP status 404, and no"),
        ("200 OK", "text/html", b"<html>", "initialize: -32000 HTTP status 200 and text/html"),
        ("200 OK", "application/json", b"[", "initialize: -32000 HTTP status 200"),
        ("200 OK", "application/json", STRANGE, "initialize: -32000 HTTP status 200"),
        ("200 OK", "text/event-stream", b"data: x\n\n", "initialize: -32000 HTTP status 200"),
        ("400 Bad", "application/json", REFUSED, "initialize: -1 no"),
    ],
)
async def test_a_server_that_refuses(
    scripted: Scripted, status: str, kind: str, body: bytes, words: str
) -> None:
    """What a server says instead of an answer is told, as far as it says something."""

    async def act(_: Got, out: Out) -> None:
        await out.reply(body, status, kind)

    scripted.acts |= {"server/discover": act, "initialize": act}
    with pytest.raises(EraRefusedError, match=words):
        _ = await attest(scripted)


async def test_a_server_that_fails(scripted: Scripted) -> None:
    """A server that fails at a request does not thereby refuse an era."""

    async def act(_: Got, out: Out) -> None:
        await out.reply(b"Traceback", "500 Oh No", "text/plain")

    scripted.acts["server/discover"] = act
    with pytest.raises(
        UpstreamProtocolError, match="failed at server/discover with HTTP status 500"
    ):
        _ = await attest(scripted)

    async def leave(_: Got, out: Out) -> None:
        out.writer.close()

    scripted.acts["server/discover"] = leave
    with pytest.raises(UpstreamProtocolError, match="ended the connection at server/discover"):
        _ = await attest(scripted)


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
async def test_a_list_without_end(scripted: Scripted, kind: str) -> None:
    """A server that answers without end is no server."""

    async def act(_: Got, out: Out) -> None:
        await out.raw(f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n\r\n".encode())
        while True:
            await out.raw(b"data: " + b"x" * 1_000_000)

    scripted.acts["server/discover"] = act
    with pytest.raises(UpstreamProtocolError, match="more than"):
        _ = await attest(scripted)


async def test_a_server_that_listens_and_never_answers(scripted: Scripted) -> None:
    """It is told apart from one that does not listen."""

    async def silent(_got: Got, _out: Out) -> None:
        await anyio.sleep(30)

    scripted.acts |= {"server/discover": silent}
    with pytest.raises(WorkloadNotReadyError, match="did not answer server/discover within"):
        _ = await attest(scripted, "modern", startup=1)
