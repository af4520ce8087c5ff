"""Finds out who decides: the operator of this machine, or an approver who proved to be one.

As long as no approver is named, whoever may use the control socket is the operator, and decides.
From the first approver on nobody else does.
"""

import hashlib
import secrets
from dataclasses import dataclass
from functools import partial
from typing import Final, final

import anyio.to_thread
from pydantic import SecretStr

from orchestrator.approvals.roster import Roster
from orchestrator.clock import Clock
from orchestrator.errors import ApproverError, SettingsError
from orchestrator.model.approval import Approval, Approver, are_one, fold
from orchestrator.model.names import AgentName, RoleName
from orchestrator.model.notes import Notes

IDLE_SECONDS: Final = 15 * 60.0
SHORTEST_PASSPHRASE: Final = 12
_LONGEST_PASSPHRASE: Final = 1024
_MOST_TICKETS: Final = 100
# Whoever is no approver: all names of these fail together, as there is no end of them.
_NOBODY: Final = ""
_FREE_FAILURES: Final = 2
# Beyond that the wait grows no more, and its figure has an end.
_MOST_FAILURES: Final = 100
_LONGEST_WAIT: Final = 300.0
_WRONG: Final = "no approver of this name has this passphrase"


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who decides.

    Attributes:
        name: Their name; `operator:NAME` for the operator of this machine.
        subject: Them as the agents' identity provider calls them; empty if it does not.
        roles: For which roles only; empty for all.
    """

    name: str
    subject: str = ""
    roles: tuple[RoleName, ...] = ()

    def refusal(self, approval: Approval) -> str:
        """Tell why they may not decide about a call, empty if they may."""
        asked = approval.asked
        if self.roles and asked.role not in self.roles:
            return f"{self.name} decides about other roles than {asked.role}"
        if are_one((self.name, self.subject), (asked.agent, approval.subject)):
            return f"{self.name} asked for it, and nobody approves what they asked for"
        return ""


@dataclass(slots=True)
class _Ticket:
    name: AgentName
    used: float


@final
class People:
    """The approvers, and who of them is here.

    Attributes:
        operator: Who decides as long as there is no approver.
    """

    def __init__(self, roster: Roster, clock: Clock, notes: Notes, operator: str) -> None:
        """Begin with nobody here; blocks.

        Args:
            roster: Who may approve.
            clock: Where time comes from.
            notes: Keeps who was let in, and who was not.
            operator: Name of whoever else may use the control socket.
        """
        self.operator: str = operator
        self._roster = roster
        self._clock = clock
        self._notes = notes
        # Nobody else changes them.
        self._approvers = {one.name: one for one in roster.every()}
        self._tickets: dict[str, _Ticket] = {}
        self._failures: dict[str, tuple[int, float]] = {}
        self._checking = anyio.Lock()

    def every(self) -> list[Approver]:
        """Tell all approvers, by name."""
        return [one for _, one in sorted(self._approvers.items())]

    def who(self, ticket: SecretStr) -> Person:
        """Tell who shows a ticket; without one it is the operator, if there is no approver.

        Raises:
            ApproverError: The ticket is none (any more), or there are approvers and none is shown.
        """
        text = ticket.get_secret_value()
        if text:
            return self.named(self._read(text))
        if self._approvers:
            raise ApproverError(
                "approvers are named, so one of them has to decide",
                hint="Say who you are: `--as NAME`. `agents approvers list` tells the names.",
            )
        return Person(self.operator)

    def named(self, name: str) -> Person:
        """Tell an approver who has proved to be one.

        Raises:
            ApproverError: They are none any more.
        """
        found = self._approvers.get(AgentName(name))
        if found is None:
            raise ApproverError(f"{name} is no approver (any more)")
        return Person(found.name, found.subject, found.roles)

    async def log_in(self, name: AgentName, passphrase: SecretStr) -> str:
        """Let an approver in.

        Returns:
            A ticket that is good until it was not used for a quarter of an hour.

        Raises:
            ApproverError: The name, the passphrase or both are wrong; or too many were.
        """
        # One at a time: nobody tries in parallel what is slowed down one after the other.
        async with self._checking:
            key = name if name in self._approvers else _NOBODY
            await self._require_patience(key, name)
            prove = partial(self._roster.proves, name, passphrase.get_secret_value())
            if not await anyio.to_thread.run_sync(prove):
                self._note_failure(key)
                await self._notes.tell("approver.refused", {"approver": name, "why": "passphrase"})
                raise ApproverError(_WRONG)
            _ = self._failures.pop(key, None)
            await self._notes.tell("approver.login", {"approver": name})
        return self._give(name)

    async def add(self, approver: Approver, passphrase: SecretStr) -> None:
        """Name an approver.

        Raises:
            SettingsError: The passphrase is too short, or the name is taken.
        """
        text = passphrase.get_secret_value()
        if not SHORTEST_PASSPHRASE <= len(text) <= _LONGEST_PASSPHRASE:
            raise SettingsError(
                f"a passphrase has at least {SHORTEST_PASSPHRASE} characters",
                hint="`--generate` makes a good one.",
            )
        if fold(approver.name) in map(fold, self._approvers):
            raise SettingsError(
                f"there is an approver {approver.name} already, or one who is written alike",
                hint="Remove them first, to give them another passphrase.",
            )
        fields = {"approver": approver.name, "by": approver.added_by}
        await self._notes.tell("approver.added", fields)
        _ = await anyio.to_thread.run_sync(self._roster.add, approver, text)
        self._approvers[approver.name] = approver

    async def remove(self, name: AgentName, by: str) -> Approver:
        """Take an approver's right away, and their tickets.

        Raises:
            ApproverError: There is none of that name.
        """
        found = self._approvers.get(name)
        if found is None:
            raise ApproverError(f"there is no approver {name}")
        await self._notes.tell("approver.removed", {"approver": name, "by": by})
        _ = await anyio.to_thread.run_sync(self._roster.remove, name)
        _ = self._approvers.pop(name, None)
        self._tickets = {key: one for key, one in self._tickets.items() if one.name != name}
        return found

    def _give(self, name: AgentName) -> str:
        now = self._clock.monotonic()
        self._tickets = {
            key: one for key, one in self._tickets.items() if now - one.used < IDLE_SECONDS
        }
        while len(self._tickets) >= _MOST_TICKETS:
            del self._tickets[next(iter(self._tickets))]
        text = secrets.token_urlsafe(32)
        self._tickets[_key(text)] = _Ticket(name, now)
        return text

    def _read(self, text: str) -> AgentName:
        ticket, now = self._tickets.get(_key(text)), self._clock.monotonic()
        if ticket is None or now - ticket.used >= IDLE_SECONDS:
            raise ApproverError("this login is over", hint="Log in again.")
        ticket.used = now
        return ticket.name

    async def _require_patience(self, key: str, name: str) -> None:
        _, until = self._failures.get(key, (0, 0.0))
        wait = until - self._clock.monotonic()
        if wait > 0:
            await self._notes.tell("approver.refused", {"approver": name, "why": "too often"})
            raise ApproverError(
                f"too many wrong passphrases for {name}", hint=f"Try again in {int(wait) + 1} s."
            )

    def _note_failure(self, key: str) -> None:
        count = min(self._failures.get(key, (0, 0.0))[0] + 1, _MOST_FAILURES)
        wait = 0.0 if count <= _FREE_FAILURES else min(2.0 ** (count - 2), _LONGEST_WAIT)
        self._failures[key] = count, self._clock.monotonic() + wait


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
