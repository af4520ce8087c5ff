"""Answers what the control socket asks of approvals, grants and approvers."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final, Protocol, final

from orchestrator.approvals.describe import (
    describe_approval,
    describe_approver,
    describe_grant,
)
from orchestrator.approvals.desk import ApprovalDesk
from orchestrator.approvals.diff import differences
from orchestrator.approvals.draft import new_name
from orchestrator.approvals.links import Link, Links
from orchestrator.approvals.people import IDLE_SECONDS, People, Person
from orchestrator.clock import Clock
from orchestrator.errors import (
    ApprovalError,
    ApproverError,
    LinkRefusedError,
    RecordUnavailableError,
    SettingsError,
)
from orchestrator.model.admin_governance import (
    ApprovalDecideRequest,
    ApprovalOrder,
    ApprovalRequest,
    ApprovalsRequest,
    ApproverAddRequest,
    ApproverLoginRequest,
    ApproverRemoveRequest,
    ApproversRequest,
    GrantEndRequest,
    GrantRequest,
    GrantsRequest,
    LinkRequest,
)
from orchestrator.model.approval import Approval, Approver, Demand, Grant, are_one
from orchestrator.model.base import Json, JsonObject, format_duration
from orchestrator.model.names import RoleName, ToolName
from orchestrator.model.notes import Notes

LONGEST_GRANT: Final = timedelta(days=7)


class Policies(Protocol):
    """Tells the policies that calls go by now."""

    def revision(self, role: RoleName) -> str | None:
        """Tell the revision of a role's policy, None if the role is not there."""
        ...

    def demand(self, role: RoleName, tool: ToolName) -> Demand | None:
        """Tell what a role asks people for before a tool is called, None for nothing."""
        ...

    def demands(self) -> list[tuple[RoleName, ToolName, Demand]]:
        """Tell what all roles ask people for."""
        ...


@final
class ApprovalOrders:
    """Answers requests, one at a time or several."""

    def __init__(  # noqa: PLR0913  the parts that it brings together
        self,
        *,
        desk: ApprovalDesk,
        people: People,
        links: Links,
        policies: Policies,
        clock: Clock,
        notes: Notes,
    ) -> None:
        """Prepare.

        Args:
            desk: Approvals and grants.
            people: Who may approve.
            links: Reads the links that people follow.
            policies: Tells the policies of today.
            clock: Where time comes from.
            notes: Keeps what was refused.
        """
        self._desk = desk
        self._people = people
        self._links = links
        self._policies = policies
        self._clock = clock
        self._notes = notes

    async def answer(self, request: ApprovalOrder) -> Json:  # noqa: C901, PLR0911  one case a request
        """Answer one request.

        Raises:
            AgentsError: It cannot be done.
        """
        match request:
            case ApprovalsRequest():
                found = await self._desk.every(request.role, request.state, request.limit)
                return [describe_approval(one) for one in found]
            case ApprovalRequest():
                return await self._tell(await self._desk.find(request.id))
            case LinkRequest():
                link = await self._read_link(request.link.get_secret_value())
                if link.approver:  # who is none any more has nothing to look at, either
                    _ = self._people.named(link.approver)
                told = await self._tell(await self._desk.find(link.approval))
                return {**told, "approver": link.approver}
            case ApprovalDecideRequest():
                return await self._tell(await self._decide(request))
            case GrantsRequest():
                grants = await self._desk.grants(request.role)
                return [self._tell_grant(one) for one in grants]
            case GrantRequest():
                return self._tell_grant(await self._grant(request))
            case GrantEndRequest():
                person = self._people.who(request.ticket)
                ended = await self._desk.end_grant(request.id, person.name, request.reason)
                return self._tell_grant(ended)
            case ApproversRequest():
                return self._tell_approvers()
            case ApproverAddRequest():
                person = self._people.who(request.ticket)
                _require_say(person, request.roles)
                new = Approver(
                    request.name, request.subject, request.roles, self._clock.now(), person.name
                )
                await self._people.add(new, request.passphrase)
                # From the first approver on the operator has no say.
                await self._desk.forget_votes(self._people.operator)
                return describe_approver(new)
            case ApproverRemoveRequest():
                person = self._people.who(request.ticket)
                _require_say(person, self._people.named(request.name).roles)
                removed = await self._people.remove(request.name, person.name)
                await self._desk.forget(removed.name, person.name)
                return describe_approver(removed)
            case ApproverLoginRequest():
                ticket = await self._people.log_in(request.name, request.passphrase)
                return {"ticket": ticket, "name": request.name, "idle_seconds": int(IDLE_SECONDS)}

    async def _tell(self, approval: Approval) -> JsonObject:
        last = await self._desk.last_approved(approval)
        diff = None if last is None else differences(last, approval)
        return {**describe_approval(approval), "diff": diff}

    def _tell_grant(self, grant: Grant) -> JsonObject:
        return describe_grant(grant, self._clock.now(), self._policies.revision(grant.role))

    def _tell_approvers(self) -> JsonObject:
        approvers = self._people.every()
        return {
            "approvers": [describe_approver(one) for one in approvers],
            "operator": None if approvers else self._people.operator,
        }

    async def _decide(self, request: ApprovalDecideRequest) -> Approval:
        text = request.link.get_secret_value()
        try:
            link = await self._read_link(text) if text else None
            person = self._who(request, link)
        except ApprovalError as error:
            await self._desk.note_refusal(request.id, "?", error)
            raise

        def spend() -> None:
            if link is not None:
                self._links.spend(link)

        return await self._desk.decide(
            request.id,
            request.decision,
            request.digest,
            person,
            reason=request.reason,
            channel="socket" if link is None else "link",
            spend=spend,
        )

    def _who(self, request: ApprovalDecideRequest, link: Link | None) -> Person:
        if link is not None:
            if link.approval != request.id:
                raise ApproverError("the link is for another approval", approval=request.id)
            if link.approver:
                return self._people.named(link.approver)
        return self._people.who(request.ticket)

    async def _read_link(self, text: str) -> Link:
        try:
            return self._links.read(text)
        except LinkRefusedError as error:
            fields = {"approval": error.approval or "?", "code": error.code, "why": error.why}
            try:
                await self._notes.tell("approval.refused", fields)
            except RecordUnavailableError:
                raise error from None  # it is refused all the same
            raise

    async def _grant(self, request: GrantRequest) -> Grant:
        person = self._people.who(request.ticket)
        revision = self._policies.revision(request.role)
        demand = self._policies.demand(request.role, request.tool)
        if revision is None or demand is None:
            raise SettingsError(
                f"no role {request.role} runs here that asks for an approval of {request.tool}"
            )
        if demand.quorum > 1:
            raise ApproverError(
                f"{request.role} wants {demand.quorum} people for each call of {request.tool}; "
                "there is no approving beforehand"
            )
        if request.lasts > LONGEST_GRANT:
            raise SettingsError(f"a grant lasts at most {format_duration(LONGEST_GRANT)}")
        if person.roles and request.role not in person.roles:
            raise ApproverError(f"{person.name} decides about other roles than {request.role}")
        if request.agent and are_one([request.agent], [person.name, person.subject]):
            raise ApproverError("nobody approves what they ask for themselves")
        now = self._clock.now()
        return await self._desk.grant(
            Grant(
                id=new_name("gr"),
                role=request.role,
                tool=request.tool,
                policy=revision,
                agent=request.agent,
                calls=request.calls,
                used=0,
                created_at=now,
                expires_at=now + request.lasts,
                by=person.name,
                subject=person.subject,
                reason=request.reason,
            )
        )

    def shortages(self) -> list[str]:
        """Tell which calls nobody can approve, as too few people may."""
        approvers = self._people.every()
        found: list[str] = []
        for role, tool, demand in self._policies.demands():
            able = [one for one in approvers if not one.roles or role in one.roles]
            count = len(able) if approvers else 1
            if count < demand.quorum:
                found.append(
                    f"{role} wants {demand.quorum} people to approve {tool}, and {count} may: "
                    "`agents approvers add NAME`"
                )
        return found


def _require_say(person: Person, roles: Sequence[RoleName]) -> None:
    """Refuse to have somebody name, or remove, who decides about more than they do.

    Raises:
        ApproverError: They would.
    """
    if person.roles and not (roles and set(roles) <= set(person.roles)):
        raise ApproverError(
            f"{person.name} decides about {', '.join(person.roles)} alone, and names and removes "
            "nobody for other roles"
        )
