"""Where calls ask for approvals, and people give them.

What is approved is known to the database alone. In memory is only which approvals belong to a call
that is under way: two equal calls at the same time are not made by one.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Final, TypeVar, final

import anyio

from orchestrator.approvals.draft import draft, name_one, require_short
from orchestrator.approvals.passes import ApprovalPass, GrantPass, Spender
from orchestrator.approvals.people import Person
from orchestrator.approvals.store import ApprovalStore
from orchestrator.approvals.words import closed, denied, required, taken, too_many
from orchestrator.clock import Clock
from orchestrator.errors import (
    ApprovalChangedError,
    ApprovalError,
    ApprovalUnknownError,
    ApproverError,
    LinkRefusedError,
    RecordUnavailableError,
    StateUnwritableError,
)
from orchestrator.model.admin_governance import ApprovalState, Decision
from orchestrator.model.approval import Approval, Grant, Vote, Wish, are_one
from orchestrator.model.names import RoleName
from orchestrator.model.notes import Notes

T = TypeVar("T")

# Calls of one agent at one role that wait for people at the same time.
MOST_PENDING: Final = 20
TIDY_SECONDS: Final = 60.0


def _tell_nobody(_: Approval) -> None:
    """Tell nobody."""


@final
class ApprovalDesk:
    """Approvals of one project; all of them go through here.

    Attributes:
        on_asked: Is told of each call that begins to wait for people.
    """

    def __init__(
        self,
        store: ApprovalStore,
        clock: Clock,
        notes: Notes,
        policy_of: Callable[[RoleName], str | None],
    ) -> None:
        """Go on with what is in the store.

        Args:
            store: Where approvals are kept.
            clock: Where time comes from.
            notes: Keeps what people decide, before it counts.
            policy_of: Tells the revision of a role's policy now, None if the role is not there.
        """
        self.on_asked: Callable[[Approval], None] = _tell_nobody
        self._store = store
        self._clock = clock
        self._notes = notes
        self._policy_of = policy_of
        # One thread: what one call finds there, no other changes before it is done.
        self._worker = ThreadPoolExecutor(1, "approvals")
        self._spender = Spender(self._do, store, clock)
        self._deciding = anyio.Lock()

    # What calls ask for.

    async def admit(self, wish: Wish) -> ApprovalPass | GrantPass:
        """Find what a call may be made by, or have it wait for people.

        Raises:
            ArgumentsRefusedError: Nobody could read the arguments.
            ApprovalRequiredError: People have to approve it first.
            ApprovalDeniedError: Somebody said no.
            ApprovalTakenError: What it could be made by belongs to an equal call.
            RecordUnavailableError: Nobody knows, or it cannot be kept.
        """
        try:
            found, is_new, before = await self._do(partial(self._find, wish))
        except StateUnwritableError as error:
            raise RecordUnavailableError(str(error), hint=error.hint) from error
        if isinstance(found, Grant):
            return GrantPass(self._spender, found.id)
        if found is None:
            raise too_many(MOST_PENDING, wish.demand.rule)
        if found.state == "denied":
            raise denied(found)
        if found.state == "approved":
            taken_now = self._spender.take(found.id)
            if taken_now is None:
                raise taken(found.id)
            return taken_now
        if is_new:
            self.on_asked(found)
        raise required(found, before)

    def _find(self, wish: Wish) -> tuple[Approval | Grant | None, bool, Approval | None]:
        """Find or make what answers a call; blocks.

        Returns:
            What answers it, None if its agent has too much waiting; whether that is new; and what
            there was before of the same call.
        """
        require_short(wish)
        now = self._clock.now()
        found = self._store.answering(wish.asked, wish.subject, now)
        if found is not None and found.state != "pending":
            return found, False, None
        grants = (
            self._store.granting(wish.asked, wish.subject, now) if wish.demand.quorum == 1 else []
        )
        if grants:
            return grants[0], False, None
        if found is not None:
            return found, False, None
        asked = wish.asked
        if self._store.count_pending(asked.role, asked.agent, now) >= MOST_PENDING:
            return None, False, None
        before = self._store.last(asked, now)
        approval = draft(wish, now)
        self._store.add(approval)
        return approval, True, before

    # What people say.

    async def decide(  # noqa: PLR0913  what somebody says
        self,
        name: str,
        decision: Decision,
        digest: str,
        person: Person,
        *,
        reason: str = "",
        channel: str = "socket",
        spend: Callable[[], None] = lambda: None,
    ) -> Approval:
        """Have a person's word on a call.

        Args:
            name: The approval.
            decision: The word.
            digest: Names what the person was shown.
            person: Who.
            reason: Why, in words.
            channel: How it came.
            spend: Done when nothing speaks against it, before it counts.

        Returns:
            The approval as it is now.

        Raises:
            ApprovalUnknownError: There is none.
            ApprovalClosedError: Nothing can be decided about it any more.
            ApprovalChangedError: The person was shown something else.
            ApproverError: This person may not.
            RecordUnavailableError: The decision cannot be kept.
        """
        decided: Approval | None = None
        # To its end, also where whoever said it has hung up: half of it is no decision.
        with anyio.CancelScope(shield=True):
            async with self._deciding:
                try:
                    approval = await self.find(name)
                    self._require_decidable(approval, decision, digest, person)
                    spend()
                except (ApprovalError, LinkRefusedError) as error:
                    await self.note_refusal(name, person.name, error)
                    raise
                now = self._clock.now()
                vote = Vote(person.name, decision, now, reason, channel)
                decided = await self._decide(approval, vote)
        if decided is None:
            raise AssertionError("nothing cancels what is shielded")
        return decided

    def _require_decidable(
        self, approval: Approval, decision: Decision, digest: str, person: Person
    ) -> None:
        if approval.state != "pending":
            raise closed(approval)
        policy = self._policy_of(approval.asked.role)
        if policy != approval.asked.policy:
            raise closed(approval, is_older=True)
        if digest != approval.digest:
            raise ApprovalChangedError(
                f"the digest is not that of {approval.id}",
                approval=approval.id,
                hint=f"Look at it again: agents approvals show {approval.id}",
            )
        refusal = person.refusal(approval)
        said = {vote.by for vote in approval.votes}
        if not refusal and decision == "approve" and are_one([person.name], said):
            refusal = f"{person.name} has approved {approval.id} already; others have to"
        if refusal:
            raise ApproverError(refusal, approval=approval.id)

    async def _decide(self, approval: Approval, vote: Vote) -> Approval:
        state: ApprovalState = "denied" if vote.decision == "deny" else "pending"
        people = {one.by for one in approval.votes if one.decision == "approve"} | {vote.by}
        expires_at = approval.expires_at
        if state == "pending" and len(people) >= approval.quorum:
            state = "approved"
            expires_at = vote.at + timedelta(seconds=approval.lasts_seconds)
        await self._notes.tell(
            "approval.denied" if state == "denied" else "approval.approved",
            {
                "approval": approval.id,
                "by": vote.by,
                "role": approval.asked.role,
                "agent": approval.asked.agent,
                "tool": approval.asked.tool,
                "arguments_sha256": approval.asked.arguments_sha256,
                "policy": approval.asked.policy,
                "reason": vote.reason,
                "channel": vote.channel,
                "missing": approval.quorum - len(people) if state == "pending" else 0,
            },
        )
        if not await self._do(partial(self._store.vote, approval, vote, state, expires_at)):
            raise closed(await self.find(approval.id))
        return await self.find(approval.id)

    async def forget(self, person: str, by: str) -> None:
        """Let nothing count any more that somebody said who has no say now.

        What was decided whole stays decided; calls that wait for others wait for one more, and
        standing grants of theirs end.
        """
        with anyio.CancelScope(shield=True):
            await self.forget_votes(person)
            for grant in await self.grants(None):
                if grant.by == person and grant.ended_at is None:
                    _ = await self.end_grant(grant.id, by, f"{person} is no approver any more")

    async def forget_votes(self, person: str) -> None:
        """Have calls that wait for others not count what somebody said."""
        async with self._deciding:
            await self._do(partial(self._store.forget_votes, person))

    async def note_refusal(
        self, name: str, by: str, error: ApprovalError | LinkRefusedError
    ) -> None:
        """Keep that somebody's word did not count."""
        with suppress(RecordUnavailableError):  # it is refused all the same
            fields = {"approval": name_one(name), "by": by, "code": error.code, "why": str(error)}
            await self._notes.tell("approval.refused", fields)

    async def find(self, name: str) -> Approval:
        """Tell one approval.

        Raises:
            ApprovalUnknownError: There is none of that name.
        """
        found = await self._do(partial(self._store.find, name, self._clock.now()))
        if found is None:
            raise ApprovalUnknownError(
                "there is no such approval", hint="`agents approvals list` tells what there is."
            )
        return found

    async def every(
        self, role: RoleName | None, state: ApprovalState | None, limit: int
    ) -> list[Approval]:
        """Tell approvals, the newest first."""
        now = self._clock.now()
        return await self._do(partial(self._store.every, role, state, limit, now))

    async def last_approved(self, approval: Approval) -> Approval | None:
        """Tell the call of the same tool and role that was approved last before this one."""
        return await self._do(partial(self._store.last_approved, approval, self._clock.now()))

    # Standing grants.

    async def grants(self, role: RoleName | None) -> list[Grant]:
        """Tell grants, the newest first."""
        return await self._do(partial(self._store.grants, role))

    async def grant(self, grant: Grant) -> Grant:
        """Let calls through beforehand.

        Raises:
            RecordUnavailableError: It cannot be kept.
        """
        with anyio.CancelScope(shield=True):
            await self._notes.tell(
                "grant.given",
                {
                    "grant": grant.id,
                    "by": grant.by,
                    "role": grant.role,
                    "tool": grant.tool,
                    "agent": grant.agent or "*",
                    "calls": -1 if grant.calls is None else grant.calls,
                    "expires_at": grant.expires_at.isoformat(),
                    "policy": grant.policy,
                    "reason": grant.reason,
                },
            )
            await self._do(partial(self._store.add_grant, grant))
        return grant

    async def end_grant(self, name: str, by: str, reason: str) -> Grant:
        """End a grant; from the next call on it lets nothing through.

        Raises:
            ApprovalUnknownError: There is none of that name that is not over.
        """
        with anyio.CancelScope(shield=True):
            now = self._clock.now()
            if not await self._do(partial(self._store.end_grant, name, by, now)):
                raise ApprovalUnknownError("there is no such grant, or it was ended already")
            # After it: what ends a right holds, whatever becomes of the record.
            await self._notes.tell("grant.ended", {"grant": name, "by": by, "reason": reason})
        return next(one for one in await self.grants(None) if one.id == name)

    # Time.

    async def keep(self) -> None:
        """Write down what time has decided, every minute, until cancelled."""
        while True:
            with suppress(StateUnwritableError, RecordUnavailableError):
                for name in await self._do(partial(self._store.tidy, self._clock.now())):
                    await self._notes.tell("approval.expired", {"approval": name})
            await anyio.sleep(TIDY_SECONDS)

    async def _do(self, work: Callable[[], T]) -> T:
        """Do something in the one thread that the store has."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    def close(self) -> None:
        """End the thread; blocks until it has done what it was given."""
        self._worker.shutdown()
