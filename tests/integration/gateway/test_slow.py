"""Callers that do not read, or do not write on: what is kept for them has an end."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import anyio
import pytest

from orchestrator.gateway import outlet
from orchestrator.model.names import TokenId
from orchestrator.model.rules import RolePolicy

if TYPE_CHECKING:
    from integration.gateway.conftest import Caller, OpenRig, Rig

    from orchestrator.model.base import Json

MEGABYTE = 1024 * 1024


def head(rig: Rig, caller: Caller, method: str, body: bytes = b"") -> bytes:
    """Write a request as bytes, with what the caller shows."""
    names = ("authorization", "mcp-session-id")
    shown = "".join(f"{name}: {caller.http.headers[name]}\r\n" for name in names)
    return (
        f"{method} {caller.url} HTTP/1.1\r\nhost: 127.0.0.1:{rig.port}\r\n{shown}"
        "accept: application/json, text/event-stream\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    ).encode() + body


def call(*steps: list[Json]) -> bytes:
    """Write a call."""
    params = {"name": "look", "arguments": {"steps": steps}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    return json.dumps(body).encode()


async def connect(rig: Rig) -> anyio.abc.SocketStream:
    """Connect with a small buffer for what comes, when nothing else is under way any more."""
    # A caller may have its answer before the gateway has put its request aside.
    await rig.until(lambda: not rig.gateway.app._open)
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", rig.port))
    return await anyio.abc.SocketStream.from_socket(raw)


async def test_a_caller_that_does_not_read_its_stream(
    open_rig: OpenRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what its call tells only so much is kept; its server goes on, and it is let go."""
    monkeypatch.setattr("orchestrator.gateway.front.LOOK_SECONDS", 0.2)
    kept: list[int] = []
    was_full = False
    async with open_rig() as rig:
        _ = await rig.talker("legacy")
        async with rig.caller("legacy") as caller, rig.caller("legacy", "other") as other:
            async with await connect(rig) as stream:
                await stream.send(head(rig, caller, "POST", call(["shout", 60, MEGABYTE])))
                await rig.until(lambda: rig.gateway.app._open)
                (exchange,) = rig.gateway.app._open

                def is_over() -> bool:
                    nonlocal was_full
                    kept.append(exchange.outlet._bytes)
                    was_full = was_full or exchange.outlet.is_full
                    return rig.in_flight() == 0 and was_full

                await rig.until(is_over)
                # Its server is free for others all the time.
                assert "isError" not in await other.play()
                await rig.until(lambda: not rig.gateway.app._open)
            assert "isError" not in await caller.play()
    assert max(kept) <= outlet.MAX_WAITING_BYTES + 2 * MEGABYTE


async def test_a_listener_that_does_not_read(
    open_rig: OpenRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It misses what it had no place for, is let go, and listens again."""
    monkeypatch.setattr("orchestrator.gateway.front.LOOK_SECONDS", 0.2)
    monkeypatch.setattr("orchestrator.gateway.outlet.MAX_WAITING", 50)
    async with open_rig() as rig:
        instance = await rig.talker("legacy", policy=RolePolicy(resources="all"))
        uri = "demo://" + "x" * 2000
        async with rig.caller("legacy") as caller:
            _ = await caller.ask("resources/subscribe", {"uri": uri})
            async with await connect(rig) as stream:
                await stream.send(head(rig, caller, "GET"))
                await rig.until(lambda: rig.gateway._hub._streams)
                await rig.say(instance, "notifications/resources/updated", {"uri": uri}, times=5000)
                await rig.until(lambda: not rig.gateway._hub._streams)
            async with caller.listen() as talk:
                await rig.touch(instance, uri)
                assert (await talk.need())["params"] == {"uri": uri}


async def test_a_revoked_caller_that_does_not_read(
    open_rig: OpenRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A revocation frees the instance at once, also when the caller takes no answer."""
    monkeypatch.setattr("orchestrator.gateway.front.LOOK_SECONDS", 0.2)
    async with open_rig() as rig:
        instance = await rig.talker("legacy")
        token = rig.token()
        async with rig.caller("legacy", token=token) as caller, await connect(rig) as stream:
            body = call(["shout", 20, MEGABYTE], ["hold"])
            await stream.send(head(rig, caller, "POST", body))
            await rig.until(instance.calls)
            rig.tokens.remove(TokenId(token.split("_")[1]))
            await rig.until(lambda: instance.received("notifications/cancelled"))
            await rig.until(lambda: rig.in_flight() == 0)
            await rig.until(lambda: not rig.gateway.app._open)
        assert rig.recorder.records[-1].code == "token.revoked"


async def test_a_body_that_stops(open_rig: OpenRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not write on loses the connection, and the place of its request."""
    monkeypatch.setattr("orchestrator.gateway.front.LOOK_SECONDS", 0.2)
    async with open_rig() as rig:
        instance = await rig.talker("legacy")
        async with rig.caller("legacy") as caller, await connect(rig) as stream:
            await stream.send(head(rig, caller, "POST", call())[:-5])
            await rig.until(lambda: rig.gateway.app._open)
            await rig.until(lambda: not rig.gateway.app._open)
            with anyio.fail_after(30):
                told = b""
                while b"\r\n\r\n" not in told:
                    try:
                        told += await stream.receive()
                    except (anyio.EndOfStream, anyio.BrokenResourceError):
                        break
        assert not told.startswith(b"HTTP/1.1 200")
        assert not instance.calls()
