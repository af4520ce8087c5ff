"""How many calls may be under way, and who is next: places, and a queue that is fair to agents.

The oldest call of each agent goes first, and agents take turns. A full queue makes room for an
agent that has fewer calls in it, at the cost of whoever has the most: no agent can keep others out.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import final

from typing_extensions import override

from orchestrator.model.rules import Limits


class Where(Enum):
    """Where a call is."""

    INSIDE = "inside"
    WAITING = "waiting"
    OUTSIDE = "outside"


@dataclass(slots=True, eq=False)
class Ticket:
    """One call at the gate.

    Attributes:
        agent: Whose it is.
        tool: What it calls; empty for what is no tool.
        on_move: Is told when it no longer waits, unless it left by itself.
        where: Where it is.
    """

    agent: str
    tool: str
    on_move: Callable[[], object]
    where: Where = Where.OUTSIDE
    number: int = field(default=0, repr=False)


@final
class Gate:
    """The places of one role; who is inside stays counted when its limits change."""

    def __init__(self, limits: Limits) -> None:
        """Begin empty."""
        self._limits = limits
        self._of_tools: dict[str, int | None] = _by_tool(limits)
        self._count = 0
        self._inside = 0
        self._by_agent: dict[str, int] = {}
        self._by_tool: dict[str, int] = {}
        self._waiting = 0
        # By agent, whose turn is next first; of each agent by tool, the oldest first.
        self._queues: dict[str, dict[str, dict[int, Ticket]]] = {}

    @override
    def __repr__(self) -> str:
        return f"<Gate {self._inside} inside, {self._waiting} waiting>"

    def set_limits(self, limits: Limits) -> None:
        """Go by other limits, from now on."""
        self._limits = limits
        self._of_tools = _by_tool(limits)
        self._advance()

    def enter(self, agent: str, tool: str, on_move: Callable[[], object]) -> Ticket:
        """Let a call in, or have it wait, or neither if the queue is full.

        Args:
            agent: Whose it is.
            tool: What it calls; empty for what is no tool.
            on_move: Is told when it no longer waits, unless it left by itself.
        """
        self._count += 1
        ticket = Ticket(agent, tool, on_move, number=self._count)
        # Nobody who waits could go now, or would have gone.
        if self._has_place(agent, tool):
            self._admit(ticket)
        elif self._waiting < self._limits.queue or self._make_room(agent):
            self._append(ticket)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """End a call's stay, wherever it is; more than once does no harm."""
        if ticket.where is Where.WAITING:
            self._remove(ticket)
        elif ticket.where is Where.INSIDE:
            self._inside -= 1
            _decrease(self._by_agent, ticket.agent)
            _decrease(self._by_tool, ticket.tool)
            ticket.where = Where.OUTSIDE
            self._advance()
        ticket.where = Where.OUTSIDE

    def _has_place(self, agent: str, tool: str) -> bool:
        limits = self._limits
        return (
            _is_below(self._inside, limits.concurrency)
            and _is_below(self._by_agent.get(agent, 0), limits.agent.concurrency)
            and _is_below(self._by_tool.get(tool, 0), self._of_tools.get(tool))
        )

    def _admit(self, ticket: Ticket) -> None:
        self._inside += 1
        self._by_agent[ticket.agent] = self._by_agent.get(ticket.agent, 0) + 1
        self._by_tool[ticket.tool] = self._by_tool.get(ticket.tool, 0) + 1
        ticket.where = Where.INSIDE

    def _advance(self) -> None:
        """Let in who can go, until nobody can."""
        while self._waiting and (ticket := self._next()) is not None:
            self._remove(ticket)
            self._admit(ticket)
            if (rest := self._queues.pop(ticket.agent, None)) is not None:
                self._queues[ticket.agent] = rest
            _ = ticket.on_move()

    def _next(self) -> Ticket | None:
        if not _is_below(self._inside, self._limits.concurrency):
            return None
        for agent, queues in self._queues.items():
            ready = [tool for tool in queues if self._has_place(agent, tool)]
            if ready:
                return min((_first(queues[tool]) for tool in ready), key=_number)
        return None

    def _make_room(self, agent: str) -> bool:
        """Put out the newest call of the agent that waits most, if this one waits less."""
        sizes = {name: sum(map(len, queues.values())) for name, queues in self._queues.items()}
        longest = max(sizes, key=lambda name: sizes[name], default=agent)
        if sizes.get(longest, 0) <= sizes.get(agent, 0) + 1:
            return False
        newest = max((_last(queue) for queue in self._queues[longest].values()), key=_number)
        self._remove(newest)
        newest.where = Where.OUTSIDE
        _ = newest.on_move()
        return True

    def _append(self, ticket: Ticket) -> None:
        queue = self._queues.setdefault(ticket.agent, {}).setdefault(ticket.tool, {})
        queue[ticket.number] = ticket
        self._waiting += 1
        ticket.where = Where.WAITING

    def _remove(self, ticket: Ticket) -> None:
        queues = self._queues[ticket.agent]
        del queues[ticket.tool][ticket.number]
        if not queues[ticket.tool]:
            del queues[ticket.tool]
        if not queues:
            del self._queues[ticket.agent]
        self._waiting -= 1


def _by_tool(limits: Limits) -> dict[str, int | None]:
    return {name: limit.concurrency for name, limit in limits.tools.items()}


def _is_below(count: int, most: int | None) -> bool:
    return most is None or count < most


def _decrease(counts: dict[str, int], name: str) -> None:
    counts[name] -= 1
    if not counts[name]:
        del counts[name]


def _number(ticket: Ticket) -> int:
    return ticket.number


def _first(queue: dict[int, Ticket]) -> Ticket:
    return next(iter(queue.values()))


def _last(queue: dict[int, Ticket]) -> Ticket:
    return next(reversed(queue.values()))
