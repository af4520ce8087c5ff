"""Places and the queue before them, by their laws."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from typing_extensions import override

from orchestrator.model.names import ToolName
from orchestrator.model.rules import Limit, Limits
from orchestrator.policy.gate import Gate, Ticket, Where


def limits(
    role: int | None = None,
    agent: int | None = None,
    tools: dict[str, int] | None = None,
    queue: int = 32,
) -> Limits:
    """Make limits."""
    return Limits(
        concurrency=role,
        agent=Limit(concurrency=agent),
        tools={ToolName(name): Limit(concurrency=most) for name, most in (tools or {}).items()},
        queue=queue,
    )


def ignore() -> None:
    """Hear of nothing."""


def enter(gate: Gate, agent: str, tool: str = "t") -> Ticket:
    """Come to the gate."""
    return gate.enter(agent, tool, ignore)


def test_places_and_queue() -> None:
    """So many go in, so many wait, and all others are turned away."""
    gate = Gate(limits(2, queue=1))
    tickets = [enter(gate, "a") for _ in range(4)]
    assert [one.where for one in tickets] == [
        Where.INSIDE,
        Where.INSIDE,
        Where.WAITING,
        Where.OUTSIDE,
    ]
    moved: list[str] = []
    tickets[2].on_move = lambda: moved.append("in")
    gate.leave(tickets[0])
    assert (tickets[2].where, moved) == (Where.INSIDE, ["in"])
    for one in (*tickets, *tickets):
        gate.leave(one)
    assert repr(gate) == "<Gate 0 inside, 0 waiting>"


def test_agents_take_turns() -> None:
    """Whoever waits with many calls gets no more turns than whoever waits with one."""
    gate = Gate(limits(1))
    first = enter(gate, "busy")
    names = ["a1", "a2", "a3", "b1", "c1", "b2"]
    order: list[str] = []
    tickets: dict[str, Ticket] = {}
    for name in names:
        tickets[name] = gate.enter(name[0], "t", lambda name=name: order.append(name))
    gate.leave(first)
    for _ in range(5):
        gate.leave(tickets[order[-1]])
    assert order == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_who_cannot_go_holds_up_nobody() -> None:
    """A call that waits for a busy tool lets calls of other tools pass, of its agent, too."""
    gate = Gate(limits(3, 2, {"slow": 1}))
    slow, waits = enter(gate, "a", "slow"), enter(gate, "a", "slow")
    quick, full = enter(gate, "a", "quick"), enter(gate, "a", "quick")
    other = enter(gate, "b", "quick")
    assert (slow.where, waits.where) == (Where.INSIDE, Where.WAITING)
    assert (quick.where, full.where, other.where) == (Where.INSIDE, Where.WAITING, Where.INSIDE)
    gate.leave(quick)
    # The older one still waits for its tool.
    assert (waits.where, full.where) == (Where.WAITING, Where.INSIDE)
    gate.leave(slow)
    assert waits.where is Where.INSIDE


def test_nobody_fills_the_queue_alone() -> None:
    """A full queue makes room for whoever waits less, at the cost of the newest of the most."""
    gate = Gate(limits(1, queue=4))
    _ = enter(gate, "a")
    mine = [enter(gate, "a") for _ in range(5)]
    assert [one.where for one in mine] == [Where.WAITING] * 4 + [Where.OUTSIDE]
    put_out: list[int] = []
    mine[3].on_move = lambda: put_out.append(3)
    theirs = [enter(gate, "b") for _ in range(3)]
    assert [one.where for one in theirs] == [Where.WAITING, Where.WAITING, Where.OUTSIDE]
    assert [one.where for one in mine[:4]] == [Where.WAITING] * 2 + [Where.OUTSIDE] * 2
    assert put_out == [3]


def test_other_limits_hold_at_once() -> None:
    """When limits grow, those who wait go in; when they shrink, nobody is thrown out."""
    gate = Gate(limits(1))
    tickets = [enter(gate, "a") for _ in range(4)]
    gate.set_limits(limits(3))
    assert [one.where for one in tickets] == [Where.INSIDE] * 3 + [Where.WAITING]
    gate.set_limits(limits(1))
    gate.leave(tickets[0])
    assert tickets[3].where is Where.WAITING
    gate.set_limits(limits())
    assert tickets[3].where is Where.INSIDE


@pytest.mark.parametrize("queue", [0, 1, 3])
def test_a_short_queue(queue: int) -> None:
    """A queue has so many places, and may have none."""
    gate = Gate(limits(1, queue=queue))
    where = [enter(gate, name).where for name in "abcdefgh"]
    assert Counter(where) == Counter(
        {Where.INSIDE: 1, Where.WAITING: queue, Where.OUTSIDE: 7 - queue}
    )


COUNTS = st.none() | st.integers(1, 3)


@settings(max_examples=60, stateful_step_count=40)
class Crowd(RuleBasedStateMachine):
    """Calls come and go in any order, under limits that change."""

    def __init__(self) -> None:
        """Begin with a limited gate."""
        super().__init__()
        self.limits = limits(2, queue=3)
        self.gate = Gate(self.limits)
        self.tickets: list[Ticket] = []
        self.moves: Counter[int] = Counter()
        self.was_full = False

    @rule(agent=st.sampled_from("abc"), tool=st.sampled_from(["", "x", "y"]))
    def come(self, agent: str, tool: str) -> None:
        """A call comes."""
        number = len(self.tickets)
        self.tickets.append(self.gate.enter(agent, tool, lambda: self.moves.update([number])))

    @rule(number=st.integers(0, 40))
    def go(self, number: int) -> None:
        """A call goes, once or again."""
        if self.tickets:
            self.gate.leave(self.tickets[number % len(self.tickets)])

    @rule(role=COUNTS, agent=COUNTS, tool=COUNTS, queue=st.integers(0, 4))
    def change(self, role: int | None, agent: int | None, tool: int | None, queue: int) -> None:
        """The limits change, after everybody is gone: whoever is there may be more than fits."""
        for ticket in reversed(self.tickets):
            self.gate.leave(ticket)
        self.limits = limits(role, agent, {} if tool is None else {"x": tool}, queue)
        self.gate.set_limits(self.limits)

    @invariant()
    def bounds_hold(self) -> None:
        """No bound is ever passed, nobody waits without a reason, nobody is told twice."""
        inside = [one for one in self.tickets if one.where is Where.INSIDE]
        waiting = [one for one in self.tickets if one.where is Where.WAITING]
        agents = Counter(one.agent for one in inside)
        tools = Counter(one.tool for one in inside)
        of_role, of_agent = self.limits.concurrency, self.limits.agent.concurrency
        of_x = self.limits.tools.get(ToolName("x"), Limit()).concurrency
        assert of_role is None or len(inside) <= of_role
        assert of_agent is None or all(count <= of_agent for count in agents.values())
        assert of_x is None or tools["x"] <= of_x
        assert len(waiting) <= self.limits.queue
        for one in waiting:
            assert (
                (of_role is not None and len(inside) >= of_role)
                or (of_agent is not None and agents[one.agent] >= of_agent)
                or (of_x is not None and one.tool == "x" and tools["x"] >= of_x)
            )
        assert all(count == 1 for count in self.moves.values())
        assert repr(self.gate) == f"<Gate {len(inside)} inside, {len(waiting)} waiting>"

    @override
    def teardown(self) -> None:
        """When all are gone nothing is left."""
        for ticket in self.tickets:
            self.gate.leave(ticket)
        assert repr(self.gate) == "<Gate 0 inside, 0 waiting>"
        assert not vars(self.gate)["_queues"]
        assert not vars(self.gate)["_by_agent"]
        assert not vars(self.gate)["_by_tool"]


TestCrowd = Crowd.TestCase


@settings(max_examples=50)
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=30))
def test_order_of_one_agent(agents: list[str]) -> None:
    """Calls of one agent go in the order in which they came."""
    gate = Gate(limits(1, queue=100))
    order: list[tuple[str, int]] = []
    inside = enter(gate, "z")
    tickets = {
        (agent, number): gate.enter(agent, "t", lambda key=(agent, number): order.append(key))
        for number, agent in enumerate(agents)
    }
    gate.leave(inside)
    while len(order) < len(agents):
        gate.leave(tickets[order[-1]])
    for agent in set(agents):
        own = [number for name, number in order if name == agent]
        assert own == sorted(own)
