"""What everything that keeps processes works with."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from pydantic import SecretStr
from structlog.typing import FilteringBoundLogger

from orchestrator.clock import Clock
from orchestrator.control.pinbook import PinBook
from orchestrator.control.publish import Publisher
from orchestrator.control.state import ProcessRecord, StateFile
from orchestrator.model.base import JsonObject
from orchestrator.model.names import SecretName
from orchestrator.model.notes import Mention, mention_nothing
from orchestrator.model.rotation import Check
from orchestrator.model.server import EraChoice
from orchestrator.model.snapshot import Era
from orchestrator.model.workload import WorkloadSpec
from orchestrator.runtimes.base import Process, Runtime
from orchestrator.runtimes.probe import Attested


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a workload is launched with beside its spec.

    Attributes:
        values: Values of its secrets, complete.
        credential: Version of the issued credential that they hold; empty if they hold none.
    """

    values: Mapping[SecretName, SecretStr]
    credential: str = ""


@dataclass(frozen=True, slots=True)
class Services:
    """Other parts, and a few settings.

    Attributes:
        runtime: The engine.
        publisher: Where routes go.
        state: What survives a crash.
        pins: Which tool definitions were accepted.
        probe: Asks a process for its tools over its own channel, while the gateway does not know
            it; a record says that it was opened already.
        check: Calls a tool of a process that was probed, over the same channel, as long as the
            gateway does not know it.
        secrets: Resolves the secrets of a spec, with exactly the credential that it names if it
            names one; raises SecretError, or RotationError while there is none.
        log_of: Tells where a role's instance writes its log.
        clock: Time.
        log: Structured log.
        changed: Called after every change that a person would see.
        mention: Keeps for the record what happened.
        secret_poll_seconds: How often a role looks for a secret that was missing.
        lane_idle: How long a lane lives on when nobody calls it.
        most_owners: How many owners of one role may have processes of their own.
    """

    runtime: Runtime
    publisher: Publisher
    state: StateFile
    pins: PinBook
    probe: Callable[[Process, WorkloadSpec, EraChoice, ProcessRecord | None], Awaitable[Attested]]
    check: Callable[[Process, Era, Check], Awaitable[JsonObject]]
    secrets: Callable[[WorkloadSpec], Awaitable[Resolved]]
    log_of: Callable[[str], Path]
    clock: Clock
    log: FilteringBoundLogger
    changed: Callable[[], None]
    mention: Mention = mention_nothing
    secret_poll_seconds: float = 5.0
    lane_idle: timedelta = timedelta(minutes=10)
    most_owners: int = 32
