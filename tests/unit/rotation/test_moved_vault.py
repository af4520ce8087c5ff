"""A role that got another issuer, which keeps credentials elsewhere."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from orchestrator.errors import SecretNotFoundError
from orchestrator.model.names import RoleName
from orchestrator.rotation.ports import WHOLE, Credential
from orchestrator.rotation.vaults.encrypted import EncryptedVault
from orchestrator.rotation.vaults.moved import MovedVault

ROLE = RoleName("treasury")


async def test_what_was_kept_before_is_found(tmp_path: Path) -> None:
    """The earlier vault's credentials are read and dropped there; new ones are not kept in it."""
    now, earlier = (EncryptedVault(tmp_path / name, lambda: b"k" * 32) for name in ("a", "b"))
    vault = MovedVault(now, earlier)
    old, new = (Credential({WHOLE: SecretStr(text)}) for text in ("old", "new"))
    await earlier.put(ROLE, "v1", old)
    await vault.put(ROLE, "v2", new)
    assert await vault.get(ROLE, "v1") == old
    assert await vault.get(ROLE, "v2") == await now.get(ROLE, "v2") == new
    for version in ("v1", "v2"):
        await vault.promote(ROLE, version)
        await vault.drop(ROLE, version)
        with pytest.raises(SecretNotFoundError):
            _ = await vault.get(ROLE, version)
