"""What is held leaves the route, and is told in words."""

from collections.abc import Callable
from types import MappingProxyType

import pytest

from orchestrator.control.pins import Held
from orchestrator.control.release import release, tell
from orchestrator.model.names import RoleName, ServerName, ToolName, WorkloadName
from orchestrator.model.snapshot import Route, TargetRef
from orchestrator.model.status import RoleStatus
from orchestrator.model.workload import Phase, WorkloadSpec

MakeSpec = Callable[..., WorkloadSpec]
LIST, ORDER = ToolName("list_goods"), ToolName("order_goods")


def target(part: str = "") -> TargetRef:
    """Make a process."""
    name = WorkloadName(f"reader.shop.g1{part}")
    return TargetRef(name, 7, "/run", "legacy", "2025-11-25", {}, instructions="Be kind.")


ROUTE = Route(
    RoleName("reader"),
    ServerName("shop"),
    target(),
    ({"name": "list_goods"}, {"name": "order_goods"}),
    MappingProxyType({LIST: "READ", ORDER: "WRITE"}),
    lanes=(target(".m"),),
)


def test_nothing_held_is_the_same_route() -> None:
    """Whoever compares finds that nothing changed."""
    assert release(ROUTE, Held()) is ROUTE


def test_held_tools_are_not_in_the_route() -> None:
    """The others are, as they were, and so are the processes."""
    cut = release(ROUTE, Held((LIST,)))
    assert cut.tools == ({"name": "order_goods"},)
    assert cut.tools[0] is ROUTE.tools[1]
    assert (cut.target, cut.lanes) == (ROUTE.target, ROUTE.lanes)


def test_held_instructions_are_in_no_target() -> None:
    """Neither in the role's own process nor in a lane; a role without a process has none."""
    cut = release(ROUTE, Held((), instructions=True))
    assert cut.tools == ROUTE.tools
    assert [ref.instructions for ref in (cut.target, *cut.lanes) if ref] == ["", ""]
    away = Route(RoleName("reader"), ServerName("shop"), None)
    assert release(away, Held((), instructions=True)).target is None


@pytest.mark.parametrize(
    ("held", "detail"),
    [
        (Held((LIST,)), "1 tool held: list_goods"),
        (Held((LIST, ORDER)), "2 tools held: list_goods, order_goods"),
        (Held((), instructions=True), "its instructions are held"),
        (Held((LIST,), instructions=True), "1 tool held: list_goods and its instructions"),
    ],
)
def test_the_status_says_what_is_held(make_spec: MakeSpec, held: Held, detail: str) -> None:
    """The state stays ready; the detail names what is held, and where to look."""
    status = RoleStatus(
        role=RoleName("reader"),
        state=Phase.READY,
        server="shop",
        bands=("look",),
        mode="agent",
        tools=("list_goods", "order_goods"),
        generation=1,
    )
    told = tell(status, make_spec(), held)
    assert told.state is Phase.READY
    assert told.detail == f"{detail}; see `agents pins diff reader`"
    assert set(told.tools) == {LIST, ORDER} - set(held.tools)
    assert told.classes == {"list_goods": "READ", "order_goods": "WRITE"}
    away = status.model_copy(update={"state": Phase.BACKOFF, "detail": "it ended"})
    assert tell(away, make_spec(), held).detail == "it ended"
