"""When a crashed instance may come back, and when a silent one counts as wedged; pure."""

from dataclasses import dataclass
from typing import Final

from orchestrator.model.role import Restart
from orchestrator.model.server import Probe
from orchestrator.model.snapshot import Pulse

# A program that ends like this was started wrongly; trying again soon cannot help. 78 is EX_CONFIG
# of sysexits.h, 126 and 127 are what a shell says of a program that cannot be run or found.
CONFIG_EXITS: Final = frozenset({78, 126, 127})
LOOP_EXITS: Final = 5
LOOP_WINDOW_SECONDS: Final = 60.0
LOOP_CONFIG_EXITS: Final = 3
# How long a server may be busy with a call, saying nothing, before that counts as silence.
BUSY_SECONDS: Final = 300.0
IDLE_CALL_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class History:
    """What went wrong with a workload.

    Attributes:
        failures: Failures in a row, since it was last stable.
        ends: Monotonic seconds of all failures within the loop window.
        config_exits: Configuration exits in a row.
        delay: The delay that the last verdict asked for, in seconds.
    """

    failures: int = 0
    ends: tuple[float, ...] = ()
    config_exits: int = 0
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do after a failure.

    Attributes:
        delay: Seconds to wait before the next launch.
        looping: Whether this is a crash loop.
        gives_up: Whether nobody tries again until a person asks.
    """

    delay: float
    looping: bool
    gives_up: bool


def after_failure(  # noqa: PLR0913  each is a fact of its own, all are needed
    history: History,
    policy: Restart,
    *,
    now: float,
    code: int | None,
    ready_for: float | None,
    jitter: float,
) -> tuple[History, Verdict]:
    """Judge one failure.

    Args:
        history: What went before.
        policy: The role's restart policy.
        now: Monotonic seconds.
        code: Exit code, minus the signal's number, or None when unknown or not an exit at all.
        ready_for: Seconds for which the process had been ready, or None if it never was.
        jitter: A number from 0 to 1; spreads the delay over its upper half.

    Returns:
        The history with this failure in it, and the verdict.
    """
    stable = max(policy.stable_after.total_seconds(), 2 * history.delay)
    if ready_for is not None and ready_for >= stable:
        # The ends stay: a process that is stable for a while each time may still be in a loop.
        history = History(ends=history.ends)
    failures = history.failures + 1
    ends = (*(end for end in history.ends if now - end < LOOP_WINDOW_SECONDS), now)
    config_exits = history.config_exits + 1 if code in CONFIG_EXITS else 0
    looping = len(ends) >= LOOP_EXITS or failures >= LOOP_EXITS or config_exits >= LOOP_CONFIG_EXITS
    longest = policy.backoff_max.total_seconds()
    if looping and config_exits:
        delay = longest
    elif failures == 1 and not looping:
        delay = 0.0
    else:
        # The exponent is bounded so that the power stays a small number.
        doubled = policy.backoff.total_seconds() * 2.0 ** max(0, min(failures - 2, 40))
        delay = min(longest, doubled) * (0.5 + 0.5 * jitter)
    gives_up = bool(policy.give_up_after) and failures >= policy.give_up_after
    return History(failures, ends, config_exits, delay), Verdict(delay, looping, gives_up)


@dataclass(frozen=True, slots=True)
class Silence:
    """How long a workload has given no sign of life.

    Attributes:
        misses: Missing signs in a row.
        busy_since: Monotonic seconds since when it has been busy without a word, or None.
        worked: Processor seconds that its processes had used at the last look.
    """

    misses: int = 0
    busy_since: float | None = None
    worked: float = 0.0


def after_silence(  # noqa: PLR0913  each is a fact of its own, all are needed
    silence: Silence,
    pulse: Pulse,
    probe: Probe,
    *,
    now: float,
    worked: float,
    waits: bool = False,
) -> tuple[Silence, bool]:
    """Judge one sign of life that did not come in time.

    A server that works on a call may be too busy to answer: while it uses the processor or waits
    for its turn there, or while a call is young, its silence does not count. No excuse holds for
    ever.

    Args:
        silence: What went before.
        pulse: What the gateway knows.
        probe: The server's probe settings.
        now: Monotonic seconds.
        worked: Processor seconds that its processes have used so far.
        waits: Whether it has something to do and is not given a processor.

    Returns:
        The silence with this look in it, and whether the workload is wedged.
    """
    since = now if silence.busy_since is None else silence.busy_since
    silent = now - since
    works = waits or worked - silence.worked > 0.01  # noqa: PLR2004  one tick
    busy = works and silent < BUSY_SECONDS
    # Callers that give up are followed by others: the oldest call alone may stay young for ever.
    young = (
        pulse.oldest_call is not None
        and now - pulse.oldest_call < IDLE_CALL_SECONDS
        and silent < IDLE_CALL_SECONDS
    )
    if busy or young:
        return Silence(0, since, worked), False
    misses = silence.misses + 1
    return Silence(misses, since, worked), misses >= probe.misses
