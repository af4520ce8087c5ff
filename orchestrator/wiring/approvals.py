"""What people approve: put together before the gateway listens."""

from typing import NamedTuple, final

from typing_extensions import override

from orchestrator.approvals.desk import ApprovalDesk
from orchestrator.approvals.links import Links
from orchestrator.approvals.orders import ApprovalOrders, Policies
from orchestrator.approvals.people import People
from orchestrator.approvals.roster import Roster
from orchestrator.approvals.store import ApprovalStore
from orchestrator.clock import Clock
from orchestrator.control.publish import Publisher
from orchestrator.database import Database
from orchestrator.model.approval import Demand
from orchestrator.model.names import RoleName, ToolName
from orchestrator.model.notes import Notes
from orchestrator.paths import Paths
from orchestrator.policy.approval import demands_of
from orchestrator.policy.revision import revision_of


@final
class PublishedPolicies(Policies):
    """The policies of what is published just now."""

    def __init__(self, publisher: Publisher) -> None:
        """Tell what this one publishes."""
        self._publisher = publisher

    @override
    def revision(self, role: RoleName) -> str | None:
        route = self._publisher.snapshot.routes.get(role)
        return None if route is None else revision_of(route.policy, route.tools, route.classes)

    @override
    def demand(self, role: RoleName, tool: ToolName) -> Demand | None:
        route = self._publisher.snapshot.routes.get(role)
        if route is None:
            return None
        return demands_of(route.policy.approval, route.classes).get(tool)

    @override
    def demands(self) -> list[tuple[RoleName, ToolName, Demand]]:
        return [
            (role, tool, demand)
            for role, route in self._publisher.snapshot.routes.items()
            for tool, demand in demands_of(route.policy.approval, route.classes).items()
        ]


class Approving(NamedTuple):
    """What people approve.

    Attributes:
        desk: What the gateway asks.
        orders: What the control socket asks.
        links: Makes and reads links to approvals.
    """

    desk: ApprovalDesk
    orders: ApprovalOrders
    links: Links


def open_approving(  # noqa: PLR0913, PLR0917  the parts that it brings together
    paths: Paths,
    database: Database,
    publisher: Publisher,
    clock: Clock,
    notes: Notes,
    operator: str,
) -> Approving:
    """Open the approvals of a project; blocks.

    Args:
        paths: Where the project keeps what.
        database: Where approvals are kept.
        publisher: Knows the policies of today.
        clock: Where time comes from.
        notes: Keeps what people decide.
        operator: Name of whoever gives orders on this machine.
    """
    policies = PublishedPolicies(publisher)
    links = Links(paths.link_key, clock.now)
    desk = ApprovalDesk(ApprovalStore(database), clock, notes, policies.revision)
    orders = ApprovalOrders(
        desk=desk,
        people=People(Roster(database), clock, notes, operator),
        links=links,
        policies=policies,
        clock=clock,
        notes=notes,
    )
    return Approving(desk, orders, links)
