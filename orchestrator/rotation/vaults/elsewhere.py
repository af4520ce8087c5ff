"""Finds the vault that an issuer names by `keep:` instead of the project's own."""

from collections.abc import Mapping

from orchestrator.errors import SecretRefError, SecretStoreUnavailableError
from orchestrator.model.stores import DEFAULT_STORE, aws_store, region_of
from orchestrator.rotation.ports import Vault
from orchestrator.rotation.vaults.kv import KvVault
from orchestrator.rotation.vaults.secrets_manager import AwsVault
from orchestrator.secrets.aws_client import AwsClient
from orchestrator.secrets.vault import kv_place
from orchestrator.secrets.vault_client import VaultClient

_VAULT = "vault://"
_AWS = "aws-sm://"


def vault_elsewhere(
    keep: str, servers: Mapping[str, VaultClient], regions: Mapping[str, AwsClient]
) -> Vault:
    """Open what `keep:` names; nothing is asked yet.

    Args:
        keep: `vault://STORE/MOUNT/PATH` or `aws-sm://NAME`; a role's name is put behind it.
        servers: Stores of kind `vault`, by name.
        regions: Stores of kind `aws`, by name.

    Raises:
        SecretRefError: It is neither.
        SecretStoreUnavailableError: There is no such store.
    """
    if keep.startswith(_VAULT):
        store, _, path = keep.removeprefix(_VAULT).partition("/")
        server = servers.get(store or DEFAULT_STORE)
        if server is not None:
            return KvVault(server, kv_place(path))
    elif keep.startswith(_AWS) and not region_of(keep.removeprefix(_AWS)):
        secret = keep.removeprefix(_AWS)
        name = aws_store(secret, {name: client.region for name, client in regions.items()})
        if name is not None:
            return AwsVault(regions[name], f"{secret}/{{role}}")
    else:
        raise SecretRefError(
            "`keep` names no vault", hint="Write vault://STORE/MOUNT/PATH or aws-sm://NAME."
        )
    raise SecretStoreUnavailableError(f"{keep}: there is no such store under `stores:`")
