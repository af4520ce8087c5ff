"""`agents rotate` over the real engine, with real tokens in a real database."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import cast

import anyio
import anyio.to_thread
import pytest
import structlog

from orchestrator.cli.rotate import rotate
from orchestrator.cli.rotate_status import status
from orchestrator.clock import SystemClock
from orchestrator.control.admin_client import RemoteError
from orchestrator.control.admin_server import AdminServer
from orchestrator.control.state import StateFile
from orchestrator.errors import TokenError
from orchestrator.model.names import AgentName, RoleName
from orchestrator.model.rotation import AgentRotation, RotationRule, State
from orchestrator.rotation.delivery import Deliverer
from orchestrator.rotation.engine import Engine
from orchestrator.rotation.events import Event
from orchestrator.rotation.orders import CredentialOrders
from orchestrator.rotation.overview import Overview
from orchestrator.rotation.ports import Instances, Issuer, Vault
from orchestrator.rotation.store import RotationStore
from orchestrator.rotation.world import World
from orchestrator.tokens.desk import TokenDesk
from orchestrator.tokens.store import TokenStore
from orchestrator.tokens.verify import TokenIndex

Captured = pytest.CaptureFixture[str]
Object = dict[str, object]
TREASURY, ALICE = RoleName("treasury"), AgentName("alice")
RULE = RotationRule(agent=AgentRotation(quiet=timedelta(milliseconds=50)))


@dataclass(frozen=True, slots=True)
class Site:
    """A project whose tokens are rotated.

    Attributes:
        root: Its directory.
        engine: Its engine.
        desk: Its tokens.
        index: What its gateway would ask.
        overview: What its status would tell.
    """

    root: Path
    engine: Engine
    desk: TokenDesk
    index: TokenIndex
    overview: Overview

    def opens(self, text: str) -> bool:
        """Tell whether a token is accepted, and use it."""
        try:
            _ = self.index.verify(text, TREASURY)
        except TokenError:
            return False
        return True


def nothing(*_: object) -> Issuer | Vault:
    """Fail: no upstream credential is rotated here."""
    raise AssertionError("asked for")


Open = Callable[[], AbstractAsyncContextManager[Site]]


@pytest.fixture
def site(project: Path) -> Open:
    """Return the function that runs the engine and serves its orders."""

    @asynccontextmanager
    async def run() -> AsyncGenerator[Site]:
        clock, state = SystemClock(), project / ".agents"
        tokens, index = TokenStore(state / "agents.db", clock), TokenIndex(clock)
        desk = TokenDesk(tokens, index, clock, state / "tokens")
        desk.keep_workstation_tokens([TREASURY])
        log = cast("structlog.typing.FilteringBoundLogger", structlog.get_logger("test"))
        told: list[Event] = []
        engine = Engine(
            World(
                store=RotationStore(tokens.database, clock),
                desk=desk,
                index=index,
                issuers=cast("Callable[[str], Issuer]", nothing),
                vault=cast("Callable[[RoleName], Vault]", nothing),
                instances=cast("Instances", object()),
                closures=StateFile(state / "control.json"),
                roles=lambda: [(TREASURY, RULE)],
                deliverer=Deliverer(state, project),
                streams_open=lambda _: 0,
                changing=lambda _: 0,
                clock=clock,
                tell=told.append,
                log=log,
            )
        )

        async def wait() -> Engine:
            return engine

        overview = Overview(engine, clock, log)
        orders = CredentialOrders(wait, lambda: [TREASURY], overview.look)
        handler = cast("Callable[..., AsyncGenerator[object]]", orders.answer)
        async with anyio.create_task_group() as group:
            with anyio.fail_after(30):
                await group.start(engine.run)
                await group.start(AdminServer(state / "run" / "control.sock", handler, log).serve)  # pyright: ignore[reportArgumentType] - it answers credential requests only
            yield Site(project, engine, desk, index, overview)
            group.cancel_scope.cancel()
        tokens.close()

    return run


def rotating(site: Site, **options: object) -> Callable[[], None]:
    """Make the command `agents rotate treasury`."""
    usual: dict[str, object] = {
        "purpose": None,
        "agent": None,
        "due": False,
        "dry_run": False,
        "reason": "",
        "as_json": False,
    }
    roles = () if options.get("due") else ("treasury",)
    return cast("Callable[[], None]", partial(rotate, site.root, roles, **{**usual, **options}))


async def command(work: Callable[[], None]) -> None:
    """Run a command beside the event loop."""
    with anyio.fail_after(30):
        await anyio.to_thread.run_sync(work)


async def test_the_workstations_token(site: Open, capsys: Captured) -> None:
    """Its file holds the new one when the command returns; both work until the old one is quiet."""
    async with site() as here:
        file = here.root / ".agents" / "tokens" / "treasury"
        before = file.read_text().strip()
        await command(rotating(here, as_json=True))
        body = cast("dict[str, list[Object]]", json.loads(capsys.readouterr().out))
        (rotation,) = body["rotations"]
        after = file.read_text().strip()
        assert after != before
        assert here.opens(before)
        assert here.opens(after)
        assert "token" not in rotation
        with anyio.fail_after(30):
            done = await here.engine.wait(str(rotation["id"]))
        assert done.state is State.DONE
        assert not here.opens(before)
        await command(partial(status, here.root, done.id, as_json=False))
        assert "refused after ms" in capsys.readouterr().out


async def test_a_token_by_hand(site: Open, capsys: Captured) -> None:
    """It is printed once, is nowhere on disk, works, and a second one is refused meanwhile."""
    async with site() as here:
        _, first = here.desk.issue(ALICE, TREASURY, timedelta(days=30))
        await command(rotating(here, agent="alice"))
        text = capsys.readouterr().out.strip()
        assert text.startswith("mga_")
        assert here.opens(first.get_secret_value())
        assert here.opens(text)
        for path in here.root.rglob("*"):
            assert not path.is_file() or text.encode() not in path.read_bytes()
        with pytest.raises(RemoteError) as caught:
            await command(rotating(here, agent="alice"))
        assert caught.value.remote_exit_code == 9
        assert here.overview.report.rotations


async def test_a_daily_look_with_nothing_due(site: Open, capsys: Captured) -> None:
    """Nothing is said, and no file of the state is touched."""
    async with site() as here:
        await command(rotating(here, due=True))
        before = picture(here.root)
        await command(rotating(here, due=True))
        assert picture(here.root) == before
        assert capsys.readouterr() == ("", "")
        assert await here.engine.rotations() == ()


def picture(root: Path) -> dict[str, tuple[object, ...]]:
    """Tell every file with its times and content; `-shm` is shared memory, no content."""
    found: dict[str, tuple[object, ...]] = {}
    for path in root.rglob("*"):
        if path.is_file() and not path.name.endswith("-shm"):
            facts = path.lstat()
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path)] = (facts.st_mtime_ns, facts.st_size, content)
    return found


async def test_what_is_current_is_in_the_status(site: Open) -> None:
    """Ages and due times of all tokens, those by hand marked."""
    async with site() as here:
        _ = here.desk.issue(ALICE, TREASURY, timedelta(days=30))
        await here.overview.refresh()
        found = {one.agent: one for one in here.overview.report.credentials}
        assert set(found) == {"workstation", "alice"}
        assert found["alice"].by_hand
        assert not found["workstation"].by_hand
        assert found["alice"].due_at < found["workstation"].due_at
