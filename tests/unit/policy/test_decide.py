"""A compiled policy: what it allows, what it shows, and that rules only ever take away."""

import json
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import (
    ArgumentsRefusedError,
    PolicyError,
    RateLimitedError,
    RuleError,
    SecretInArgumentsError,
)
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.names import ToolName
from orchestrator.model.rules import OPEN_TO_TOOLS, Limit, Limits, RolePolicy, Sum, ToolRule
from orchestrator.model.server import ToolClass
from orchestrator.policy.decide import CompiledPolicy, exceeded
from orchestrator.policy.rates import Buckets
from orchestrator.policy.revision import revision_of
from orchestrator.policy.sums import Excess, Ledger
from orchestrator.protocol.validator import Checker

PAY, LOOK = ToolName("pay"), ToolName("look")
PAY_SCHEMA: JsonObject = {
    "type": "object",
    "properties": {
        "to": {"type": "string"},
        "amount": {"type": ["number", "string"]},
        "note": {"type": "string"},
    },
    "required": ["to"],
}
TOOLS: tuple[JsonObject, ...] = (
    {"name": "pay", "description": "Pays.", "inputSchema": PAY_SCHEMA, "annotations": {}},
    {"name": "look", "inputSchema": {"type": "object"}},
)
CLASSES: dict[ToolName, ToolClass] = {PAY: "DESTRUCTIVE", LOOK: "READ"}
RULE = ToolRule(arguments={"properties": {"to": {"enum": ["ann", "bob"]}}})
DAY = Sum(tool=PAY, argument="amount", window=timedelta(days=1), max=Decimal(5))


def compiled(policy: RolePolicy = OPEN_TO_TOOLS) -> CompiledPolicy:
    """Compile a policy."""
    return CompiledPolicy(policy, TOOLS, CLASSES)


def check(policy: CompiledPolicy, tool: ToolName, arguments: JsonObject | None) -> None:
    """Decide about a call."""
    policy.check(tool, arguments, json.dumps(arguments).encode() if arguments else b"")


def test_no_rules() -> None:
    """Without rules everything but a secret is allowed, and tools are shown as they are."""
    policy = compiled()
    check(policy, PAY, {"to": "anybody", "x": [1]})
    check(policy, LOOK, None)
    assert policy.shown == TOOLS
    assert policy.shown[0] is TOOLS[0]
    assert not policy.has_rates
    assert not policy.has_places
    assert not policy.has_sums(PAY)
    assert not policy.resources.allows("docs://a")
    assert not policy.prompts.allows("a")


def test_a_narrowed_tool() -> None:
    """A rule decides by arguments, is told by name, and is part of the schema that is shown."""
    policy = compiled(RolePolicy(tools={PAY: RULE}))
    check(policy, PAY, {"to": "ann"})
    check(policy, LOOK, {"to": "eve"})
    refused: tuple[JsonObject | None, ...] = ({"to": "canary"}, {}, None)
    for arguments in refused:
        with pytest.raises(ArgumentsRefusedError) as caught:
            check(policy, PAY, arguments)
        assert caught.value.rule == "tools.pay.arguments"
        assert "`to`" in str(caught.value)
        assert "canary" not in str(caught.value)
    shown = policy.shown[0]
    assert shown | {"inputSchema": PAY_SCHEMA} == TOOLS[0]
    match shown:
        case {"inputSchema": {"properties": {"to": dict(to)}}}:
            assert to == {"type": "string", "enum": ["ann", "bob"]}
        case _:
            pytest.fail("another schema")
    assert policy.shown[1] is TOOLS[1]


def test_secrets() -> None:
    """A secret is refused whatever the rules, and never repeated."""
    token = "ghp_0123456789abcdefghij0123456789abcdef"
    with pytest.raises(SecretInArgumentsError) as caught:
        check(compiled(), LOOK, {"a": {"b": [token]}})
    assert token not in str(caught.value)
    assert caught.value.rule == "secrets"


def test_a_rule_that_cannot_be_read() -> None:
    """It allows nothing, and says so."""
    policy = compiled(RolePolicy(tools={PAY: ToolRule(arguments={"type": "nonsense"})}))
    with pytest.raises(ArgumentsRefusedError, match="cannot be read"):
        check(policy, PAY, {"to": "ann"})
    assert not compiled(RolePolicy(resources=("no scheme",))).resources.allows("no scheme")


def test_rates() -> None:
    """The role, each agent and each tool have their own rate; a refusal tells whose it was."""
    limits = Limits(
        calls_per_minute=600,
        burst=4,
        agent=Limit(calls_per_minute=60, burst=2),
        tools={PAY: Limit(calls_per_minute=6, burst=1)},
    )
    policy, buckets = compiled(RolePolicy(limits=limits)), Buckets()
    assert policy.has_rates
    policy.charge(buckets, "ann", PAY, 0.0)
    with pytest.raises(RateLimitedError, match="the tool pay may have 6 a minute") as caught:
        policy.charge(buckets, "bob", PAY, 0.0)
    assert caught.value.rule == "limits.tools.pay.calls_per_minute"
    assert caught.value.retry_after_ms == 10_001
    policy.charge(buckets, "ann", None, 0.0)
    with pytest.raises(RateLimitedError, match="this agent may have 60 a minute") as caught:
        policy.charge(buckets, "ann", LOOK, 0.0)
    assert caught.value.rule == "limits.agent.calls_per_minute"
    assert caught.value.retry_after_ms == 1_001
    policy.charge(buckets, "bob", LOOK, 0.0)
    policy.charge(buckets, "cat", LOOK, 0.0)
    with pytest.raises(RateLimitedError, match="this role may have 600 a minute"):
        policy.charge(buckets, "dan", None, 0.0)


@pytest.mark.parametrize(
    "limits",
    [
        Limits(calls_per_minute=1),
        Limits(agent=Limit(calls_per_minute=1)),
        Limits(tools={PAY: Limit(calls_per_minute=1)}),
    ],
    ids=["role", "agent", "tool"],
)
def test_each_rate_stands_alone(limits: Limits) -> None:
    """A rate needs no other."""
    policy, buckets = compiled(RolePolicy(limits=limits)), Buckets()
    policy.charge(buckets, "ann", PAY, 0.0)
    with pytest.raises(RateLimitedError):
        policy.charge(buckets, "ann", PAY, 0.0)
    policy.charge(buckets, "ann", PAY, 61.0)


def test_sums() -> None:
    """An amount that is added up has to be given, and is asked for in the schema."""
    policy = compiled(RolePolicy(sums=(DAY,)))
    assert policy.has_sums(PAY)
    assert not policy.has_sums(LOOK)
    assert [amount for _, amount in policy.needs(PAY, {"amount": "1.5"})] == [Decimal("1.5")]
    refused: tuple[JsonObject | None, ...] = (None, {}, {"amount": None}, {"amount": "1e5"})
    for arguments in refused:
        with pytest.raises(ArgumentsRefusedError) as caught:
            _ = policy.needs(PAY, arguments)
        assert caught.value.rule == "sums[0]"
    match policy.shown[0]:
        case {"inputSchema": {"required": list(required)}}:
            assert required == ["to", "amount"]
        case _:
            pytest.fail("another schema")
    deep = compiled(RolePolicy(sums=(DAY.model_copy(update={"argument": "transfer.net"}),)))
    match deep.shown[0]:
        case {"inputSchema": {"properties": {"transfer": inner}, "required": list(required)}}:
            assert inner == {"type": "object", "properties": {"net": {}}, "required": ["net"]}
            assert required == ["to", "transfer"]
        case _:
            pytest.fail("another schema")


def test_words_of_an_exceeded_sum() -> None:
    """A model is told the bound, what is left, and when there is room, if ever."""
    policy = compiled(RolePolicy(sums=(DAY,)))
    ledger = Ledger()
    needs = policy.needs(PAY, {"amount": 3})
    assert not isinstance(ledger.reserve("r", PAY, needs, 0), Excess)  # pyright: ignore[reportArgumentType] - any name
    later = ledger.reserve("r", PAY, needs, 3_600_000)  # pyright: ignore[reportArgumentType] - the same
    assert isinstance(later, Excess)
    error = exceeded(PAY, later)
    assert str(error) == (
        "`amount` of pay may add up to 5 in 1d; 2 is left, and there is room for this call in "
        "23h1s; nothing was done"
    )
    assert (error.rule, error.retry_after_ms) == ("sums[0]", 23 * 3_600_000)
    never = ledger.reserve("r", PAY, policy.needs(PAY, {"amount": 6}), 0)  # pyright: ignore[reportArgumentType] - the same
    assert isinstance(never, Excess)
    assert "a single call may not have more than that" in str(exceeded(PAY, never))


PROPERTY: st.SearchStrategy[Json] = st.sampled_from(
    [
        True,
        False,
        {"const": "ann"},
        {"enum": ["ann", 1]},
        {"type": "string", "maxLength": 2},
        {"type": "number", "maximum": 3},
        {"title": "anything"},
    ]
)
RULES = st.builds(
    ToolRule,
    arguments=st.fixed_dictionaries(
        {"properties": st.dictionaries(st.sampled_from(["to", "amount", "new"]), PROPERTY)},
        optional={"additionalProperties": st.booleans(), "maxProperties": st.integers(0, 3)},
    ),
    optional=st.lists(st.sampled_from(["to", "amount"]), max_size=2).map(tuple),
)
POLICIES = st.builds(
    RolePolicy,
    tools=st.dictionaries(st.just(PAY), RULES),
    sums=st.lists(
        st.builds(
            Sum,
            tool=st.just(PAY),
            argument=st.sampled_from(["amount", "new.net"]),
            window=st.sampled_from([timedelta(hours=1), timedelta(days=1)]),
            max=st.decimals("1", "9", places=1),
        ),
        max_size=2,
    ).map(tuple),
    resources=st.lists(st.sampled_from(["docs://a", "docs://{x}"]), max_size=2).map(tuple),
)
ARGUMENTS = st.dictionaries(
    st.sampled_from(["to", "amount", "note", "new"]),
    st.sampled_from(["ann", "a", 1, 7, None, {"net": 2}]),
)


def refuses(decide: Callable[[], object]) -> bool:
    """Tell whether a decision is no."""
    try:
        _ = decide()
    except PolicyError:
        return True
    return False


@settings(max_examples=200, deadline=None)
@given(POLICIES, RULES, ARGUMENTS)
def test_a_further_rule_never_allows_more(
    policy: RolePolicy, rule: ToolRule, arguments: JsonObject
) -> None:
    """What is refused stays refused when a tool is narrowed or a sum is added."""
    before = compiled(policy)
    changes: list[RolePolicy] = [
        policy.model_copy(update={"sums": (*policy.sums, DAY)}),
        policy.model_copy(update={"limits": Limits(calls_per_minute=1)}),
    ]
    if not policy.tools:
        changes.append(policy.model_copy(update={"tools": {PAY: rule}}))
    for changed in changes:
        after = compiled(changed)
        if refuses(lambda: check(before, PAY, arguments)):
            assert refuses(lambda after=after: check(after, PAY, arguments))
        if before.has_sums(PAY) and refuses(lambda: before.needs(PAY, arguments)):
            assert refuses(lambda after=after: after.needs(PAY, arguments))


@settings(max_examples=200, deadline=None)
@given(POLICIES, ARGUMENTS)
def test_what_is_allowed_meets_what_is_shown(policy: RolePolicy, arguments: JsonObject) -> None:
    """The schema that agents see says neither more nor less than what decides."""
    made = compiled(policy)
    shown = made.shown[0]["inputSchema"]
    assert isinstance(shown, dict)
    try:
        check(made, PAY, arguments)
        if made.has_sums(PAY):
            _ = made.needs(PAY, arguments)
        is_allowed = Checker(PAY_SCHEMA).accepts(arguments)
    except RuleError:
        is_allowed = False
    if is_allowed:
        assert Checker(shown).accepts(arguments)
    if Checker(shown).accepts(arguments):
        # What an amount is, beside being there, its sum decides.
        check(made, PAY, arguments)
        assert Checker(PAY_SCHEMA).accepts(arguments)


def test_revisions() -> None:
    """A revision changes with each rule, tool and class, and with nothing else."""
    base = revision_of(OPEN_TO_TOOLS, TOOLS, CLASSES)
    assert len(base) == 12
    assert base == revision_of(RolePolicy(), json.loads(json.dumps(TOOLS)), dict(CLASSES))  # pyright: ignore[reportAny] - the same again
    others = {
        revision_of(RolePolicy(tools={PAY: RULE}), TOOLS, CLASSES),
        revision_of(RolePolicy(sums=(DAY,)), TOOLS, CLASSES),
        revision_of(RolePolicy(asks=("roots",)), TOOLS, CLASSES),
        revision_of(OPEN_TO_TOOLS, TOOLS[:1], CLASSES),
        revision_of(OPEN_TO_TOOLS, TOOLS, {**CLASSES, LOOK: "WRITE"}),
        revision_of(OPEN_TO_TOOLS, ({**TOOLS[0], "description": "\ud800 10"}, TOOLS[1]), CLASSES),
    }
    assert len(others | {base}) == 7
    assert compiled().revision == base
