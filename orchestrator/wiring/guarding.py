"""What is held back: put together before the gateway listens."""

from typing import NamedTuple

from orchestrator.clock import Clock
from orchestrator.database import Database
from orchestrator.guards.desk import GuardDesk
from orchestrator.guards.index import Guards
from orchestrator.guards.store import HoldStore
from orchestrator.model.notes import Notes


class Guarding(NamedTuple):
    """What is held back.

    Attributes:
        guards: What the gateway asks.
        desk: What changes it.
    """

    guards: Guards
    desk: GuardDesk


def open_guarding(database: Database, notes: Notes, clock: Clock) -> Guarding:
    """Read what is held back; blocks. Where it cannot be read, everything is frozen."""
    guards = Guards()
    desk = GuardDesk(guards, HoldStore(database), notes, clock)
    desk.load()
    return Guarding(guards, desk)
