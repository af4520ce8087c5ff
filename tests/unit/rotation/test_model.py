"""Every rotation ends with exactly one live credential, wherever it is cut off.

The real engine, drivers and database work in a world of fakes: an issuer, a vault, processes, an
agent, a clock. The engine is ended after every durable write and before and after every outside
effect, and another one goes on; seven invariants are looked at each time.
"""

import contextlib
import errno
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast, final

import anyio
import anyio.to_thread
import pytest
import structlog
from pydantic import SecretStr
from sqlalchemy import event
from structlog.typing import FilteringBoundLogger
from typing_extensions import override

from orchestrator.clock import Clock
from orchestrator.control.state import StateFile
from orchestrator.errors import (
    IssuerError,
    IssuerPersonError,
    IssuerUncertainError,
    LockHeldError,
    NotRunningError,
    RotationBusyError,
    RotationError,
    RotationUnknownError,
    SecretNotFoundError,
    SecretStoreUnavailableError,
    SettingsError,
    StateUnwritableError,
    TokenError,
    WorkloadNotReadyError,
)
from orchestrator.model.base import JsonObject
from orchestrator.model.names import AgentName, RoleName, TokenId, WorkloadName
from orchestrator.model.rotation import (
    FINISHED,
    AgentRotation,
    Delivery,
    Drain,
    Purpose,
    Rotation,
    RotationRule,
    State,
    UpstreamRotation,
)
from orchestrator.rotation import agent as agents
from orchestrator.rotation import making, upstream
from orchestrator.rotation.delivery import Deliverer
from orchestrator.rotation.engine import Engine
from orchestrator.rotation.events import Event
from orchestrator.rotation.known import Turn
from orchestrator.rotation.ports import (
    WHOLE,
    Capabilities,
    Credential,
    Ending,
    Instances,
    Issuer,
    Minted,
    Vault,
    Verdict,
)
from orchestrator.rotation.states import Move
from orchestrator.rotation.store import RotationStore, Version
from orchestrator.rotation.world import World
from orchestrator.tokens.desk import WORKSTATION, TokenDesk
from orchestrator.tokens.store import TokenStore
from orchestrator.tokens.verify import TokenIndex

ROLE, AGENT = RoleName("treasury"), AgentName("claude")
MOST_PAUSES = 2000
LOG = cast("FilteringBoundLogger", structlog.get_logger("test"))


GOOD = Capabilities(overlap=True, revoke="api", lists=True, probes=True)


class Crash(BaseException):
    """The engine's process ends."""


class Broken(BaseException):
    """An invariant does not hold; not an error that an engine may take for a failed step."""


@final
class Hands(Clock):
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        """Start somewhere."""
        self.time = datetime(2026, 11, 20, 12, tzinfo=UTC)
        self.seconds = 0.0

    @override
    def now(self) -> datetime:
        """Tell where the hands are."""
        return self.time

    @override
    def monotonic(self) -> float:
        """Tell how far they went."""
        return self.seconds

    def move(self, seconds: float) -> None:
        """Let time go by."""
        self.time += timedelta(seconds=seconds)
        self.seconds += seconds


@final
class Fuse:
    """Ends the engine at chosen points, and looks at the invariants at each."""

    def __init__(self) -> None:
        """Never end it."""
        self.at: set[int] = set()
        self.count = 0
        self.names: list[str] = []
        self.look: Callable[[], None] = lambda: None

    def spark(self, name: str) -> None:
        """Pass a point."""
        self.count += 1
        self.names.append(name)
        self.look()
        if self.count in self.at:
            raise Crash(name)


@dataclass
class Made:
    """A credential at its issuer."""

    text: str
    is_live: bool = True


@dataclass
class FakeIssuer(Issuer):
    """Makes credentials, well or badly."""

    clock: Hands
    fuse: Fuse
    can: Capabilities = GOOD
    made: dict[str, Made] = field(default_factory=dict[str, Made])
    minting: list[str] = field(default_factory=list[str])
    revoking: list[str] = field(default_factory=list[str])
    probing: list[Verdict] = field(default_factory=list[Verdict])
    late: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    life: timedelta | None = timedelta(days=90)
    before_revoke: Callable[[str], None] = lambda _: None

    @property
    @override
    def capabilities(self) -> Capabilities:
        return self.can

    def make(self, name: str) -> Made:
        """Make one."""
        if not self.can.overlap:
            for other in self.made.values():
                other.is_live = False
        return self.made.setdefault(name, Made(f"canary-{name}"))

    @override
    async def mint(self, name: str, role: RoleName, life: timedelta) -> Minted:
        self.fuse.spark("before mint")
        script = self.minting.pop(0) if self.minting else "good"
        if script == "error":
            raise IssuerError("it says no")
        if script == "person":
            raise IssuerPersonError("make one at the vendor's page")
        if script == "timeout":
            raise IssuerUncertainError("it does not answer")
        if script == "slow":
            self.late.append((self.clock.seconds + 300, lambda: void(self.make(name))))
            raise IssuerUncertainError("it does not answer yet")
        made = self.make(name)
        self.fuse.spark("after mint")
        if script == "error and made":
            raise IssuerError("it says no and did it")
        if script == "timeout and made":
            raise IssuerUncertainError("it does not answer and did it")
        ends = None if self.life is None else self.clock.now() + self.life
        if script == "dead at birth":
            ends = self.clock.now()
        if script == "short":
            ends = self.clock.now() + timedelta(days=1)
        return Minted(Credential({WHOLE: SecretStr(made.text)}), {"id": name}, ends)

    @override
    async def probe(self, credential: Credential) -> Verdict:
        if self.probing:
            return self.probing.pop(0)
        text = credential.fields[WHOLE].get_secret_value()
        live = any(one.is_live and one.text == text for one in self.made.values())
        return Verdict.ACCEPTED if live else Verdict.REFUSED

    @override
    async def revoke(self, name: str, handle: JsonObject) -> Ending:
        self.fuse.spark("before revoke")
        script = self.revoking.pop(0) if self.revoking else "good"
        if script == "person":
            return Ending.BY_PERSON
        if script == "error":
            raise IssuerError("it says no")
        self.before_revoke(name)
        if name in self.made and script != "nothing":
            if script == "queued":
                self.late.append((self.clock.seconds + 20, lambda: self.end(name)))
            else:
                self.end(name)
        self.fuse.spark("after revoke")
        if script == "error and done":
            raise IssuerError("it says no and did it")
        return Ending.QUEUED if script == "queued" else Ending.ASKED

    def end(self, name: str) -> None:
        """End one."""
        self.made[name].is_live = False

    @override
    async def list(self, prefix: str) -> Mapping[str, JsonObject]:
        return {
            name: {"id": name}
            for name, one in self.made.items()
            if name.startswith(prefix) and one.is_live
        }

    def live(self) -> set[str]:
        """Tell what is accepted."""
        return {name for name, one in self.made.items() if one.is_live}


@dataclass
class FakeVault(Vault):
    """Keeps texts."""

    fuse: Fuse
    kept: dict[str, Credential] = field(default_factory=dict[str, Credential])
    failing: int = 0

    @override
    async def put(self, role: RoleName, version: str, credential: Credential) -> None:
        self.fuse.spark("before put")
        self._fail()
        self.kept[version] = credential
        self.fuse.spark("after put")

    @override
    async def get(self, role: RoleName, version: str) -> Credential:
        self._fail()
        if version not in self.kept:
            raise SecretNotFoundError("there is none")
        return self.kept[version]

    @override
    async def promote(self, role: RoleName, version: str) -> None:
        self.fuse.spark("before label")
        self._fail()

    @override
    async def drop(self, role: RoleName, version: str) -> None:
        self.fuse.spark("before drop")
        _ = self.kept.pop(version, None)
        self.fuse.spark("after drop")

    def _fail(self) -> None:
        if self.failing:
            self.failing -= 1
            raise SecretStoreUnavailableError("the store is down")


@dataclass
class FakeInstances(Instances):
    """Processes of one role: one that serves, one that is readied, one that is drained."""

    fuse: Fuse
    issuer: FakeIssuer
    serving: str = ""
    readied: str = ""
    old: str = ""
    in_flight: int = 0
    is_held: bool = False
    not_ready: int = 0
    no_switch: int = 0
    is_busy: bool = False

    @override
    async def ready(self, role: RoleName, version: str) -> None:
        self.fuse.spark("before ready")
        if version != self.serving:
            if self.not_ready or version not in self.issuer.live():
                self.not_ready = max(0, self.not_ready - 1)
                raise WorkloadNotReadyError("it did not become ready")
            self.readied = version
        self.fuse.spark("after ready")

    @override
    async def switch(self, role: RoleName, version: str) -> None:
        self.fuse.spark("before switch")
        if self.no_switch:
            self.no_switch -= 1
            raise WorkloadNotReadyError("it ended")
        if version != self.serving:
            if self.readied != version:
                raise WorkloadNotReadyError("there is none")
            # Calls go on at the old one for a while, unless it was quiet.
            self.old, self.serving, self.readied = self.serving, version, ""
            self.in_flight = 0 if self.is_held else 3
        self.fuse.spark("after switch")

    @override
    async def drain(self, role: RoleName, grace: float) -> Drain:
        self.fuse.spark("before drain")
        if self.is_busy:
            return Drain(1, 1000.0)
        if self.in_flight:
            self.in_flight -= 1
        if self.in_flight:
            return Drain(self.in_flight, 1.0)
        self.old = ""
        self.fuse.spark("after drain")
        return Drain(0)

    @override
    async def discard(self, role: RoleName) -> None:
        self.fuse.spark("before discard")
        self.readied = ""
        self.fuse.spark("after discard")

    @override
    async def hold(self, role: RoleName, seconds: float) -> None:
        self.is_held = True
        self.fuse.spark("after hold")

    @override
    async def release(self, role: RoleName) -> None:
        self.is_held = False
        self.fuse.spark("after release")

    @override
    async def close(self, role: RoleName, reason: str) -> int:
        self.fuse.spark("before close")
        cut, self.in_flight = self.in_flight, 0
        self.serving = self.readied = self.old = ""
        return cut

    @override
    async def reopen(self, role: RoleName) -> None:
        self.fuse.spark("before reopen")

    @override
    def using(self, role: RoleName) -> Mapping[WorkloadName, str]:
        return {
            WorkloadName(f"p{number}"): one
            for number, one in enumerate((self.serving, self.readied, self.old))
            if one
        }


def void(_: object) -> None:
    """Want nothing of a value."""


@final
class Stage:
    """One world; engines come and go in it."""

    def __init__(
        self, folder: Path, tokens: TokenStore, store: RotationStore, clock: Hands
    ) -> None:
        """Begin with a role that runs with one good credential, and an agent with one token."""
        self.clock, self.folder, self.tokens = clock, folder, tokens
        self.fuse = Fuse()
        self.issuer = FakeIssuer(clock, self.fuse)
        self.vault = FakeVault(self.fuse)
        self.instances = FakeInstances(self.fuse, self.issuer)
        self.issuer.before_revoke = self._check_revoke
        self.store = store
        # Read beside the store: it is looked at thousands of times.
        self.raw = sqlite3.connect(
            folder / "agents.db", isolation_level=None, check_same_thread=False
        )
        self.events: list[Event] = []
        self.file = folder / "agent-token"
        self.agent_looks = True
        self.texts: set[str] = set()
        self.streams = 0
        self.changing = 0
        self.is_applied = True
        self.pauses = 0
        self.rule = RotationRule(
            agent=AgentRotation(
                overlap=timedelta(hours=1),
                quiet=timedelta(minutes=2),
                deliver={AGENT: Delivery(file=str(self.file))},
            ),
            upstream=UpstreamRotation(issuer="fake", soak=timedelta(seconds=10)),
        )
        self.is_upstream = True
        self.engine = self.begin()

    def begin(self) -> Engine:
        """Start an engine, as a daemon does that starts."""
        self.index = TokenIndex(self.clock)
        self.desk = TokenDesk(self.tokens, self.index, self.clock, self.folder / "tokens")
        return Engine(
            World(
                store=self.store,
                desk=self.desk,
                index=self.index,
                issuers=self.issuer_of,
                vault=lambda _: self.vault,
                instances=self.instances,
                closures=StateFile(self.folder / "control.json"),
                roles=lambda: [(ROLE, self.rule)],
                deliverer=Deliverer(self.folder, self.folder),
                streams_open=lambda _: self.streams,
                changing=lambda _: self.changing,
                clock=self.clock,
                tell=self.events.append,
                log=LOG,
                fingerprint_key=b"k" * 32,
                pause=self.pause,
            )
        )

    def issuer_of(self, name: str) -> Issuer:
        """Give the issuer, as long as it is in the file."""
        if not self.is_applied:
            raise RotationUnknownError(f"no issuer {name} is applied")
        return self.issuer

    async def pause(self, seconds: float, _: anyio.Event) -> None:
        """Let time go by; the world goes on meanwhile."""
        self.pauses += 1
        if self.pauses > MOST_PAUSES:
            raise Broken("it does not come to an end")
        self.clock.move(min(seconds, 120.0))
        for moment, effect in self.issuer.late.copy():
            if moment <= self.clock.seconds:
                self.issuer.late.remove((moment, effect))
                effect()
        if self.agent_looks and self.file.exists():
            self.call()

    def call(self, *, is_real: bool = True) -> None:
        """Have the agent call with what its file holds, or see whether it could."""
        ask = self.index.verify if is_real else self.index.look
        try:
            _ = ask(self.file.read_text().strip(), ROLE)
        except TokenError as error:
            raise Broken("the agent was locked out") from error

    async def prepare(self, purpose: Purpose) -> None:
        """Make the credentials that are there before."""
        self.is_upstream = purpose == "upstream"
        _ = await self.engine.recover()
        if self.is_upstream:
            name = f"bm-{ROLE}-{'0' * 12}-1"
            made, now = self.issuer.make(name), self.clock.now()
            self.vault.kept[name] = Credential({WHOLE: SecretStr(made.text)})
            self.instances.serving = name
            us = (now - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
            _ = self.raw.execute(
                "INSERT INTO versions VALUES (?,?,'current','fake','{}',?,?,NULL,'',?)",
                (ROLE, name, us, us, "0" * 12),
            )
        else:
            _, text = self.desk.issue(AGENT, ROLE, timedelta(days=90))
            _ = self.file.write_text(text.get_secret_value())
            self.call()
        self.clock.move(60)
        self.events.clear()
        self.fuse.count = 0
        self.fuse.names.clear()

    async def rotate(
        self,
        purpose: Purpose,
        at: tuple[int, ...] = (),
        *,
        reboot: bool = False,
        act: Callable[[], None] = lambda: None,
    ) -> Rotation:
        """Rotate, end the engine at these points, and go on with another one each time."""
        self.fuse.at = set(at)
        self.fuse.look = self.look
        rotation_id = ""
        for _ in range(len(at) + 2):
            try:
                if not rotation_id:
                    _ = await self.engine.recover()
                    found = self.store.unfinished()
                    agent = "" if purpose == "upstream" else AGENT
                    if not found:
                        found = (
                            await self.engine.plan(ROLE, purpose, agent, reason="t", by="test"),
                        )
                    rotation_id = found[0].id
                with anyio.fail_after(30):
                    await self.engine.drive(rotation_id)
                break
            except Crash:
                self.instances.is_held = False
                if reboot:
                    current = self.store.current(ROLE)
                    self.instances.readied = self.instances.old = ""
                    self.instances.in_flight = 0
                    self.instances.serving = "" if current is None else current.version
                self.engine = self.begin()
                with contextlib.suppress(Crash):
                    _ = await self.engine.recover()
        self.fuse.at = set()
        act()
        return self.store.get(rotation_id)

    def ask(self, query: str) -> int:
        """Ask the database for a number."""
        return cast("tuple[int]", self.raw.execute(query).fetchone())[0]

    # The invariants.

    def look(self) -> None:
        """Look at what has to hold at every instant."""
        if self.is_upstream:
            self._look_upstream()
        elif self.file.exists():
            self.call(is_real=False)
            query = "SELECT count(*) FROM tokens WHERE state IN ('pending', 'active', 'retiring')"
            if self.ask(query) > 2:
                raise Broken("more than two usable tokens")

    def _look_upstream(self) -> None:
        live = self.issuer.live()
        query = "SELECT version FROM versions WHERE stage='current'"
        rows = cast("list[tuple[str]]", self.raw.execute(query).fetchall())
        current = {version for (version,) in rows}
        if self.issuer.can.overlap:
            if not current <= live:
                raise Broken("the current credential is dead")
            if self.instances.serving and self.instances.serving not in live:
                raise Broken("calls go to an instance whose credential is dead")
        if len(live) > 2:
            raise Broken("more than two live credentials")
        if self.ask("SELECT count(*) FROM rotations WHERE is_open") > 1:
            raise Broken("two rotations of one credential")

    def _check_revoke(self, name: str) -> None:
        if self.instances.old == name and self.instances.in_flight:
            raise Broken("a credential was revoked under a call")
        if name in {self.instances.serving, self.instances.old} and self.issuer.can.overlap:
            raise Broken("a credential was revoked under its instance")

    def check_end(self, rotation: Rotation) -> None:
        """Look at what has to hold at the end."""
        assert rotation.state in FINISHED, (rotation.state, rotation.error, rotation.held_for)
        assert rotation.receipt is not None
        if self.is_upstream:
            current = self.store.current(ROLE)
            assert current is not None
            assert current.version == (
                rotation.new if rotation.state is State.DONE else rotation.old
            )
            assert self.issuer.live() == {current.version}
            assert set(self.instances.using(ROLE).values()) == {current.version}
            assert set(self.vault.kept) == {current.version}
            assert not self.instances.is_held
            told = str([one.receipt for one in self.store.all()]) + current.version
            for name in self.issuer.made:
                assert name in told, f"{name} ended without a receipt"
        else:
            kept = rotation.new if rotation.state is State.DONE else rotation.old
            assert [one.id for one in self.tokens.load_usable()] == [TokenId(kept)]
            self.call()
            beside = self.file.with_name(f".{self.file.name}.old")
            assert not beside.exists()
        self.check_secrecy()

    def check_secrecy(self) -> None:
        """Look for texts where none may be."""
        wanted = [one.text for one in self.issuer.made.values()]
        if self.file.exists():
            wanted.append(self.file.read_text().strip())
        places = [path.read_bytes() for path in self.folder.glob("agents.db*")]
        places.append(str(self.events).encode())
        for text in wanted:
            # The name in it is no secret.
            secret = text[:10] if text.startswith("canary") else text
            assert not any(secret.encode() in content for content in places)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a directory in memory: a database is made durable thousands of times."""
    memory = Path("/dev/shm")  # noqa: S108  not shared: a fresh directory of ours
    path = Path(tempfile.mkdtemp(prefix="bm-", dir=memory if memory.is_dir() else "/tmp"))  # noqa: S108
    yield path
    shutil.rmtree(path)


@final
class Stages:
    """Makes worlds, one after the other, in one database."""

    def __init__(self, folder: Path) -> None:
        """Open the database."""
        self.clock = Hands()
        self.folder = folder
        self.stage: Stage | None = None
        self.tokens = TokenStore(folder / "agents.db", self.clock)
        self.store = RotationStore(self.tokens.database, self.clock)
        self.fuse = Fuse()
        event.listen(self.tokens.database._engine, "after_cursor_execute", self._hear)

    def _hear(self, *facts: object) -> None:
        self._note(str(facts[2]))

    def _note(self, statement: str) -> None:
        if statement == "BEGIN IMMEDIATE":
            self.writes = True
            if self.fail_at:
                self.fail_at -= 1
                if not self.fail_at:
                    self.failed = True
                    raise sqlite3.OperationalError("database or disk is full")
        elif statement == "COMMIT" and self.writes:
            self.writes = False
            self.fuse.spark("after write")

    writes = False
    fail_at = 0
    failed = False

    def new(self) -> Stage:
        """Make one."""
        self.fuse = Fuse()
        if self.stage is not None:
            for table in ("tokens", "rotations", "versions", "receipts"):
                _ = self.stage.raw.execute(f"DELETE FROM {table}")  # noqa: S608  names of ours
            self.stage.raw.close()
        (self.folder / "agent-token").unlink(missing_ok=True)
        stage = Stage(self.folder, self.tokens, self.store, self.clock)
        self.fuse = stage.fuse
        self.stage = stage
        return stage


@pytest.fixture
def stages(folder: Path) -> Iterator[Stages]:
    """Give worlds."""
    made = Stages(folder)
    yield made
    if made.stage is not None:
        made.stage.raw.close()
    made.tokens.close()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what blocks done where it is asked for: going to threads takes most of the time."""

    async def run(call: Callable[..., object], *facts: object) -> object:
        return call(*facts)

    monkeypatch.setattr(anyio.to_thread, "run_sync", run)
    monkeypatch.setattr(agents, "_off", run)


Setup = Callable[[Stage], None]


def nothing(_: Stage) -> None:
    """Leave the world as it is."""


def without_overlap(stage: Stage) -> None:
    """Let a new credential end the old one."""
    stage.issuer.can = Capabilities(overlap=False, revoke="api", lists=True, probes=True)


def without_list(stage: Stage) -> None:
    """Let the issuer not tell what it made."""
    stage.issuer.can = Capabilities(overlap=True, revoke="api", lists=False, probes=True)


def minting(*script: str) -> Setup:
    """Let the issuer mint so."""

    def setup(stage: Stage) -> None:
        stage.issuer.minting = list(script)

    return setup


def revoking(*script: str) -> Setup:
    """Let the issuer revoke so."""

    def setup(stage: Stage) -> None:
        stage.issuer.revoking = list(script)

    return setup


def probing(*script: Verdict) -> Setup:
    """Let the issuer answer probes so."""

    def setup(stage: Stage) -> None:
        stage.issuer.probing = list(script)

    return setup


def not_ready(times: int) -> Setup:
    """Let the new instance not become ready."""

    def setup(stage: Stage) -> None:
        stage.instances.not_ready = times

    return setup


def no_switch(times: int) -> Setup:
    """Let the switch fail."""

    def setup(stage: Stage) -> None:
        stage.instances.no_switch = times

    return setup


def store_down(times: int) -> Setup:
    """Let the vault fail."""

    def setup(stage: Stage) -> None:
        stage.vault.failing = times

    return setup


def idle_agent(stage: Stage) -> None:
    """Let the agent never look."""
    stage.agent_looks = False


SCENARIOS: dict[str, tuple[Purpose, Setup, State]] = {
    "plain": ("upstream", nothing, State.DONE),
    "no overlap": ("upstream", without_overlap, State.DONE),
    "no list": ("upstream", without_list, State.DONE),
    "mint times out": ("upstream", minting("timeout"), State.DONE),
    "mint times out and happened": ("upstream", minting("timeout and made"), State.DONE),
    "mint says error": ("upstream", minting("error", "error"), State.DONE),
    "mint says error and did it": ("upstream", minting("error and made"), State.DONE),
    "mint is slow": ("upstream", minting("slow"), State.DONE),
    "mint gives a dead one": ("upstream", minting("dead at birth"), State.DONE),
    "mint never works": ("upstream", minting(*["timeout and made"] * 9), State.FAILED),
    "a short life": ("upstream", minting("short"), State.DONE),
    "revoke does nothing": ("upstream", revoking("nothing"), State.DONE),
    "revoke says error and did it": ("upstream", revoking("error and done"), State.DONE),
    "revoke says error": ("upstream", revoking("error", "error"), State.DONE),
    "revoke is queued": ("upstream", revoking("queued"), State.DONE),
    "unknown at first": ("upstream", probing(*[Verdict.UNKNOWN] * 3), State.DONE),
    "unknown for ever": ("upstream", probing(*[Verdict.UNKNOWN] * 5), State.FAILED),
    "ready late": ("upstream", not_ready(2), State.DONE),
    "never ready": ("upstream", not_ready(99), State.FAILED),
    "switched late": ("upstream", no_switch(2), State.DONE),
    "never switched": ("upstream", no_switch(5), State.FAILED),
    "store down": ("upstream", store_down(2), State.DONE),
    "agent": ("agent", nothing, State.DONE),
    "idle agent": ("agent", idle_agent, State.FAILED),
}


async def run(stages: Stages, name: str, at: tuple[int, ...], *, reboot: bool = False) -> Stage:
    """Run one scenario, with crashes."""
    purpose, setup, _ = SCENARIOS[name]
    stage = stages.new()
    await stage.prepare(purpose)
    setup(stage)
    try:
        rotation = await stage.rotate(purpose, at, reboot=reboot)
        stage.check_end(rotation)
    except (AssertionError, TimeoutError, Broken) as error:
        where = [stage.fuse.names[one - 1] for one in at if one <= len(stage.fuse.names)]
        raise AssertionError(f"{name}, ended at {at} {where}: {error}") from error
    return stage


@pytest.mark.parametrize("name", SCENARIOS)
async def test_without_a_crash(stages: Stages, name: str) -> None:
    """A rotation ends as it should, and every invariant holds on the way."""
    stage = await run(stages, name, ())
    assert stage.store.all()[-1].state is SCENARIOS[name][2]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("name", SCENARIOS)
async def test_every_crash(stages: Stages, name: str) -> None:
    """Wherever the engine ends, alone or with the machine, another one brings it to an end."""
    points = (await run(stages, name, ())).fuse.count
    both = name in {"plain", "no overlap", "agent"}
    for point in range(1, points + 1):
        for reboot in (False, True) if both else (bool(point % 2),):
            _ = await run(stages, name, (point,), reboot=reboot)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("name", ["plain", "agent"])
async def test_every_two_crashes(stages: Stages, name: str) -> None:
    """The same with a second end soon after the first."""
    points = (await run(stages, name, ())).fuse.count
    for first in range(1, points + 1):
        for second in range(first + 1, first + 5):
            _ = await run(stages, name, (first, second), reboot=bool(first % 2))


def by_hand(stage: Stage) -> None:
    """Let persons make credentials, and end them."""
    stage.issuer.can = Capabilities(overlap=True, revoke="manual", lists=False, probes=True)
    stage.issuer.minting = ["person"] * 9
    stage.issuer.revoking = ["person"] * 99


def silent(stage: Stage) -> None:
    """Let an issuer without overlap never tell what it did."""
    without_overlap(stage)
    stage.issuer.minting = ["timeout"] * 5


async def run_with_a_person(stages: Stages, setup: Setup, at: tuple[int, ...]) -> Stage:
    """Run a rotation, with crashes; whenever it is held a person does what it waits for."""
    stage = stages.new()
    await stage.prepare("upstream")
    setup(stage)
    stage.fuse.at, stage.fuse.look = set(at), stage.look
    for _ in range(9):
        try:
            _ = await stage.engine.recover()
            found = stage.store.unfinished()
            if found and found[0].state is State.HELD:
                await _help(stage, found[0])
            elif not found:
                found = (await stage.engine.plan(ROLE, "upstream", reason="t", by="test"),)
            await stage.engine.drive(found[0].id)
            if stage.store.get(found[0].id).state in FINISHED:
                break
        except Crash:
            stage.instances.is_held = False
            stage.engine = stage.begin()
    stage.fuse.at = set()
    stage.check_end(stage.store.all()[-1])
    return stage


async def _help(stage: Stage, rotation: Rotation) -> None:
    if rotation.held_at is State.MINTING:
        made = stage.issuer.made.get(rotation.new) or stage.issuer.make(rotation.new)
        _ = await stage.engine.provide(rotation.id, SecretStr(made.text), "ann")
    else:
        stage.issuer.end(rotation.old if rotation.held_at is State.REVOKING else rotation.new)
        _ = await stage.engine.approve_revoke(rotation.id, "ann")


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("setup", [by_hand, silent])
async def test_every_crash_with_a_person(stages: Stages, setup: Setup) -> None:
    """The same where the rotation is held on its way, and a person does a part of it."""
    points = (await run_with_a_person(stages, setup, ())).fuse.count
    assert points > 20
    for point in range(1, points + 1):
        _ = await run_with_a_person(stages, setup, (point,))


# What would break without each part.


async def _no_sweep(self: making.Maker, rotation: Rotation, row: Version, _: Issuer) -> Move:
    return self.ask_for(rotation, rotation.attempt + 1, row.issuer)


async def _no_drain(*_: object) -> Drain:
    return Drain(0)


async def _revoke_first(self: upstream.UpstreamDriver, rotation: Rotation) -> Move:
    issuer = self._parts.issuers("fake")
    _ = await issuer.revoke(rotation.old, {})
    return Move(State.VERIFIED)


@pytest.mark.parametrize(
    ("owner", "method", "mutant", "name"),
    [
        (making.Maker, "_look", _no_sweep, "mint times out and happened"),
        (upstream.UpstreamDriver, "_drain_once", _no_drain, "plain"),
        (upstream.UpstreamDriver, "_verify", _revoke_first, "plain"),
    ],
)
async def test_each_part_is_needed(
    stages: Stages,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    method: str,
    *,
    mutant: object,
    name: str,
) -> None:
    """Without the sweep for orphans, the drain, or promotion before the end, invariants break."""
    monkeypatch.setattr(owner, method, mutant)
    with pytest.raises(AssertionError):
        _ = await run(stages, name, ())


# People, and what goes wrong in ways of its own.


async def begin(stages: Stages, purpose: Purpose = "upstream") -> Stage:
    """Give a world in which nothing was begun."""
    stage = stages.new()
    await stage.prepare(purpose)
    return stage


async def test_a_person_makes_the_credential(stages: Stages) -> None:
    """An issuer without a program: the rotation is held until its credential is handed over."""
    stage = await begin(stages)
    stage.issuer.minting = ["person"]
    rotation = await stage.rotate("upstream")
    assert (rotation.state, rotation.held_at) == (State.HELD, State.MINTING)
    assert f"agents rotate provide {rotation.id}" in rotation.held_for
    assert any(rotation.id in note for note in await stage.engine.notes())
    with pytest.raises(RotationBusyError, match=rotation.id):
        _ = await stage.engine.plan(ROLE, "upstream", reason="again", by="test")
    with pytest.raises(SettingsError, match="too short"):
        _ = await stage.engine.provide(rotation.id, SecretStr("pencil"), "ann")
    text = stage.issuer.make(rotation.new).text
    _ = await stage.engine.provide(rotation.id, SecretStr(text), "ann")
    done = await stage.rotate("upstream")
    assert done.state is State.DONE
    stage.check_end(done)


async def test_a_person_ends_the_credential(stages: Stages) -> None:
    """An issuer that cannot revoke: held until a person says so, and then seen."""
    stage = await begin(stages)
    stage.issuer.revoking = ["person"]
    rotation = await stage.rotate("upstream")
    assert (rotation.state, rotation.held_at) == (State.HELD, State.REVOKING)
    assert rotation.old in rotation.held_for
    with pytest.raises(RotationUnknownError):
        _ = await stage.engine.abort(rotation.id, "ann")
    stage.issuer.end(rotation.old)
    _ = await stage.engine.approve_revoke(rotation.id, "ann")
    done = await stage.rotate("upstream")
    stage.check_end(done)
    assert done.receipt is not None
    assert done.receipt["approved_by"] == "ann"
    assert _proof(done)["refusals"] == 3


async def test_a_word_is_no_proof(stages: Stages) -> None:
    """A person says that it is dead and it is not: the rotation is held again."""
    stage = await begin(stages)
    stage.issuer.revoking = ["person"]
    rotation = await stage.rotate("upstream")
    _ = await stage.engine.approve_revoke(rotation.id, "ann")
    assert (await stage.rotate("upstream")).state is State.HELD


async def test_never_refused(stages: Stages) -> None:
    """An issuer that says yes and does nothing, for ever: held with an alarm, never done."""
    stage = await begin(stages)
    stage.issuer.revoking = ["nothing"] * 99
    rotation = await stage.rotate("upstream")
    assert (rotation.state, rotation.held_at) == (State.HELD, State.REVOKING)
    assert stage.events[-1].alarm
    stage.issuer.revoking.clear()
    _ = await stage.engine.resume(rotation.id, "ann")
    stage.check_end(await stage.rotate("upstream"))


async def test_unknown_proves_nothing(stages: Stages) -> None:
    """Answers that prove nothing break the row of refusals and never end a rotation."""
    stage = await begin(stages)
    refused, unknown = Verdict.REFUSED, Verdict.UNKNOWN
    stage.issuer.probing = [Verdict.ACCEPTED, *[refused, refused, unknown] * 400]
    rotation = await stage.rotate("upstream")
    assert (rotation.state, rotation.held_at) == (State.HELD, State.REVOKING)


async def test_the_control_has_to_be_accepted(stages: Stages) -> None:
    """An issuer that refuses everything proves nothing."""
    stage = await begin(stages)
    stage.issuer.probing = [Verdict.ACCEPTED, *[Verdict.REFUSED] * 2000]
    rotation = await stage.rotate("upstream")
    assert (rotation.state, rotation.held_at) == (State.HELD, State.REVOKING)


async def test_without_probes_nothing_is_claimed(stages: Stages) -> None:
    """Where nobody can look, the receipt says that nothing was seen."""
    stage = await begin(stages)
    stage.issuer.can = Capabilities(overlap=True, revoke="api", lists=True, probes=False)
    rotation = await stage.rotate("upstream")
    stage.check_end(rotation)
    proof = _proof(rotation)
    assert proof["proved"] is False
    assert "not proved" in str(proof["note"])
    names = [one.name for one in stage.events]
    assert "rotation.proved_dead" not in names
    assert "rotation.not_proved" in names


async def test_the_first_credential(stages: Stages) -> None:
    """A role that starts gets a credential if it has none, or if its own has ended meanwhile."""
    stage = stages.new()
    async with anyio.create_task_group() as group:
        await group.start(stage.engine.run)
        await stage.engine.first(ROLE)
        version, credential = await stage.engine.credential(ROLE)
        assert credential.fields[WHOLE].get_secret_value() == stage.issuer.made[version].text
        await stage.engine.first(ROLE)
        assert (await stage.engine.credential(ROLE))[0] == version
        current = stage.store.current(ROLE)
        assert current is not None
        stage.store.note_minted(replace(current, expires_at=stage.clock.now()))
        stage.issuer.end(version)
        await stage.engine.first(ROLE)
        fresh, _ = await stage.engine.credential(ROLE)
        assert fresh != version
        await stage.engine._emergency.sweep()
        assert [one.version for one in stage.store.alive()] == [fresh]
        stage.issuer.minting = ["person"]
        stage.store.set_stages(ROLE, {fresh: "gone"})
        with pytest.raises(RotationError, match="agents rotate provide"):
            await stage.engine.first(ROLE)
        group.cancel_scope.cancel()


async def test_a_first_credential_that_is_not_made(stages: Stages) -> None:
    """An issuer that fails and fails: who waits for the first one hears why, while it goes on."""
    stage = stages.new()
    stage.issuer.minting = ["error"] * 3
    async with anyio.create_task_group() as group:
        await group.start(stage.engine.run)
        with pytest.raises(RotationError, match="waits for its first credential"):
            await stage.engine.first(ROLE)
        group.cancel_scope.cancel()


async def test_what_only_ends_by_its_time(stages: Stages) -> None:
    """An issuer that cannot revoke: the old credential's end is waited for, and seen."""
    stage = await begin(stages)
    stage.issuer.can = Capabilities(overlap=True, revoke="expiry", lists=True, probes=True)
    current = stage.store.current(ROLE)
    assert current is not None
    ends = stage.clock.now() + timedelta(hours=2)
    stage.store.note_minted(replace(current, issued_at=stage.clock.now(), expires_at=ends))
    stage.issuer.late.append(
        (stage.clock.seconds + 7260, lambda: stage.issuer.end(current.version))
    )
    rotation = await stage.rotate("upstream")
    stage.check_end(rotation)
    assert stage.clock.now() >= ends + timedelta(minutes=1)
    assert _proof(rotation)["proved"] is True


async def test_calls_that_do_not_end_are_not_cut(stages: Stages) -> None:
    """A call that goes on for a quarter of an hour is a person's matter, and nothing is revoked."""
    stage = await begin(stages)
    stage.instances.is_busy = True
    rotation = await stage.rotate("upstream")
    assert (rotation.state, rotation.held_at) == (State.HELD, State.SWITCHED)
    assert stage.issuer.live() == {rotation.old, rotation.new}
    stage.instances.is_busy = False
    _ = await stage.engine.resume(rotation.id, "ann")
    stage.check_end(await stage.rotate("upstream"))


async def test_a_receipt_tells_what_was_seen(stages: Stages) -> None:
    """Three refusals, the control, and who asked, with the events of every state."""
    stage = await begin(stages)
    rotation = await stage.rotate("upstream")
    proof = _proof(rotation)
    assert (proof["proved"], proof["refusals"], proof["control"]) == (True, 3, "accepted")
    assert rotation.receipt is not None
    assert rotation.receipt["requested_by"] == "test"
    assert [one.name.removeprefix("rotation.") for one in stage.events] == [
        "planned",
        "minting",
        "staged",
        "verified",
        "promoted",
        "switched",
        "drained",
        "revoke_requested",
        "done",
        "proved_dead",
    ]


@pytest.mark.parametrize("state", ["staged", "promoted", "switched"])
async def test_taken_back(stages: Stages, state: str) -> None:
    """A person takes a rotation back: the old credential goes on, the new one is seen dead."""
    stage = await begin(stages)
    if state == "staged":
        stage.instances.not_ready = 1
        wanted = "rotation.tried"
    else:
        wanted = f"rotation.{state}"
    tell, engine = stage.events.append, stage.engine
    found = list[str]()

    async def pause(seconds: float, wake: anyio.Event) -> None:
        if not found and any(one.name == wanted for one in stage.events):
            found.append("x")
            _ = await engine.abort(stage.store.unfinished()[0].id, "ann")
        await stage.pause(seconds, wake)

    if state == "promoted":
        stage.instances.no_switch = 1
    engine._worker._tools = replace(engine._worker._tools, pause=pause, tell=tell)
    rotation = await engine.plan(ROLE, "upstream", reason="t", by="test")
    await engine.drive(rotation.id)
    rotation = stage.store.get(rotation.id)
    assert rotation.state is State.FAILED
    stage.check_end(rotation)


async def test_disk_full_at_each_write(stages: Stages) -> None:
    """A write that fails leaves the state as it was; the next try goes on."""
    for purpose in ("upstream", "agent"):
        point = 0
        while True:
            point += 1
            stage = await begin(stages, purpose)
            stages.fail_at = point
            stages.failed = False
            agent = "" if purpose == "upstream" else AGENT
            try:
                rotation = await stage.engine.plan(ROLE, purpose, agent, reason="t", by="test")
            except StateUnwritableError:
                stages.fail_at = 0
                continue
            await stage.engine.drive(rotation.id)
            stages.fail_at = 0
            rotation = stage.store.get(rotation.id)
            assert rotation.state is State.DONE, (point, rotation)
            stage.check_end(rotation)
            if not stages.failed:
                break
        assert point > 6


async def test_no_room_for_a_token(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk where the agent looks: the old token works, and the new one comes later."""
    stage = await begin(stages, "agent")
    put, full = Deliverer.put, [OSError(errno.ENOSPC, "No space left on device")] * 20

    def fails(self: Deliverer, path: Path, text: SecretStr, old: TokenId | None) -> None:
        stage.call()
        if full:
            raise full.pop()
        put(self, path, text, old)

    monkeypatch.setattr(Deliverer, "put", fails)
    rotation = await stage.rotate("agent")
    assert rotation.state is State.DONE
    stage.check_end(rotation)


async def test_two_engines(stages: Stages) -> None:
    """The engine that came later works on; the earlier one is refused at its next write."""
    stage = await begin(stages)
    other = TokenStore(stage.folder / "agents.db", stage.clock)
    RotationStore(other.database, stage.clock).take_over()
    with pytest.raises(LockHeldError):
        _ = await stage.engine.plan(ROLE, "upstream", reason="t", by="test")
    other.close()
    _ = await stage.engine.recover()


async def test_two_roles_take_turns(stages: Stages) -> None:
    """While one role changes its upstream credential, another one waits."""
    stage = await begin(stages)
    first = await stage.engine.plan(ROLE, "upstream", reason="t", by="test")
    assert stage.engine._turn.take("another")
    waits = list[float]()

    async def pause(seconds: float, wake: anyio.Event) -> None:
        waits.append(seconds)
        stage.engine._turn.give_back("another")
        await stage.pause(seconds, wake)

    worker = stage.engine._worker
    worker._tools = replace(worker._tools, pause=pause)
    await stage.engine.drive(first.id)
    assert waits[0] == making.TURN_SECONDS
    stage.check_end(stage.store.get(first.id))


async def test_an_agent_that_sleeps(stages: Stages) -> None:
    """The workstation's file is read whenever it is used: nothing is lost if nobody did."""
    stage = await begin(stages, "agent")
    await anyio.to_thread.run_sync(stage.desk.keep_workstation_tokens, [ROLE])
    stage.agent_looks = False
    rotation = await stage.engine.plan(ROLE, "agent", WORKSTATION, reason="t", by="test")
    await stage.engine.drive(rotation.id)
    rotation = stage.store.get(rotation.id)
    assert rotation.state is State.DONE
    text = stage.desk.file_of(ROLE).read_text().strip()
    assert stage.index.look(text, ROLE).token_id == rotation.new


async def test_by_hand(stages: Stages) -> None:
    """An agent without a delivery: its token is shown once; the old one goes when it is used."""
    stage = await begin(stages, "agent")
    agent = AgentName("somebody")
    old, _ = stage.desk.issue(agent, ROLE, timedelta(days=90))
    rotation = await stage.engine.plan(ROLE, "agent", agent, reason="t", by="test")
    shown = list[SecretStr]()

    async def pause(seconds: float, wake: anyio.Event) -> None:
        text = stage.engine.take(rotation.id)
        if text is not None:
            shown.append(text)
            assert stage.index.look_by_id(old.id, ROLE).agent == agent
            _ = stage.index.verify(text.get_secret_value(), ROLE)
        await stage.pause(seconds, wake)

    worker = stage.engine._worker
    worker._tools = replace(worker._tools, pause=pause)
    await stage.engine.drive(rotation.id)
    assert len(shown) == 1
    assert stage.engine.take(rotation.id) is None
    assert stage.store.get(rotation.id).state is State.DONE
    with pytest.raises(TokenError):
        _ = stage.index.look_by_id(old.id, ROLE)


async def test_a_token_by_hand_that_nobody_takes(stages: Stages) -> None:
    """Whoever asked gets it a moment after the rotation is over, too, and nobody gets it later."""
    stage = await begin(stages, "agent")
    for waited, is_there in ((59, True), (61, False)):
        agent = AgentName(f"nobody{waited}")  # without a token so far: it is over at once
        rotation = await stage.engine.plan(ROLE, "agent", agent, reason="t", by="test")
        await stage.engine.drive(rotation.id)
        assert stage.store.get(rotation.id).state is State.DONE
        stage.clock.move(waited)
        assert (stage.engine.take(rotation.id) is not None) == is_there
        assert stage.engine.take(rotation.id) is None


async def test_under_way_comes_before_two_tokens(stages: Stages) -> None:
    """Who replaces a token that is being replaced is told of that, not of its second token."""
    stage = await begin(stages, "agent")
    agent = AgentName("somebody")
    _ = stage.desk.issue(agent, ROLE, timedelta(days=90))
    rotation = await stage.engine.plan(ROLE, "agent", agent, reason="t", by="test")
    _ = stage.desk.issue(agent, ROLE, timedelta(days=90), rotation=rotation.id)
    with pytest.raises(RotationBusyError, match=rotation.id):
        _ = await stage.engine.plan(ROLE, "agent", agent, reason="t", by="test")


async def test_a_dead_token_is_not_put_back(stages: Stages) -> None:
    """If the workstation's file gets lost in a rotation, what replaces it stays there."""
    stage = await begin(stages, "agent")
    await anyio.to_thread.run_sync(stage.desk.keep_workstation_tokens, [ROLE])
    path = stage.desk.file_of(ROLE)
    rotation = await stage.engine.plan(ROLE, "agent", WORKSTATION, reason="t", by="test")
    pauses = list[float]()

    async def pause(seconds: float, wake: anyio.Event) -> None:
        if not pauses:
            path.unlink()
            await anyio.to_thread.run_sync(stage.desk.keep_workstation_tokens, [ROLE])
        pauses.append(seconds)
        await stage.pause(seconds, wake)

    worker = stage.engine._worker
    worker._tools = replace(worker._tools, pause=pause)
    await stage.engine.drive(rotation.id)
    assert stage.store.get(rotation.id).state is State.FAILED
    assert stage.index.look(path.read_text().strip(), ROLE).agent == WORKSTATION
    assert [one.agent for one in stage.tokens.load_usable()].count(WORKSTATION) == 1
    assert not path.with_name(f".{path.name}.old").exists()


async def test_a_file_that_lost_both_tokens(stages: Stages) -> None:
    """A workstation whose old token cannot be put back gets another one at once."""
    stage = await begin(stages, "agent")
    await anyio.to_thread.run_sync(stage.desk.keep_workstation_tokens, [ROLE])
    path = stage.desk.file_of(ROLE)
    rotation = await stage.engine.plan(ROLE, "agent", WORKSTATION, reason="t", by="test")
    pauses = list[float]()

    async def pause(seconds: float, wake: anyio.Event) -> None:
        if not pauses:
            path.with_name(f".{path.name}.old").unlink()
            _ = await stage.engine.abort(rotation.id, "ann")
        pauses.append(seconds)
        await stage.pause(seconds, wake)

    worker = stage.engine._worker
    worker._tools = replace(worker._tools, pause=pause)
    await stage.engine.drive(rotation.id)
    assert stage.store.get(rotation.id).state is State.FAILED
    assert stage.index.look(path.read_text().strip(), ROLE).agent == WORKSTATION


async def test_a_clock_set_back_does_not_keep_a_try_waiting(stages: Stages) -> None:
    """The next try comes after minutes, not when the clock is again where it was."""
    stage = await begin(stages)
    stage.instances.not_ready = 1
    rotation = await stage.engine.plan(ROLE, "upstream", reason="t", by="test")
    was_set = list[datetime]()

    async def pause(seconds: float, wake: anyio.Event) -> None:
        if stage.store.get(rotation.id).tries and not was_set:
            was_set.append(stage.clock.time)
            stage.clock.time -= timedelta(days=60)
        await stage.pause(seconds, wake)

    worker = stage.engine._worker
    worker._tools = replace(worker._tools, pause=pause)
    await stage.engine.drive(rotation.id)
    assert was_set
    assert stage.store.get(rotation.id).state is State.DONE
    assert stage.clock.time < was_set[0] - timedelta(days=59)


async def test_roles_follow_each_other_at_once() -> None:
    """Whoever had the turn wakes those who wait for it, in the order in which they came."""
    turn, woken = Turn(), list[str]()
    turn.on_free = woken.append
    assert [turn.take(name) for name in ("a", "b", "c", "b")] == [True, False, False, False]
    turn.give_back("c")  # it needs it no more
    turn.give_back("b")
    assert not turn.take("d")
    assert woken == []
    assert not turn.take("b")
    turn.give_back("a")
    assert woken == ["d", "b"]
    assert turn.take("b")


async def test_nothing_is_revoked_that_a_process_has(stages: Stages) -> None:
    """A role that is being stopped has no drain: its process is waited for all the same."""
    stage = await begin(stages)
    old = stage.instances.serving
    waits = list[float]()

    async def gone(role: RoleName, version: str) -> None:
        raise NotRunningError(f"{role} is being stopped, and not switched to {version}")

    async def pause(seconds: float, wake: anyio.Event) -> None:
        waits.append(seconds)
        if len(waits) > 5:
            stage.instances.serving = ""
        await stage.pause(seconds, wake)

    def check(name: str) -> None:
        assert name != old or old not in stage.instances.using(ROLE).values()

    stage.instances.switch = gone
    stage.issuer.before_revoke = check
    worker = stage.engine._worker
    worker._tools = replace(worker._tools, pause=pause)
    rotation = await stage.engine.plan(ROLE, "upstream", reason="t", by="test")
    await stage.engine.drive(rotation.id)
    assert stage.store.get(rotation.id).state is State.DONE
    assert len(waits) > 5


async def test_an_ended_credential_is_waited_for_by_nobody_with_a_turn(stages: Stages) -> None:
    """A role whose credential ended while a rotation replaces it does not wait for the rotation."""
    stage = await begin(stages)
    stage.instances.is_busy = True
    rotation = await stage.engine.plan(ROLE, "upstream", reason="t", by="test")
    moment = (stage.clock.now() - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    _ = stage.raw.execute("UPDATE versions SET expires_at=?", (moment,))
    stage.engine._running.set()
    with anyio.fail_after(30), pytest.raises(RotationError, match=f"{rotation.id} replaces it"):
        await stage.engine.first(ROLE)


async def test_a_person_who_ended_it_is_believed_by_looking(stages: Stages) -> None:
    """Where a person ends credentials and they can be probed, going on means looking."""
    stage = await begin(stages)
    stage.issuer.revoking = ["person", "person", "person"]
    rotation = await stage.rotate("upstream")
    assert rotation.state is State.HELD
    _ = await stage.engine.resume(rotation.id, "ann")
    await stage.engine.drive(rotation.id)
    assert stage.store.get(rotation.id).state is State.HELD
    stage.issuer.end(rotation.old)
    _ = await stage.engine.resume(rotation.id, "ann")
    await stage.engine.drive(rotation.id)
    rotation = stage.store.get(rotation.id)
    assert rotation.state is State.DONE
    assert rotation.receipt is not None
    proof = rotation.receipt["proof"]
    assert isinstance(proof, dict)
    assert proof["proved"] is True


async def test_a_sweep_spares_the_only_one(stages: Stages) -> None:
    """Without overlap an old one that was not seen dead is not ended again beside its successor."""
    stage = await begin(stages)
    stage.issuer.before_revoke = lambda _: None
    stage.issuer.can = Capabilities(overlap=False, revoke="api", lists=True, probes=True)
    stage.issuer.revoking = ["error"] * 60
    _ = await stage.engine.revoke_all([ROLE], reason="a leak", by="ann")
    stage.issuer.revoking.clear()
    await stage.engine.reopen(ROLE, "ann")
    rotation = await stage.engine.plan(ROLE, "upstream", reason="first", by="ann")
    await stage.engine.drive(rotation.id)
    ended = list[str]()
    stage.issuer.before_revoke = ended.append
    await stage.engine._emergency.sweep()
    assert ended == []
    assert [one.version for one in stage.store.alive()] == [stage.store.get(rotation.id).new]


async def test_an_emergency_does_not_wait_for_a_rotation(stages: Stages) -> None:
    """Processes are killed before a rotation is stopped that may hang at a store."""
    stage = await begin(stages)
    rotation = await stage.engine.plan(ROLE, "upstream", reason="t", by="test")
    serving = list[str]()
    stop = stage.engine._worker.stop

    async def stopping(rotation_id: str) -> None:
        serving.append(stage.instances.serving)
        await stop(rotation_id)

    stage.issuer.before_revoke = lambda _: None
    stage.engine._worker.stop = stopping
    _ = await stage.engine.revoke_all([ROLE], reason="a leak", by="ann")
    assert serving == [""]
    assert stage.store.get(rotation.id).state is State.FAILED


async def test_a_busy_old_token_goes_when_the_overlap_is_over(stages: Stages) -> None:
    """Open streams keep the old token for the overlap, and no longer, whoever is awake."""
    stage = await begin(stages, "agent")
    stage.streams = 1
    began = stage.clock.now()
    rotation = await stage.rotate("agent")
    assert rotation.state is State.DONE
    assert stage.clock.now() - began >= timedelta(hours=1)
    old = stage.tokens.get(TokenId(rotation.old))
    assert old is not None
    assert old.retire_at is not None
    assert old.retire_at <= began + timedelta(hours=1, minutes=1)


async def test_emergency(stages: Stages) -> None:
    """Everything of a role is refused, cut, closed and seen dead; the receipt says so."""
    stage = await begin(stages)
    _, text = stage.desk.issue(AGENT, ROLE, timedelta(days=90))
    stage.instances.in_flight = 2
    stage.issuer.before_revoke = lambda _: None
    stage.instances.not_ready = 1
    receipt = await stage.engine.revoke_all([ROLE], reason="a leak", by="ann")
    with pytest.raises(TokenError):
        _ = stage.index.look(text.get_secret_value(), ROLE)
    assert stage.issuer.live() == set()
    assert stage.store.current(ROLE) is None
    assert stage.instances.using(ROLE) == {}
    assert (receipt["calls_cut"], receipt["streams_left"]) == (2, 0)
    assert isinstance(receipt["tokens"], list)
    assert isinstance(receipt["tokens"][0], dict)
    assert isinstance(receipt["tokens"][0]["refused_after_ms"], float)
    assert isinstance(receipt["upstream"], list)
    assert isinstance(receipt["upstream"][0], dict)
    assert receipt["upstream"][0]["proved"] is True
    assert stage.store.receipts() == (receipt,)
    await stage.engine.reopen(ROLE, "ann")
    rotation = await stage.engine.plan(ROLE, "upstream", reason="first", by="ann")
    await stage.engine.drive(rotation.id)
    assert stage.store.get(rotation.id).state is State.DONE
    version, _ = await stage.engine.credential(ROLE)
    assert stage.issuer.live() == {version}


async def test_emergency_in_a_rotation(stages: Stages) -> None:
    """A rotation under way is stopped; old and new credential end, and it says why."""
    stage = await begin(stages)
    stage.issuer.revoking = ["person"]
    rotation = await stage.rotate("upstream")
    assert rotation.state is State.HELD
    stage.issuer.before_revoke = lambda _: None
    _ = await stage.engine.revoke_all([ROLE], reason="a leak", by="ann")
    assert stage.issuer.live() == set()
    stopped = stage.store.get(rotation.id)
    assert (stopped.state, stopped.error) == (State.FAILED, "ended by revoke-all")


async def test_an_emergency_with_a_full_disk(
    stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is done that needs no disk, the receipt says so, and the rest is done when there is."""
    stage = await begin(stages)
    _, text = stage.desk.issue(AGENT, ROLE, timedelta(days=90))

    def fill(*_: object, **__: object) -> None:
        raise StateUnwritableError("the disk is full")

    monkeypatch.setattr(stage.tokens, "revoke", fill)
    monkeypatch.setattr(stage.store, "set_stages", fill)
    receipt = await stage.engine.revoke_all([ROLE], reason="a leak", by="ann")
    assert receipt["durable"] is False
    with pytest.raises(TokenError):
        _ = stage.index.look(text.get_secret_value(), ROLE)
    assert stage.instances.using(ROLE) == {}
    assert stage.issuer.live() == set()
    assert stage.store.receipts() == ()
    with pytest.raises(RotationError, match="not carried out to its end"):
        _ = await stage.engine.reopen(ROLE, "ann")
    monkeypatch.undo()
    stage.engine = stage.begin()
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(stage.engine.run)
            while stage.engine._emergency.under_way(ROLE):  # noqa: ASYNC110  nothing tells its end
                await anyio.sleep(0.01)
            [kept] = stage.store.receipts()
            assert (kept["id"], kept["durable"]) == (receipt["id"], True)
            with pytest.raises(RotationError, match="is closed and gets no credentials"):
                _ = await stage.engine.plan(ROLE, "agent", AGENT, reason="", by="ann")
            assert await stage.engine.reopen(ROLE, "ann")
            assert not await stage.engine.reopen(ROLE, "ann")
            group.cancel_scope.cancel()


async def test_an_emergency_goes_on_later(stages: Stages) -> None:
    """What an issuer does not end at once is looked at again until it is seen dead."""
    stage = await begin(stages)
    stage.issuer.before_revoke = lambda _: None
    stage.issuer.revoking = ["error"] * 60
    receipt = await stage.engine.revoke_all([ROLE], reason="a leak", by="ann")
    assert isinstance(receipt["upstream"], list)
    assert isinstance(receipt["upstream"][0], dict)
    assert receipt["upstream"][0]["proved"] is False
    assert any("not seen dead" in note for note in await stage.engine.notes())
    stage.issuer.revoking.clear()
    await stage.engine._emergency.sweep()
    assert stage.issuer.live() == set()
    assert stage.store.alive() == ()
    assert await stage.engine.notes() == ()


async def test_made_when_nobody_waited(stages: Stages) -> None:
    """What an issuer makes after the rotation was over is found by its name and ended."""
    stage = await begin(stages)
    stage.issuer.minting = ["timeout"]
    rotation = await stage.rotate("upstream")
    late = upstream_name(rotation, 1)
    _ = stage.issuer.make(late)
    await stage.engine._emergency.sweep()
    assert stage.issuer.live() == {rotation.new}


async def test_what_is_due_is_begun(stages: Stages) -> None:
    """A tick begins tokens that can be delivered and one upstream credential, once."""
    stage = await begin(stages)
    _ = stage.desk.issue(AGENT, ROLE, timedelta(days=90))
    _ = stage.desk.issue(AgentName("by-hand"), ROLE, timedelta(days=90))
    before = stage.ask("PRAGMA data_version")
    assert await stage.engine.tick("test") == ()
    assert stage.ask("PRAGMA data_version") == before
    stage.clock.move(89 * 86400)
    stage.engine = stage.begin()
    _ = await stage.engine.recover()
    begun = await stage.engine.tick("test")
    assert [(one.purpose, one.agent) for one in begun] == [("agent", AGENT), ("upstream", "")]
    assert await stage.engine.tick("test") == ()
    notes = " ".join(note for due in await stage.engine.due() for note in (due.note,))
    assert notes.count("under way") == 2
    await stage.engine.drive(begun[1].id)
    assert stage.store.get(begun[1].id).state is State.DONE


async def test_a_failure_stops_the_run(stages: Stages) -> None:
    """After a rotation failed, no upstream credential is touched for some hours."""
    stage = await begin(stages)
    stage.instances.not_ready = 99
    stage.clock.move(89 * 86400)
    stage.engine = stage.begin()
    _ = await stage.engine.recover()
    (failed,) = await stage.engine.tick("test")
    await stage.engine.drive(failed.id)
    assert stage.store.get(failed.id).state is State.FAILED
    assert await stage.engine.tick("test") == ()
    stage.instances.not_ready = 0
    stage.clock.move(7 * 3600)
    (again,) = await stage.engine.tick("test")
    await stage.engine.drive(again.id)
    assert stage.store.get(again.id).state is State.DONE


async def test_the_clock_is_set_back_and_forward(stages: Stages) -> None:
    """A clock that is set in the middle of a rotation neither ends nor stops it."""
    for leap in (timedelta(days=400), timedelta(days=-400)):
        stage = await begin(stages)
        rotation = await stage.engine.plan(ROLE, "upstream", reason="t", by="test")
        leaps = [leap]

        async def pause(
            seconds: float, wake: anyio.Event, stage: Stage = stage, leaps: list[timedelta] = leaps
        ) -> None:
            if leaps:
                stage.clock.time += leaps.pop()
            await stage.pause(seconds, wake)

        worker = stage.engine._worker
        worker._tools = replace(worker._tools, pause=pause)
        began = stage.clock.seconds
        await stage.engine.drive(rotation.id)
        stage.check_end(stage.store.get(rotation.id))
        assert stage.clock.seconds - began < 60


# What a person decides where an issuer is dead, gone, or does not say.


async def drive_until(stage: Stage, rotation: Rotation, seen: Callable[[Rotation], bool]) -> None:
    """Work on a rotation until it is somewhere, and stop as if the process ended there."""

    async def pause(seconds: float, wake: anyio.Event) -> None:
        if seen(stage.store.get(rotation.id)):
            raise Crash("seen")
        await stage.pause(seconds, wake)

    worker = stage.engine._worker
    usual, worker._tools = worker._tools, replace(worker._tools, pause=pause)
    with contextlib.suppress(Crash):
        await stage.engine.drive(rotation.id)
    worker._tools = usual


async def test_given_up_before_the_issuer_was_asked(stages: Stages) -> None:
    """A rotation that asked for nothing is given up without its issuer, dead as that may be."""
    stage = await begin(stages)
    without_overlap(stage)
    rotation = await stage.engine.plan(ROLE, "upstream", reason="t", by="test")

    async def busy(role: RoleName, seconds: float) -> None:
        raise WorkloadNotReadyError(f"calls of {role} did not end within {seconds} s")

    async def dead(prefix: str) -> Mapping[str, JsonObject]:
        raise IssuerError(f"it does not list {prefix}")

    stage.instances.hold = busy
    stage.issuer.list = dead
    stage.issuer.revoking = ["error"] * 99
    await drive_until(stage, rotation, lambda one: one.tries == 1)
    _ = await stage.engine.abort(rotation.id, "ann")
    await stage.engine.drive(rotation.id)
    rotation = stage.store.get(rotation.id)
    assert rotation.state is State.FAILED
    stage.check_end(rotation)
    assert "never asked" in str(_proof(rotation)["note"])


async def test_given_up_while_the_issuer_is_dead(stages: Stages) -> None:
    """Who asked an issuer that is dead now asks for ever, until a person vouches for it."""
    stage = await begin(stages)
    without_list(stage)
    stage.issuer.minting = ["timeout"] * 99
    stage.issuer.revoking = ["error"] * 99
    rotation = await stage.engine.plan(ROLE, "upstream", reason="t", by="test")
    await drive_until(stage, rotation, lambda one: one.state is State.ABORTING and one.tries > 9)
    (note,) = await stage.engine.notes()
    assert f"agents rotate approve-revoke {rotation.id}" in note
    _ = await stage.engine.approve_revoke(rotation.id, "ann")
    await stage.engine.drive(rotation.id)
    rotation = stage.store.get(rotation.id)
    assert rotation.state is State.FAILED
    stage.check_end(rotation)
    assert rotation.receipt is not None
    assert rotation.receipt["approved_by"] == "ann"
    assert rotation.receipt["approved"] == rotation.new
    assert _proof(rotation)["proved"] is False


async def test_vouched_for_where_the_list_cannot_be_had(stages: Stages) -> None:
    """With a person's word the orphans of a dead issuer are not looked for; the receipt says so."""
    stage = await begin(stages)
    stage.instances.not_ready = 99
    rotation = await stage.engine.plan(ROLE, "upstream", reason="t", by="test")
    await drive_until(stage, rotation, lambda one: one.state is State.STAGED and one.tries == 1)
    stage.issuer.end(stage.store.get(rotation.id).new)

    async def dead(prefix: str) -> Mapping[str, JsonObject]:
        raise IssuerError(f"it does not list {prefix}")

    stage.issuer.list = dead
    stage.issuer.revoking = ["error"] * 99
    stage.issuer.probing = [Verdict.UNKNOWN] * 99
    _ = await stage.engine.abort(rotation.id, "ann")
    _ = await stage.engine.approve_revoke(rotation.id, "bob")
    await stage.engine.drive(rotation.id)
    rotation = stage.store.get(rotation.id)
    assert rotation.state is State.FAILED
    stage.check_end(rotation)
    assert rotation.receipt is not None
    assert (rotation.receipt["approved_by"], rotation.receipt["not_looked_through"]) == (
        "bob",
        ["fake"],
    )
    assert "vouched" in str(_proof(rotation)["note"])


async def test_a_word_is_for_one_credential(stages: Stages) -> None:
    """Who vouched for a new credential that was lost did not vouch for the old one's end."""
    stage = await begin(stages)
    stage.issuer.can = Capabilities(overlap=True, revoke="manual", lists=False, probes=True)
    stage.issuer.minting = ["timeout"]
    stage.issuer.revoking = ["person"] * 99
    rotation = await stage.rotate("upstream")
    assert (rotation.state, rotation.held_at) == (State.HELD, State.MINTING)
    _ = await stage.engine.approve_revoke(rotation.id, "ann")
    await stage.engine.drive(rotation.id)
    rotation = stage.store.get(rotation.id)
    assert (rotation.state, rotation.held_at) == (State.HELD, State.REVOKING)
    assert f"end {rotation.old}" in rotation.held_for


async def test_nothing_to_vouch_for(stages: Stages) -> None:
    """Calls that do not end, and tokens, are nothing that a person can say is dead."""
    stage = await begin(stages)
    stage.instances.is_busy = True
    rotation = await stage.rotate("upstream")
    assert (rotation.state, rotation.held_at) == (State.HELD, State.SWITCHED)
    with pytest.raises(RotationUnknownError, match="does not wait for this"):
        _ = await stage.engine.approve_revoke(rotation.id, "ann")


async def test_trying_at_once_is_no_word(stages: Stages) -> None:
    """A try that a person hastens looks for what may have been made, as every other one."""
    stage = await begin(stages)
    stage.issuer.minting = ["timeout and made"]
    rotation = await stage.engine.plan(ROLE, "upstream", reason="t", by="test")
    await drive_until(stage, rotation, lambda one: one.tries == 1)
    lost = stage.store.get(rotation.id).new
    _ = await stage.engine.resume(rotation.id, "ann")
    await stage.engine.drive(rotation.id)
    rotation = stage.store.get(rotation.id)
    assert rotation.new != lost
    stage.check_end(rotation)


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("state", ["minting", "staged", "switched", "revoking"])
async def test_an_issuer_that_was_removed(stages: Stages, state: str, *, overlap: bool) -> None:
    """The rotation that needs it is held, with its name and the cure, and goes on with it."""
    stage = await begin(stages)
    if not overlap:
        without_overlap(stage)
    tell = stage.engine._worker._tools.tell

    def remove(told: Event) -> None:
        tell(told)
        if told.after == state:
            stage.is_applied = False

    stage.engine._worker._tools = replace(stage.engine._worker._tools, tell=remove)
    rotation = await stage.rotate("upstream")
    assert rotation.state is State.HELD
    assert "issuer fake is not applied any more" in rotation.held_for
    assert "agents.yaml" in rotation.held_for
    assert f"agents rotate resume {rotation.id}" in rotation.held_for
    assert rotation.tries == 0
    stage.engine._worker._tools = replace(stage.engine._worker._tools, tell=tell)
    stage.is_applied = True
    _ = await stage.engine.resume(rotation.id, "ann")
    await stage.engine.drive(rotation.id)
    rotation = stage.store.get(rotation.id)
    assert rotation.state is State.DONE
    stage.check_end(rotation)
    assert rotation.receipt is not None
    assert rotation.receipt["resumed_by"] == "ann"


async def test_an_issuer_that_does_not_come_back(stages: Stages) -> None:
    """Without its issuer a rotation is taken back, and over once a person vouches for it."""
    stage = await begin(stages)
    stage.issuer.minting = ["timeout"]
    rotation = await stage.engine.plan(ROLE, "upstream", reason="t", by="test")
    await drive_until(stage, rotation, lambda one: one.tries == 1)
    stage.is_applied = False
    await stage.engine.drive(rotation.id)
    assert stage.store.get(rotation.id).state is State.HELD
    _ = await stage.engine.abort(rotation.id, "ann")
    await stage.engine.drive(rotation.id)
    rotation = stage.store.get(rotation.id)
    assert (rotation.state, rotation.held_at) == (State.HELD, State.ABORTING)
    _ = await stage.engine.approve_revoke(rotation.id, "ann")
    await stage.engine.drive(rotation.id)
    rotation = stage.store.get(rotation.id)
    assert rotation.state is State.FAILED
    stage.check_end(rotation)
    assert "not applied" in str(_proof(rotation)["note"])


@pytest.mark.parametrize("act", ["resume", "provide", "abort"])
async def test_without_overlap_an_uncertain_mint_is_held(stages: Stages, act: str) -> None:
    """Where a new credential may have ended the old one, nobody gives up without having looked."""
    stage = await begin(stages)
    without_overlap(stage)
    stage.issuer.minting = ["timeout"] * 5
    rotation = await stage.rotate("upstream")
    assert (rotation.state, rotation.held_at) == (State.HELD, State.MINTING)
    assert rotation.old in rotation.held_for
    assert rotation.error == "it does not answer"
    assert stage.events[-1].alarm
    assert not stage.instances.is_held
    assert stage.issuer.live() == {rotation.old}
    if act == "resume":
        _ = await stage.engine.resume(rotation.id, "ann")
    elif act == "abort":
        _ = await stage.engine.abort(rotation.id, "ann")
    else:
        text = stage.issuer.make(rotation.new).text
        _ = await stage.engine.provide(rotation.id, SecretStr(text), "ann")
    await stage.engine.drive(rotation.id)
    rotation = stage.store.get(rotation.id)
    assert rotation.state is (State.FAILED if act == "abort" else State.DONE)
    stage.check_end(rotation)


async def test_without_overlap_a_refused_mint_is_given_up(stages: Stages) -> None:
    """An issuer that says no, and whose old credential works, made nothing: nobody need look."""
    stage = await begin(stages)
    without_overlap(stage)
    stage.issuer.minting = ["error"] * 5
    rotation = await stage.rotate("upstream")
    assert rotation.state is State.FAILED
    stage.check_end(rotation)


async def test_without_overlap_a_lie_is_found_out(stages: Stages) -> None:
    """An issuer that says no, and whose old credential is refused, did it all the same."""
    stage = await begin(stages)
    without_overlap(stage)
    stage.issuer.minting = ["error and made"] * 5
    rotation = await stage.rotate("upstream")
    assert (rotation.state, rotation.held_at) == (State.HELD, State.MINTING)


async def test_a_short_token_stays_short(stages: Stages) -> None:
    """A token of 30 days is followed by one of 30 days, or of less where the rule says so."""
    for given, every, wanted in ((30, 90, 30), (30, 20, 20), (90, 60, 60)):
        stage = await begin(stages, "agent")
        agent = AgentName(f"short{given}-{every}")
        _ = stage.desk.issue(agent, ROLE, timedelta(days=given))
        stage.rule = stage.rule.model_copy(
            update={"agent": AgentRotation(every=timedelta(days=every))}
        )
        rotation = await stage.engine.plan(ROLE, "agent", agent, reason="t", by="test")
        await drive_until(stage, rotation, lambda one: one.state is State.STAGED)
        new = stage.tokens.get(TokenId(stage.store.get(rotation.id).new))
        assert new is not None
        assert new.expires_at - new.created_at == timedelta(days=wanted)


@pytest.mark.parametrize("ends_after", [40, 999_999])
async def test_the_last_calls_of_a_token(stages: Stages, ends_after: int) -> None:
    """Calls that change something end by themselves after the overlap, or are cut in the end."""
    stage = await begin(stages, "agent")
    stage.streams = stage.changing = 2
    began = stage.clock.now()
    over = began + timedelta(hours=1)

    async def pause(seconds: float, wake: anyio.Event) -> None:
        await stage.pause(seconds, wake)
        (rotation,) = stage.store.unfinished()
        if stage.clock.now() > over + timedelta(seconds=60):
            with pytest.raises(TokenError):
                _ = stage.index.look_by_id(TokenId(rotation.old), ROLE)
        if stage.clock.now() >= over + timedelta(seconds=ends_after):
            stage.changing = 0

    worker = stage.engine._worker
    worker._tools = replace(worker._tools, pause=pause)
    rotation = await stage.rotate("agent")
    assert rotation.state is State.DONE
    took = stage.clock.now() - over
    assert timedelta(seconds=min(ends_after, 900)) <= took < timedelta(minutes=20)
    assert rotation.receipt is not None
    assert rotation.receipt["calls_waited_for"] == (2 if ends_after == 40 else 0)
    assert isinstance(rotation.receipt["waited_ms"], float)
    assert "calls_cut" in _proof(rotation)


async def test_a_life_that_the_issuer_limits_is_no_alarm(stages: Stages) -> None:
    """What lives as long as its issuer can have it is no shorter than planned."""
    stage = await begin(stages)
    stage.issuer.can = replace(GOOD, max_life=timedelta(days=30))
    stage.issuer.life = timedelta(days=30)
    rotation = await stage.rotate("upstream")
    assert rotation.state is State.DONE
    assert not rotation.error
    assert not any(one.alarm for one in stage.events)
    stage.issuer.life = timedelta(days=20)
    rotation = await stage.rotate("upstream")
    assert "shorter than planned" in rotation.error
    assert any(one.alarm for one in stage.events)


async def test_a_wrong_credential_is_handed_over(stages: Stages) -> None:
    """What the issuer refuses is refused at once, forgotten, and asked for once more."""
    stage = await begin(stages)
    stage.issuer.minting = ["person"]
    rotation = await stage.rotate("upstream")
    began = stage.clock.seconds
    _ = await stage.engine.provide(rotation.id, SecretStr("not the right one"), "ann")
    await stage.engine.drive(rotation.id)
    rotation = stage.store.get(rotation.id)
    assert (rotation.state, rotation.held_at) == (State.HELD, State.MINTING)
    assert "refuses" in rotation.held_for
    assert f"agents rotate provide {rotation.id}" in rotation.held_for
    assert stage.clock.seconds == began
    assert set(stage.vault.kept) == {rotation.old}
    text = stage.issuer.make(rotation.new).text
    _ = await stage.engine.provide(rotation.id, SecretStr(text), "ann")
    await stage.engine.drive(rotation.id)
    rotation = stage.store.get(rotation.id)
    assert rotation.state is State.DONE
    stage.check_end(rotation)
    assert rotation.receipt is not None
    assert rotation.receipt["provided_by"] == "ann"


@pytest.mark.parametrize("probes", [True, False])
async def test_a_word_about_an_emergency(stages: Stages, *, probes: bool) -> None:
    """What no request can end is ended by a person, whose name is in the receipt from then on."""
    stage = await begin(stages)
    stage.issuer.before_revoke = lambda _: None
    stage.issuer.can = Capabilities(overlap=True, revoke="manual", lists=False, probes=probes)
    stage.issuer.revoking = ["person"] * 99
    (version,) = stage.issuer.live()
    receipt = await stage.engine.revoke_all([ROLE], reason="a leak", by="ann")
    receipt_id = str(receipt["id"])
    assert any(f"approve-revoke {receipt_id}" in note for note in await stage.engine.notes())
    assert await stage.engine.vouch("0" * 12, "bob") is None
    if probes:
        with pytest.raises(RotationError, match="still accepted"):
            _ = await stage.engine.vouch(receipt_id, "bob")
        stage.issuer.end(version)
    told = await stage.engine.vouch(receipt_id, "bob")
    assert told is not None
    assert told["upstream"] == [
        {
            **cast("list[JsonObject]", receipt["upstream"])[0],
            "approved_by": "bob",
            "approved_at": stage.clock.now().isoformat(),
            "approved": version,
        }
    ]
    assert stage.store.receipts() == (told,)
    assert stage.store.alive() == ()
    assert stage.vault.kept == {}
    assert await stage.engine.notes() == ()
    assert stage.events[-1].approver == "bob"
    with pytest.raises(RotationUnknownError, match="waits for your word"):
        _ = await stage.engine.vouch(receipt_id, "bob")


def upstream_name(rotation: Rotation, attempt: int) -> str:
    """Tell what an issuer was asked for."""
    return making.name_of(rotation.role, rotation.id, attempt)


def _proof(rotation: Rotation) -> JsonObject:
    proof = (rotation.receipt or {})["proof"]
    assert isinstance(proof, dict)
    return proof
