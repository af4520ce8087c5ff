"""What the control plane has to know after a crash, in one file that is replaced whole."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar, final

from pydantic import Field, ValidationError

from orchestrator.errors import StateCorruptError, StateUnwritableError
from orchestrator.files import write_atomically
from orchestrator.model.audit import Audit
from orchestrator.model.base import JsonObject, Model
from orchestrator.model.desired import BootstrapSpec, CredentialPlan, GatewaySettings
from orchestrator.model.names import RoleField, RoleName, ServerField, ServerName, WorkloadName
from orchestrator.model.notify import NotifyPlan
from orchestrator.model.rotation import Closure
from orchestrator.model.snapshot import Era
from orchestrator.model.workload import WorkloadSpec

T = TypeVar("T")


class ProcessRecord(Model):
    """A launched process that answered its probe; enough to adopt it later.

    Attributes:
        pid: Process id.
        started: Start time in clock ticks since boot.
        boot_id: The machine's boot.
        directory: Directory of its FIFOs.
        era: Era in which it was opened.
        protocol_version: Revision agreed with it.
        server_info: What it said of itself.
        capabilities: What it said it can.
        instructions: What it said that models should know.
        owner: Whose alone it is; empty for everybody's.
        address: Where it serves HTTP; empty for a stdio server.
        restarts: Restarts of this generation so far.
        ready_at: When it became ready, in seconds since 1970.
        credential: Version of the issued credential that it was launched with; empty without one.
    """

    pid: int
    started: int
    boot_id: str
    directory: str
    era: Era
    protocol_version: str
    server_info: JsonObject
    capabilities: JsonObject = Field(default_factory=dict)
    instructions: str = ""
    owner: str = ""
    address: str = ""
    restarts: int = 0
    ready_at: float = 0.0
    credential: str = ""


class ControlState(Model):
    """The file's content.

    Attributes:
        format: Version of this layout; another one is refused.
        revision: Revision of the last snapshot that was published.
        gateway: How the gateway listens.
        port: The port that it got last; asked for again when it may be any.
        roles: What runs, by role, with its generation.
        bootstraps: What has to be done once, by server.
        bootstrapped: When the bootstrap was done, by server.
        generations: Highest generation ever given, by role.
        processes: Launched processes, by workload.
        eras: Era that each server turned out to speak, so that it is asked once.
        unspoken: Eras that a server turned out not to speak beside that.
        staged: Generation that is readied with another credential, by role.
        leaving: Generations that served before and finish what they have, by role.
        closed: Why roles were closed in an emergency; they stay so until they are opened again.
        closures: Orders to close roles that are not carried out to their end.
        credentials: Who makes credentials.
        notify: Who is told what happens.
        audit: How the record is kept.
    """

    format: Literal[1] = 1
    revision: int = 0
    gateway: GatewaySettings | None = None
    port: int = 0
    roles: dict[RoleField, WorkloadSpec] = Field(default_factory=dict)
    bootstraps: dict[ServerField, BootstrapSpec] = Field(default_factory=dict)
    bootstrapped: dict[ServerField, str] = Field(default_factory=dict)
    generations: dict[RoleField, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    processes: dict[WorkloadName, ProcessRecord] = Field(default_factory=dict)
    eras: dict[ServerField, Era] = Field(default_factory=dict)
    unspoken: dict[ServerField, Annotated[tuple[Era, ...], Field(strict=False)]] = Field(
        default_factory=dict
    )
    staged: dict[RoleField, WorkloadSpec] = Field(default_factory=dict)
    leaving: dict[RoleField, Annotated[tuple[WorkloadSpec, ...], Field(strict=False)]] = Field(
        default_factory=dict
    )
    closed: dict[RoleField, str] = Field(default_factory=dict)
    closures: Annotated[tuple[Closure, ...], Field(strict=False)] = ()
    credentials: CredentialPlan = CredentialPlan()
    notify: NotifyPlan = NotifyPlan()
    audit: Audit = Audit()


def read_state(path: Path) -> ControlState:
    """Read the state, or an empty one if there is none yet.

    Raises:
        StateCorruptError: The file is there and is not understood; nothing is changed.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return ControlState()
    except OSError as error:
        raise StateCorruptError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return ControlState.model_validate_json(content, strict=False)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise StateCorruptError(
            f"{path} is not understood ({place or 'whole file'}: {first['msg']})",
            hint="Run `agents down`, move the file away, then `agents up`; roles start afresh.",
        ) from error


@final
class StateFile:
    """The one writer of the state file; every change is on disk before `update` returns.

    Attributes:
        state: What is so.
        is_behind: Whether something of it that had to be so could not be written yet.
    """

    def __init__(self, path: Path) -> None:
        """Read what is there."""
        self._path = path
        self.state: ControlState = read_state(path)
        self.is_behind: bool = False

    def update(self, **fields: object) -> None:
        """Replace fields of the state.

        The values must be of the fields' types; the result is not validated again.

        Raises:
            StateUnwritableError: The disk is full or gone; nothing changed.
        """
        state = self.state.model_copy(update=fields)
        try:
            write_atomically(self._path, state.model_dump_json().encode())
        except OSError as error:
            raise StateUnwritableError(
                f"{self._path} cannot be written: {error.strerror}",
                hint="Make room on the disk; what runs, runs on.",
            ) from error
        self.state, self.is_behind = state, False

    def insist(self, **fields: object) -> None:
        """Replace fields of the state even where it cannot be written; `catch_up` tries again.

        Raises:
            StateUnwritableError: The disk is full or gone; it is so until this process ends.
        """
        self.state = self.state.model_copy(update=fields)
        self.is_behind = True
        self.update()

    def catch_up(self) -> None:
        """Write what could not be written before.

        Raises:
            StateUnwritableError: It still cannot.
        """
        if self.is_behind:
            self.update()

    def next_generation(self, role: RoleName) -> int:
        """Reserve the next generation of a role, for ever."""
        generation = self.state.generations.get(role, 0) + 1
        self.update(generations={**self.state.generations, role: generation})
        return generation

    def keep_process(self, workload: WorkloadName, record: ProcessRecord, **fields: object) -> None:
        """Remember a process that may get traffic from now on, and what else it brought to light.

        Args:
            workload: The workload.
            record: The process.
            fields: Further fields of the state, for `update`.
        """
        self.update(processes={**self.state.processes, workload: record}, **fields)

    def drop_process(self, workload: WorkloadName) -> None:
        """Forget a process that is gone."""
        if workload in self.state.processes:
            self.forget_process(workload)
            self.update()

    def forget_process(self, workload: WorkloadName) -> None:
        """Forget a process that is gone, on disk not before the next change.

        A record that a crash leaves there is not believed: no process fits it any more.
        """
        rest = {name: r for name, r in self.state.processes.items() if name != workload}
        self.state = self.state.model_copy(update={"processes": rest})

    def keep_only(self, workloads: Collection[WorkloadName]) -> None:
        """Forget every process but those of these workloads."""
        known = self.state.processes
        kept = {name: record for name, record in known.items() if name in workloads}
        if len(kept) < len(known):
            self.update(processes=kept)

    def forget_eras(self, server: ServerName) -> None:
        """Forget what a server spoke: it may be another program by now."""
        if server in self.state.eras or server in self.state.unspoken:
            eras, unspoken = dict(self.state.eras), dict(self.state.unspoken)
            _ = eras.pop(server, None)
            _ = unspoken.pop(server, None)
            self.update(eras=eras, unspoken=unspoken)

    def keep_role(self, role: RoleName, spec: WorkloadSpec) -> None:
        """Remember what a role runs."""
        self.update(roles={**self.state.roles, role: spec})

    def drop_role(self, role: RoleName) -> None:
        """Forget a role; that it was closed is remembered."""
        state = self.state
        self.update(
            roles=_without(state.roles, role),
            staged=_without(state.staged, role),
            leaving=_without(state.leaving, role),
        )

    def keep_staged(self, spec: WorkloadSpec) -> None:
        """Remember the generation that is readied with another credential."""
        self.update(staged={**self.state.staged, spec.role: spec})

    def drop_staged(self, role: RoleName) -> None:
        """Forget the generation that was readied."""
        if role in self.state.staged:
            self.update(staged=_without(self.state.staged, role))

    def switch(self, spec: WorkloadSpec, previous: WorkloadSpec) -> None:
        """Remember that the staged generation serves, and that the one before finishes."""
        role, state = spec.role, self.state
        self.update(
            roles={**state.roles, role: spec},
            staged=_without(state.staged, role),
            leaving={**state.leaving, role: (*state.leaving.get(role, ()), previous)},
        )

    def drop_leaving(self, spec: WorkloadSpec) -> None:
        """Forget a generation that is gone."""
        state = self.state
        left = tuple(
            one for one in state.leaving.get(spec.role, ()) if one.generation != spec.generation
        )
        rest = _without(state.leaving, spec.role)
        self.update(leaving={**rest, spec.role: left} if left else rest)

    def close(self, role: RoleName, reason: str) -> None:
        """Remember that a role is closed, with nothing of it running; in memory in any case.

        Raises:
            StateUnwritableError: It would be forgotten with this process.
        """
        state = self.state
        self.insist(
            closed={**state.closed, role: reason},
            staged=_without(state.staged, role),
            leaving=_without(state.leaving, role),
        )

    def begin_closure(self, closure: Closure) -> None:
        """Remember an order to close roles, and that they are closed; in memory in any case.

        Raises:
            StateUnwritableError: It would be forgotten with this process.
        """
        others = tuple(one for one in self.state.closures if one.id != closure.id)
        closed = self.state.closed
        self.insist(
            closures=(*others, closure),
            closed={**closed, **dict.fromkeys(closure.roles, closure.reason)},
        )

    def unfinished_closures(self) -> tuple[Closure, ...]:
        """Tell the orders to close roles that are not carried out to their end."""
        return self.state.closures

    def finish_closure(self, closure: Closure) -> None:
        """Forget an order that was carried out; the roles stay closed.

        Raises:
            StateUnwritableError: It is not forgotten, and carried out once more.
        """
        self.update(closures=tuple(one for one in self.state.closures if one.id != closure.id))

    def reopen(self, role: RoleName) -> None:
        """Forget that a role was closed."""
        if role in self.state.closed:
            self.update(closed=_without(self.state.closed, role))


def _without(kept: Mapping[RoleName, T], role: RoleName) -> dict[RoleName, T]:
    return {name: value for name, value in kept.items() if name != role}
