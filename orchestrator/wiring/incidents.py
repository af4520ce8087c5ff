"""Incidents and those who are told: put together before the gateway listens."""

from collections.abc import Callable
from typing import NamedTuple

from pydantic import SecretStr
from structlog.typing import FilteringBoundLogger

from orchestrator.clock import Clock
from orchestrator.control.incident_orders import IncidentOrders
from orchestrator.control.incident_steps import Means, Steps
from orchestrator.control.incidents import Incidents
from orchestrator.control.state import StateFile
from orchestrator.database import Database
from orchestrator.guards.cases import IncidentStore
from orchestrator.guards.desk import GuardDesk
from orchestrator.model.names import RoleName
from orchestrator.model.notes import Notes
from orchestrator.model.secret import SecretRef
from orchestrator.notify.post import Postman
from orchestrator.paths import Paths
from orchestrator.tokens.desk import TokenDesk
from orchestrator.wiring.notifying import Ways


class Alarm(NamedTuple):
    """What is there for bad days.

    Attributes:
        incidents: The incidents.
        postman: Tells people.
        orders: What the control socket asks.
    """

    incidents: Incidents
    postman: Postman
    orders: IncidentOrders


def open_alarm(  # noqa: PLR0913  the parts that it brings together
    *,
    paths: Paths,
    database: Database,
    state: StateFile,
    guards: GuardDesk,
    tokens: TokenDesk,
    cut: Callable[[RoleName], int],
    look_up: Callable[[SecretRef], SecretStr],
    notes: Notes,
    clock: Clock,
    log: FilteringBoundLogger,
    operator: str,
) -> Alarm:
    """Read the incidents, and refuse what is at the role of an open one; blocks.

    Args:
        paths: Where the project keeps what.
        database: Where incidents are kept.
        state: Knows what is applied.
        guards: Freezes and thaws.
        tokens: Ends and issues tokens.
        cut: Ends every request and stream at a role.
        look_up: Tells what a reference stands for; may block.
        notes: Keeps what people decide.
        clock: Where time comes from.
        log: Structured log.
        operator: Whoever gives orders here.

    Raises:
        StateUnwritableError: The database cannot be used now.
        StateCorruptError: An incident in it is not understood.
    """
    postman = Postman(lambda: state.state.notify.targets, Ways(paths, look_up, clock).to, log)
    store = IncidentStore(database)
    steps = Steps(
        Means(
            guards=guards,
            tokens=tokens,
            cut=cut,
            notifier=postman,
            owner_of=lambda role: state.state.notify.owners.get(role, ""),
            is_closed=lambda role: role in state.state.closed,
            record=paths.audit,
            folder=paths.incidents,
            clock=clock,
        )
    )
    known = store.load()
    for incident in known:
        steps.hold_again(incident)
    incidents = Incidents(known, steps=steps, store=store, notes=notes, clock=clock, log=log)
    orders = IncidentOrders(incidents, postman, lambda: state.state.roles, operator)
    return Alarm(incidents, postman, orders)
