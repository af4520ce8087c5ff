"""Which of a role's tools are called only after people approved it."""

from collections.abc import Mapping, Sequence

from orchestrator.model.approval import Demand
from orchestrator.model.names import ToolName
from orchestrator.model.rules import ApprovalRule
from orchestrator.model.server import ToolClass


def demands_of(
    rules: Sequence[ApprovalRule], classes: Mapping[ToolName, ToolClass]
) -> dict[ToolName, Demand]:
    """Tell what is asked for each tool that needs an approval.

    Where several rules speak of a tool, the strictest of each counts: the largest quorum and the
    shortest time.

    Args:
        rules: The role's rules.
        classes: Class of each of the role's tools.
    """
    demands: dict[ToolName, Demand] = {}
    for name, kind in classes.items():
        of_class = [rule for rule in rules if rule.kind == kind.lower()]
        of_tool = [rule for rule in rules if rule.tool == name]
        found = of_tool + of_class
        if found:
            demands[name] = Demand(
                rule=f"approval.{name if of_tool else kind.lower()}",
                quorum=max(rule.quorum for rule in found),
                lasts=min(rule.expires for rule in found),
            )
    return demands
