"""What people decide about rotations that are under way."""

from collections.abc import Mapping
from typing import Final, final

import anyio.to_thread
from pydantic import SecretStr, TypeAdapter, ValidationError

from orchestrator.clock import Clock
from orchestrator.errors import RotationUnknownError, SettingsError
from orchestrator.model.base import HIDE_INPUT, JsonObject
from orchestrator.model.rotation import FINISHED, Purpose, Rotation, State
from orchestrator.rotation.drive import Driver, Worker
from orchestrator.rotation.making import PROVIDED_BY
from orchestrator.rotation.ports import WHOLE, Credential, Minted
from orchestrator.rotation.receipt import approval
from orchestrator.rotation.states import Move, moved, place, released, undo_of
from orchestrator.rotation.store import RotationStore
from orchestrator.rotation.upstream import UpstreamDriver
from orchestrator.secrets.resolve import SHORTEST

# Where a rotation waits for a credential's end: of the old one, or of the new one.
_ENDS: Final = frozenset({State.MINTING, State.ABORTING, State.REVOKING})
_PARTS: Final[TypeAdapter[dict[str, str]]] = TypeAdapter(dict[str, str], config=HIDE_INPUT)


@final
class Decisions:
    """Changes rotations as people say, each while nobody else works on it."""

    def __init__(
        self,
        worker: Worker,
        upstream: UpstreamDriver,
        drivers: Mapping[Purpose, Driver],
        store: RotationStore,
        clock: Clock,
    ) -> None:
        """Prepare.

        Args:
            worker: Works on rotations.
            upstream: Keeps credentials that people made.
            drivers: Who knows the steps, by purpose.
            store: Where rotations are.
            clock: Where time comes from.
        """
        self._worker = worker
        self._upstream = upstream
        self._drivers = drivers
        self._store = store
        self._clock = clock

    async def go_on(self, rotation_id: str, by: str) -> Rotation:
        """Let a held rotation go on; one that waits for its next try is tried now.

        Raises:
            RotationUnknownError: It is over.
        """
        return await self._release(rotation_id, {"resumed_by": by})

    async def approve(self, rotation_id: str, by: str) -> Rotation:
        """Take a person's word that they ended a credential, or that it never was.

        Held or not: an issuer that does not answer is asked for ever otherwise.

        Raises:
            RotationUnknownError: The rotation does not wait for that.
        """
        async with self._worker.lock(rotation_id):
            rotation = await self._get(rotation_id)
            is_held, where, now = rotation.state is State.HELD, place(rotation), self._clock.now()
            ends = _ENDS if is_held else _ENDS - {State.MINTING}
            if rotation.purpose != "upstream" or where not in ends:
                raise _no_such_wait(rotation)
            version = rotation.old if where is State.REVOKING else rotation.new
            said = approval(by, now, version)
            after = released(rotation, now, {**(rotation.receipt or {}), **said})
            self._drivers[rotation.purpose].note_resumed(after)
            return await self._worker.write(rotation, after, name="approved")

    async def abort(self, rotation_id: str, by: str) -> Rotation:
        """Take a rotation back.

        Raises:
            RotationUnknownError: It is too late for that.
        """
        async with self._worker.lock(rotation_id):
            rotation = await self._get(rotation_id)
            undo = None if rotation.state in FINISHED else undo_of(rotation)
            if undo is None or not await self._drivers[rotation.purpose].can_undo(rotation):
                raise RotationUnknownError(
                    f"rotation {rotation_id} is {place(rotation)}: it only goes forward",
                    hint=f"`agents rotate resume {rotation_id}` tries its next step at once.",
                )
            move = Move(undo, error=f"taken back by {by}")
            after = moved(rotation, move, self._clock.now())
            return await self._worker.write(rotation, after, move)

    async def provide(self, rotation_id: str, value: SecretStr, by: str) -> Rotation:
        """Take a credential that a person made.

        Args:
            rotation_id: The rotation that waits for it.
            value: Its text. If that is a JSON object of texts, each of them is a field as well.
            by: Who made it.

        Raises:
            RotationUnknownError: No rotation waits for one.
            SettingsError: It is no credential.
            SecretError: It cannot be kept.
        """
        async with self._worker.lock(rotation_id):
            rotation = await self._get(rotation_id)
            if rotation.held_at is not State.MINTING or rotation.purpose != "upstream":
                raise RotationUnknownError(f"rotation {rotation_id} does not wait for a credential")
            if len(value.get_secret_value()) < SHORTEST:
                raise SettingsError(
                    "that is too short for a credential; nothing was done",
                    hint=f"At least {SHORTEST} characters; `agents rotate provide {rotation_id}`.",
                )
            made = Minted(Credential(_fields_of(value)), {PROVIDED_BY: by}, None)
            await self._upstream.keep(rotation, made)
        return await self._release(rotation_id, {PROVIDED_BY: by})

    async def _release(self, rotation_id: str, said: JsonObject) -> Rotation:
        async with self._worker.lock(rotation_id):
            rotation = await self._get(rotation_id)
            if rotation.state in FINISHED:
                raise _no_such_wait(rotation)
            receipt = {**(rotation.receipt or {}), **said}
            after = released(rotation, self._clock.now(), receipt)
            if rotation.state is State.HELD:
                # Only then a person was asked to look at something.
                self._drivers[rotation.purpose].note_resumed(after)
            return await self._worker.write(rotation, after, name="resumed")

    async def _get(self, rotation_id: str) -> Rotation:
        return await anyio.to_thread.run_sync(self._store.get, rotation_id)


def _no_such_wait(rotation: Rotation) -> RotationUnknownError:
    return RotationUnknownError(
        f"rotation {rotation.id} is {place(rotation)} and does not wait for this",
        hint=f"`agents rotate status {rotation.id}` tells what it waits for.",
    )


def _fields_of(value: SecretStr) -> dict[str, SecretStr]:
    fields = {WHOLE: value}
    try:
        parts = _PARTS.validate_json(value.get_secret_value())
    except ValidationError:
        return fields
    return {**{name: SecretStr(text) for name, text in parts.items()}, **fields}
