"""What a project runs right now, as `agents status --json` prints it."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from orchestrator.model.base import Model
from orchestrator.model.names import RoleField, ToolField, WorkloadName
from orchestrator.model.rotation import Purpose, Rotation
from orchestrator.model.server import ToolClass
from orchestrator.model.workload import Phase


class ProcessStatus(Model):
    """A further process of a role: its spare, or a lane.

    Attributes:
        workload: Its name.
        state: Where it stands.
        detail: Why it is not ready, in a sentence; empty when it is.
        era: The protocol era that it speaks; empty while nobody knows.
        owner: Whose alone it is, an agent or the key of a session; empty for everybody's.
        pid: The process, or None.
        restarts: How often it came back.
        uptime_seconds: How long it has been ready, or None.
        credential: Version of the issued credential that it was started with; empty without one.
    """

    workload: WorkloadName
    state: Phase
    detail: str = ""
    era: str = ""
    owner: str = ""
    pid: int | None = None
    restarts: int = 0
    uptime_seconds: float | None = None
    credential: str = ""


class CredentialStatus(Model):
    """A credential that is current: how old it is, and when it is replaced.

    Attributes:
        role: The role.
        purpose: `agent` for a token, `upstream` for what the role's server shows others.
        agent: Whose token it is; empty for `upstream`.
        credential: The token's id, or the version.
        issued_at: When it was made.
        expires_at: When it ends by itself, None if it does not.
        due_at: When it is replaced.
        is_due: Whether that is now.
        warning: `14d`, `7d`, `3d`, `1d` or `overdue` when its end is that near, else None.
        by_hand: Whether a person has to hand the new one over.
        note: What else a person should know.
    """

    role: RoleField
    purpose: Purpose
    agent: str = ""
    credential: str
    issued_at: datetime
    expires_at: datetime | None = None
    due_at: datetime
    is_due: bool = False
    warning: str | None = None
    by_hand: bool = False
    note: str = ""


class CredentialsReport(Model):
    """All credentials of a project at one moment.

    Attributes:
        credentials: Those that are current.
        rotations: Those that are being replaced.
        notes: What a person should know.
    """

    credentials: Annotated[tuple[CredentialStatus, ...], Field(strict=False)] = ()
    rotations: Annotated[tuple[Rotation, ...], Field(strict=False)] = ()
    notes: Annotated[tuple[str, ...], Field(strict=False)] = ()


class RoleStatus(Model):
    """One role.

    Attributes:
        role: Its name.
        state: Where it stands.
        detail: Why it is not ready, in a sentence; empty when it is.
        hint: What to do about it; empty when there is nothing to do.
        settled: Whether this state stays until something new happens.
        server: The server behind it.
        bands: Bands by name.
        mode: Mode of the server.
        tools: Attested tools, in the server's order; empty until it is ready.
        missing: Promised tools that the live server does not show.
        held: Tools that agents do not get, as their definitions are not those that are pinned.
        classes: Class of each promised tool.
        pid: Process of the instance that serves, or None.
        generation: Generation of the instance.
        restarts: How often it came back since this generation began.
        uptime_seconds: How long the process has been ready, or None.
        retry_in_seconds: When the next start is tried, or None.
        instances: Who may share a process.
        spare: The process that stands by, where the role has one.
        lanes: Further processes that were started on demand, by name.
        leaving: Processes of earlier generations that finish what they have.
        credential: Version of the issued credential that the process was started with; empty
            without one.
        url: Where agents reach it.
        credentials: Its current credentials.
    """

    role: RoleField
    state: Phase
    detail: str = ""
    hint: str = ""
    settled: bool = False
    server: str
    bands: Annotated[tuple[str, ...], Field(strict=False)]
    mode: str
    tools: Annotated[tuple[str, ...], Field(strict=False)] = ()
    missing: Annotated[tuple[str, ...], Field(strict=False)] = ()
    held: Annotated[tuple[str, ...], Field(strict=False)] = ()
    classes: dict[ToolField, ToolClass] = Field(default_factory=dict)
    pid: int | None = None
    generation: int
    restarts: int = 0
    uptime_seconds: float | None = None
    retry_in_seconds: float | None = None
    instances: str = "per-role"
    spare: ProcessStatus | None = None
    lanes: Annotated[tuple[ProcessStatus, ...], Field(strict=False)] = ()
    leaving: Annotated[tuple[ProcessStatus, ...], Field(strict=False)] = ()
    credential: str = ""
    url: str = ""
    credentials: Annotated[tuple[CredentialStatus, ...], Field(strict=False)] = ()


class GatewayStatus(Model):
    """The gateway.

    Attributes:
        url: Where it listens, empty while it does not.
        ready: Whether it takes calls.
        detail: Why it does not, in a sentence.
    """

    url: str
    ready: bool
    detail: str = ""


class ProjectStatus(Model):
    """The whole project.

    Attributes:
        running: Whether the engine and the daemon run.
        project: The project directory.
        pid: The daemon.
        gateway: The gateway.
        roles: Every role that is applied, by name.
        rotations: Credentials that are being replaced.
        notes: What else a person should know, such as a bootstrap under way.
    """

    running: bool = True
    project: str
    pid: int | None = None
    gateway: GatewayStatus
    roles: Annotated[tuple[RoleStatus, ...], Field(strict=False)]
    rotations: Annotated[tuple[Rotation, ...], Field(strict=False)] = ()
    notes: Annotated[tuple[str, ...], Field(strict=False)] = ()
