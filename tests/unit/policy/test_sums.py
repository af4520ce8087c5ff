"""Rolling sums: no bound is ever passed, in any order and over any restart."""

from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.model.base import Json, JsonObject
from orchestrator.model.names import RoleName, ToolName
from orchestrator.model.rules import Sum
from orchestrator.policy.sums import Bound, Entry, Excess, Ledger, bounds_of, read_amount

ROLE, PAY = RoleName("executor"), ToolName("pay")
HOUR_MS = 3_600_000
AMOUNTS = st.decimals("0.01", "6", places=2)


def bound(most: str = "5", window: timedelta = timedelta(hours=1), name: str = "amount") -> Bound:
    """Make a bound."""
    return Bound("sums[0]", name, window, Decimal(most))


def spend(
    ledger: Ledger, amount: str | Decimal, now_ms: int, *bounds: Bound
) -> tuple[Entry, ...] | Excess:
    """Make a call."""
    needs = [(each, Decimal(amount)) for each in bounds or (bound(),)]
    return ledger.reserve(ROLE, PAY, needs, now_ms)


def reopen(ledger: Ledger) -> Ledger:
    """Make a ledger of all that another one tells."""
    again = Ledger()
    for entry in ledger.entries():
        again.add(entry)
    return again


def test_what_is_left_and_when_there_is_room() -> None:
    """A refusal tells what is left of the bound, and when the call would fit."""
    ledger = Ledger()
    assert not isinstance(spend(ledger, "3", 0), Excess)
    assert not isinstance(spend(ledger, "1.5", HOUR_MS // 2), Excess)
    refused = spend(ledger, "1", HOUR_MS // 2)
    assert isinstance(refused, Excess)
    assert (refused.left, refused.wait_ms) == (Decimal("0.5"), HOUR_MS // 2)
    assert not isinstance(spend(ledger, "0.5", HOUR_MS // 2), Excess)
    # Nothing was counted of what was refused.
    assert not isinstance(spend(ledger, "3", HOUR_MS), Excess)
    too_much = spend(ledger, "5.01", HOUR_MS)
    assert isinstance(too_much, Excess)
    assert too_much.wait_ms is None


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40 * 60_000), AMOUNTS, st.booleans()), max_size=40),
    st.sampled_from([timedelta(milliseconds=7), timedelta(minutes=9), timedelta(hours=1)]),
)
def test_no_window_holds_more_than_the_bound(
    calls: list[tuple[int, Decimal, bool]], window: timedelta
) -> None:
    """Whatever comes, and however often it is read back, no window adds up to more."""
    ledger, now_ms, done = Ledger(), 1_000_000, list[tuple[int, Decimal]]()
    window_ms = window // timedelta(milliseconds=1)
    for pause_ms, amount, is_restart in calls:
        now_ms += pause_ms
        if is_restart:
            ledger = reopen(ledger)
        result = spend(ledger, amount, now_ms, bound(window=window))
        if isinstance(result, Excess):
            assert result.left >= 0
            assert result.wait_ms is None or 0 < result.wait_ms <= window_ms + window_ms // 1000
            assert (result.wait_ms is None) == (amount > 5)
        else:
            done.append((now_ms, amount))
        for end_ms, _ in done:
            inside = [amount for at, amount in done if end_ms - window_ms < at <= end_ms]
            assert sum(inside) <= 5


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20 * 60_000), AMOUNTS), max_size=30))
def test_who_waits_as_told_finds_room(calls: list[tuple[int, Decimal]]) -> None:
    """After the time that a refusal tells there is room, if nobody else came."""
    ledger, now_ms = Ledger(), 0
    for pause_ms, amount in calls:
        now_ms += pause_ms
        result = spend(ledger, amount, now_ms)
        if isinstance(result, Excess) and result.wait_ms is not None:
            now_ms += result.wait_ms
            assert not isinstance(spend(ledger, amount, now_ms), Excess)


@settings(max_examples=100, deadline=None)
@given(st.permutations(range(8)), st.lists(AMOUNTS, min_size=8, max_size=8))
def test_what_is_given_back_has_never_been(order: list[int], amounts: list[Decimal]) -> None:
    """Giving back in any order leaves what was there before, and never more room than that."""
    ledger = Ledger()
    wide = bound("1000")
    entries = [spend(ledger, amount, 0, wide) for amount in amounts]
    for number in order:
        given_back = entries[number]
        assert not isinstance(given_back, Excess)
        for entry in given_back:
            ledger.give_back(entry)
    refused = spend(ledger, "1000.01", 0, wide)
    assert isinstance(refused, Excess)
    assert refused.left == 1000
    # Once more does no harm.
    for entry in entries:
        assert not isinstance(entry, Excess)
        ledger.give_back(entry[0])
    assert not isinstance(spend(ledger, "1000", 0, wide), Excess)
    assert isinstance(spend(ledger, "0.01", 0, wide), Excess)


def test_bounds_of_different_windows() -> None:
    """A call has to fit into each bound, and counts once for all bounds of an argument."""
    ledger = Ledger()
    hour, day = bound("2"), bound("3", timedelta(days=1))
    assert not isinstance(spend(ledger, "2", 0, hour, day), Excess)
    refused = spend(ledger, "0.5", 60_000, hour, day)
    assert isinstance(refused, Excess)
    assert refused.bound is hour
    refused = spend(ledger, "1.5", 2 * HOUR_MS, hour, day)
    assert isinstance(refused, Excess)
    assert (refused.bound, refused.left) == (day, Decimal(1))
    assert not isinstance(spend(ledger, "1", 2 * HOUR_MS, hour, day), Excess)


def test_several_arguments() -> None:
    """Arguments are added up each for itself, and all or none of a call is counted."""
    ledger = Ledger()
    net, fee = bound("10", name="net"), bound("1", name="fee")
    needs = [(net, Decimal(4)), (fee, Decimal(1))]
    assert not isinstance(ledger.reserve(ROLE, PAY, needs, 0), Excess)
    for _ in range(3):
        assert isinstance(ledger.reserve(ROLE, PAY, needs, 0), Excess)
    assert not isinstance(spend(ledger, "6", 0, net), Excess)


def test_roles_and_tools_have_nothing_in_common() -> None:
    """What one role or tool has spent is not missing elsewhere."""
    ledger = Ledger()
    for role in ("a", "b"):
        for tool in ("x", "y"):
            needs = [(bound(), Decimal(5))]
            assert not isinstance(ledger.reserve(RoleName(role), ToolName(tool), needs, 0), Excess)


def test_a_clock_that_goes_back_frees_nothing() -> None:
    """What was counted in what is now the future counts."""
    ledger = Ledger()
    assert not isinstance(spend(ledger, "5", 10 * HOUR_MS), Excess)
    assert isinstance(spend(ledger, "1", 0), Excess)


def test_a_bound_that_became_smaller() -> None:
    """Nothing more is allowed before enough is free under the new bound."""
    ledger = Ledger()
    assert not isinstance(spend(ledger, "4", 0), Excess)
    refused = spend(ledger, "1", 0, bound("2"))
    assert isinstance(refused, Excess)
    assert (refused.left, refused.wait_ms) == (Decimal(0), HOUR_MS)


def test_room_is_bounded() -> None:
    """However many calls are made, no more than about a thousand amounts are kept."""
    ledger = Ledger()
    for number in range(5_000):
        _ = spend(ledger, "0.000001", number * 2_000, bound("5", timedelta(hours=1)))
    assert len(list(ledger.entries())) <= 1_002


def test_large_and_small_amounts() -> None:
    """A sum of the largest and the smallest amount is not rounded."""
    ledger = Ledger()
    wide = bound("9" * 78)
    assert not isinstance(spend(ledger, "9" * 77, 0, wide), Excess)
    assert not isinstance(spend(ledger, "0." + "0" * 77 + "1", 0, wide), Excess)
    refused = spend(ledger, "9" * 78, 0, wide)
    assert isinstance(refused, Excess)
    assert str(refused.left).endswith("9" * 10)


ARGUMENTS: JsonObject = {"amount": "1.5", "transfer": {"net": 2, "to": ["x"]}, "a.b": 1}


@pytest.mark.parametrize(
    ("argument", "amount"), [("amount", Decimal("1.5")), ("transfer.net", Decimal(2))]
)
def test_amounts_in_arguments(argument: str, amount: Decimal) -> None:
    """An amount is a number or a plain decimal in a text, also inside an object."""
    assert read_amount(ARGUMENTS, argument) == amount


@pytest.mark.parametrize(
    "value", [None, True, -7, "-1", "1e9", "NaN", "Infinity", "canary", [1], {"a": 1}, 1e300]
)
def test_what_is_no_amount(value: Json) -> None:
    """What is no amount is refused by the argument's name, and never repeated."""
    with pytest.raises(ValueError, match=r"`pay\.net` must be given") as caught:
        _ = read_amount({"pay": {"net": value}}, "pay.net")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("argument", ["gone", "transfer", "transfer.gone", "transfer.to", "a.b"])
def test_missing_amounts(argument: str) -> None:
    """A missing amount is refused: nobody knows what the server makes of it."""
    with pytest.raises(ValueError, match="must be given"):
        _ = read_amount(ARGUMENTS, argument)


def test_bounds_by_tool() -> None:
    """Each tool has its bounds, named by their place in the role file."""
    made = bounds_of(
        [
            Sum(tool=PAY, argument="a", window=timedelta(days=1), max=Decimal(5)),
            Sum(tool=ToolName("x"), argument="a", window=timedelta(days=1), max=Decimal(5)),
            Sum(tool=PAY, argument="b", window=timedelta(days=2), max=Decimal(5)),
        ]
    )
    assert [each.rule for each in made[PAY]] == ["sums[0]", "sums[2]"]
