"""What the daemon does for the console: it records who came in, and makes links that it opens."""

import os
from collections.abc import AsyncGenerator
from typing import final

from orchestrator.approvals.announce import Announcer, Listeners
from orchestrator.approvals.links import Links
from orchestrator.clock import Clock
from orchestrator.control.state import StateFile
from orchestrator.model.admin import Progress, Result
from orchestrator.model.admin_governance import ConsoleHereRequest, ConsoleOrder
from orchestrator.model.message import Notifier
from orchestrator.model.notes import Notes
from orchestrator.model.notify import Mailbox


@final
class ConsoleOrders:
    """Answers what the console asks for itself."""

    def __init__(self, notes: Notes, announcer: Announcer) -> None:
        """Prepare.

        Args:
            notes: Keeps who came in, and who did not.
            announcer: Tells people of calls that wait.
        """
        self._notes = notes
        self._announcer = announcer

    async def answer(self, request: ConsoleOrder) -> AsyncGenerator[Progress | Result]:
        """Answer one request.

        Raises:
            RecordUnavailableError: It cannot be kept.
        """
        if isinstance(request, ConsoleHereRequest):
            self._announcer.note_console(request.url)
        else:
            await self._notes.tell(request.event, {"by": f"uid:{os.getuid()}"})
        yield Result(body={})


def open_announcer(notifier: Notifier, links: Links, state: StateFile, clock: Clock) -> Announcer:
    """Put together what tells people of calls that wait.

    Args:
        notifier: Tells people.
        links: Makes links.
        state: Knows the targets and the owners that are applied.
        clock: Where time comes from.
    """

    def approver_of(target: str) -> str:
        found = state.state.notify.targets.get(target)
        # Mail goes to several people, each of whom could decide as another.
        return "" if found is None or isinstance(found, Mailbox) else found.approver

    owners = Listeners(lambda role: state.state.notify.owners.get(role, ""), approver_of)
    return Announcer(notifier, links, owners, clock)
