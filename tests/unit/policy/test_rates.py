"""Rates: a token bucket, by its laws."""

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.model.rules import Limit
from orchestrator.policy.rates import Bucket, Buckets, Rate, rate_of

LIMITS = st.builds(
    Limit, calls_per_minute=st.integers(1, 6000), burst=st.none() | st.integers(1, 50)
)
NAME: Bucket = ("limits", "")
TOLERANCE = 1e-6


def rate(calls_per_minute: int, burst: int | None = None) -> Rate:
    """Make a rate."""
    made = rate_of(Limit(calls_per_minute=calls_per_minute, burst=burst))
    assert made is not None
    return made


def test_no_rate() -> None:
    """A limit without a rate has none."""
    assert rate_of(Limit(concurrency=3)) is None


def test_burst_and_steady_rate() -> None:
    """A full bucket gives its burst at once, then one token in each interval."""
    buckets, wanted = Buckets(), [(NAME, rate(60, 3))]
    assert [buckets.take(wanted, 10.0) for _ in range(3)] == [None] * 3
    refused = buckets.take(wanted, 10.0)
    assert refused is not None
    assert refused[0] == NAME
    assert abs(refused[1] - 1.0) < TOLERANCE
    assert buckets.take(wanted, 11.0 + TOLERANCE) is None
    assert buckets.take(wanted, 11.5) is not None
    # A minute later it is full again, and no fuller.
    assert [buckets.take(wanted, 71.0) is None for _ in range(4)] == [True, True, True, False]


def test_the_default_burst_is_a_tenth() -> None:
    """Without a burst a tenth of the rate may come at once, and at least one call."""
    for calls, burst in ((120, 12), (9, 1), (1, 1)):
        buckets, wanted = Buckets(), [(NAME, rate(calls))]
        taken = [buckets.take(wanted, 0.0) is None for _ in range(burst + 1)]
        assert taken == [True] * burst + [False]


@settings(max_examples=200)
@given(LIMITS, st.lists(st.floats(0, 5), max_size=120))
def test_no_window_has_more_than_its_share(limit: Limit, pauses: list[float]) -> None:
    """In any time no more calls pass than the burst and what the rate gives in that time."""
    own, now, passed = rate_of(limit), 0.0, list[float]()
    assert own is not None
    buckets = Buckets()
    for pause in pauses:
        now += pause
        if buckets.take([(NAME, own)], now) is None:
            passed.append(now)
    burst = own.depth / own.interval + 1
    for first, begin in enumerate(passed):
        for count, end in enumerate(passed[first:], 1):
            assert count <= burst + (end - begin) / own.interval + TOLERANCE


@settings(max_examples=200)
@given(LIMITS, st.lists(st.floats(0, 2), max_size=60))
def test_who_waits_as_told_gets_through(limit: Limit, pauses: list[float]) -> None:
    """The time that a refusal tells is enough, and never longer than one interval."""
    own, now = rate_of(limit), 0.0
    assert own is not None
    buckets = Buckets()
    for pause in pauses:
        now += pause
        refused = buckets.take([(NAME, own)], now)
        if refused is not None:
            assert 0 < refused[1] <= own.interval
            now += refused[1] + TOLERANCE
            assert buckets.take([(NAME, own)], now) is None


def test_all_or_none() -> None:
    """A call that one bucket refuses costs the others nothing."""
    buckets = Buckets()
    one, other = (("a", ""), rate(60, 1)), (("b", ""), rate(60, 5))
    assert buckets.take([one, other], 0.0) is None
    for _ in range(10):
        refused = buckets.take([one, other], 0.0)
        assert refused is not None
        assert refused[0] == ("a", "")
    assert [buckets.take([other], 0.0) is None for _ in range(5)] == [True] * 4 + [False]


def test_a_changed_rate_holds_at_once() -> None:
    """After a change nobody waits longer than the new rate asks for."""
    buckets = Buckets()
    for _ in range(30):
        _ = buckets.take([(NAME, rate(30, 30))], 0.0)
    refused = buckets.take([(NAME, rate(600, 1))], 0.0)
    assert refused is not None
    assert refused[1] <= 0.1
    assert buckets.take([(NAME, rate(600, 1))], 0.1 + TOLERANCE) is None
    assert buckets.take([(NAME, rate(600, 1))], 0.15) is not None


def test_full_buckets_take_no_room() -> None:
    """Buckets that are full again are thrown away when there are many."""
    buckets = Buckets()
    for number in range(10_000):
        assert buckets.take([(("agent", str(number)), rate(600))], number * 1.0) is None
    assert len(buckets) < 5_000
