"""Ids and progress tokens over one wire: each caller gets its own, and only its own."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

import anyio
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from orchestrator.errors import (
    AgentsError,
    TargetLostError,
    TargetUnavailableError,
    UpstreamProtocolError,
)
from orchestrator.gateway.target import just_wait
from orchestrator.gateway.upstream.base import Outgoing
from orchestrator.gateway.upstream.stdio import MAX_UNSENT_BYTES, StdioUpstream

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.gateway.upstream.base import Question
    from orchestrator.model.base import Json, JsonObject
    from orchestrator.protocol import jsonrpc

ECHO_SECONDS = 30


class Cable:
    """A wire whose other end is the test."""

    def __init__(self) -> None:
        """Start with nothing written."""
        self.written: list[JsonObject] = []
        self.unsent_bytes = 0
        self.is_closed = False
        self.feed: Callable[[bytes], None] = self._lose

    def attach(
        self, on_line: Callable[[bytes], None], on_broken: Callable[[Exception], None]
    ) -> None:
        """Hand over what the test feeds."""
        del on_broken
        self.feed = on_line

    def push(self, line: bytes) -> None:
        """Keep what is written."""
        if self.is_closed:
            raise anyio.ClosedResourceError
        self.written.append(cast("JsonObject", json.loads(line)))

    def close(self) -> None:
        """Take no more."""
        self.is_closed = True

    def _lose(self, _: bytes) -> None:
        raise AssertionError("nobody reads yet")


@dataclass(slots=True)
class Ear:
    """One request's caller."""

    owner: str
    may_move: bool = False
    told: list[Json] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    @property
    def agent(self) -> str:
        """Whose request it is."""
        return self.owner

    def tell(self, method: str, params: JsonObject) -> None:
        """Hear a notification."""
        told = params["data"] if method == "notifications/message" else [*params.values()]
        self.told.append(told)

    def ask(self, question: Question) -> bool:
        """Hear a question."""
        self.asked.append(str(question.params["n"]))
        return True


class HandClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        """Begin at the beginning."""
        self.seconds = 0.0

    def now(self) -> datetime:
        """Tell the wall time."""
        return datetime.fromtimestamp(self.seconds, UTC)

    def monotonic(self) -> float:
        """Tell the seconds."""
        return self.seconds


@dataclass(slots=True)
class Call:
    """One call, as the model knows it."""

    ear: Ear
    token: Json
    wire_id: str
    task: asyncio.Task[jsonrpc.Response]
    state: str = "open"
    cancelled_at: float = 0.0
    expected_told: list[Json] = field(default_factory=list)
    expected_asked: list[str] = field(default_factory=list)
    result: Json = None


@dataclass(slots=True)
class World:
    """An upstream, and what has to be true of it."""

    cable: Cable
    clock: HandClock
    upstream: StdioUpstream
    calls: list[Call] = field(default_factory=list)
    broadcast: list[Json] = field(default_factory=list)
    expected_broadcast: list[Json] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    count: int = 0

    async def act(  # noqa: C901 - one case an operation
        self, operation: str, which: int, token: Json
    ) -> None:
        """Do one thing, and note what has to come of it."""
        self.count += 1
        match operation:
            case "call":
                await self.call(which, token)
            case "log":
                self.feed(method="notifications/message", params={"data": self.count})
                hearer = self.hearer()
                if hearer is not None:
                    hearer.expected_told.append(self.count)
                elif not any(call.state == "open" for call in self.calls):
                    self.expected_broadcast.append(self.count)
            case "ask":
                name = f"q{self.count}"
                self.feed(id=name, method="roots/list", params={"n": name})
                hearer = self.hearer()
                if hearer is not None:
                    hearer.expected_asked.append(name)
                else:
                    self.refused.append(name)
            case "wait":
                self.clock.seconds += (1, 15, 31)[which % 3]
            case "stranger":
                strangers: list[Json] = ["boot-0", "boot-999", "", 1, None, "other-1"]
                self.feed(id=strangers[which % 6], result={"n": "stranger"})
            case "rubbish":
                lines = (b"", b"{", b"[1]", b"\xff", b'{"id": "boot-77", "result": NaN}', b"null")
                self.cable.feed(lines[which % len(lines)])
            case _ if self.calls:
                await self.act_on(self.calls[which % len(self.calls)], operation)
            case _:
                pass

    async def call(self, which: int, token: Json) -> None:
        """Make a call of one of three owners."""
        ear = Ear(f"owner{which % 3}")
        meta: JsonObject = {} if token is None else {"progressToken": token}
        out = Outgoing("tools/call", {"name": "t", "_meta": meta}, caller=ear)
        task = asyncio.ensure_future(self.upstream.request(out, just_wait))
        wire_id = str(self.cable.written[-1]["id"])
        self.calls.append(Call(ear, token, wire_id, task))
        await asyncio.sleep(0)

    async def act_on(self, call: Call, operation: str) -> None:
        """Do something about a call, whatever became of it."""
        match operation:
            case "answer":
                self.feed(id=call.wire_id, result={"n": self.count})
                if call.state == "open":
                    call.result = self.count
                call.state = "answered"
            case "progress":
                params: JsonObject = {"progressToken": call.wire_id, "progress": self.count}
                self.feed(method="notifications/progress", params=params)
                if call.state == "open" and call.token is not None:
                    call.expected_told.append([call.token, self.count])
            case "cancel":
                _ = call.task.cancel()
                if call.state == "open":
                    call.state, call.cancelled_at = "cancelled", self.clock.seconds
            case _:
                raise AssertionError(operation)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def hearer(self) -> Call | None:
        """Tell whose everything that names no call is: only if there can be no doubt."""
        loud = [call for call in self.calls if call.state == "open"]
        late = [
            call
            for call in self.calls
            if call.state == "cancelled" and self.clock.seconds < call.cancelled_at + ECHO_SECONDS
        ]
        owners = {call.ear.owner for call in loud + late}
        return loud[-1] if loud and len(owners) == 1 else None

    def feed(self, **message: object) -> None:
        """Have the server say something."""
        self.cable.feed(json.dumps({"jsonrpc": "2.0", **message}).encode())

    async def check(self) -> None:
        """Compare what everybody heard with what they had to."""
        assert self.broadcast == self.expected_broadcast
        for call in self.calls:
            assert call.ear.told == call.expected_told
            assert call.ear.asked == call.expected_asked
            assert call.task.done() == (call.state != "open")
            if call.result is not None:
                response = await call.task
                assert response.result == {"n": call.result}
            elif call.task.done():
                assert call.task.cancelled()
        assert self.upstream.in_flight == sum(call.state == "open" for call in self.calls)
        answers = [message for message in self.cable.written if "method" not in message]
        assert [message["id"] for message in answers if "error" in message] == self.refused
        cancels = [
            cast("JsonObject", message["params"])["requestId"]
            for message in self.cable.written
            if message.get("method") == "notifications/cancelled"
        ]
        wanted = {call.wire_id for call in self.calls if call.result is None and call.task.done()}
        assert len(cancels) == len(wanted)
        assert set(cancels) == wanted
        assert len({call.wire_id for call in self.calls}) == len(self.calls)


async def make_world() -> tuple[World, asyncio.Task[None]]:
    """Put an upstream on a cable."""
    cable, clock = Cable(), HandClock()
    heard: list[Json] = []

    def broadcast(_: str, params: JsonObject) -> None:
        heard.append(params["data"])

    upstream = StdioUpstream(cable, "boot", clock, broadcast)
    running = asyncio.ensure_future(upstream.run())
    await asyncio.sleep(0)
    return World(cable, clock, upstream, broadcast=heard), running


OPERATIONS = st.tuples(
    st.sampled_from(
        [
            "call",
            "call",
            "call",
            "answer",
            "answer",
            "progress",
            "progress",
            "cancel",
            "log",
            "ask",
            "wait",
            "stranger",
            "rubbish",
        ]
    ),
    st.integers(0, 20),
    st.sampled_from([None, 1, 2, "1", "same", "boot-1", "boot-2"]),
)


@given(st.lists(OPERATIONS, max_size=40))
@settings(max_examples=300, deadline=None)
async def test_everybody_gets_his_own(operations: list[tuple[str, int, Json]]) -> None:
    """Any order of calls, answers, duplicates, cancels and notifications mixes nothing up."""
    world, running = await make_world()
    for operation, which, token in operations:
        await world.act(operation, which, token)
    await world.check()
    event(f"heard {sum(len(call.expected_told) for call in world.calls) > 0}")
    tasks: list[asyncio.Task[object]] = [running, *(call.task for call in world.calls)]
    for task in tasks:
        _ = task.cancel()
    _ = await asyncio.wait(tasks)


@given(st.lists(st.binary(max_size=80), max_size=20), st.integers(0, 20))
@settings(max_examples=200, deadline=None)
async def test_no_line_stops_the_reading(lines: list[bytes], place: int) -> None:
    """Whatever lines come, the answer between them arrives."""
    world, running = await make_world()
    await world.call(0, "token")
    (call,) = world.calls
    for line in lines[:place]:
        world.cable.feed(line)
    if not call.task.done():
        await world.act_on(call, "answer")
    for line in lines[place:]:
        world.cable.feed(line)
    with suppress(UpstreamProtocolError):
        _ = await call.task
    _ = running.cancel()


JSON_VALUES: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | JSON_VALUES,
        "id": st.sampled_from(["boot-1", "x", 1, None]) | JSON_VALUES,
        "method": st.sampled_from(
            [
                "notifications/progress",
                "notifications/message",
                "notifications/cancelled",
                "notifications/elicitation/complete",
                "notifications/resources/updated",
                "notifications/tools/list_changed",
                "elicitation/create",
                "sampling/createMessage",
                "roots/list",
                "ping",
            ]
        )
        | JSON_VALUES,
        "params": st.fixed_dictionaries(
            {},
            optional={
                "progressToken": st.just("boot-1") | JSON_VALUES,
                "progress": JSON_VALUES,
                "level": JSON_VALUES,
                "data": JSON_VALUES,
                "uri": JSON_VALUES,
                "n": st.just("n"),
            },
        )
        | JSON_VALUES,
        "result": JSON_VALUES,
        "error": JSON_VALUES,
    },
)


class Deaf:
    """A caller that takes everything."""

    owner = "deaf"
    agent = "deaf"
    may_move = False

    def tell(self, method: str, params: JsonObject) -> None:
        """Hear nothing."""
        del method, params

    def ask(self, question: Question) -> bool:
        """Answer at once, twice."""
        question.answer({})
        question.answer(None, {"code": 1, "message": "m"})
        return True


@given(st.lists(MESSAGES, max_size=10))
@settings(max_examples=300, deadline=None)
async def test_no_message_stops_the_reading(messages: list[JsonObject]) -> None:
    """Whatever JSON comes, nobody fails but the call that it answers, and the next one works."""
    world, running = await make_world()
    upstream, cable = world.upstream, world.cable

    def broadcast(method: str, params: JsonObject) -> None:
        del method, params

    upstream = StdioUpstream(cable, "boot", world.clock, broadcast)
    second = asyncio.ensure_future(upstream.run())
    await asyncio.sleep(0)
    out = Outgoing("tools/call", {"_meta": {"progressToken": 1}}, caller=Deaf())
    task = asyncio.ensure_future(upstream.request(out, just_wait))
    for message in messages:
        cable.feed(json.dumps(message).encode())
    again = asyncio.ensure_future(upstream.request(Outgoing("ping", {}), just_wait))
    identity = cable.written[-1]["id"]
    cable.feed(json.dumps({"jsonrpc": "2.0", "id": identity, "result": {"n": 1}}).encode())
    assert (await again).result == {"n": 1}
    _ = task.cancel(), running.cancel(), second.cancel()
    _ = await asyncio.gather(task, running, second, return_exceptions=True)


async def test_a_wire_that_takes_no_more() -> None:
    """A server that does not read gets so much and no more; nothing of the rest was sent."""
    world, running = await make_world()
    world.cable.unsent_bytes = MAX_UNSENT_BYTES
    with pytest.raises(TargetUnavailableError):
        _ = world.upstream.request(Outgoing("ping", {}), just_wait)
    world.upstream.notify("notifications/x", {})
    assert not world.cable.written
    world.cable.unsent_bytes = 0
    # One that is larger than all that may wait goes alone.
    large: JsonObject = {"x": "y" * (MAX_UNSENT_BYTES + 1)}
    task = asyncio.ensure_future(world.upstream.request(Outgoing("ping", large), just_wait))
    await asyncio.sleep(0)
    assert len(world.cable.written) == 1
    _ = task.cancel(), running.cancel()


@pytest.mark.parametrize("way", ["fail", "close"])
async def test_the_end_ends_everything(way: str) -> None:
    """Every open request ends with the reason, and every later one at once."""
    world, running = await make_world()
    await world.call(0, None)
    listen = asyncio.ensure_future(
        world.upstream.request(Outgoing("subscriptions/listen", {}), just_wait)
    )
    await asyncio.sleep(0)
    if way == "fail":
        world.upstream.fail(TargetLostError("gone"))
        world.upstream.fail(UpstreamProtocolError("too late"))
    else:
        world.upstream.close()
        assert world.cable.is_closed
    for task in (world.calls[0].task, listen):
        with pytest.raises(TargetLostError):
            _ = await task
    with pytest.raises(TargetUnavailableError):
        _ = world.upstream.request(Outgoing("ping", {}), just_wait)
    world.upstream.notify("notifications/x", {})
    assert world.upstream.in_flight == 0
    assert world.upstream.oldest_call is None
    _ = running.cancel()


async def test_what_cannot_be_written_is_not_sent() -> None:
    """A message for which there is no JSON fails alone."""
    world, running = await make_world()
    deep: Json = []
    for _number in range(5000):
        deep = [deep]
    with pytest.raises(AgentsError):
        _ = world.upstream.request(Outgoing("ping", {"x": deep}), just_wait)
    assert not world.cable.written
    assert world.upstream.in_flight == 0
    _ = running.cancel()


async def test_many_cancelled_calls_leave_no_doubt_out() -> None:
    """More of them than are kept in mind make everything doubtful, and are forgotten in time."""
    world, running = await make_world()
    for _ in range(1100):  # more than are kept in mind
        await world.call(0, None)
        _ = world.calls[-1].task.cancel()
    await asyncio.sleep(0)
    await world.call(1, None)
    world.feed(method="notifications/message", params={"data": 1})
    assert not world.calls[-1].ear.told
    world.clock.seconds += ECHO_SECONDS
    world.feed(method="notifications/message", params={"data": 2})
    assert world.calls[-1].ear.told == [2]
    _ = world.calls[-1].task.cancel(), running.cancel()
