"""Secrets in the KV store, version 2, of a Vault or OpenBao server."""

from collections.abc import Mapping
from typing import Final, NamedTuple, final
from urllib.parse import unquote

from pydantic import SecretStr
from typing_extensions import override

from orchestrator.errors import (
    SecretError,
    SecretNotFoundError,
    SecretRefError,
    SecretStoreUnavailableError,
)
from orchestrator.model.base import JsonObject
from orchestrator.model.secret import SecretRef
from orchestrator.model.stores import DEFAULT_STORE
from orchestrator.secrets.base import Secret, SecretStore
from orchestrator.secrets.vault_client import VaultAnswer, VaultClient

NOT_FOUND: Final = 404


class KvPlace(NamedTuple):
    """Where something is in a KV store."""

    mount: str
    path: str

    def data(self, *below: str) -> str:
        """Tell the path of its content."""
        return "/".join((self.mount, "data", self.path, *below))

    def metadata(self, *below: str) -> str:
        """Tell the path of what is known of it."""
        return "/".join((self.mount, "metadata", self.path, *below))


def kv_place(text: str) -> KvPlace:
    """Read `MOUNT/PATH` as it stands in references; a mount's own `/` is written `%2F`.

    Raises:
        SecretRefError: It is none.
    """
    mount, _, path = text.partition("/")
    place = KvPlace(unquote(mount), unquote(path))
    if {"", ".", ".."} & {*place.mount.split("/"), *place.path.split("/")}:
        raise SecretRefError(
            "a malformed vault: reference", hint="Write vault://BACKEND/MOUNT/PATH#FIELD."
        )
    return place


@final
class VaultStore(SecretStore):
    """`vault://BACKEND/MOUNT/PATH?version=N#FIELD`: one field of what is kept there."""

    def __init__(self, clients: Mapping[str, VaultClient]) -> None:
        """Keep the servers, by the names of their stores."""
        self._clients = clients

    @override
    def read(self, reference: SecretRef) -> Secret:
        client = self._client(reference)
        try:
            place = kv_place(reference.path)
        except SecretRefError as error:
            raise SecretStoreUnavailableError(f"{reference}: {error}", hint=error.hint) from None
        version = reference.option("version")
        answer = client.call("get", place.data(), params={"version": version} if version else None)
        if not answer.is_success:
            raise _failure(reference, client, answer)
        data = answer.part("data")
        fields, about = _part(data, "data"), _part(data, "metadata")
        value = fields.get(reference.name)
        if value is None:
            known = ", ".join(sorted(fields))
            raise SecretNotFoundError(
                f"{reference}: there is no such field", hint=f"Fields there: {known}."
            )
        if not isinstance(value, str):
            raise SecretStoreUnavailableError(f"{reference}: the field is no text")
        return Secret(SecretStr(value), version_id=str(about.get("version", "")))

    def _client(self, reference: SecretRef) -> VaultClient:
        name = reference.store or DEFAULT_STORE
        client = self._clients.get(name)
        if client is None:
            raise SecretStoreUnavailableError(
                f"{reference}: there is no store {name} of kind vault",
                hint=f"Write it under `stores:` in agents.yaml: {name}: {{kind: vault, ...}}.",
            )
        return client


def _part(data: JsonObject, key: str) -> JsonObject:
    value = data.get(key)
    return value if isinstance(value, dict) else {}


def _failure(reference: SecretRef, client: VaultClient, answer: VaultAnswer) -> SecretError:
    if answer.status != NOT_FOUND:
        error = client.failure(answer)
        return SecretStoreUnavailableError(f"{reference}: {error}", hint=error.hint)
    about = _part(answer.part("data"), "metadata")
    if about.get("destroyed"):
        problem = "this version was destroyed"
    elif about.get("deletion_time"):
        problem = "this version was deleted"
    else:
        problem = "nothing is kept there"
    return SecretNotFoundError(
        f"{reference}: {problem}",
        hint="The path is MOUNT/PATH without `data/`, of a KV store of version 2.",
    )
