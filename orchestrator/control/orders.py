"""Carries out what the control socket is asked for."""

import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast, final

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from pydantic import SecretStr
from structlog.typing import FilteringBoundLogger

from orchestrator.control.bootstrap import Bootstraps
from orchestrator.control.pinbook import PinBook
from orchestrator.control.reconciler import Reconciler
from orchestrator.errors import AgentsError, NotRunningError
from orchestrator.model.admin import (
    ApplyRequest,
    AttachRequest,
    CredentialRequest,
    PinsApproveRequest,
    PinsDiffRequest,
    PinsListRequest,
    Progress,
    ReopenRequest,
    Request,
    RestartRequest,
    Result,
    RevokeAllRequest,
    RotateRequest,
    RotationActRequest,
    RotationProvideRequest,
    RotationsRequest,
    ShutdownRequest,
    StatusRequest,
    TokenDenyRequest,
    TokenIssueRequest,
    TokenListRequest,
    TokenRevokeRequest,
)
from orchestrator.model.admin_governance import GovernanceRequest
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.names import TokenId
from orchestrator.model.notes import Mention, NoteFields, Notes, mention_nothing
from orchestrator.model.status import (
    CredentialsReport,
    CredentialStatus,
    GatewayStatus,
    ProjectStatus,
)
from orchestrator.runtimes.users import shared_note
from orchestrator.tokens.record import TokenRecord

if TYPE_CHECKING:
    # It brings SQLAlchemy, which the daemon loads beside its first instances' start.
    from orchestrator.tokens.desk import TokenDesk

# A follower hears of changes at most this often.
QUIET_SECONDS: Final = 0.05
# A follower hears something at least this often, so that a dead connection is noticed.
HEARTBEAT_SECONDS: Final = 1.0


@final
class _Job:
    """Work that goes on when whoever asked for it has gone."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.error: AgentsError | None = None


@final
class Orders:
    """Answers requests from the reconciler, the bootstraps, the gateway and the token desk."""

    def __init__(  # noqa: PLR0913  it brings five parts together
        self,
        *,
        project: Path,
        reconciler: Reconciler,
        bootstraps: Bootstraps,
        pins: PinBook,
        gateway: Callable[[], GatewayStatus],
        desk: "Callable[[], Awaitable[TokenDesk]]",
        credentials: Callable[[CredentialRequest], AsyncGenerator[Progress | Result]],
        govern: Callable[[GovernanceRequest], AsyncGenerator[Progress | Result]],
        report: Callable[[], CredentialsReport] = CredentialsReport,
        group: TaskGroup,
        log: FilteringBoundLogger,
        notes: Notes | None = None,
        mention: Mention = mention_nothing,
    ) -> None:
        """Prepare.

        Args:
            project: The project directory.
            reconciler: Keeps the roles.
            bootstraps: What is done once.
            pins: Which tool definitions were accepted.
            gateway: Tells how the gateway is.
            desk: Waits for the token desk, which is loaded beside everything else.
            credentials: Answers what is asked of rotations.
            govern: Answers what is asked of approvals, guards and incidents.
            report: Tells all credentials.
            group: Runs work that outlives a request.
            log: Structured log.
            notes: Keeps what people decide, before it takes effect.
            mention: Keeps for the record what happened.
        """
        self._notes = notes
        self._mention = mention
        self._project = project
        self._reconciler = reconciler
        self._bootstraps = bootstraps
        self._pins = pins
        self._gateway = gateway
        self._desk = desk
        self._credentials = credentials
        self._govern = govern
        self._report = report
        self._group = group
        self._log = log

    async def answer(  # noqa: C901, PLR0912  one case a request
        self, request: Request
    ) -> AsyncGenerator[Progress | Result]:
        """Answer one request: any progress, then the result.

        Raises:
            AgentsError: It cannot be done.
        """
        match request:
            case StatusRequest():
                while request.follow:
                    yield Progress(body=self._status())
                    await self._change()
                yield Result(body=self._status())
            case ApplyRequest():
                async for reply in self._until_settled(lambda: self._apply(request)):
                    yield reply
            case RestartRequest():
                async for reply in self._until_settled(
                    lambda: self._reconciler.restart(request.role)
                ):
                    yield reply
            case AttachRequest():
                async for reply in self._until_settled(
                    lambda: self._reconciler.attach(request.role, request.url)
                ):
                    yield reply
            case ShutdownRequest():
                async for reply in self._until_settled(self._reconciler.shutdown):
                    yield reply
            case TokenIssueRequest():
                yield Result(body=await self._issue(request))
            case TokenListRequest():
                desk = await self._desk()
                await anyio.to_thread.run_sync(desk.note_uses)
                records = await anyio.to_thread.run_sync(desk.list)
                yield Result(body=[describe_token(record) for record in records])
            case TokenRevokeRequest():
                desk = await self._desk()
                [done] = await anyio.to_thread.run_sync(
                    lambda: desk.revoke_many(
                        [TokenId(request.id)], by="operator", reason="revoked by an operator"
                    )
                )
                receipt = done.describe()
                yield Result(body={**describe_token(done.record), "receipt": receipt})
            case TokenDenyRequest():
                desk = await self._desk()
                denial = await anyio.to_thread.run_sync(
                    lambda: desk.deny(token_id=request.id, jti=request.jti, subject=request.subject)
                )
                yield Result(body=denial.describe())
            case PinsListRequest():
                yield Result(body=self._list_pins(request))
            case PinsDiffRequest():
                spec, lives = self._reconciler.pinned(request.role)
                yield Result(body=self._pins.differences(spec, lives))
            case PinsApproveRequest():
                spec, lives = self._reconciler.pinned(request.role)
                await self._tell(
                    "pins.approved",
                    {"role": spec.role, "server": spec.server, "live_hash": request.expect},
                )
                try:
                    approved = self._pins.approve(spec, lives, request.expect)
                except AgentsError as error:
                    self._mention("pins.not_approved", {"role": spec.role, "reason": str(error)})
                    raise
                self._reconciler.note_pins_changed(request.role)
                yield Result(body=approved)
            case (
                RotateRequest()
                | RotationsRequest()
                | RotationActRequest()
                | RotationProvideRequest()
                | RevokeAllRequest()
                | ReopenRequest()
            ):
                async for reply in self._credentials(request):
                    yield reply
            case _:
                async for reply in self._govern(request):
                    yield reply

    def _list_pins(self, request: PinsListRequest) -> list[Json]:
        held = {
            (spec.role, spec.server): self._pins.held(spec, lives)
            for spec, lives in self._reconciler.every_pinned()
        }
        return [*self._pins.describe(request.role, held)]

    async def _issue(self, request: TokenIssueRequest) -> JsonObject:
        known = [status.role for status in self._reconciler.statuses()]
        if request.role not in known:
            raise NotRunningError(
                f"role {request.role} is not running here",
                hint=f"Running: {', '.join(known) or 'none'}.",
            )
        desk = await self._desk()
        seconds = int(request.ttl.total_seconds())
        await self._tell(
            "token.ordered", {"role": request.role, "agent": request.agent, "ttl_seconds": seconds}
        )
        record, text = await anyio.to_thread.run_sync(
            desk.issue, request.agent, request.role, request.ttl
        )
        return describe_issued(record, text)

    async def _tell(self, event: str, fields: NoteFields) -> None:
        """Keep what a person decides, before it takes effect."""
        if self._notes is not None:
            await self._notes.tell(event, {"by": "operator", **fields})

    async def _apply(self, request: ApplyRequest) -> None:
        await self._reconciler.apply(request.desired)
        whole = request.desired.model_dump_json().encode()
        facts = {"roles": ", ".join(request.desired.roles), "sha256": sha256(whole).hexdigest()}
        self._mention("config.applied", facts)
        desk = await self._desk()
        await anyio.to_thread.run_sync(desk.keep_workstation_tokens, tuple(request.desired.roles))

    async def _until_settled(
        self, work: Callable[[], Awaitable[None]]
    ) -> AsyncGenerator[Progress | Result]:
        job = _Job()
        self._group.start_soon(self._do, work, job)
        while not (job.done.is_set() and self._is_settled()):
            yield Progress(body=self._status())
            await self._change()
        if job.error is not None:
            raise job.error
        yield Result(body=self._status())

    async def _do(self, work: Callable[[], Awaitable[None]], job: _Job) -> None:
        try:
            await work()
        except AgentsError as error:
            job.error = error
        except Exception:  # noqa: BLE001  it must not take the daemon along
            self._log.exception("an order failed")
            job.error = AgentsError("something unexpected went wrong; see the daemon's log")
        finally:
            job.done.set()
            self._reconciler.touch()

    def _is_settled(self) -> bool:
        gateway = self._gateway()
        return self._reconciler.is_settled() and (gateway.ready or bool(gateway.detail))

    async def _change(self) -> None:
        """Wait for something worth telling, not longer than a heartbeat."""
        with anyio.move_on_after(HEARTBEAT_SECONDS):
            await self._reconciler.change()
            await anyio.sleep(QUIET_SECONDS)

    def _status(self) -> JsonObject:
        report = self._report()
        shared = shared_note(
            [
                spec.user
                for spec, _ in self._reconciler.every_pinned()
                if not spec.attached and spec.container is None
            ]
        )
        of_role: dict[str, list[CredentialStatus]] = {}
        for one in report.credentials:
            of_role.setdefault(one.role, []).append(one)
        status = ProjectStatus(
            project=str(self._project),
            pid=os.getpid(),
            gateway=self._gateway(),
            roles=tuple(
                role.model_copy(update={"credentials": tuple(of_role.get(role.role, ()))})
                for role in self._reconciler.statuses()
            ),
            rotations=report.rotations,
            notes=(
                *self._reconciler.notes(),
                *self._bootstraps.notes(),
                *report.notes,
                *([shared] if shared else ()),
            ),
        )
        return cast("JsonObject", status.model_dump(mode="json"))


def describe_token(record: TokenRecord) -> JsonObject:
    """Tell everything of a token that may be shown."""

    def moment(value: object) -> str | None:
        return None if value is None else str(value).replace("+00:00", "Z").replace(" ", "T")

    return {
        "id": record.id,
        "role": record.role,
        "agent": record.agent,
        "state": record.state,
        "created_at": moment(record.created_at),
        "expires_at": moment(record.expires_at),
        "revoked_at": moment(record.revoked_at),
        "last_used_at": moment(record.last_used_at),
    }


def describe_issued(record: TokenRecord, text: SecretStr) -> JsonObject:
    """Tell a new token with its text, for the one time that it is shown."""
    return {"token": text.get_secret_value(), **describe_token(record)}
