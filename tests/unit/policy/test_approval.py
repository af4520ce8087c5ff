"""What is asked for each tool: the strictest of all rules that speak of it."""

from datetime import timedelta

from orchestrator.model.names import ToolName
from orchestrator.model.rules import RolePolicy
from orchestrator.model.server import ToolClass
from orchestrator.policy.approval import demands_of

CLASSES: dict[ToolName, ToolClass] = {
    ToolName("look"): "READ",
    ToolName("order"): "WRITE",
    ToolName("pay"): "DESTRUCTIVE",
}


def test_the_strictest_rule_counts() -> None:
    """A tool that two rules speak of needs the larger quorum, within the shorter time."""
    policy = RolePolicy.model_validate(
        {
            "approval": [
                {"class": "destructive", "quorum": 2},
                {"tool": "pay", "expires": "15m"},
                "order",
            ]
        },
        strict=False,
    )
    demands = demands_of(policy.approval, CLASSES)

    assert sorted(demands) == ["order", "pay"]
    pay = demands[ToolName("pay")]
    assert (pay.rule, pay.quorum, pay.lasts) == ("approval.pay", 2, timedelta(minutes=15))
    assert demands[ToolName("order")].rule == "approval.order"


def test_a_class_is_each_of_its_tools() -> None:
    """A rule of a class names itself where no rule speaks of the tool; none asks for nothing."""
    policy = RolePolicy.model_validate({"approval": ["read"]}, strict=False)
    assert demands_of(policy.approval, CLASSES)[ToolName("look")].rule == "approval.read"
    assert demands_of((), CLASSES) == {}


def test_a_policy_is_read_as_it_was_written() -> None:
    """What the command hands to the daemon is what the file said."""
    policy = RolePolicy.model_validate({"approval": ["destructive", {"tool": "x"}]}, strict=False)
    assert RolePolicy.model_validate_json(policy.model_dump_json()) == policy
