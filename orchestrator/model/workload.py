"""One instance: as it should be, and as the engine sees it."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from orchestrator.model.base import Model
from orchestrator.model.container import ContainerSpec
from orchestrator.model.names import (
    PART_PATTERN,
    RoleField,
    SecretField,
    ServerField,
    ToolField,
    WorkloadName,
    workload_name,
)
from orchestrator.model.reference import SecretRefField
from orchestrator.model.role import Mode, Restart, Standby
from orchestrator.model.rotation import RotationRule
from orchestrator.model.rules import OPEN_TO_TOOLS, RolePolicy, Sharing
from orchestrator.model.server import EraChoice, Listening, Probe, Stop, ToolClass


class Phase(StrEnum):
    """Where a role's instance stands, as a person reads it."""

    STOPPED = "stopped"
    BLOCKED = "blocked"  # something it needs is missing: a secret, its program
    STARTING = "starting"
    READY = "ready"
    BACKOFF = "backoff"  # crashed, next try is set
    CRASH_LOOPING = "crash-looping"  # crashed again and again, still tried at the longest delay
    QUARANTINED = "quarantined"  # shows tools that it must not have; no traffic, not running
    FAILED = "failed"  # given up, until a person asks again
    DRAINING = "draining"


class HttpServing(Model):
    """How a server that speaks HTTP listens.

    Attributes:
        listen: On a unix socket, or on a port of 127.0.0.1.
        path: Path of its URL.
    """

    listen: Listening
    path: str


class WorkloadSpec(Model):
    """One instance as it should run; no secret's value is in it, so it may be kept on disk.

    Attributes:
        role: The role that it serves.
        server: The server that it runs.
        generation: Grows with every change of the rest that needs other processes.
        part: Which of the generation's processes this is: empty for the first, else its second
            one or a lane (see `model.names`).
        bands: Bands by name, in the server's order.
        mode: Whose mode it runs in.
        argv: Resolved program, absolute, and arguments. `{socket}` or `{port}` in them and in `env`
            is filled in at each launch of a server that speaks HTTP. In a container the program is
            one of its image; empty for the image's own.
        directory: Absolute working directory; empty for the one that an image names.
        env: The whole plain environment of the process, baseline included; that of a container
            is added to what its image says.
        secrets: Variables whose values are resolved at launch.
        tools: Tools that the role was promised, with their class.
        known: Every tool that the server file names.
        cut: Whether the gateway cuts the list (the server has no bands of its own).
        era: Which protocol era to speak.
        restart: How it comes back after a crash.
        probe: When it is ready and alive.
        stop: How it is stopped.
        sharing: Who may share a process.
        standby: How many warm spares stand by.
        policy: What calls may do; of no concern to the process, but for what it may ask.
        http: How it listens, if it speaks HTTP; None if it speaks over stdin and stdout.
        rotation: How its credentials are replaced; of no concern to the process.
        credential: The version of the role's issued credential that it is launched with; empty for
            whichever is current at that moment.
        user: The unix user that it runs as; empty for the one that everything else runs as.
        container: The container that it runs in, None for a process of this machine.
        attached: URL of a server that somebody else runs in its place; empty if it is ours to run.
    """

    role: RoleField
    server: ServerField
    generation: Annotated[int, Field(ge=1)] = 1
    part: Annotated[str, StringConstraints(pattern=PART_PATTERN)] = ""
    bands: Annotated[tuple[str, ...], Field(strict=False)]
    mode: Mode
    argv: Annotated[tuple[str, ...], Field(strict=False)]
    directory: str
    env: dict[SecretField, str]
    secrets: dict[SecretField, SecretRefField]
    tools: dict[ToolField, ToolClass]
    known: Annotated[frozenset[ToolField], Field(strict=False)]
    cut: bool
    era: EraChoice
    restart: Restart
    probe: Probe
    stop: Stop
    sharing: Sharing = "per-role"
    standby: Standby = 0
    policy: RolePolicy = OPEN_TO_TOOLS
    http: HttpServing | None = None
    rotation: RotationRule = RotationRule()
    credential: str = ""
    user: str = ""
    container: ContainerSpec | None = None
    attached: str = ""

    @property
    def name(self) -> WorkloadName:
        """The workload's name: `role.server.gN`, and `.PART` but for the first process."""
        return workload_name(self.role, self.server, self.generation, self.part)


class EngineState(StrEnum):
    """What the engine says of a workload; it knows nothing of readiness."""

    ABSENT = "absent"
    STOPPED = "stopped"
    RUNNING = "running"
    STOPPING = "stopping"
    FAILED = "failed"


class WorkloadStatus(Model):
    """One instance as the engine sees it.

    Attributes:
        name: The workload.
        state: What the engine says.
        pid: Its process, 0 when there is none.
        waiting: Whether that process is still the seat, waiting for its launch frame.
    """

    name: WorkloadName
    state: EngineState
    pid: int = 0
    waiting: bool = False


class WorkloadExit(Model):
    """The end of one process of a workload.

    Attributes:
        name: The workload.
        pid: The process that ended.
        code: Exit code, or minus the signal's number; None when the engine could not tell.
        peak_kb: Largest resident size in kilobytes, 0 when unknown.
        cause: Why it ended, in words, where the engine knows more than the code says.
    """

    name: WorkloadName
    pid: int
    code: int | None
    peak_kb: int = 0
    cause: str = ""
