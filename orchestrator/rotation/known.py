"""What the steps of an upstream credential share: the parts, whose turn it is, what is known."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import final

import anyio.to_thread

from orchestrator.clock import Clock
from orchestrator.errors import (
    NotRunningError,
    RotationError,
    RotationUnknownError,
    SecretNotFoundError,
)
from orchestrator.model.names import RoleName
from orchestrator.model.rotation import Rotation, UpstreamRotation
from orchestrator.rotation.ports import Credential, Instances, Issuer, Vault
from orchestrator.rotation.store import RotationStore, Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What an upstream credential is rotated with.

    Attributes:
        store: Where it is written down.
        issuers: Who makes credentials, by name; raises `RotationUnknownError` for others.
        vault: Where a role's are kept.
        instances: The processes that use them.
        rule: What a role file says.
        clock: Where time comes from.
        fingerprint_key: Makes fingerprints that tell nothing to others.
    """

    store: RotationStore
    issuers: Callable[[str], Issuer]
    vault: Callable[[RoleName], Vault]
    instances: Instances
    rule: Callable[[RoleName], UpstreamRotation | None]
    clock: Clock
    fingerprint_key: bytes


class IssuerGoneError(Exception):
    """A rotation needs an issuer that is not applied any more; it never leaves a driver.

    Attributes:
        name: The issuer.
    """

    def __init__(self, name: str) -> None:
        """Keep its name."""
        super().__init__(f"issuer {name} is not applied any more")
        self.name: str = name


def _ignore(_: str) -> None:
    """Tell nobody."""


@final
class Turn:
    """One role at a time changes its upstream credential; whoever asked first is next.

    Attributes:
        holder: Whose turn it is; empty if nobody's.
        on_free: Is told, one after the other, of those who asked in vain, when nobody has it.
    """

    def __init__(self) -> None:
        """Begin with nobody's turn."""
        self.holder: str = ""
        self.on_free: Callable[[str], None] = _ignore
        self._waiting: dict[str, None] = {}

    def take(self, rotation_id: str) -> bool:
        """Take the turn, if nobody has it; tells whether it is this one's."""
        if not self.holder:
            self.holder = rotation_id
        if self.holder != rotation_id:
            self._waiting[rotation_id] = None
            return False
        _ = self._waiting.pop(rotation_id, None)
        return True

    def give_back(self, rotation_id: str) -> None:
        """Let others have it."""
        _ = self._waiting.pop(rotation_id, None)
        if self.holder == rotation_id:
            self.holder = ""
            waiting, self._waiting = self._waiting, {}
            for one in waiting:
                self.on_free(one)


@final
class Known:
    """What is known of a rotation, its credentials and its instances."""

    def __init__(self, parts: Parts) -> None:
        """Look in these parts."""
        self._parts = parts

    def rule(self, rotation: Rotation) -> UpstreamRotation:
        """Tell the role's rule, or the usual one for a role that has none any more."""
        return self._parts.rule(rotation.role) or UpstreamRotation()

    def issuer(self, name: str) -> Issuer:
        """Give an issuer.

        Raises:
            IssuerGoneError: It is not applied any more.
        """
        try:
            return self._parts.issuers(name)
        except RotationUnknownError:
            raise IssuerGoneError(name) from None

    async def row(self, rotation: Rotation, version: str) -> Version:
        """Tell what is written down of a version.

        Raises:
            RotationError: Nothing is.
        """
        found = await self.find(rotation, version)
        if found is None:
            raise RotationError(f"nothing is known of {version}")
        return found

    async def find(self, rotation: Rotation, version: str) -> Version | None:
        """Tell what is written down of a version, None if nothing is."""
        if not version:
            return None
        return await anyio.to_thread.run_sync(self._parts.store.version, rotation.role, version)

    async def get(self, role: RoleName, version: str) -> Credential | None:
        """Give the texts of a version, None if they are lost."""
        try:
            return await self.text(role, version)
        except SecretNotFoundError:
            return None

    async def text(self, role: RoleName, version: str) -> Credential:
        """Give the texts of a version.

        Raises:
            SecretError: They cannot be had.
        """
        return await self._parts.vault(role).get(role, version)

    async def overlaps(self, rotation: Rotation) -> bool:
        """Tell whether both credentials work at a time; those of two issuers always do.

        Raises:
            IssuerGoneError: Their issuer is not applied any more.
        """
        new = await self.find(rotation, rotation.new)
        old = await self.find(rotation, rotation.old)
        if new is None or old is None or new.issuer != old.issuer:
            return True
        return self.issuer(new.issuer).capabilities.overlap

    async def pause(self, rotation: Rotation) -> None:
        """Let new calls wait and those in flight end, before the old credential does.

        Raises:
            WorkloadNotReadyError: They did not end in time; calls go on with the old one.
        """
        with suppress(NotRunningError):
            hold = self.rule(rotation).hold.total_seconds()
            await self._parts.instances.hold(rotation.role, hold)

    async def release(self, rotation: Rotation) -> None:
        """Let calls through again, if they were made to wait."""
        with suppress(IssuerGoneError):
            if await self.overlaps(rotation):
                return
        with suppress(NotRunningError):
            await self._parts.instances.release(rotation.role)
