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
from orchestrator.rotation.ports import WHOLE, Credential, Minted
from orchestrator.rotation.receipt import moment
from orchestrator.rotation.states import Move, moved, place, released, undo_of
from orchestrator.rotation.store import RotationStore
from orchestrator.rotation.upstream import UpstreamDriver
from orchestrator.secrets.resolve import SHORTEST

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
        return await self._act(rotation_id, by, "resumed")

    async def approve(self, rotation_id: str, by: str) -> Rotation:
        """Take a person's word that they ended a credential.

        Raises:
            RotationUnknownError: The rotation does not wait for that.
        """
        return await self._act(rotation_id, by, "approved")

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
            made = Minted(Credential(_fields_of(value)), {}, None)
            await self._upstream.keep(rotation, made)
        return await self._act(rotation_id, by, "resumed")

    async def _act(self, rotation_id: str, by: str, name: str) -> Rotation:
        async with self._worker.lock(rotation_id):
            rotation = await self._get(rotation_id)
            is_held, now = rotation.state is State.HELD, self._clock.now()
            if rotation.state in FINISHED or (name == "approved" and not is_held):
                raise RotationUnknownError(f"rotation {rotation_id} does not wait for this")
            receipt = rotation.receipt
            if name == "approved":
                said: JsonObject = {"approved_by": by, "approved_at": moment(now)}
                receipt = {**(receipt or {}), **said}
            after = released(rotation, now, receipt)
            self._drivers[rotation.purpose].note_resumed(after)
            return await self._worker.write(rotation, after, name=name)

    async def _get(self, rotation_id: str) -> Rotation:
        return await anyio.to_thread.run_sync(self._store.get, rotation_id)


def _fields_of(value: SecretStr) -> dict[str, SecretStr]:
    fields = {WHOLE: value}
    try:
        parts = _PARTS.validate_json(value.get_secret_value())
    except ValidationError:
        return fields
    return {**{name: SecretStr(text) for name, text in parts.items()}, **fields}
