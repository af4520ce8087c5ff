"""Carries out what the control socket is asked of credentials."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Final, Protocol, TypeAlias, cast, final

from pydantic import SecretStr

from orchestrator.errors import NotRunningError, RotationError, SettingsError
from orchestrator.model.admin import (
    CredentialRequest,
    Progress,
    ReopenRequest,
    Result,
    RevokeAllRequest,
    RotateRequest,
    RotationActRequest,
    RotationProvideRequest,
    RotationsRequest,
)
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.names import RoleName
from orchestrator.model.rotation import FINISHED, Purpose, Rotation, State
from orchestrator.rotation.schedule import Due
from orchestrator.rotation.targets import choose, describe_due, less, nothing_to_do

OPERATOR: Final = "operator"
# The newest ones are what somebody asks for; all of them are in the database.
MOST_ROTATIONS: Final = 100
# Where an agent has its new token: it alone moves on now, by using it.
_DELIVERED: Final = frozenset(
    {
        State.STAGED,
        State.VERIFIED,
        State.PROMOTED,
        State.SWITCHED,
        State.DRAINED,
        State.REVOKING,
    }
)

Replies: TypeAlias = AsyncGenerator[Progress | Result]


class Engine(Protocol):
    """What orders ask of the engine."""

    async def plan(
        self, role: RoleName, purpose: Purpose, agent: str = "", *, reason: str, by: str
    ) -> Rotation:
        """Begin a rotation."""
        ...

    async def rotations(self, role: RoleName | None = None) -> Sequence[Rotation]:
        """Tell rotations."""
        ...

    async def get(self, rotation_id: str) -> Rotation:
        """Tell one rotation."""
        ...

    async def due(self) -> Sequence[Due]:
        """Tell every current credential."""
        ...

    async def notes(self) -> Sequence[str]:
        """Tell what a person should know."""
        ...

    async def tick(self, by: str) -> Sequence[Rotation]:
        """Begin what is due."""
        ...

    def follow(self, rotation_id: str) -> AsyncGenerator[Rotation]:
        """Give a rotation as it is, then again at each change, until it is finished or held."""
        ...

    async def resume(self, rotation_id: str, by: str) -> Rotation:
        """Let a held rotation go on."""
        ...

    async def abort(self, rotation_id: str, by: str) -> Rotation:
        """Take a rotation back."""
        ...

    async def approve_revoke(self, rotation_id: str, by: str) -> Rotation:
        """Take a person's word that the old credential is dead."""
        ...

    async def vouch(self, receipt_id: str, by: str) -> JsonObject | None:
        """Take a person's word for what a `revoke_all` did not see dead; None: no such receipt."""
        ...

    async def provide(self, rotation_id: str, value: SecretStr, by: str) -> Rotation:
        """Take a credential that a person made."""
        ...

    def take(self, rotation_id: str) -> SecretStr | None:
        """Give the new token of an agent that gets it by hand, once."""
        ...

    async def revoke_all(self, roles: Sequence[RoleName], *, reason: str, by: str) -> JsonObject:
        """End every credential of some roles, and keep the roles down."""
        ...

    async def reopen(self, role: RoleName, by: str) -> bool:
        """Let a role run again; tells whether it was closed."""
        ...


@final
class CredentialOrders:
    """Answers requests from the rotation engine."""

    def __init__(
        self,
        engine: Callable[[], Awaitable[Engine]],
        roles: Callable[[], Sequence[RoleName]],
        changed: Callable[[], Awaitable[None]],
    ) -> None:
        """Prepare.

        Args:
            engine: Waits for the engine, which is loaded beside everything else.
            roles: The roles that are applied, from the least to the most power.
            changed: Is told that something happened, before the answer leaves.
        """
        self._engine = engine
        self._roles = roles
        self._changed = changed

    async def answer(self, request: CredentialRequest) -> Replies:
        """Answer one request: any progress, then the result.

        Raises:
            AgentsError: It cannot be done.
        """
        engine = await self._engine()
        match request:
            case RotateRequest():
                async with aclosing(self._rotate(engine, request)) as replies:
                    async for reply in replies:
                        yield reply
            case RotationsRequest():
                yield Result(body=await self._tell(engine, request))
            case RotationActRequest() | RotationProvideRequest():
                if receipt := await _vouch(engine, request):
                    await self._changed()
                    yield Result(body=receipt)
                    return
                rotation = await _act(engine, request)
                async with aclosing(_until_rest(engine, rotation)) as states:
                    async for rotation in states:
                        yield Progress(body=describe(rotation))
                await self._changed()
                yield Result(body=describe(rotation))
            case RevokeAllRequest():
                roles = self._meant(request, await engine.due())
                receipt = await engine.revoke_all(roles, reason=request.reason, by=OPERATOR)
                await self._changed()
                yield Result(body=receipt)
            case ReopenRequest():
                self._check_known([request.role], await engine.due())
                was_closed = await engine.reopen(request.role, OPERATOR)
                await self._changed()
                yield Result(body={"role": request.role, "was_closed": was_closed})

    async def _rotate(self, engine: Engine, request: RotateRequest) -> Replies:
        """Replace credentials one after the other; the first that fails or is held is the last."""
        dues = await engine.due()
        self._check_known(request.roles, dues)
        choice = choose(dues, request, self._roles())
        if not choice.wanted and not request.due:
            raise nothing_to_do(request, choice.left)
        if request.dry_run:
            planned, left = _list(choice.wanted), _list(choice.left)
            yield Result(body={"rotations": [], "planned": planned, "left": left})
            return
        refused: list[Json] = []
        done: list[Rotation] = []
        told: list[Json] = []
        is_tick = request.due and not (request.roles or request.purpose or request.agent)
        begun = _tick(engine) if is_tick else _plan(engine, request, choice.wanted, refused)
        async with aclosing(begun):
            async for planned in begun:
                rotation = planned
                async with aclosing(_until_rest(engine, rotation)) as states:
                    async for rotation in states:
                        yield Progress(body=describe(rotation))
                done.append(rotation)
                told.append(_with_token(engine, rotation))
                if rotation.state in {State.FAILED, State.HELD} and not is_tick:
                    break
        if done:
            await self._changed()
        left = less([*choice.wanted, *choice.left], done)
        body: JsonObject = {"rotations": told, "refused": refused, "left": _list(left)}
        if request.due:
            begun_ids = {rotation.id for rotation in done}
            body["held"] = [
                describe(one)
                for one in await engine.rotations()
                if one.state is State.HELD and one.id not in begun_ids
            ]
        yield Result(body=body)

    async def _tell(self, engine: Engine, request: RotationsRequest) -> JsonObject:
        """Tell one rotation, or the newest ones with what is current and what to know of it."""
        if request.id is not None:
            return {"rotations": [describe(await engine.get(request.id))]}
        dues = await engine.due()
        if request.role is not None:
            self._check_known([request.role], dues)
        rotations = sorted(
            await engine.rotations(request.role), key=lambda one: one.created_at, reverse=True
        )
        mine = [due for due in dues if request.role in (None, due.role)]
        return {
            "rotations": [describe(one) for one in rotations[:MOST_ROTATIONS]],
            "credentials": _list(mine),
            "notes": list(await engine.notes()),
        }

    def _meant(self, request: RevokeAllRequest, dues: Iterable[Due]) -> Sequence[RoleName]:
        """Tell which roles are to be closed; nothing is revoked where one of them is unknown."""
        if request.everything == bool(request.roles):
            raise SettingsError(
                "name the roles, or say that everything is meant",
                hint="`agents revoke-all ROLE ...` or `agents revoke-all --everything`.",
            )
        self._check_known(request.roles, dues)
        return request.roles or self._known(dues)

    def _known(self, dues: Iterable[Due]) -> Sequence[RoleName]:
        """Tell all roles that are applied, then those that only have credentials."""
        return tuple(dict.fromkeys([*self._roles(), *(due.role for due in dues)]))

    def _check_known(self, roles: Iterable[RoleName], dues: Iterable[Due]) -> None:
        known = self._known(dues)
        unknown = [role for role in roles if role not in known]
        if unknown:
            raise NotRunningError(
                f"not running here: {', '.join(unknown)}; nothing was done",
                hint=f"Running: {', '.join(known) or 'none'}.",
            )


async def _tick(engine: Engine) -> AsyncGenerator[Rotation]:
    for rotation in await engine.tick(OPERATOR):
        yield rotation


async def _plan(
    engine: Engine, request: RotateRequest, wanted: Sequence[Due], refused: list[Json]
) -> AsyncGenerator[Rotation]:
    """Begin rotations, each when the one before was looked at.

    Args:
        engine: The engine.
        request: Why.
        wanted: What is to be replaced.
        refused: Takes what was not begun, with the reason, where more than one was wanted.
    """
    reason = request.reason or ("due" if request.due else "asked for")
    for due in wanted:
        try:
            rotation = await engine.plan(
                due.role, due.purpose, due.agent, reason=reason, by=OPERATOR
            )
        except RotationError as error:
            if len(wanted) == 1:
                raise
            refused.append({**_name(due), "code": error.code, "message": str(error)})
        else:
            yield rotation


async def _vouch(
    engine: Engine, request: RotationActRequest | RotationProvideRequest
) -> JsonObject | None:
    """Take a word about an emergency, if that is what the id is of."""
    if isinstance(request, RotationActRequest) and request.act == "approve-revoke":
        return await engine.vouch(request.id, OPERATOR)
    return None


async def _act(engine: Engine, request: RotationActRequest | RotationProvideRequest) -> Rotation:
    if isinstance(request, RotationProvideRequest):
        return await engine.provide(request.id, request.value, OPERATOR)
    match request.act:
        case "resume":
            return await engine.resume(request.id, OPERATOR)
        case "abort":
            return await engine.abort(request.id, OPERATOR)
        case "approve-revoke":
            return await engine.approve_revoke(request.id, OPERATOR)


async def _until_rest(engine: Engine, rotation: Rotation) -> AsyncGenerator[Rotation]:
    """Give a rotation at each change, until nothing is left that is worth waiting for.

    A token that was delivered is such an end: the old one goes when the agent has changed over,
    which may take a day.
    """
    async with aclosing(engine.follow(rotation.id)) as changes:
        async for change in changes:
            yield change
            if change.state in FINISHED or change.state is State.HELD:
                return
            if change.purpose == "agent" and change.state in _DELIVERED:
                return


def describe(rotation: Rotation) -> JsonObject:
    """Tell everything of a rotation; nothing of it is secret."""
    return cast("JsonObject", rotation.model_dump(mode="json"))


def _with_token(engine: Engine, rotation: Rotation) -> JsonObject:
    """Tell a rotation, and this once the new token of an agent that gets it by hand."""
    text = engine.take(rotation.id) if rotation.purpose == "agent" else None
    token: JsonObject = {} if text is None else {"token": text.get_secret_value()}
    return {**describe(rotation), **token}


def _name(due: Due) -> JsonObject:
    return {"role": due.role, "purpose": due.purpose, "agent": due.agent}


def _list(dues: Iterable[Due]) -> list[Json]:
    return [cast("Json", describe_due(due).model_dump(mode="json")) for due in dues]
