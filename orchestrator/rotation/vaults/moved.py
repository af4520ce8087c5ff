"""A role's vault, where an earlier one may still keep credentials: its issuer was changed."""

from typing import final

from typing_extensions import override

from orchestrator.errors import SecretNotFoundError
from orchestrator.model.names import RoleName
from orchestrator.rotation.ports import Credential, Vault


@final
class MovedVault(Vault):
    """Keeps in the one, and finds in the other as well what was kept there earlier."""

    def __init__(self, now: Vault, earlier: Vault) -> None:
        """Name both; nothing is asked yet."""
        self._now = now
        self._earlier = earlier

    @override
    async def put(self, role: RoleName, version: str, credential: Credential) -> None:
        await self._now.put(role, version, credential)

    @override
    async def get(self, role: RoleName, version: str) -> Credential:
        try:
            return await self._now.get(role, version)
        except SecretNotFoundError:
            return await self._earlier.get(role, version)

    @override
    async def promote(self, role: RoleName, version: str) -> None:
        try:
            _ = await self._now.get(role, version)
        except SecretNotFoundError:
            # Taken back to one that was made before.
            await self._earlier.promote(role, version)
        else:
            await self._now.promote(role, version)

    @override
    async def drop(self, role: RoleName, version: str) -> None:
        await self._now.drop(role, version)
        await self._earlier.drop(role, version)
