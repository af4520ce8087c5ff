"""Tells people that a call waits for them, with a link where a console is there to open it."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, final

from orchestrator.approvals.links import Links
from orchestrator.clock import Clock
from orchestrator.errors import StateCorruptError
from orchestrator.model.approval import Approval
from orchestrator.model.message import Link, Notifier
from orchestrator.model.names import RoleName

# A console says that it is there more often than that.
GONE_SECONDS: Final = 60.0
LONGEST_RECEIPT: Final = 2_000
TOPIC: Final = "approval.required"


@dataclass(frozen=True, slots=True)
class Listeners:
    """What the settings say of those who are told.

    Attributes:
        owner_of: Tells a role's owner as its file does; empty for nobody.
        approver_of: Tells the approver whose own a target is; empty for nobody's.
    """

    owner_of: Callable[[RoleName], str]
    approver_of: Callable[[str], str]


@final
class Announcer:
    """Makes a message of each call that begins to wait."""

    def __init__(
        self, notifier: Notifier, links: Links, listeners: Listeners, clock: Clock
    ) -> None:
        """Prepare.

        Args:
            notifier: Tells people.
            links: Makes links; each target gets links of its own.
            listeners: What the settings say of them.
            clock: Where time comes from.
        """
        self._notifier = notifier
        self._links = links
        self._listeners = listeners
        self._clock = clock
        self._url = ""
        self._seen = 0.0

    def note_console(self, url: str) -> None:
        """Note that a console is there, and under which address people elsewhere reach it.

        Args:
            url: The address; empty where it opens no links, or has ended.
        """
        self._url = url
        self._seen = self._clock.monotonic()

    def tell(self, approval: Approval) -> None:
        """Tell people of a call; returns at once."""
        asked, until = approval.asked, f"{approval.expires_at:%Y-%m-%d %H:%M}"
        receipt = approval.receipt
        if len(receipt) > LONGEST_RECEIPT:
            receipt = f"{receipt[:LONGEST_RECEIPT]}... (look at it whole before you decide)"
        lines = [
            receipt,
            *(f"! {warning}" for warning in approval.warnings),
            "",
            f"{asked.agent} asks at {asked.role}; it waits until {until} UTC.",
        ]
        if approval.quorum > 1:
            lines.append(f"{approval.quorum} people have to approve it.")
        lines.append(f"On the machine: agents approvals show {approval.id}")
        self._notifier.send(
            TOPIC,
            f"{asked.tool} at {asked.role} waits for approval",
            "\n".join(lines),
            lambda target: self._links_for(target, approval),
            owner=self._listeners.owner_of(asked.role),
        )

    def _links_for(self, target: str, approval: Approval) -> Sequence[Link]:
        if not self._url or self._clock.monotonic() - self._seen > GONE_SECONDS:
            return ()
        approver = self._listeners.approver_of(target)
        # Without a key there is no link; the message goes out all the same.
        with suppress(StateCorruptError, OSError):
            text = self._links.make(approval.id, approval.expires_at, approver=approver)
            return (Link("Look at it and decide", f"{self._url}/l/{text}"),)
        return ()
