"""Approves a call and makes it, again and again, until it is killed.

Its argument is the database. It tells each call that it makes by `made APPROVAL` in a line, when
nothing but the call itself would follow.
"""

import asyncio
import os
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import final

from typing_extensions import override

from orchestrator.approvals.desk import ApprovalDesk
from orchestrator.approvals.people import Person
from orchestrator.approvals.store import ApprovalStore
from orchestrator.clock import SystemClock
from orchestrator.database import Database
from orchestrator.errors import ApprovalClosedError, ApprovalRequiredError, ApprovalTakenError
from orchestrator.model.approval import Asked, Demand, Wish
from orchestrator.model.names import AgentName, RoleName, ToolName
from orchestrator.model.notes import NoteFields, Notes


@final
class QuietNotes(Notes):
    """Keeps nothing."""

    @override
    async def tell(self, event: str, fields: NoteFields, /) -> None:
        """Keep nothing."""


async def work(desk: ApprovalDesk, number: int) -> None:
    """Make calls of one kind."""
    asked = Asked(RoleName("r"), AgentName("bot"), ToolName("pay"), f"sha {number}", "p")
    demand = Demand("approval.pay", 1, timedelta(hours=1))
    wish = Wish(asked, "DESTRUCTIVE", demand, {"n": number}, "", "request")
    while True:
        try:
            held = await desk.admit(wish)
            await held.spend("request")
        except ApprovalRequiredError as error:
            digest = (await desk.find(error.approval)).digest
            with suppress(ApprovalClosedError):  # the other one of its kind was quicker
                _ = await desk.decide(error.approval, "approve", digest, Person("alice"))
            continue
        except ApprovalTakenError:
            await asyncio.sleep(0)
            continue
        _ = os.write(1, f"made {held.id}\n".encode())
        held.release()


async def main() -> None:
    """Make calls of three kinds, each wanted by two at the same time."""
    store = ApprovalStore(Database(Path(sys.argv[1])))
    desk = ApprovalDesk(store, SystemClock(), QuietNotes(), lambda _: "p")
    _ = await asyncio.gather(*(work(desk, number) for number in (1, 1, 2, 2, 3, 3)))


asyncio.run(main())
