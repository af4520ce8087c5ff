"""Rules in role files: every mistake has its place and our words; sound ones become a policy."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import cast

import pytest
import yaml

from orchestrator.config.policies import policy_of
from orchestrator.config.project import load_project
from orchestrator.config.schemacheck import _is_whole
from orchestrator.model.names import RoleName, ServerName, ToolName

Replace = Callable[[str, str], None]
Complaints = Callable[[], list[str]]

MISTAKES = cast(
    "dict[str, dict[str, str | list[str]]]",
    yaml.safe_load((Path(__file__).parent / "rule-mistakes.yaml").read_text()),
)
RULES = """\
limits:
  calls_per_minute: 120
  burst: 20
  concurrency: 8
  queue: 16
  agent: {calls_per_minute: 30, concurrency: 2}
  tools:
    order_goods: {calls_per_minute: 6}
tools:
  order_goods:
    arguments:
      properties:
        article: {type: string, pattern: "^[a-z]{1,20}$"}
        gift: {type: boolean}
        address: {type: object, properties: {country: {enum: [de, fr]}}}
    optional: [gift]
sums:
  - {tool: order_goods, argument: price, window: 24h, max: "99.50"}
resources: ["shop://catalogue", "shop://articles/{name}"]
prompts: all
approval: [destructive, order_goods, {tool: list_goods, quorum: 2, expires: 15m}]
"""


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_in_a_rule(name: str, role: Replace, complaints: Complaints) -> None:
    """Each mistake has its messages, with line and column, and no secret in them."""
    mistake = MISTAKES[name]
    role("SHOP_TOKEN: env:SHOP_TOKEN\n", f"SHOP_TOKEN: env:SHOP_TOKEN\n{mistake['line']}\n")
    found = complaints()
    assert found == [f"roles/clerk.yaml:{message}" for message in mistake["messages"]]
    assert found
    assert "canary" not in str(found)


def test_sound_rules(root: Path, role: Replace, server: Replace) -> None:
    """What role and server file say becomes the policy, whole."""
    role("secrets:", f"{RULES}secrets:")
    server("bands:", "asks: [elicitation]\nbands:")
    server("class: WRITE}", 'class: WRITE, receipt: "Orders {arguments.article}."}')
    server("class: DESTRUCTIVE}", 'class: DESTRUCTIVE, receipt: "Pays."}')
    project = load_project(root)
    policy = policy_of(project.roles[RoleName("clerk")], project.servers[ServerName("shop")])
    order = ToolName("order_goods")
    assert policy.limits.calls_per_minute == 120
    assert policy.limits.queue_patience == timedelta(seconds=5)
    assert policy.limits.agent.concurrency == 2
    assert policy.limits.tools[order].calls_per_minute == 6
    assert policy.tools[order].optional == ("gift",)
    assert policy.sums[0].max == Decimal("99.50")
    assert policy.resources == ("shop://catalogue", "shop://articles/{name}")
    assert policy.prompts == "all"
    assert policy.asks == ("elicitation",)
    assert [(one.kind, one.tool, one.quorum) for one in policy.approval] == [
        ("destructive", None, 1),
        (None, "order_goods", 1),
        (None, "list_goods", 2),
    ]
    assert policy.approval[-1].expires == timedelta(minutes=15)
    # Of the role's own tools only.
    assert policy.receipts == {"order_goods": "Orders {arguments.article}."}


def test_what_a_server_may_ask(server: Replace, complaints: Complaints) -> None:
    """Only what there is may be asked, and each once."""
    server("bands:", "asks: [elicitation, elicitation]\nbands:")
    assert complaints() == [
        "roles/servers/shop.yaml:11:21: asks[1]: `elicitation` stands here twice; remove it"
    ]
    server("asks: [elicitation, elicitation]", "asks: [everything]")
    (complaint,) = complaints()
    assert complaint.startswith("roles/servers/shop.yaml:11:8: asks[0]: `everything` is not")
    assert complaint.endswith("known: elicitation, roots, sampling")


def test_rules_wait_for_the_bands(role: Replace, complaints: Complaints) -> None:
    """Nothing is said about tools while it is not clear which the role has."""
    role("[look, order]", "[lok]")
    role("secrets:", "tools: {nothing: {}}\nsecrets:")
    assert len(complaints()) == 1


@pytest.mark.parametrize(
    ("pattern", "is_whole"),
    [
        ("^a$", True),
        ("^(a|b)$", True),
        ("^(?:a|(b|c))*$", True),
        ("^[|]$", True),
        ("^[]|]$", True),
        ("^[^|]+$", True),
        ("^a\\|b$", True),
        ("^\\(a$", True),
        ("a", False),
        ("^a", False),
        ("a$", False),
        ("^a|b$", False),
        ("^a\\$", False),
        ("(^a$)", False),
        ("^a$|", False),
    ],
)
def test_whole_patterns(pattern: str, is_whole: bool) -> None:
    """A pattern is about a whole text if each of its alternatives is."""
    assert _is_whole(pattern) is is_whole
