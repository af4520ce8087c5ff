"""When a crashed instance comes back, and when a silent one counts as wedged."""

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.control.lifecycle import (
    BUSY_SECONDS,
    CONFIG_EXITS,
    IDLE_CALL_SECONDS,
    LOOP_EXITS,
    LOOP_WINDOW_SECONDS,
    History,
    Silence,
    Verdict,
    after_failure,
    after_silence,
)
from orchestrator.model.role import Restart
from orchestrator.model.server import Probe
from orchestrator.model.snapshot import Pulse

POLICY = Restart()
PROBE = Probe()
MOST = 1.0  # the jitter that takes nothing off a delay
SECOND = timedelta(seconds=1)
JITTER = st.floats(0, 1)


def fail(
    times: int,
    policy: Restart = POLICY,
    *,
    every: float = 0.0,
    code: int | None = 1,
    ready_for: float | None = None,
    jitter: float = MOST,
) -> list[Verdict]:
    """Let an instance fail several times; return each verdict."""
    history, verdicts = History(), list[Verdict]()
    for number in range(times):
        history, verdict = after_failure(
            history,
            policy,
            now=1000 + number * every,
            code=code,
            ready_for=ready_for,
            jitter=jitter,
        )
        verdicts.append(verdict)
    return verdicts


def test_the_first_restart_is_immediate() -> None:
    """One failure costs no time at all, and is no loop."""
    assert fail(1) == [Verdict(0.0, looping=False, gives_up=False)]


def test_the_delay_doubles_up_to_its_end() -> None:
    """From the second failure on the delay doubles, and stays at the longest one."""
    delays = [verdict.delay for verdict in fail(11)]
    assert delays == [0, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 60, 60]


def test_the_delay_stays_a_number() -> None:
    """However many failures there are, the delay is the longest one and nothing overflows."""
    policy = Restart(backoff=timedelta(days=1), backoff_max=timedelta(days=3650))
    history = History(failures=10**6)
    _, verdict = after_failure(history, policy, now=0, code=1, ready_for=None, jitter=MOST)
    assert verdict.delay == timedelta(days=3650).total_seconds()


@given(jitter=JITTER, times=st.integers(2, 40))
def test_jitter_spreads_over_the_upper_half(jitter: float, times: int) -> None:
    """A delay is never longer than without jitter, and never shorter than half of it."""
    with_jitter = fail(times, jitter=jitter)[-1].delay
    most = fail(times)[-1].delay
    assert most / 2 <= with_jitter <= most <= POLICY.backoff_max.total_seconds()


def test_five_failures_in_a_row_are_a_loop() -> None:
    """They are, however far apart they are, as long as it was never stable in between."""
    loops = [verdict.looping for verdict in fail(6, every=10 * LOOP_WINDOW_SECONDS)]
    assert loops == [False, False, False, False, True, True]


def test_five_ends_within_the_window_are_a_loop() -> None:
    """They are, even when each process was stable by its role's own measure."""
    policy = Restart(stable_after=SECOND)
    quick = fail(LOOP_EXITS, policy, every=LOOP_WINDOW_SECONDS / LOOP_EXITS, ready_for=11)
    assert [verdict.looping for verdict in quick] == [False, False, False, False, True]
    slow = fail(LOOP_EXITS * 2, policy, every=LOOP_WINDOW_SECONDS / 4, ready_for=14)
    assert not any(verdict.looping for verdict in slow)


def test_a_loop_always_has_a_delay() -> None:
    """A role that counts as stable from its first moment is not restarted without a pause."""
    policy = Restart(stable_after=timedelta(0))
    verdicts = fail(20, policy, every=0.05, ready_for=0.01)
    assert verdicts[-1].looping
    assert all(verdict.delay > 0 for verdict in verdicts if verdict.looping)


@pytest.mark.parametrize("code", sorted(CONFIG_EXITS))
def test_three_configuration_exits_are_a_loop(code: int) -> None:
    """A program that was started wrongly is tried at the longest delay from the third time on."""
    verdicts = fail(4, code=code)
    assert [verdict.looping for verdict in verdicts] == [False, False, True, True]
    assert [verdict.delay for verdict in verdicts] == [0, 0.25, 60, 60]


def test_other_exits_break_a_row_of_configuration_exits() -> None:
    """Only configuration exits in a row count."""
    history = History(failures=2, config_exits=2)
    history, verdict = after_failure(history, POLICY, now=0, code=1, ready_for=None, jitter=MOST)
    assert (history.config_exits, verdict.looping) == (0, False)


def test_only_a_stable_process_is_forgiven() -> None:
    """Failures are forgotten after `stable_after`, and not a moment earlier."""
    history = History(failures=3, delay=1.0)
    for ready_for, failures in ((None, 4), (0.0, 4), (29.9, 4), (30.0, 1)):
        after, verdict = after_failure(
            history, POLICY, now=0, code=1, ready_for=ready_for, jitter=MOST
        )
        assert after.failures == failures
        assert (verdict.delay == 0) == (failures == 1)


def test_a_long_delay_needs_a_longer_calm() -> None:
    """A process that lived shorter than twice its last delay is not stable yet."""
    history = History(failures=9, delay=60.0)
    for ready_for, failures in ((119.0, 10), (120.0, 1)):
        after, _ = after_failure(history, POLICY, now=0, code=1, ready_for=ready_for, jitter=MOST)
        assert after.failures == failures


def test_giving_up_is_asked_for() -> None:
    """Nobody gives up by default; with a number, exactly from that failure on."""
    assert not any(verdict.gives_up for verdict in fail(1000))
    given_up = [verdict.gives_up for verdict in fail(4, Restart(give_up_after=3))]
    assert given_up == [False, False, True, True]


@given(
    st.lists(
        st.tuples(
            st.floats(0, 1e5), st.sampled_from([0, 1, -9, 78, None]), st.none() | st.floats(0, 1e5)
        ),
        max_size=20,
    ),
    JITTER,
)
def test_a_verdict_is_always_sound(
    story: list[tuple[float, int | None, float | None]], jitter: float
) -> None:
    """Whatever happens, a delay is within its bounds and only a first failure has none."""
    history, now = History(), 0.0
    for pause, code, ready_for in story:
        now += pause
        history, verdict = after_failure(
            history, POLICY, now=now, code=code, ready_for=ready_for, jitter=jitter
        )
        assert 0 <= verdict.delay <= POLICY.backoff_max.total_seconds()
        assert verdict.delay > 0 or (history.failures == 1 and not verdict.looping)
        assert history.delay == verdict.delay
        assert all(later >= earlier for earlier, later in pairwise(history.ends))
        assert all(now - end < LOOP_WINDOW_SECONDS for end in history.ends)


# Silence.

QUIET = Pulse(heard=0.0, in_flight=0, oldest_call=None)


def test_silence_is_counted() -> None:
    """An idle server that misses as many signs as its file allows is wedged."""
    silence, verdicts = Silence(), list[bool]()
    for number in range(3):
        silence, wedged = after_silence(silence, QUIET, PROBE, now=10.0 * number, worked=0.0)
        verdicts.append(wedged)
    assert verdicts == [False, False, True]


def test_a_server_that_works_is_not_silent() -> None:
    """Use of the processor excuses a missing sign and starts the count anew."""
    silence = Silence(misses=2, busy_since=0.0, worked=5.0)
    silence, wedged = after_silence(silence, QUIET, PROBE, now=20, worked=6.0)
    assert (silence, wedged) == (Silence(0, 0.0, 6.0), False)


def test_a_server_that_waits_for_the_processor_is_not_silent() -> None:
    """On a machine with too much to do a server that would answer is not taken for wedged."""
    silence, wedged = after_silence(Silence(misses=2), QUIET, PROBE, now=20, worked=0.0, waits=True)
    assert (silence.misses, wedged) == (0, False)
    late = Silence(misses=2, busy_since=20 - BUSY_SECONDS)
    assert after_silence(late, QUIET, PROBE, now=20, worked=0.0, waits=True)[1]


def test_a_tick_is_no_work() -> None:
    """What a clock's tick may add to an idle process is no use of the processor."""
    silence, _ = after_silence(Silence(worked=5.0), QUIET, PROBE, now=20, worked=5.01)
    assert silence.misses == 1


def test_a_young_call_excuses_silence() -> None:
    """A server may be silent while it answers a call that came a short time ago."""
    young = replace(QUIET, in_flight=1, oldest_call=100.0)
    silence, wedged = after_silence(Silence(misses=2), young, PROBE, now=110, worked=0.0)
    assert (silence.misses, wedged) == (0, False)
    late = 100.0 + IDLE_CALL_SECONDS
    silence, wedged = after_silence(Silence(misses=2), young, PROBE, now=late, worked=0.0)
    assert (silence.misses, wedged) == (3, True)


@pytest.mark.parametrize("works", [True, False])
def test_no_excuse_holds_for_ever(works: bool) -> None:
    """A silent server is found, though it burns the processor, though calls keep coming."""
    silence, now, worked = Silence(), 0.0, 0.0
    while True:
        now += 15
        worked += 15.0 if works else 0.0
        # Callers give up and others come: the oldest call is never old.
        young = replace(QUIET, in_flight=1, oldest_call=now - 5)
        silence, wedged = after_silence(silence, young, PROBE, now=now, worked=worked)
        if wedged:
            break
        assert now < BUSY_SECONDS + 200
    assert now > (BUSY_SECONDS if works else IDLE_CALL_SECONDS)


@given(
    st.lists(st.tuples(st.floats(0.1, 30), st.booleans(), st.booleans()), max_size=60),
    st.integers(1, 5),
)
def test_only_a_row_of_misses_is_a_wedge(
    looks: list[tuple[float, bool, bool]], misses: int
) -> None:
    """No server is replaced before it missed as many signs in a row as its file allows."""
    probe = Probe(misses=misses)
    silence, now, worked = Silence(), 0.0, 0.0
    for number, (pause, works, called) in enumerate(looks):
        now += pause
        worked += pause if works else 0.0
        pulse = replace(QUIET, oldest_call=now - 1) if called else QUIET
        silence, wedged = after_silence(silence, pulse, probe, now=now, worked=worked)
        assert wedged == (silence.misses >= misses)
        assert silence.misses <= number + 1
