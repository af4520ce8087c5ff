"""The control socket: the real server, the real client, real orders."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, cast, final

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import structlog
from structlog.testing import capture_logs

from orchestrator.clock import SystemClock
from orchestrator.control.admin_client import RemoteError, ask, ask_once, is_listening
from orchestrator.control.admin_server import MAX_REQUEST_BYTES, AdminServer, Handler
from orchestrator.control.orders import Orders
from orchestrator.errors import ControlUnavailableError, NotRunningError, SecretNotFoundError
from orchestrator.model.admin import Progress, Request, Result
from orchestrator.model.names import RoleName
from orchestrator.model.status import CredentialsReport, CredentialStatus, GatewayStatus
from orchestrator.tokens.desk import TokenDesk
from orchestrator.tokens.store import TokenStore
from orchestrator.tokens.verify import TokenIndex

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.control.conftest import Control, Project

Object = dict[str, object]
PATIENCE = 60.0


@final
class UnforeseenError(Exception):
    """An error that nobody expects, as a library may raise."""


REPORT = CredentialsReport(
    credentials=(
        CredentialStatus(
            role=RoleName("reader"),
            purpose="agent",
            agent="alice",
            credential="4fG7xQ2LmZ0p",
            issued_at=datetime(2026, 9, 1, tzinfo=UTC),
            due_at=datetime(2026, 11, 22, tzinfo=UTC),
            warning="7d",
        ),
    ),
    notes=("reader: the token of alice ends within 7d",),
)


@asynccontextmanager
async def serving(path: Path, handler: Handler) -> AsyncGenerator[None]:
    """Serve a handler on the control socket."""
    log = cast("structlog.typing.FilteringBoundLogger", structlog.get_logger("test"))
    async with anyio.create_task_group() as group:
        with anyio.fail_after(PATIENCE):
            await group.start(AdminServer(path, handler, log).serve)
        yield
        group.cancel_scope.cancel()


async def once(path: Path, **request: object) -> object:
    """Ask as a command does, beside the event loop."""
    with anyio.fail_after(PATIENCE):
        return await anyio.to_thread.run_sync(partial(ask_once, path, request, patience=PATIENCE))


def talk(path: Path, data: bytes) -> list[Object]:
    """Send bytes as no client of ours would, and read all replies."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(str(path))
        replies: list[Object] = []
        # What is sent may be more than is ever read.
        sender = threading.Thread(target=_push, args=(connection, data))
        sender.start()
        with connection.makefile("rb") as file, suppress(ConnectionResetError):
            replies.extend(cast("Object", json.loads(line)) for line in file)
        sender.join(PATIENCE)
    return replies


def _push(connection: socket.socket, data: bytes) -> None:
    try:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        pass


async def answer(request: Request) -> AsyncGenerator[Progress | Result]:
    """Answer with what was asked."""
    yield Progress(body={"op": request.op})
    yield Result(body=[request.op])


async def test_one_request_and_its_replies(directory: Path) -> None:
    """Progress comes as it happens, and the result ends it."""
    path = directory / "control.sock"
    async with serving(path, answer):
        assert await once(path, op="status") == ["status"]
        replies = await anyio.to_thread.run_sync(
            lambda: list(ask(path, {"op": "status"}, patience=PATIENCE))
        )
        assert replies == [{"op": "status"}]


async def test_only_this_user_reaches_it(directory: Path) -> None:
    """The socket is closed to everybody else from its first moment on."""
    path = directory / "control.sock"
    async with serving(path, answer):
        assert stat.S_IMODE(os.lstat(path).st_mode) == 0o600


@pytest.mark.parametrize(
    "data",
    [
        b"\n",
        b"{\n",
        b"[]\n",
        b'{"op":"format-disk"}\n',
        b'{"op":"restart","role":"../../etc"}\n',
        b'{"op":"status","surprise":"canary"}\n',
        b'{"op":"token.issue","role":"a","agent":"b","ttl":"canary"}\n',
        b"\xff\xfe\x00\n",
        b'{"op":"status"}',
    ],
)
async def test_what_is_not_understood_is_refused(directory: Path, data: bytes) -> None:
    """Anything else than one whole request is one failure, without its own words."""
    path = directory / "control.sock"
    async with serving(path, answer):
        (reply,) = await anyio.to_thread.run_sync(talk, path, data)
        assert (reply["type"], reply["code"], reply["exit_code"]) == ("failure", "config", 2)
        assert "canary" not in json.dumps(reply)
        assert await once(path, op="status") == ["status"]


async def test_too_long_a_line(directory: Path) -> None:
    """A request without an end is given up, and the next one is served."""
    path = directory / "control.sock"
    async with serving(path, answer):
        replies = await anyio.to_thread.run_sync(talk, path, b"x" * (MAX_REQUEST_BYTES + 100_000))
        assert [reply["type"] for reply in replies] == ["failure"]
        assert await once(path, op="status") == ["status"]


async def test_nobody_there_is_told_apart(directory: Path) -> None:
    """No socket and a dead one both mean that nothing runs, with the way to start it."""
    path = directory / "control.sock"
    assert not is_listening(path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert not is_listening(path)
    with pytest.raises(NotRunningError) as caught:
        _ = ask_once(path, {"op": "status"})
    assert "agents up" in str(caught.value.hint)


async def test_a_stale_socket_is_replaced(directory: Path) -> None:
    """What a killed daemon left behind is in nobody's way."""
    path = directory / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(path, answer):
        assert is_listening(path)
        assert await once(path, op="status") == ["status"]


async def test_an_expected_error_arrives_whole(directory: Path) -> None:
    """The command ends with the error's own sentence, code, exit status and hint."""

    async def refuse(request: Request) -> AsyncGenerator[Progress | Result]:
        yield Progress(body={})
        raise SecretNotFoundError(f"no secret for {request.op}", hint="Set it.")

    path = directory / "control.sock"
    async with serving(path, refuse):
        with pytest.raises(RemoteError) as caught:
            _ = await once(path, op="status")
    error = caught.value
    assert (error.remote_code, error.remote_exit_code) == ("secret.not_found", 3)
    assert (str(error), error.hint) == ("no secret for status", "Set it.")


@pytest.mark.parametrize("kind", [UnforeseenError, OSError, TypeError, KeyError])
async def test_an_unexpected_error_tells_nothing(directory: Path, kind: type[Exception]) -> None:
    """It is logged whole for the operator, ends one request only, and its words stay inside."""

    async def fail(request: Request) -> AsyncGenerator[Progress | Result]:
        if request.op == "status":
            yield Result(body="well")
            return
        raise kind("canary /secret/path")

    path = directory / "control.sock"
    async with serving(path, fail):
        with capture_logs() as logs, pytest.raises(RemoteError) as caught:
            _ = await once(path, op="shutdown")
        assert (caught.value.remote_code, caught.value.remote_exit_code) == ("internal", 1)
        assert "canary" not in str(caught.value)
        assert "log" in str(caught.value)
        assert [(entry["log_level"], entry["op"]) for entry in logs] == [("error", "shutdown")]
        assert await once(path, op="status") == "well"


async def test_a_daemon_that_goes_away(directory: Path) -> None:
    """A connection that ends without an answer is told as such, not taken for one."""
    path = directory / "control.sock"
    begun = anyio.Event()

    async def wait(_: Request) -> AsyncGenerator[Progress | Result]:
        begun.set()
        await anyio.sleep_forever()
        yield Result(body=None)

    async with anyio.create_task_group() as group:

        async def command() -> None:
            with pytest.raises(ControlUnavailableError):
                _ = await once(path, op="status")

        async with serving(path, wait):
            group.start_soon(command)
            with anyio.fail_after(PATIENCE):
                await begun.wait()


async def test_a_daemon_that_says_nothing(directory: Path) -> None:
    """A silence longer than the client's patience ends with a hint."""
    path = directory / "control.sock"

    async def wait(_: Request) -> AsyncGenerator[Progress | Result]:
        await anyio.sleep_forever()
        yield Result(body=None)

    async with serving(path, wait):
        with pytest.raises(ControlUnavailableError, match="does not answer") as caught:
            _ = await anyio.to_thread.run_sync(
                partial(ask_once, path, {"op": "status"}, patience=0.1)
            )
        assert "agents logs --daemon" in str(caught.value.hint)


async def test_whoever_asked_may_go(directory: Path) -> None:
    """When the client is gone its request ends, and what it held is let go."""
    path = directory / "control.sock"
    ended = anyio.Event()

    async def stream(_: Request) -> AsyncGenerator[Progress | Result]:
        try:
            while True:
                yield Progress(body={"text": "x" * 10_000})
                await anyio.lowlevel.checkpoint()
        finally:
            ended.set()

    async with serving(path, stream):
        replies = ask(path, {"op": "status", "follow": True}, patience=PATIENCE)
        _ = await anyio.to_thread.run_sync(next, replies)
        replies.close()
        with anyio.fail_after(PATIENCE):
            await ended.wait()


# Orders.


@asynccontextmanager
async def ordered(project: Project, control: Control) -> AsyncGenerator[Path]:
    """Take real orders for a control plane."""
    path = project.root / "control.sock"
    clock = SystemClock()
    store = TokenStore(project.root / "agents.db", clock)
    desk = TokenDesk(store, TokenIndex(clock), clock, project.root / "tokens")

    async def wait_for_desk() -> TokenDesk:
        await anyio.lowlevel.checkpoint()
        return desk

    try:
        async with anyio.create_task_group() as group:
            orders = Orders(
                project=project.root,
                reconciler=control.reconciler,
                bootstraps=control.bootstraps,
                pins=control.pins,
                gateway=lambda: GatewayStatus(url="http://here", ready=True),
                desk=wait_for_desk,
                credentials=answer,
                govern=answer,
                report=lambda: REPORT,
                group=group,
                log=cast("structlog.typing.FilteringBoundLogger", structlog.get_logger("test")),
            )
            async with serving(path, orders.answer):
                yield path
            group.cancel_scope.cancel()
    finally:
        store.close()


async def test_a_followed_status(project: Project) -> None:
    """A follower hears of every change, and may leave without a trace in the middle."""
    async with project.control() as control, ordered(project, control) as path:
        replies = ask(path, {"op": "status", "follow": True}, patience=PATIENCE)
        first = await anyio.to_thread.run_sync(next, replies)
        assert first["roles"] == []
        await control.apply(project.spec())
        seen: list[object] = []
        with anyio.fail_after(PATIENCE):
            while "ready" not in seen:
                body = await anyio.to_thread.run_sync(next, replies)
                seen += [role["state"] for role in cast("list[Object]", body["roles"])]
        replies.close()
        pid = control.pid()
        # The daemon goes on: it finds out at its next word, and the next command is served.
        with anyio.fail_after(PATIENCE):
            await control.reconciler.restart(project.spec().role)
        body = cast("Object", await once(path, op="status"))
        (role,) = cast("list[Object]", body["roles"])
        assert (role["generation"], role["pid"] != pid) == (2, True)


async def test_work_goes_on_without_its_client(project: Project) -> None:
    """An apply whose command was interrupted is carried out to its end."""
    async with project.control() as control, ordered(project, control) as path:
        desired = {
            "gateway": {"host": "127.0.0.1", "port": 0},
            "roles": {"reader": project.spec().model_dump(mode="json", by_alias=True)},
        }
        replies = ask(path, {"op": "apply", "desired": desired}, patience=PATIENCE)
        _ = await anyio.to_thread.run_sync(next, replies)
        replies.close()
        _ = await control.until_ready()
        token = project.root / "tokens" / "reader"
        await control.until(token.exists)


async def test_orders_are_carried_out(project: Project) -> None:
    """Apply, restart and shutdown end with the status in which they left the project."""
    async with project.control() as control, ordered(project, control) as path:
        desired = {
            "gateway": {"host": "127.0.0.1", "port": 0},
            "roles": {"reader": project.spec().model_dump(mode="json", by_alias=True)},
        }
        body = cast("Object", await once(path, op="apply", desired=desired))
        (role,) = cast("list[Object]", body["roles"])
        assert (role["state"], role["generation"]) == ("ready", 1)
        body = cast("Object", await once(path, op="restart", role="reader"))
        (role,) = cast("list[Object]", body["roles"])
        assert (role["state"], role["generation"]) == ("ready", 2)
        with pytest.raises(RemoteError, match="running: reader") as caught:
            _ = await once(path, op="restart", role="nobody")
        assert caught.value.remote_exit_code == 10
        body = cast("Object", await once(path, op="shutdown"))
        assert body["roles"] == []


async def test_credentials_are_in_the_status(project: Project) -> None:
    """Each role has its own, with their ages and due times; warnings are notes."""
    async with project.control() as control, ordered(project, control) as path:
        _ = await control.start(project.spec())
        body = cast("dict[str, list[Object]]", await once(path, op="status"))
        (role,) = body["roles"]
        (told,) = cast("list[Object]", role["credentials"])
        assert (told["agent"], told["due_at"]) == ("alice", "2026-11-22T00:00:00Z")
        assert "reader: the token of alice ends within 7d" in cast("list[object]", body["notes"])
        assert body["rotations"] == []


async def test_what_is_asked_of_credentials_is_answered_elsewhere(project: Project) -> None:
    """Every such request goes where rotations are known."""
    requests: tuple[Object, ...] = (
        {"op": "rotate", "roles": ["reader"], "due": True},
        {"op": "rotations"},
        {"op": "rotation.act", "id": "0" * 12, "act": "resume"},
        {"op": "rotation.provide", "id": "0" * 12, "value": "x"},
        {"op": "revoke-all", "roles": ["reader"], "reason": "leak"},
        {"op": "reopen", "role": "reader"},
    )
    async with project.control() as control, ordered(project, control) as path:
        for request in requests:
            assert await once(path, **request) == [request["op"]]


async def test_tokens_over_the_socket(project: Project) -> None:
    """A token is told once, listed without its text, revoked, and only for roles that run."""
    async with project.control() as control, ordered(project, control) as path:
        _ = await control.start(project.spec())
        issued = cast(
            "Object", await once(path, op="token.issue", role="reader", agent="alice", ttl="30d")
        )
        text = str(issued.pop("token"))
        assert text.startswith("mga_")
        assert await once(path, op="token.list") == [issued]
        revoked = cast("Object", await once(path, op="token.revoke", id=issued["id"]))
        assert (revoked["state"], revoked["id"]) == ("revoked", issued["id"])
        receipt = cast("Object", revoked["receipt"])
        assert cast("float", receipt["refused_after_ms"]) > 0
        assert (receipt["calls_cut"], receipt["streams_left"]) == (0, 0)
        for request, code in (
            ({"op": "token.revoke", "id": "000000000000"}, "token.unknown"),
            (
                {"op": "token.issue", "role": "nobody", "agent": "a", "ttl": "1d"},
                "state.not_running",
            ),
            (
                {"op": "token.issue", "role": "reader", "agent": "a", "ttl": "91d"},
                "config.settings",
            ),
        ):
            with pytest.raises(RemoteError) as caught:
                _ = await once(path, **request)
            assert caught.value.remote_code == code
