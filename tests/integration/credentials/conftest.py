"""A small engine in memory, served on a real control socket, and the commands that ask it."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast, final

import anyio
import anyio.to_thread
import pytest
import structlog
from pydantic import SecretStr

from orchestrator.control.admin_server import AdminServer
from orchestrator.errors import AgentsError, RotationBusyError, RotationUnknownError
from orchestrator.model.base import JsonObject
from orchestrator.model.names import RoleName
from orchestrator.model.rotation import FINISHED, Purpose, Rotation, State
from orchestrator.rotation.orders import CredentialOrders
from orchestrator.rotation.schedule import Due

NOW = datetime(2026, 11, 21, 3, 17, tzinfo=UTC)
CANARY = "mga_canarycanary_0123456789"
SHORT = (State.PLANNED, State.MINTING, State.STAGED, State.VERIFIED)
UPSTREAM = (*SHORT, State.PROMOTED, State.SWITCHED, State.DRAINED, State.REVOKING, State.DONE)
AGENT = (*SHORT, State.PROMOTED, State.SWITCHED)


def credential(role: RoleName, purpose: Purpose, agent: str = "", **facts: object) -> Due:
    """Make a current credential that is due."""
    due = Due(
        role=role,
        purpose=purpose,
        agent=agent,
        credential="old",
        issued_at=NOW - timedelta(days=82),
        expires_at=NOW + timedelta(days=8),
        due_at=NOW - timedelta(hours=1),
        is_due=True,
        warning=None,
        by_hand=False,
        note="",
        ends_at=NOW + timedelta(days=8),
    )
    return replace(due, **facts)


@final
class MemoryEngine:
    """Goes through the states that it is told, and through no others."""

    def __init__(self, *credentials: Due) -> None:
        """Keep what is current."""
        self.credentials = list(credentials)
        self.known: dict[str, Rotation] = {}
        self.ways: dict[tuple[str, str, str], tuple[State, ...]] = {}
        self.tokens: dict[str, SecretStr] = {}
        self.asked: list[tuple[object, ...]] = []
        self.receipt: JsonObject = {"proof": {"proved": True, "refused_at": "03:17:09"}}
        self.ended: JsonObject = {}
        self.stops_at: State | None = None
        self.stopped = anyio.Event()

    def lead(self, credential: Due, *states: State) -> None:
        """Set the way that the next rotation of a credential takes."""
        self.ways[credential.role, credential.purpose, credential.agent] = states

    def keep(self, rotation: Rotation) -> Rotation:
        """Remember a rotation as it is now."""
        self.known[rotation.id] = rotation
        return rotation

    async def plan(
        self, role: RoleName, purpose: Purpose, agent: str = "", *, reason: str, by: str
    ) -> Rotation:
        """Begin a rotation."""
        for one in self.known.values():
            same = (one.role, one.purpose, one.agent) == (role, purpose, agent)
            if same and one.state not in FINISHED:
                raise RotationBusyError(f"{role} is being rotated: {one.id}", hint="Wait.")
        rotation = Rotation(
            id=secrets.token_hex(6),
            role=role,
            purpose=purpose,
            agent=agent,
            state=State.PLANNED,
            old="old",
            reason=reason,
            requested_by=by,
            created_at=NOW,
            changed_at=NOW,
            moments={State.PLANNED: NOW},
        )
        due = next(one for one in self.credentials if (one.role, one.agent) == (role, agent))
        if purpose == "agent" and due.by_hand:
            self.tokens[rotation.id] = SecretStr(CANARY)
        return self.keep(rotation)

    async def rotations(self, role: RoleName | None = None) -> Sequence[Rotation]:
        """Tell rotations."""
        return [one for one in self.known.values() if role in (None, one.role)]

    async def get(self, rotation_id: str) -> Rotation:
        """Tell one."""
        if rotation_id not in self.known:
            raise RotationUnknownError(f"there is no rotation {rotation_id}")
        return self.known[rotation_id]

    async def due(self) -> Sequence[Due]:
        """Tell what is current."""
        return self.credentials

    async def notes(self) -> Sequence[str]:
        """Tell what a person should know."""
        return ["treasury upstream ends in 3 days"]

    async def tick(self, by: str) -> Sequence[Rotation]:
        """Begin what is due, as the real engine does: one upstream credential at most."""
        self.asked.append(("tick", by))
        begun: list[Rotation] = []
        for one in self.credentials:
            if not one.is_due or one.by_hand:
                continue
            if one.purpose == "upstream" and any(done.purpose == "upstream" for done in begun):
                continue
            begun.append(await self.plan(one.role, one.purpose, one.agent, reason="due", by=by))
        return begun

    async def follow(self, rotation_id: str) -> AsyncGenerator[Rotation]:
        """Give a rotation as it is, then at each change."""
        rotation = await self.get(rotation_id)
        yield rotation
        usual = UPSTREAM if rotation.purpose == "upstream" else AGENT
        way = self.ways.get((rotation.role, rotation.purpose, rotation.agent), usual)
        for number, state in enumerate(way):
            if state is rotation.state or rotation.state in FINISHED:
                continue
            held = state is State.HELD
            failed = state is State.FAILED
            moment = NOW + timedelta(seconds=number)
            rotation = self.keep(
                rotation.model_copy(
                    update={
                        "state": state,
                        "changed_at": moment,
                        "new": "new",
                        "held_at": rotation.state if held else None,
                        "held_for": "delete the old key in the console" if held else "",
                        "error": "the issuer said no" if failed else "",
                        "moments": {**rotation.moments, state: moment},
                        "receipt": self.receipt if state is State.DONE else None,
                    }
                )
            )
            yield rotation
            if state is self.stops_at:
                self.stopped.set()
                await anyio.sleep_forever()

    async def _go_on(self, word: str, rotation_id: str, by: str, *way: State) -> Rotation:
        self.asked.append((word, rotation_id, by))
        rotation = await self.get(rotation_id)
        if rotation.state is not State.HELD:
            raise RotationUnknownError(f"{rotation_id} is {rotation.state} and cannot {word}")
        self.ways[rotation.role, rotation.purpose, rotation.agent] = way
        back = {"state": rotation.held_at, "held_at": None, "held_for": ""}
        return self.keep(rotation.model_copy(update=back))

    async def resume(self, rotation_id: str, by: str) -> Rotation:
        """Go on."""
        return await self._go_on("resume", rotation_id, by, State.REVOKING, State.DONE)

    async def abort(self, rotation_id: str, by: str) -> Rotation:
        """Take it back."""
        return await self._go_on("abort", rotation_id, by, State.ABORTING, State.FAILED)

    async def approve_revoke(self, rotation_id: str, by: str) -> Rotation:
        """Take a person's word."""
        return await self._go_on("approve-revoke", rotation_id, by, State.DONE)

    async def vouch(self, receipt_id: str, by: str) -> JsonObject | None:
        """Take a person's word about an emergency."""
        if receipt_id != self.ended.get("id"):
            return None
        self.asked.append(("vouch", receipt_id, by))
        return {"processes": {}, **self.ended, "vouched": by}

    async def provide(self, rotation_id: str, value: SecretStr, by: str) -> Rotation:
        """Take a value."""
        self.asked.append(("value", value.get_secret_value()))
        return await self._go_on("provide", rotation_id, by, State.STAGED, State.DONE)

    def take(self, rotation_id: str) -> SecretStr | None:
        """Give a token once."""
        return self.tokens.pop(rotation_id, None)

    async def revoke_all(self, roles: Sequence[RoleName], *, reason: str, by: str) -> JsonObject:
        """End everything."""
        self.asked.append(("revoke-all", *roles, reason, by))
        ended: JsonObject = {"ended": True, "calls_cut": 1, "note": ""}
        closed: JsonObject = dict.fromkeys(roles, ended)
        return {"reason": reason, "took_ms": 3.5, "processes": closed, **self.ended}

    async def reopen(self, role: RoleName, by: str) -> bool:
        """Let it run."""
        self.asked.append(("reopen", role, by))
        return role == TREASURY


TREASURY = RoleName("treasury")
MONITORING = RoleName("monitoring")


@pytest.fixture
def credentials() -> dict[str, Due]:
    """Make credentials of two roles: delivered, by hand, upstream; all due."""
    return {
        "least": credential(MONITORING, "upstream"),
        "delivered": credential(TREASURY, "agent", "workstation"),
        "by_hand": credential(TREASURY, "agent", "alice", by_hand=True),
        "upstream": credential(TREASURY, "upstream", warning="7d"),
    }


@pytest.fixture
def engine(credentials: dict[str, Due]) -> MemoryEngine:
    """Make an engine that knows them."""
    return MemoryEngine(*credentials.values())


@pytest.fixture
def nothing_due(engine: MemoryEngine) -> MemoryEngine:
    """Make nothing due."""
    engine.credentials = [replace(one, is_due=False) for one in engine.credentials]
    return engine


@pytest.fixture
def project() -> Generator[Path]:
    """Make a project whose path leaves room for a socket."""
    root = Path(tempfile.mkdtemp(prefix="bm-", dir="/tmp"))
    (root / "roles").mkdir()
    (root / ".agents" / "run").mkdir(parents=True, mode=0o700)
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def served(
    engine: MemoryEngine, project: Path
) -> Callable[[], AbstractAsyncContextManager[MemoryEngine]]:
    """Return the function that serves the engine on the project's control socket."""

    @asynccontextmanager
    async def serve() -> AsyncGenerator[MemoryEngine]:
        async def wait() -> MemoryEngine:
            return engine

        async def changed() -> None:
            engine.asked.append(("changed",))

        orders = CredentialOrders(wait, lambda: (MONITORING, TREASURY), changed)
        log = cast("structlog.typing.FilteringBoundLogger", structlog.get_logger("test"))
        # The commands ask for nothing else here.
        handler = cast("Callable[..., AsyncGenerator[object]]", orders.answer)
        path = project / ".agents" / "run" / "control.sock"
        async with anyio.create_task_group() as group:
            with anyio.fail_after(30):
                await group.start(AdminServer(path, handler, log).serve)  # pyright: ignore[reportArgumentType] - it answers credential requests only
            yield engine
            group.cancel_scope.cancel()

    return serve


Command = Callable[[], None]
Run = Callable[[Command], Awaitable[int]]


@pytest.fixture
def run(
    served: Callable[[], AbstractAsyncContextManager[MemoryEngine]],
) -> Run:
    """Return the function that runs a command beside the served engine; tells its exit status."""

    async def work(command: Command) -> int:
        async with served():
            with anyio.fail_after(30):
                status = await anyio.to_thread.run_sync(_status_of, command)
        if isinstance(status, AgentsError):  # a task group would wrap it
            raise status
        return status

    return work


def _status_of(command: Command) -> int | AgentsError:
    try:
        command()
    except SystemExit as end:
        return int(str(end.code))
    except AgentsError as error:
        return error
    return 0
