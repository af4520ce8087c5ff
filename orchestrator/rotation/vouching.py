"""Takes a person's word for what an emergency did not see dead."""

from collections.abc import Mapping
from contextlib import suppress
from typing import final

import anyio.to_thread

from orchestrator.errors import AgentsError, RotationError, RotationUnknownError
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.names import RoleName
from orchestrator.rotation.events import Event, Tell
from orchestrator.rotation.known import Parts
from orchestrator.rotation.ports import Verdict
from orchestrator.rotation.receipt import approval
from orchestrator.rotation.store import Version


@final
class Vouching:
    """Writes into the receipt of a `revoke-all` who said that its credentials are dead."""

    def __init__(self, parts: Parts, tell: Tell) -> None:
        """Prepare.

        Args:
            parts: The upstream side.
            tell: Is told who vouched for what.
        """
        self._parts = parts
        self._tell = tell

    async def vouch(self, receipt_id: str, by: str) -> JsonObject | None:
        """Take a person's word that they ended what was not seen dead.

        Returns:
            The receipt as it is now; None if there is none with this id.

        Raises:
            RotationUnknownError: Nothing of it waits for a word.
            RotationError: An issuer still accepts one of them; the others are written down.
        """
        store, now = self._parts.store, self._parts.clock.now()
        receipt = await anyio.to_thread.run_sync(store.receipt, receipt_id)
        if receipt is None:
            return None
        versions = await anyio.to_thread.run_sync(store.alive)
        alive = {(one.role, one.version): one for one in versions}
        told: list[Json] = []
        gone: list[Version] = []
        accepted: list[Version] = []
        for entry in _entries(receipt):
            version = alive.get((RoleName(str(entry.get("role"))), str(entry.get("version"))))
            if version is None or version.stage == "current":
                told.append(entry)
            elif await self._is_accepted(version):
                accepted.append(version)
                told.append(entry)
            else:
                gone.append(version)
                told.append({**entry, **approval(by, now, version.version)})
        if not gone and not accepted:
            raise RotationUnknownError(
                f"nothing of the receipt {receipt_id} waits for your word",
                hint="What was not seen dead is under `notes` of `agents rotate status`.",
            )
        for version in gone:
            # Its text first: nobody looks for it once it is written down as gone.
            with suppress(AgentsError):
                await self._parts.vault(version.role).drop(version.role, version.version)
        now_told: JsonObject = {"upstream": told}
        receipt = {**receipt, **now_told}
        await anyio.to_thread.run_sync(store.amend_receipt, receipt_id, receipt, gone)
        for version in gone:
            self._tell(
                Event(
                    "rotation.approved",
                    now,
                    role=version.role,
                    approver=by,
                    purpose="upstream",
                    credential=version.version,
                    result=f"a person ended it, revoke-all {receipt_id}",
                )
            )
        if accepted:
            names = ", ".join(f"{one.version} (by {one.issuer})" for one in accepted)
            raise RotationError(
                f"still accepted: {names}",
                hint="End it there, then say so once more.",
            )
        return receipt

    async def _is_accepted(self, version: Version) -> bool:
        """Tell whether its issuer says that it works; a word does not count against that."""
        with suppress(AgentsError):
            issuer = self._parts.issuers(version.issuer)
            if issuer.capabilities.probes:
                text = await self._parts.vault(version.role).get(version.role, version.version)
                return await issuer.probe(text) is Verdict.ACCEPTED
        return False


def open_receipts(receipts: tuple[JsonObject, ...]) -> Mapping[str, str]:
    """Tell the receipt, by its id, of each version that one is about; the newest one counts."""
    return {
        str(entry.get("version")): str(receipt.get("id"))
        for receipt in receipts
        for entry in _entries(receipt)
    }


def _entries(receipt: JsonObject) -> list[JsonObject]:
    found = receipt.get("upstream")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
