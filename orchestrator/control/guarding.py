"""Answers what is asked of guards: freezes, disabled tools, shadows."""

from collections.abc import AsyncGenerator, Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final, cast, final

import anyio.to_thread

from orchestrator.clock import Clock
from orchestrator.control.shadowed import report_of
from orchestrator.errors import NotRunningError, SettingsError
from orchestrator.guards.desk import GuardDesk
from orchestrator.model.admin import Progress, Result
from orchestrator.model.admin_governance import (
    DisableRequest,
    EnableRequest,
    FreezeRequest,
    GuardOrder,
    GuardsRequest,
    ShadowReportRequest,
    ShadowStartRequest,
    ShadowStopRequest,
    ThawRequest,
)
from orchestrator.model.base import Json, Model
from orchestrator.model.guards import (
    OF_FILE,
    OF_OPERATOR,
    GuardChange,
    GuardsReport,
    Hold,
    HoldKind,
)
from orchestrator.model.names import RoleName, ToolName
from orchestrator.model.workload import WorkloadSpec

# Longer ones would be forgotten, and an agent whose calls do nothing is of no use.
LONGEST_SHADOW: Final = timedelta(days=90)


@final
class GuardOrders:
    """Checks what is asked for, and has the desk do it."""

    def __init__(
        self,
        desk: GuardDesk,
        roles: Callable[[], Mapping[RoleName, WorkloadSpec]],
        *,
        record: Path,
        clock: Clock,
        operator: str,
    ) -> None:
        """Prepare.

        Args:
            desk: Makes the changes.
            roles: Tells the roles that are applied.
            record: The directory of the record, which has the calls that were not made.
            clock: Where time comes from.
            operator: Whoever gives orders here.
        """
        self._desk = desk
        self._roles = roles
        self._record = record
        self._clock = clock
        self._operator = operator

    async def answer(self, request: GuardOrder) -> AsyncGenerator[Progress | Result]:
        """Answer one request.

        Raises:
            AgentsError: It cannot be done.
        """
        match request:
            case GuardsRequest():
                answer = GuardsReport(holds=self._every_hold(), problem=self._desk.problem)
            case ShadowReportRequest():
                since = None if request.since is None else self._clock.now() - request.since
                running = tuple(
                    one
                    for one in self._every_hold()
                    if one.kind == "shadow" and request.role in {None, one.role}
                )
                answer = await anyio.to_thread.run_sync(
                    report_of, self._record, request.role, since, running
                )
            case _:
                answer = await self._change(request)
        yield Result(body=_json(answer))

    async def _change(
        self,
        request: (
            FreezeRequest
            | ThawRequest
            | DisableRequest
            | EnableRequest
            | ShadowStartRequest
            | ShadowStopRequest
        ),
    ) -> GuardChange:
        role, reason = request.role, request.reason
        match request:
            case FreezeRequest():
                kind: HoldKind = "read-only" if request.read_only else "frozen"
                self._require_role(role)
                return await self._hold(kind, role, None, reason)
            case ThawRequest():
                return await self._release(("frozen", "read-only"), role, None, reason)
            case DisableRequest():
                self._require_tool(role, request.tool)
                return await self._hold("disabled", role, request.tool, reason)
            case EnableRequest():
                return await self._release(("disabled",), role, request.tool, reason)
            case ShadowStartRequest():
                self._require_role(role)
                if request.tool is not None:
                    self._require_tool(role, request.tool)
                if request.lasts > LONGEST_SHADOW:
                    raise SettingsError(
                        "a shadow lasts 90 days at most", hint="Give a shorter time: --for 24h."
                    )
                return await self._hold("shadow", role, request.tool, reason, request.lasts)
            case ShadowStopRequest():
                return await self._release(("shadow",), role, request.tool, reason)

    async def _hold(
        self,
        kind: HoldKind,
        role: RoleName | None,
        tool: ToolName | None,
        reason: str,
        lasts: timedelta | None = None,
    ) -> GuardChange:
        now = self._clock.now()
        hold = Hold(
            kind=kind,
            role=role,
            tool=tool,
            since=now,
            until=None if lasts is None else now + lasts,
            by=self._operator,
            reason=reason,
        )
        changed = await self._desk.hold(hold)
        return GuardChange(changed=changed, holds=self._holds_of((kind,), role, tool))

    async def _release(
        self,
        kinds: tuple[HoldKind, ...],
        role: RoleName | None,
        tool: ToolName | None,
        reason: str,
    ) -> GuardChange:
        ended = await self._desk.release(
            kinds, role, tool, origin=OF_OPERATOR, by=self._operator, reason=reason
        )
        return GuardChange(changed=bool(ended), holds=self._holds_of(kinds, role, tool))

    def _holds_of(
        self, kinds: tuple[HoldKind, ...], role: RoleName | None, tool: ToolName | None
    ) -> tuple[Hold, ...]:
        """Tell what concerns this: what is wider than it, too, as that holds it back as well."""
        return tuple(
            one
            for one in self._every_hold()
            if one.kind in kinds
            and (role is None or one.role in {None, role})
            and (tool is None or one.tool in {None, tool})
        )

    def _every_hold(self) -> tuple[Hold, ...]:
        """Tell all that holds now: that of orders, and that of role files."""
        now = self._clock.now()
        held = [one for one in self._desk.holds if one.until is None or one.until > now]
        for role, spec in self._roles().items():
            rule = spec.policy.shadow
            if rule is None or rule.until <= now:
                continue
            tools: tuple[ToolName | None, ...] = (
                (None,) if rule.tools == "all-writes" else rule.tools
            )
            held += [
                Hold(kind="shadow", role=role, tool=tool, until=rule.until, origin=OF_FILE)
                for tool in tools
            ]
        return tuple(held)

    def _require_role(self, role: RoleName | None) -> None:
        """Refuse a role that is not there: whoever misspells it would believe it held back.

        Raises:
            NotRunningError: It is not applied.
        """
        roles = self._roles()
        if role is not None and role not in roles:
            raise NotRunningError(
                f"role {role} is not running here; nothing was changed",
                hint=f"Running: {', '.join(roles) or 'none'}.",
            )

    def _require_tool(self, role: RoleName | None, tool: ToolName) -> None:
        """Refuse a tool that is not there.

        Raises:
            NotRunningError: The role is not applied, or no role has such a tool.
        """
        self._require_role(role)
        specs = [spec for name, spec in self._roles().items() if role in {None, name}]
        if not any(tool in spec.tools for spec in specs):
            where = "no role" if role is None else f"role {role}"
            negation = "has" if role is None else "does not have"
            raise NotRunningError(
                f"{where} {negation} a tool {tool}; nothing was changed",
                hint="`agents tools ROLE` lists them.",
            )


def _json(answer: Model) -> Json:
    return cast("Json", answer.model_dump(mode="json"))
