"""Sums before the instance: counted on disk first, given back only when surely nothing was sent."""

import asyncio
import json
import resource
import tempfile
from collections.abc import Awaitable, Callable, Generator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import cast, final

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from typing_extensions import override

from orchestrator.clock import Clock
from orchestrator.errors import (
    ArgumentsRefusedError,
    RecordUnavailableError,
    StateCorruptError,
    SumExceededError,
    TargetLostError,
    TargetUnavailableError,
    TokenRevokedError,
)
from orchestrator.gateway.asgi import Body, Received, Start
from orchestrator.gateway.context import Exchange, Reply
from orchestrator.gateway.filters.spend import Spend
from orchestrator.gateway.head import Head
from orchestrator.gateway.sums import SumStore
from orchestrator.journal import segments
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.names import AgentName, RoleName, TokenId, ToolName
from orchestrator.model.rules import RolePolicy, Sum
from orchestrator.policy.decide import CompiledPolicy
from orchestrator.policy.sums import Bound, Entry, Excess
from orchestrator.protocol.mcp import ToolCall
from orchestrator.tokens.verify import Principal

ROLE, PAY = RoleName("executor"), ToolName("pay")
BOUND = Bound("sums[0]", "amount", timedelta(days=1), Decimal(5))
POLICY = CompiledPolicy(
    RolePolicy(sums=(Sum(tool=PAY, argument="amount", window=timedelta(days=1), max=Decimal(5)),)),
    ({"name": "pay", "inputSchema": {"type": "object"}},),
    {PAY: "DESTRUCTIVE"},
)
ANSWERED = Reply(200, b'{"jsonrpc":"2.0","id":1,"result":{"content":[]}}')
ASKED = Reply(200, b'{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required"}}')
SAYS_SO = Reply(
    200,
    b'{"jsonrpc":"2.0","id":1,"result":'
    b'{"structuredContent":{"resultType":"input_required"},"resultType":"complete"}}',
)

Open = Callable[[], SumStore]


@final
class Hands(Clock):
    """A clock that a test moves."""

    def __init__(self) -> None:
        """Begin at some time."""
        self.seconds = 1_800_000_000.0

    @override
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    @override
    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def directory() -> Generator[Path]:
    """Return a directory that is not there yet."""
    with tempfile.TemporaryDirectory(prefix="bm-", dir="/tmp") as parent:
        yield Path(parent) / "sums"


@pytest.fixture
def hands() -> Hands:
    """Return a clock."""
    return Hands()


@pytest.fixture
def opened(directory: Path, hands: Hands) -> Generator[Open]:
    """Open the store, as a new process would."""
    stores: list[SumStore] = []

    def open_it() -> SumStore:
        stores.append(SumStore(directory, hands))
        return stores[-1]

    yield open_it
    for store in stores:
        store.close()


async def hear_nothing() -> Received:
    """Hear nothing more."""
    return Received(type="http.disconnect")


async def say_nothing(_: Start | Body) -> None:
    """Say nothing."""


def request(
    amount: Json, agent: str = "ann", tool: str = "pay", params: JsonObject | None = None
) -> Exchange:
    """Make a call that got as far as the instance."""
    head = Head("POST", [])
    made = Exchange("r1", ROLE, head, receive=hear_nothing, send=say_nothing, started=0.0)
    made.method, made.params = "tools/call", {} if params is None else params
    made.call = ToolCall(tool, {"amount": amount})
    made.principal = Principal(
        agent=AgentName(agent),
        token_id=TokenId("t"),
        role=ROLE,
        expires_at=datetime.max.replace(tzinfo=UTC),
    )
    return made


def ends_with(end: Reply | Exception) -> Callable[[Exchange], Awaitable[Reply]]:
    """Make an instance that answers so."""

    async def work(_: Exchange) -> Reply:
        if isinstance(end, Reply):
            return end
        raise end

    return work


ANSWERS = ends_with(ANSWERED)


async def reserve(store: SumStore, amount: str) -> bool:
    """Count an amount, and wait until that is on disk."""
    counted = store.reserve(ROLE, PAY, [(BOUND, Decimal(amount))])
    if isinstance(counted, Excess):
        return False
    await counted[1]
    return True


async def left(store: SumStore) -> Decimal:
    """Tell what is left."""
    counted = store.reserve(ROLE, PAY, [(BOUND, Decimal(1_000))])
    assert isinstance(counted, Excess)
    return counted.left


async def test_a_sum_is_counted_and_then_exceeded(opened: Open) -> None:
    """Calls go through while there is room; then the agent is told what is left and when."""
    spend = Spend(lambda _: POLICY, opened())
    assert await spend(request("3"), ANSWERS) is ANSWERED
    assert await spend(request(1.5, agent="bob"), ANSWERS) is ANSWERED
    exchange = request("1")
    with pytest.raises(SumExceededError) as caught:
        _ = await spend(exchange, ANSWERS)
    assert exchange.rule == caught.value.rule == "sums[0]"
    assert "0.5 is left" in str(caught.value)
    assert caught.value.retry_after_ms is not None
    with pytest.raises(ArgumentsRefusedError):
        _ = await spend(request("lots"), ANSWERS)
    assert await spend(request("99", tool="look"), ANSWERS) is ANSWERED
    assert await Spend(lambda _: None, opened())(request("99"), ANSWERS) is ANSWERED


async def test_the_amount_is_on_disk_before_the_call(directory: Path, opened: Open) -> None:
    """What the instance gets to see was counted durably before."""
    spend = Spend(lambda _: POLICY, opened())
    seen: list[Json] = []

    async def look(_: Exchange) -> Reply:
        (path,) = segments(directory)
        seen.append(cast("Json", json.loads(path.read_text())))
        return ANSWERED

    _ = await spend(request("3"), look)
    match seen:
        case [{"kind": "count", "role": "executor", "tool": "pay", "amount": "3"}]:
            pass
        case _:
            pytest.fail("it was not on disk")


@pytest.mark.parametrize(
    ("error", "was_chosen", "rest"),
    [
        (TargetUnavailableError("none"), False, Decimal(5)),
        (TokenRevokedError("revoked"), False, Decimal(5)),
        (TargetUnavailableError("lost it before"), True, Decimal(2)),
        (TargetLostError("gone"), True, Decimal(2)),
        (RuntimeError("a mistake of ours"), True, Decimal(2)),
    ],
    ids=["none", "revoked", "unclear", "lost", "mistake"],
)
async def test_what_is_given_back(
    error: Exception, was_chosen: bool, rest: Decimal, opened: Open
) -> None:
    """Only a call for which no instance was chosen is given back, also over a restart."""
    store = opened()
    spend = Spend(lambda _: POLICY, store)

    async def fail(exchange: Exchange) -> Reply:
        if was_chosen:
            exchange.target = object()  # pyright: ignore[reportAttributeAccessIssue] - any will do
        raise error

    with pytest.raises(type(error)):
        _ = await spend(request("3"), fail)
    assert await left(store) == rest
    store.close()
    assert await left(opened()) == rest


async def test_a_caller_that_leaves_before_the_call(opened: Open) -> None:
    """A call that is cancelled while its amount goes to disk was surely not sent."""
    store = opened()
    spend = Spend(lambda _: POLICY, store)
    task = asyncio.ensure_future(spend(request("3"), ANSWERS))
    await asyncio.sleep(0)
    _ = task.cancel()
    with pytest.raises(asyncio.CancelledError):
        _ = await task
    assert await left(store) == 5


async def test_rounds_of_one_call_count_once(opened: Open) -> None:
    """A call that asks its caller and is repeated with the answer counts once, however often."""
    spend = Spend(lambda _: POLICY, opened())
    assert await spend(request("3"), ends_with(ASKED)) is ASKED
    again: JsonObject = {"inputResponses": {}, "requestState": "x"}
    assert await spend(request("3", params=again), ends_with(ASKED)) is ASKED
    assert await spend(request("3", params=again), ANSWERS) is ANSWERED
    # The same answer once more is another call.
    with pytest.raises(SumExceededError):
        _ = await spend(request("3", params=again), ANSWERS)


async def test_a_round_counts_from_when_it_goes_on(opened: Open, hands: Hands) -> None:
    """Calls that were asked about on one day cannot be kept and made on another, beyond its sum."""
    store = opened()
    spend = Spend(lambda _: POLICY, store)
    again: JsonObject = {"inputResponses": {}}
    for _ in range(3):
        assert await spend(request("5"), ends_with(ASKED)) is ASKED
        hands.seconds += 2 * 86_400
    assert await spend(request("5", params=again), ANSWERS) is ANSWERED
    for _ in range(3):
        with pytest.raises(SumExceededError):
            _ = await spend(request("5", params=again), ANSWERS)
    store.close()
    assert await left(opened()) == 0


async def test_rounds_are_not_for_others(opened: Open) -> None:
    """Another amount, another agent or a call without an answer begins anew."""
    spend = Spend(lambda _: POLICY, opened())
    assert await spend(request("3"), ends_with(ASKED)) is ASKED
    again: JsonObject = {"requestState": "x"}
    for other in (
        request("3"),
        request("3", agent="bob", params=again),
        request("3.5", params=again),
    ):
        with pytest.raises(SumExceededError):
            _ = await spend(other, ANSWERS)
    assert await spend(request("3", params=again), ANSWERS) is ANSWERED


async def test_a_server_cannot_make_calls_free(opened: Open) -> None:
    """A result that only holds the words in its content is an answer."""
    spend = Spend(lambda _: POLICY, opened())
    assert await spend(request("3"), ends_with(SAYS_SO)) is SAYS_SO
    with pytest.raises(SumExceededError):
        _ = await spend(request("3", params={"requestState": "x"}), ANSWERS)


async def test_unfinished_rounds_are_bounded(opened: Open) -> None:
    """Whoever never answers leaves no more than a bounded number of rounds behind."""
    spend = Spend(lambda _: POLICY, opened())
    for number in range(1_100):
        _ = await spend(request("0.001", agent=f"agent{number}"), ends_with(ASKED))
    assert len(spend._rounds) == 1_000
    again: JsonObject = {"requestState": "x"}
    _ = await spend(request("0.001", agent="agent1099"), ends_with(ASKED))
    for _ in range(2):
        assert await spend(request("0.001", agent="agent1099", params=again), ANSWERS) is ANSWERED
    assert len(spend._rounds) == 999


async def test_restarts(opened: Open, hands: Hands) -> None:
    """What was counted counts in the next process, until its window is over."""
    store = opened()
    assert await reserve(store, "3")
    store.close()
    hands.seconds += 80_000
    store = opened()
    assert await reserve(store, "2")
    assert not await reserve(store, "0.01")
    store.close()
    hands.seconds += 6_500
    store = opened()
    assert await left(store) == 3
    # A process that never counts anything reads and makes nothing.
    store.close()
    opened().give_back([Entry((ROLE, PAY, "amount"), 0, 0, Decimal(1))])


async def test_the_journal_stays_small(
    directory: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no window reaches any more, and what belongs together, is written as one line."""
    monkeypatch.setattr("orchestrator.gateway.sums._MANY_LINES", 50)
    store = opened()
    for _ in range(500):
        assert await reserve(store, "0.001")
    lines = sum(path.read_bytes().count(b"\n") for path in segments(directory))
    assert lines <= 60
    assert await left(store) == Decimal("4.5")
    store.close()
    assert await left(opened()) == Decimal("4.5")


@pytest.mark.parametrize(
    "line",
    [
        b"rubbish",
        b"{}",
        b"[]",
        b'{"role":"a","tool":"b","argument":"c","amount":"NaN"}',
        b'{"role":"a","tool":"b","argument":"c","amount":"1","at":"0","until":1}',
    ],
)
async def test_a_journal_that_cannot_be_read(directory: Path, opened: Open, line: bytes) -> None:
    """When nobody knows what was counted nothing more may be, and the operator is told."""
    store = opened()
    assert await reserve(store, "3")
    store.close()
    (path,) = segments(directory)
    _ = path.write_bytes(line + b"\n" + path.read_bytes())
    with pytest.raises(StateCorruptError):
        _ = opened().reserve(ROLE, PAY, [(BOUND, Decimal(1))])
    called: list[int] = []

    async def work(_: Exchange) -> Reply:
        called.append(1)
        return ANSWERED

    with pytest.raises(RecordUnavailableError):
        _ = await Spend(lambda _: POLICY, opened())(request("1"), work)
    assert not called


async def test_a_place_that_cannot_be_used(directory: Path, opened: Open) -> None:
    """What cannot be kept is not counted, and its call is not made."""
    _ = await anyio.Path(directory).write_text("a file")
    with pytest.raises(RecordUnavailableError):
        _ = await Spend(lambda _: POLICY, opened())(request("1"), ANSWERS)


async def test_a_full_disk(directory: Path, opened: Open) -> None:
    """While nothing can be written nothing is counted; afterwards all is as before."""
    store = opened()
    spend = Spend(lambda _: POLICY, store)
    assert await spend(request("1"), ANSWERS) is ANSWERED
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    (path,) = segments(directory)
    size = (await anyio.Path(path).stat()).st_size
    with capture_logs() as logs:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
        try:
            for _ in range(5):
                with pytest.raises(RecordUnavailableError):
                    _ = await spend(request("2"), ANSWERS)
            counted = store.reserve(ROLE, PAY, [(BOUND, Decimal(1_000))])
            store.give_back([Entry((ROLE, PAY, "amount"), 0, 0, Decimal(1))])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert isinstance(counted, Excess)
    assert counted.left == 4
    events = {entry["event"] for entry in logs}
    assert events == {"sums_unavailable", "sum_not_given_back"}
    assert await spend(request("4"), ANSWERS) is ANSWERED
    store.close()
    assert await left(opened()) == 0


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 9_000),
            st.decimals("0.1", "5.5", places=1),
            st.sampled_from(["keep", "back", "restart"]),
        ),
        max_size=25,
    )
)
def test_no_bound_is_passed_over_restarts(calls: list[tuple[int, Decimal, str]]) -> None:
    """In any order of calls, returns and restarts the calls that were made stay in the bound."""

    async def run(directory: Path) -> None:
        hands = Hands()
        store, made = SumStore(directory, hands), list[tuple[float, Decimal]]()
        window = BOUND.window.total_seconds()
        for pause, amount, event in calls:
            hands.seconds += pause
            counted = store.reserve(ROLE, PAY, [(BOUND, amount)])
            if not isinstance(counted, Excess):
                await counted[1]
                if event == "back":
                    store.give_back(counted[0])
                else:
                    made.append((hands.seconds, amount))
            if event == "restart":
                store.close()
                store = SumStore(directory, hands)
            inside = [amount for at, amount in made if at > hands.seconds - window]
            assert sum(inside) <= 5
        store.close()

    with tempfile.TemporaryDirectory(prefix="bm-", dir="/tmp") as parent:
        anyio.run(run, Path(parent) / "sums")
