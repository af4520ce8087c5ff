"""What a role file may say."""

from datetime import timedelta
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StringConstraints

from orchestrator.model.base import Duration, Model, PositiveDuration
from orchestrator.model.container import DestinationField
from orchestrator.model.names import (
    BandField,
    BandName,
    RoleField,
    SecretField,
    ServerField,
    ToolField,
    UserField,
)
from orchestrator.model.reference import SecretRefField
from orchestrator.model.rotation import RotationRule
from orchestrator.model.rules import Approvals, Limits, Readable, ShadowRule, Sharing, Sum, ToolRule

Mode: TypeAlias = Literal["agent", "owner"]
Kind: TypeAlias = Literal["process", "container"]
Standby = Annotated[int, Field(ge=0, le=1)]
Sentence = Annotated[str, StringConstraints(min_length=3, max_length=500)]


class Restart(Model):
    """How a crashed instance comes back.

    Attributes:
        backoff: Delay before the second restart in a row; the first is immediate. It doubles.
        backoff_max: Where the doubling ends.
        give_up_after: Failures in a row after which nobody tries again until a person asks;
            0 never gives up.
        stable_after: How long an instance has to be ready before its failures are forgotten.
    """

    backoff: PositiveDuration = timedelta(milliseconds=250)
    backoff_max: PositiveDuration = timedelta(seconds=60)
    give_up_after: Annotated[int, Field(ge=0, le=1000)] = 0
    stable_after: Duration = timedelta(seconds=30)


class Role(Model):
    """One role: which server, which bands of it, in which mode, with which secrets.

    Attributes:
        role: Name, also the file's name, the URL's first part and the workload's.
        justification: Why the role needs what it has; shown in reports.
        owner: Whom to ask about it.
        server: The server file to launch, by name.
        bands: Names of the server's bands, or `full` for all of them.
        mode: Whose mode the server runs in, where it knows the difference.
        runtime: What its instances are: a `process` of this machine, or a `container` of its engine
            for containers, as the server file describes it.
        egress: Hosts and ports, such as `api.example.com:443`, that its containers may reach; none
            by default. A process can reach whatever this machine can.
        env: Plain variables for the instance; never a secret.
        secrets: Variables whose values are resolved at launch.
        restart: How a crashed instance comes back.
        instances: Who may share a process of the server: all agents of the role, the calls of one
            agent, or those of one session. Up to 32 agents or sessions have one at a time, and
            what it keeps in files they share all the same.
        standby: Warm spares; 1 keeps a second process ready that takes over at once.
        limits: How much may happen: rates, concurrency, waiting calls.
        tools: How single tools of its bands are narrowed.
        sums: What arguments may add up to.
        approval: Calls that people have to approve, each once: of a class (`read`, `write`,
            `destructive`), of a tool by name, or an object with `class:` or `tool:`, `quorum:` and
            `expires:`.
        shadow: Calls that are recorded and not made, for a time.
        resources: URIs, or templates with `{name}` for one path segment, that may be read, or
            `all`. None are shown unless named here.
        prompts: Prompts that may be had, or `all`. None are shown unless named here.
        rotation: How its credentials are replaced before they grow old.
        user: The unix user that its instances run as; it has to exist, and everything else has to
            be started as root. `agents up --users` makes one for each role that names none.
    """

    role: RoleField
    justification: Sentence
    owner: Sentence
    server: ServerField
    bands: Annotated[tuple[BandField, ...], Field(min_length=1, strict=False)] | Literal["full"]
    mode: Mode = "agent"
    runtime: Kind = "process"
    egress: Annotated[tuple[DestinationField, ...], Field(strict=False)] = ()
    env: dict[SecretField, str] = Field(default_factory=dict)
    secrets: dict[SecretField, SecretRefField] = Field(default_factory=dict)
    restart: Restart = Restart()
    instances: Sharing = "per-role"
    standby: Standby = 0
    limits: Limits = Limits()
    tools: dict[ToolField, ToolRule] = Field(default_factory=dict)
    sums: Annotated[tuple[Sum, ...], Field(strict=False)] = ()
    approval: Approvals = ()
    shadow: ShadowRule | None = None
    resources: Readable = ()
    prompts: Readable = ()
    rotation: RotationRule = RotationRule()
    user: UserField | None = None

    @property
    def band_names(self) -> tuple[BandName, ...] | None:
        """The bands by name, or None for all."""
        return None if self.bands == "full" else tuple(self.bands)
