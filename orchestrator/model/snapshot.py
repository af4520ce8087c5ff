"""The immutable view that a gateway serves from.

Control builds it, the gateway swaps to it; nothing else is shared between the two.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias

from orchestrator.model.base import Json, JsonObject
from orchestrator.model.names import RoleName, ServerName, ToolName, WorkloadName
from orchestrator.model.rules import OPEN_TO_TOOLS, RolePolicy, Sharing
from orchestrator.model.server import ToolClass

Era: TypeAlias = Literal["legacy", "modern"]


@dataclass(frozen=True, slots=True)
class TargetRef:
    """How the gateway reaches one running process.

    Attributes:
        workload: The workload.
        pid: The process; with the workload's name it identifies one incarnation.
        directory: Directory that holds the two FIFOs `in` and `out`.
        era: The era that the process was opened in by its readiness probe.
        protocol_version: The revision agreed with it.
        server_info: What it said of itself (`name`, `version`, ...), a claim.
        capabilities: What it said that it can do, a claim.
        instructions: What it said that models should know, a claim; empty if it said nothing.
        owner: Whose alone it is: empty for everybody's, else an agent's name or a session's key.
        address: Where it serves HTTP: `http://HOST:PORT/PATH`, or `unix:SOCKET:/PATH`; empty when
            it is reached by its FIFOs.
    """

    workload: WorkloadName
    pid: int
    directory: str
    era: Era
    protocol_version: str
    server_info: JsonObject
    capabilities: JsonObject = field(default_factory=dict[str, Json])
    instructions: str = ""
    owner: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """One role's way to its instance.

    Attributes:
        role: The role, first part of the URL.
        server: The server behind it.
        target: The process, or None while there is none that may take calls.
        tools: Attested tools as the server described them, in its order, cut to the role.
        classes: Class of each of these tools.
        reason: Why there is no target, in a person's words; empty when there is one.
        waits: Whether a call may wait a moment for a target, as one is on its way.
        lanes: Further processes that may take calls: of the other era, or of one owner.
        sharing: Who may share a process.
        mirrors: Eras for which a process of its own can be had, that of `target` included.
        refused: Why there is no process for an era and an owner that somebody asked for.
        policy: What calls may do beyond which tools they name.
        leaving: Processes that take no new calls, but what goes on with calls that they had.
        closed: Whether the role was closed in an emergency; then it has no process at all.
    """

    role: RoleName
    server: ServerName
    target: TargetRef | None
    tools: tuple[JsonObject, ...] = ()
    classes: Mapping[ToolName, ToolClass] = field(default_factory=lambda: MappingProxyType({}))
    reason: str = ""
    waits: bool = False
    lanes: tuple[TargetRef, ...] = ()
    sharing: Sharing = "per-role"
    mirrors: frozenset[Era] = frozenset()
    refused: Mapping[tuple[Era, str], str] = field(default_factory=lambda: MappingProxyType({}))
    policy: RolePolicy = OPEN_TO_TOOLS
    leaving: tuple[TargetRef, ...] = ()
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All routes at one moment.

    Attributes:
        revision: Grows with every change.
        routes: Route of every role that the project runs.
    """

    revision: int
    routes: Mapping[RoleName, Route]


EMPTY = Snapshot(0, MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Pulse:
    """What the gateway knows of a target's life.

    Attributes:
        heard: Monotonic seconds of the last byte that came from it.
        in_flight: Calls that wait for its answer.
        oldest_call: Monotonic seconds at which the oldest of these was sent, or None.
        last_call: Monotonic seconds at which a caller last claimed it or let go of it.
    """

    heard: float
    in_flight: int
    oldest_call: float | None
    last_call: float = 0.0
