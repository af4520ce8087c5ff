"""What is held back, as the gateway asks it with each call: in memory, and never waiting."""

from collections.abc import Iterable
from datetime import datetime
from typing import Final, final

from orchestrator.errors import AgentsError, RoleFrozenError, ToolDisabledError
from orchestrator.model.guards import Hold
from orchestrator.model.names import RoleName
from orchestrator.model.server import ToolClass

_UNREAD: Final = "what is held back was not read yet"
_FROZEN: Final = "The role is frozen by its operator; nothing was done"
_READ_ONLY: Final = "The role may only read just now, its operator says; nothing was done"


@final
class Guards:
    """Everything that is held back. Belongs to the event loop; a change is one assignment.

    Attributes:
        problem: Why nobody knows what is held back; as long as it is not empty, everything is.
        is_idle: Whether nothing at all is held back, so that nobody needs to ask.
    """

    def __init__(self) -> None:
        """Hold everything back until it is known what is."""
        self.problem: str = _UNREAD
        self.is_idle: bool = False
        self._holds: tuple[Hold, ...] = ()
        self._frozen: frozenset[str | None] = frozenset()
        self._read_only: frozenset[str | None] = frozenset()
        self._disabled: frozenset[tuple[str | None, str]] = frozenset()
        self._shadows: tuple[Hold, ...] = ()

    @property
    def holds(self) -> tuple[Hold, ...]:
        """All of it, the broadest first."""
        return self._holds

    def load(self, holds: Iterable[Hold]) -> None:
        """Hold back exactly this from now on."""
        self._holds = tuple(sorted(holds, key=_breadth))
        self._frozen = frozenset(one.role for one in self._holds if one.kind == "frozen")
        self._read_only = frozenset(one.role for one in self._holds if one.kind == "read-only")
        self._disabled = frozenset(
            (one.role, one.tool)
            for one in self._holds
            if one.kind == "disabled" and one.tool is not None
        )
        self._shadows = tuple(one for one in self._holds if one.kind == "shadow")
        self.problem = ""
        self.is_idle = not self._holds

    def fail(self, problem: str) -> None:
        """Hold everything back, as nobody knows what is held back."""
        self.problem = problem
        self.is_idle = False

    def refusal(
        self, role: RoleName, tool: str | None, kind: ToolClass | None
    ) -> AgentsError | None:
        """Tell why something may not be done, None if it may.

        Args:
            role: Where.
            tool: The tool that is called; None for what is no tool.
            kind: The tool's class; None like the tool.
        """
        if self.is_idle:
            return None
        if self.problem or not self._frozen.isdisjoint((role, None)):
            return RoleFrozenError(_FROZEN)
        if tool is None:
            return None
        if kind != "READ" and not self._read_only.isdisjoint((role, None)):
            return RoleFrozenError(_READ_ONLY)
        if not self._disabled.isdisjoint(((role, tool), (None, tool))):
            return ToolDisabledError(f"{tool} is disabled by an operator; nothing was done")
        return None

    def shadow(self, role: RoleName, tool: str, kind: ToolClass, now: datetime) -> Hold | None:
        """Tell the shadow that a call falls into, None if it is to be made."""
        for one in self._shadows:
            if one.role != role or (one.until is not None and one.until <= now):
                continue
            if one.tool == tool or (one.tool is None and kind != "READ"):
                return one
        return None


def open_guards() -> Guards:
    """Make guards that hold nothing back, for a gateway that nobody governs."""
    guards = Guards()
    guards.load(())
    return guards


def _breadth(hold: Hold) -> tuple[bool, bool, str, str, str, str]:
    return (
        hold.role is not None,
        hold.tool is not None,
        hold.role or "",
        hold.tool or "",
        hold.kind,
        hold.origin,
    )
