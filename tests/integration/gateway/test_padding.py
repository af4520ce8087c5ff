"""Bodies of every size: what is decided on is what is sent, wherever in the body it stands."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from integration.gateway.conftest import OpenRig

    from orchestrator.model.base import JsonObject
    from orchestrator.model.snapshot import Era

KILOBYTE = 1024
# Around what parsers, sockets, pipes and proxies read at once.
SIZES = [n * KILOBYTE for n in (4, 8, 15, 16, 32, 64, 128, 1024)]


async def in_pieces(body: bytes, size: int) -> AsyncGenerator[bytes]:
    """Send a body piece by piece, without its length."""
    for start in range(0, len(body), size):
        yield body[start : start + size]


def pad(params: bytes, before: int, behind: int, meta: bytes) -> bytes:
    """Put so much before and behind the parameters of a call."""
    return (
        b'{"jsonrpc": "2.0", "padding": "%s", "id": 1,%s"method": "tools/call", '
        b'"params": {"arguments": {"a": "%s"},%s %s %s}}%s'
    ) % (
        b"x" * (before // 3),
        b" " * (before // 3),
        b"y" * (before // 3),
        meta,
        params,
        b', "b": "%s"' % (b"z" * (behind // 2)),
        b"\n" * (behind // 2),
    )


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_a_denied_tool_is_denied_in_any_padding(open_rig: OpenRig, era: Era) -> None:
    """No amount of other text before, inside or behind a call hides which tool it is for."""
    async with open_rig() as rig:
        instance = await rig.talker("legacy")
        async with rig.caller(era) as caller:
            written, headers = caller.write("tools/call", {"name": "hidden"})
            headers["content-type"] = "application/json"
            meta = b""
            if era == "modern":
                told = cast("JsonObject", written["params"])["_meta"]
                meta = b'"_meta": ' + json.dumps(told).encode() + b","
            for size in SIZES:
                for near in (-1, 0, 1):
                    for before, behind in ((size + near, 0), (0, size + near), (size, size + near)):
                        body = pad(b'"name": "hidden"', before, behind, meta)
                        for content in (body, in_pieces(body, size)):
                            reply = await caller.http.post(
                                caller.url, content=content, headers=headers
                            )
                            error = cast("dict[str, JsonObject]", reply.json())["error"]
                            assert error["code"] == -32602, (before, behind)
                            assert error["message"] == "Unknown tool: hidden"
            assert not instance.calls()


async def test_an_allowed_tool_gets_what_was_decided_on(open_rig: OpenRig) -> None:
    """The server gets the parsed call and no padding; of two names it is the one decided on."""
    async with open_rig() as rig:
        instance = await rig.talker("legacy")
        async with rig.caller("legacy") as caller:
            headers = {"content-type": "application/json"}
            for size in SIZES:
                for name in (b'"name": "look"', b'"name": "hidden", "name": "look"'):
                    body = pad(name, size, size, b"")
                    reply = await caller.http.post(caller.url, content=body, headers=headers)
                    assert "result" in reply.json(), reply.text
                body = pad(b'"name": "look", "name": "hidden"', size, size, b"")
                reply = await caller.http.post(caller.url, content=body, headers=headers)
                assert "error" in reply.json()
        assert len(instance.calls()) == 2 * len(SIZES)
        for params in instance.calls():
            assert set(params) == {"name", "arguments", "_meta"}
            assert params["name"] == "look"
            assert set(cast("JsonObject", params["arguments"])) == {"a"}
