"""`agents connect` where something is missing, ends, or comes back: words, never a traceback."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import TYPE_CHECKING, cast

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from orchestrator.gateway.settings import GatewaySettings

if TYPE_CHECKING:
    from pathlib import Path

    from integration.connect.conftest import OpenStage, Raw, Stage
    from integration.gateway.conftest import OpenRig, Rig

    from orchestrator.model.base import Json, JsonObject


def place(stage: Stage, rig: Rig, role: str = "treasury") -> str:
    """Let a role be reached at a gateway, with a new token."""
    stage.roles[role] = f"{rig.base}/{role}/mcp"
    token = rig.token(role)
    _ = stage.write_token(role, token)
    return token


def error_of(answer: JsonObject) -> JsonObject:
    """Read the error of an answer."""
    return cast("JsonObject", answer["error"])


META: JsonObject = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


async def echo(raw: Raw, request_id: str | int = "e") -> JsonObject:
    """Make a harmless call."""
    return await raw.ask(request_id, "tools/call", name="echo", arguments={})


def call(request_id: int, name: str, **arguments: Json) -> JsonObject:
    """Write a legacy call."""
    params: JsonObject = {"name": name, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}


def modern(message: JsonObject) -> JsonObject:
    """Have a request describe itself."""
    params: JsonObject = {**cast("JsonObject", message["params"]), "_meta": META}
    return {**message, "params": params}


def check_clean(stage: Stage) -> None:
    """See that nothing was written to stderr."""
    assert stage.errors.read_text() == ""


@pytest.mark.parametrize("control", [True, False])
async def test_nothing_to_connect_to(open_stage: OpenStage, control: bool) -> None:
    """Without a running project, or without the role in it, a sentence says what to do."""
    async with open_stage(control=control) as stage:
        stage.roles = {"monitoring": "", "executor": ""} if control else {}
        done = await stage.run("treasury")
        told = done.stderr.decode()
        assert done.stdout == b""
        assert "Traceback" not in told
        assert len(told.splitlines()) == 2
        if control:
            assert done.returncode == 2
            assert "executor, monitoring" in told
        else:
            assert done.returncode == 10
            assert "`agents up`" in told


@pytest.mark.parametrize("kind", ["missing", "open", "empty", "link"])
async def test_token_file_that_cannot_be_used(open_stage: OpenStage, kind: str) -> None:
    """A missing, readable, foreign or empty token file ends with a sentence that names it."""
    async with open_stage() as stage:
        stage.roles["treasury"] = "http://127.0.0.1:1/treasury/mcp"
        secret = f"mga_000000000000_{0:043}2XrKCg"
        path = stage.write_token("treasury", secret, mode=0o644 if kind == "open" else 0o600)
        if kind == "missing":
            path.unlink()
        elif kind == "empty":
            _ = path.write_text("")
        elif kind == "link":
            path.symlink_to(path.rename(path.with_name("real")))
        done = await stage.run("treasury")
        assert done.returncode == 4
        told = done.stderr.decode()
        assert str(path) in told
        assert "Traceback" not in told
        assert secret not in told


async def test_address_of_another_machine_is_refused(open_stage: OpenStage) -> None:
    """The token never goes to an address outside of this machine."""
    async with open_stage() as stage:
        stage.roles["treasury"] = "http://192.0.2.1:80/treasury/mcp"
        done = await stage.run("treasury")
        assert done.returncode == 2
        assert b"no address of this machine" in done.stderr


async def test_piped_requests_are_answered_before_the_end(
    open_rig: OpenRig, open_stage: OpenStage
) -> None:
    """Requests that were piped in are answered though the input has ended; then it ends with 0."""
    async with open_rig() as rig, open_stage() as stage:
        rig.publish("treasury", await rig.start())
        _ = place(stage, rig)
        opening = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-06-18",
                "capabilities": {},
                "clientInfo": {"name": "pipe", "version": "1"},
            },
        }
        listing = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
        done = await stage.run("treasury", f"{json.dumps(opening)}\n\n{json.dumps(listing)}")
        assert done.returncode == 0
        assert done.stderr == b""
        answers = [cast("JsonObject", json.loads(line)) for line in done.stdout.splitlines()]
        assert [answer["id"] for answer in answers] == [1, 2]
        assert all("result" in answer for answer in answers)


async def test_rubbish_is_refused_and_work_goes_on(
    open_rig: OpenRig, open_stage: OpenStage
) -> None:
    """What is no JSON, no message or no request is refused by its id; later requests work."""
    async with open_rig() as rig, open_stage() as stage:
        rig.publish("treasury", await rig.start())
        _ = place(stage, rig)
        async with stage.raw("treasury") as raw:
            await raw.send("{nonsense", "[]", '{"jsonrpc":"2.0","id":7,"method":8}')
            answers = [await raw.receive() for _ in range(3)]
            assert [answer["id"] for answer in answers] == [None, None, 7]
            assert [error_of(answer)["code"] for answer in answers] == [-32700, -32600, -32600]
            method = "x\r\nauthorization: no"
            assert error_of(await raw.ask(8, method, _meta=META))["code"] == -32602
            await raw.open()
            assert "result" in await echo(raw)
            assert error_of(await raw.ask(9, "nothing/such"))["code"] == -32601


@pytest.mark.parametrize("how", ["eof", "term"])
async def test_end_is_quick(open_rig: OpenRig, open_stage: OpenStage, how: str) -> None:
    """Closed input or SIGTERM end it with 0 in bounded time, also with a call open."""
    async with open_rig(GatewaySettings(shutdown_seconds=0.1)) as rig, open_stage() as stage:
        instance = await rig.start()
        rig.publish("treasury", instance)
        _ = place(stage, rig)
        async with stage.raw("treasury") as raw:
            await raw.open()
            await raw.send(call(1, "hold"))
            await until(instance.directory / "held")
            if how == "eof":
                await raw.stdin.aclose()
            else:
                raw.process.send_signal(signal.SIGTERM)
            with anyio.fail_after(30):
                assert await raw.process.wait() == 0
        check_clean(stage)


async def until(path: Path) -> None:
    """Wait for a file that a server makes."""
    while not path.exists():  # noqa: ASYNC110, ASYNC240  another process makes it
        await anyio.sleep(0.005)


async def test_client_that_went_away(open_rig: OpenRig, open_stage: OpenStage) -> None:
    """When nobody can read the output any more, it ends with 0 at the next answer."""
    async with open_rig() as rig, open_stage() as stage:
        rig.publish("treasury", await rig.start())
        _ = place(stage, rig)
        reader, writer = os.pipe()
        async with stage.raw("treasury", stdout=writer) as raw:
            os.close(writer)
            os.close(reader)
            await raw.send('{"jsonrpc": "2.0", "id": 2, "method": "ping"}')
            with anyio.fail_after(30):
                assert await raw.process.wait() == 0
        check_clean(stage)


async def test_term_while_nobody_reads(open_rig: OpenRig, open_stage: OpenStage) -> None:
    """SIGTERM ends it though an answer cannot be written because the client reads nothing."""
    async with open_rig() as rig, open_stage() as stage:
        rig.publish("treasury", await rig.start())
        _ = place(stage, rig)
        async with stage.raw("treasury") as raw:
            await raw.open()
            await raw.send(call(1, "huge", size=3_000_000))
            raw.rest = await raw.stdout.receive()
            raw.process.send_signal(signal.SIGTERM)
            with anyio.fail_after(30):
                assert await raw.process.wait() == 0


async def test_replaced_token_is_taken(open_rig: OpenRig, open_stage: OpenStage) -> None:
    """After a rotation the new token is used without a restart; a revoked one is told."""
    async with open_rig() as rig, open_stage() as stage:
        rig.publish("treasury", await rig.start())
        _ = place(stage, rig)
        async with stage.raw("treasury") as raw:
            await raw.open()
            assert "result" in await echo(raw, 1)
            _ = stage.write_token("treasury", rig.token("monitoring"))
            refused = error_of(await echo(raw, 2))
            assert "not valid here" in str(refused["message"])
            assert cast("JsonObject", refused["data"])["category"] == "auth"
            _ = stage.write_token("treasury", rig.token("treasury"), mode=0o640)
            assert "open to other users" in str(error_of(await echo(raw, 3))["message"])
            _ = place(stage, rig)
            assert "result" in await echo(raw, 4)


async def test_gateway_comes_back_on_another_port(open_rig: OpenRig, open_stage: OpenStage) -> None:
    """A call in flight at a restart is told that its outcome is unknown; later ones just work."""
    settings = GatewaySettings(shutdown_seconds=0.1)
    async with open_stage() as stage, open_rig(settings) as rig, open_rig() as later:
        instance = await rig.start()
        rig.publish("treasury", instance)
        later.publish("treasury", await later.start())
        _ = place(stage, rig)
        async with stage.raw("treasury") as raw:
            await raw.open()
            await raw.send(call(1, "hold"))
            await until(instance.directory / "held")
            stage.roles["treasury"] = ""
            rig.stop_serving()
            lost = await raw.receive()
            assert lost["id"] == 1
            assert "outcome is unknown" in json.dumps(lost)
            # A call that comes while there is no gateway waits for the next one.
            asked = stage.asked
            await raw.send(call(2, "echo"))
            while stage.asked == asked:  # noqa: ASYNC110  another process asks
                await anyio.sleep(0.005)
            _ = place(stage, later)
            answer = await raw.receive()
            assert (answer["id"], "result" in answer) == (2, True), answer
            assert "result" in await echo(raw, 3)
        check_clean(stage)


async def test_connection_that_is_cut(open_rig: OpenRig, open_stage: OpenStage) -> None:
    """Cut without an answer, a call is told as unknown and not repeated; a listing is repeated."""
    async with open_rig() as rig, open_stage() as stage:
        rig.publish("treasury", await rig.start())
        _ = place(stage, rig)
        real = stage.roles["treasury"]
        heard: list[bytes] = []

        async def cut(stream: SocketStream) -> None:
            async with stream:
                heard.append(await stream.receive())
                stage.roles["treasury"] = real

        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as group,
        ):
            group.start_soon(listener.serve, cut)
            port = listener.extra(SocketAttribute.local_port)  # noqa: S610  this is no Django
            cutting = f"http://127.0.0.1:{port}/treasury/mcp"
            stage.roles["treasury"] = cutting
            async with stage.raw("treasury") as raw:
                await raw.send(modern(call(1, "echo")))
                lost = error_of(await raw.receive())
                assert "outcome is unknown" in str(lost["message"])
                assert cast("JsonObject", lost["data"])["code"] == "upstream.outcome_unknown"
                assert len(heard) == 1
                stage.roles["treasury"] = cutting
                assert "result" in await raw.ask(2, "tools/list", _meta=META)
                assert len(heard) == 2
            group.cancel_scope.cancel()
        check_clean(stage)


async def test_all_of_it_is_gone(open_rig: OpenRig, open_stage: OpenStage) -> None:
    """With nothing running each request is told so, at once after the first; then it recovers."""
    async with open_stage() as stage, open_rig() as rig, open_rig() as later:
        rig.publish("treasury", await rig.start())
        later.publish("treasury", await later.start())
        _ = place(stage, rig)
        async with stage.raw("treasury") as raw, anyio.create_task_group() as group:
            await raw.open()
            stage.control.cancel()
            await rig.stop_listening()
            first = error_of(await echo(raw, 1))
            assert "nothing is running" in str(first["message"])
            assert "`agents up`" in str(first["message"])
            with anyio.fail_after(5):  # one second less than the first one took
                second = error_of(await raw.ask(2, "tools/list"))
            assert cast("JsonObject", second["data"])["code"] == "state.not_running"
            _ = place(stage, later)
            await group.start(stage.serve_control)
            assert "result" in await echo(raw, 3)
            group.cancel_scope.cancel()
        check_clean(stage)


async def test_started_before_its_gateway(open_rig: OpenRig, open_stage: OpenStage) -> None:
    """A client that is started while the gateway is starting waits for it."""
    async with open_rig() as rig, open_stage() as stage:
        rig.publish("treasury", await rig.start())
        _ = place(stage, rig)
        url, stage.roles["treasury"] = stage.roles["treasury"], ""
        async with stage.raw("treasury") as raw, anyio.create_task_group() as group:
            group.start_soon(raw.open)
            while stage.asked < 2:  # noqa: ASYNC110  another process asks
                await anyio.sleep(0.005)
            stage.roles["treasury"] = url
        check_clean(stage)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a process of another user")
async def test_port_of_another_user_gets_no_token(open_rig: OpenRig, open_stage: OpenStage) -> None:
    """When another user of the machine took the gateway's port, nothing is sent to it."""
    program = (
        "import os, socket; os.setuid(65534); s = socket.create_server(('127.0.0.1', 0));"
        "print(s.getsockname()[1], flush=True); c, _ = s.accept(); print(len(c.recv(9)))"
    )
    async with open_rig() as rig, open_stage() as stage:
        rig.publish("treasury", await rig.start())
        _ = place(stage, rig)
        async with await anyio.open_process([sys.executable, "-c", program]) as stranger:
            assert stranger.stdout is not None
            output = BufferedByteReceiveStream(stranger.stdout)
            port = (await output.receive_until(b"\n", 9)).decode()
            real = stage.roles["treasury"]
            stage.roles["treasury"] = f"http://127.0.0.1:{port}/treasury/mcp"
            async with stage.raw("treasury") as raw:
                await raw.send(modern(call(1, "echo")))
                assert await output.receive_until(b"\n", 9) == b"0"
                stage.roles["treasury"] = real
                assert "result" in await raw.receive()
        check_clean(stage)
