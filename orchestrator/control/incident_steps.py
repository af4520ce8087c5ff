"""What is done step by step when an incident is started and closed; each step may be repeated."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, final

import anyio.to_thread

from orchestrator.clock import Clock
from orchestrator.control.evidence import copy_record
from orchestrator.errors import StateUnwritableError
from orchestrator.guards.desk import GuardDesk
from orchestrator.model.auth import WORKSTATION
from orchestrator.model.guards import OF_INCIDENT, Hold
from orchestrator.model.incident import Incident, StepName
from orchestrator.model.message import Delivery, Notifier
from orchestrator.model.names import RoleName

if TYPE_CHECKING:
    # It brings SQLAlchemy, which the daemon loads beside its first instances' start.
    from orchestrator.tokens.desk import TokenDesk

Facts: TypeAlias = dict[str, str | int | bool]
# How long the command waits for people to be told; it goes on in the background.
TELL_SECONDS: Final = 10.0
_USABLE: Final = frozenset({"active", "pending", "retiring"})


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a step.

    Attributes:
        ok: Whether it was seen to be done.
        note: What was done, in words.
        facts: The same for programs.
        remaining: What a person has to know or do; one sentence each.
    """

    ok: bool
    note: str
    facts: Facts = field(default_factory=dict[str, "str | int | bool"])
    remaining: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Means:
    """What steps work with.

    Attributes:
        guards: Freezes and thaws.
        tokens: Ends tokens, and issues the workstation's.
        cut: Ends every request and stream at a role; tells how many requests that were.
        notifier: Tells people.
        owner_of: Tells what a role's file says of its owner.
        is_closed: Whether `agents revoke-all` keeps a role down.
        record: The directory of the record.
        folder: Where the papers of incidents are kept.
        clock: Where time comes from.
    """

    guards: GuardDesk
    tokens: "TokenDesk"
    cut: Callable[[RoleName], int]
    notifier: Notifier
    owner_of: Callable[[RoleName], str]
    is_closed: Callable[[RoleName], bool]
    record: Path
    folder: Path
    clock: Clock


def hold_of(incident: Incident) -> Hold:
    """Write the freeze that an incident is."""
    return Hold(
        kind="frozen",
        role=incident.role,
        since=incident.started_at,
        by=incident.by,
        reason=incident.reason,
        origin=f"{OF_INCIDENT}{incident.id}",
    )


@final
class Steps:
    """Takes single steps."""

    def __init__(self, means: Means) -> None:
        """Work with these."""
        self._means = means
        self.by_name: Mapping[StepName, Callable[[Incident], Awaitable[Done]]] = {
            "freeze": self._freeze,
            "revoke": self._revoke,
            "cut": self._cut,
            "export": self._export,
            "notify": self._notify,
            "reissue": self._reissue,
            "thaw": self._thaw,
            "tell": self._tell,
        }

    def hold_now(self, incident: Incident) -> None:
        """Refuse calls and tokens in memory, before anything waits for a disk."""
        _ = self._means.guards.hold_now(hold_of(incident))
        self._means.tokens.close(incident.role)

    def hold_again(self, incident: Incident) -> None:
        """Refuse again what an incident of an earlier daemon refuses; blocks at most shortly."""
        if incident.state == "opening":
            _ = self._means.guards.hold_now(hold_of(incident))
        is_reissued = any(one.name == "reissue" for one in incident.close_steps)
        if incident.state != "closed" and not is_reissued:
            self._means.tokens.close(incident.role)

    async def _freeze(self, incident: Incident) -> Done:
        try:
            _ = await self._means.guards.hold(hold_of(incident))
        except StateUnwritableError as error:
            return Done(ok=False, note=f"every call is refused, but {error}")
        return Done(ok=True, note="every call is refused from now on, also after a restart")

    async def _revoke(self, incident: Incident) -> Done:
        desk, role = self._means.tokens, incident.role

        def revoke() -> Done:
            # Also those that a token's rotation issued in the moment before.
            desk.close(role)
            ids = desk.of_roles([role])
            done = desk.revoke_many(ids, by=incident.by, reason=f"incident {incident.id}")
            records = [
                one
                for one in desk.list()
                if one.role == role
                and one.revoked_at is not None
                and one.revoked_at >= incident.started_at
            ]
            open_still = [one.record.id for one in done if one.refused_at is None]
            left = sum(one.left for one in done)
            is_durable = not desk.unwritten
            slowest = max((one.refused_after for one in done), default=0.0) * 1000
            facts: Facts = {
                "tokens": len(records),
                "agents": ", ".join(sorted({one.agent for one in records})),
                "slowest_refusal_ms": f"{slowest:.3f}",
                "requests_cut": sum(one.cut for one in done),
                "streams_left": left,
                "durable": is_durable,
            }
            troubles = [f"not seen refused: {', '.join(open_still)}"] if open_still else []
            troubles += ["what they have open has not ended yet"] if left else []
            troubles += [] if is_durable else ["it is NOT on disk yet"]
            note = f"{_count(len(records), 'token')} revoked and seen refused"
            return Done(ok=not troubles, note="; ".join([note, *troubles]), facts=facts)

        return await anyio.to_thread.run_sync(revoke)

    async def _cut(self, incident: Incident) -> Done:
        count = self._means.cut(incident.role)
        return Done(
            ok=True,
            note=f"every stream was ended, and {_count(count, 'call')} under way",
            facts={"calls": count},
        )

    async def _export(self, incident: Incident) -> Done:
        folder = self._means.folder / incident.id
        try:
            facts = await anyio.to_thread.run_sync(
                copy_record, self._means.record, incident.role, folder
            )
        except OSError as error:
            return Done(ok=False, note=f"the record could not be copied: {error.strerror}")
        note = f"{_count(int(facts['lines']), 'line')} of the record are in {facts['file']}"
        return Done(ok=True, note=note, facts=facts)

    async def _notify(self, incident: Incident) -> Done:
        title = f"Incident at role {incident.role}"
        text = (
            f"{incident.reason}\n\nStarted by {incident.by} at "
            f"{incident.started_at:%Y-%m-%d %H:%M:%S} UTC. The role is frozen and its tokens are "
            f"revoked.\nagents incident show {incident.id}"
        )
        return await self._send("incident.started", title, text, incident.role)

    async def _send(self, topic: str, title: str, text: str, role: RoleName) -> Done:
        deliveries = await self._means.notifier.deliver(
            topic, title, text, owner=self._means.owner_of(role), grace=TELL_SECONDS
        )
        if not deliveries:
            return Done(ok=False, note="nobody was told: agents.yaml has no `notify:` for it")
        facts: Facts = {one.target: one.state for one in deliveries}
        ok = all(one.state == "delivered" for one in deliveries)
        return Done(ok=ok, note="; ".join(map(_outcome, deliveries)), facts=facts)

    async def _reissue(self, incident: Incident) -> Done:
        desk, role = self._means.tokens, incident.role
        remaining = await anyio.to_thread.run_sync(self._still_revoked, incident)
        if self._means.is_closed(role):
            return Done(
                ok=True,
                note="no token: the role is closed",
                remaining=(
                    *remaining,
                    f"`agents revoke-all` keeps the role down: `agents reopen {role}`.",
                ),
            )

        def reissue() -> bool:
            desk.reopen(role)
            # Looked at afterwards: one that begins now closes the role behind this.
            if self._is_held_by_another(incident):
                desk.close(role)
                return False
            desk.keep_workstation_tokens([role])
            return any(
                one.agent == WORKSTATION and one.role == role and one.state in _USABLE
                for one in desk.list()
            )

        if await anyio.to_thread.run_sync(reissue):
            note = f"the workstation has a fresh token in {desk.file_of(role)}"
            return Done(ok=True, note=note, remaining=remaining)
        if self._is_held_by_another(incident):
            note = "no token: another incident holds the role"
            return Done(ok=True, note=note, remaining=remaining)
        return Done(ok=False, note="the workstation has no token", remaining=remaining)

    def _is_held_by_another(self, incident: Incident) -> bool:
        own = f"{OF_INCIDENT}{incident.id}"
        return any(
            one.role == incident.role and one.origin != own and one.origin.startswith(OF_INCIDENT)
            for one in self._means.guards.holds
        )

    def _still_revoked(self, incident: Incident) -> tuple[str, ...]:
        """Tell whom to give new tokens; blocks."""
        records = self._means.tokens.list()
        agents = {
            one.agent
            for one in records
            if one.role == incident.role
            and one.agent != WORKSTATION
            and one.revoked_at is not None
            and one.revoked_at >= incident.started_at
        }
        served = {
            one.agent for one in records if one.role == incident.role and one.state in _USABLE
        }
        return tuple(
            f"The tokens of agent {agent} stay revoked: `agents token issue {incident.role} "
            f"--agent {agent}`."
            for agent in sorted(agents - served)
        )

    async def _thaw(self, incident: Incident) -> Done:
        guards, role = self._means.guards, incident.role
        _ = await guards.release(
            ("frozen",),
            role,
            None,
            origin=f"{OF_INCIDENT}{incident.id}",
            by=incident.closed_by,
            reason=incident.close_reason,
        )
        left = [
            one
            for one in guards.holds
            if one.kind in {"frozen", "read-only"} and one.role in {None, role}
        ]
        if not left:
            return Done(ok=True, note="calls are let through again")
        return Done(
            ok=True,
            note="the incident's freeze is over; another one goes on",
            remaining=tuple(
                f"{'Every role' if one.role is None else one.role} is {one.kind} by {one.by}: "
                f"`agents thaw{'' if one.role is None else ' ' + one.role}`, or close its incident."
                for one in left
            ),
        )

    async def _tell(self, incident: Incident) -> Done:
        title = f"Incident at role {incident.role} is over"
        text = (
            f"{incident.close_reason}\n\nClosed by {incident.closed_by}.\n"
            f"agents incident show {incident.id}"
        )
        done = await self._send("incident.closed", title, text.strip(), incident.role)
        # What cannot be undone, whoever looks at it.
        return Done(
            ok=done.ok,
            note=done.note,
            facts=done.facts,
            remaining=(
                "Calls that were cut stay cut: whether one took effect, its server knows.",
                (
                    "Credentials that the role's server shows others were not replaced: "
                    f"`agents rotate {incident.role} --purpose upstream`, or `agents revoke-all`."
                ),
            ),
        )


def _outcome(delivery: Delivery) -> str:
    words = {
        "delivered": "was told",
        "trying": f"is tried again: {delivery.note or 'no answer yet'}",
        "failed": f"was not told: {delivery.note}",
    }
    return f"{delivery.target} {words[delivery.state]}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def missing(incident: Incident, wanted: Sequence[StepName]) -> StepName | None:
    """Tell the next step; None if all were taken."""
    steps = incident.close_steps if incident.state == "closing" else incident.steps
    taken = {one.name for one in steps}
    return next((name for name in wanted if name not in taken), None)
