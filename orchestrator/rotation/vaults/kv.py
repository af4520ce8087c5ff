"""Made credentials in the KV store, version 2, of a Vault or OpenBao server.

Each is an entry of its own, `PATH/ROLE/VERSION`, written only if it is not there yet. `PATH/ROLE`
holds the fields of the current one, for others who read the same place.
"""

from collections.abc import Mapping
from typing import Final, final

from anyio import to_thread
from pydantic import SecretStr
from typing_extensions import override

from orchestrator.errors import SecretNotFoundError, SecretStoreUnavailableError
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.names import RoleName
from orchestrator.rotation.ports import WHOLE, Credential, Vault
from orchestrator.secrets.vault import NOT_FOUND, KvPlace
from orchestrator.secrets.vault_client import VaultAnswer, VaultClient

# What a credential without names is called where others read it.
_WHOLE_FIELD: Final = "value"
_REFUSED: Final = 400


@final
class KvVault(Vault):
    """Keeps credentials under one path of one server."""

    def __init__(self, client: VaultClient, place: KvPlace) -> None:
        """Keep the place; nothing is asked yet."""
        self._client = client
        self._place = place

    @override
    async def put(self, role: RoleName, version: str, credential: Credential) -> None:
        await to_thread.run_sync(self._put, role, version, _texts(credential))

    @override
    async def get(self, role: RoleName, version: str) -> Credential:
        fields = await to_thread.run_sync(self._read, (role, version))
        if fields is None:
            raise SecretNotFoundError(
                f"the store {self._client.name} keeps no credential {version} of {role}"
            )
        return Credential({name: SecretStr(text) for name, text in fields.items()})

    @override
    async def promote(self, role: RoleName, version: str) -> None:
        await to_thread.run_sync(self._promote, role, version)

    @override
    async def drop(self, role: RoleName, version: str) -> None:
        await to_thread.run_sync(self._drop, role, version)

    def _put(self, role: RoleName, version: str, fields: dict[str, str]) -> None:
        # Check-and-set 0: it must not be there.
        answer = self._write((role, version), fields, 0)
        if answer.is_success:
            return
        if answer.status == _REFUSED and self._read((role, version)) == fields:
            return
        raise self._client.failure(answer)

    def _promote(self, role: RoleName, version: str) -> None:
        fields = self._read((role, version))
        if fields is None:
            raise SecretStoreUnavailableError(
                f"the store {self._client.name} keeps no credential {version} of {role}"
            )
        shown = _shown(fields)
        if self._read((role,)) == shown:
            return
        answer = self._write((role,), shown, self._newest(role))
        if not answer.is_success:
            raise self._client.failure(answer)

    def _drop(self, role: RoleName, version: str) -> None:
        fields = self._read((role, version))
        # What is shown to others goes first: once the entry itself is gone, nothing more is to do.
        if fields is not None and self._read((role,)) == _shown(fields):
            self._forget((role,))
        else:
            self._destroy_old(role)
        self._forget((role, version))

    def _read(self, below: tuple[str, ...]) -> dict[str, str] | None:
        answer = self._client.call("get", self._place.data(*below))
        if answer.status == NOT_FOUND:
            return None
        if not answer.is_success:
            raise self._client.failure(answer)
        data = answer.part("data").get("data")
        fields = data if isinstance(data, dict) else {}
        texts = {name: value for name, value in fields.items() if isinstance(value, str)}
        if not texts or len(texts) != len(fields):
            raise SecretStoreUnavailableError(
                f"the store {self._client.name}: {'/'.join(below)} holds no credential"
            )
        return texts

    def _write(self, below: tuple[str, ...], fields: dict[str, str], expected: int) -> VaultAnswer:
        data: dict[str, Json] = dict(fields)
        body: JsonObject = {"options": {"cas": expected}, "data": data}
        return self._client.call("post", self._place.data(*below), body)

    def _versions(self, role: RoleName) -> Mapping[int, Json]:
        """Tell what is known of each version of what is shown to others."""
        answer = self._client.call("get", self._place.metadata(role))
        if answer.status == NOT_FOUND:
            return {}
        if not answer.is_success:
            raise self._client.failure(answer)
        versions = answer.part("data").get("versions")
        return (
            {int(number): about for number, about in versions.items()}
            if isinstance(versions, dict)
            else {}
        )

    def _newest(self, role: RoleName) -> int:
        return max(self._versions(role), default=0)

    def _destroy_old(self, role: RoleName) -> None:
        """Destroy all that was shown to others but the newest of it."""
        versions = self._versions(role)
        old: list[Json] = [
            number
            for number, about in sorted(versions.items())[:-1]
            if not (isinstance(about, dict) and about.get("destroyed"))
        ]
        if not old:
            return
        place = f"{self._place.mount}/destroy/{self._place.path}/{role}"
        answer = self._client.call("put", place, {"versions": old})
        if not answer.is_success:
            raise self._client.failure(answer)

    def _forget(self, below: tuple[str, ...]) -> None:
        """Destroy an entry with all its versions; no error if there is none."""
        answer = self._client.call("delete", self._place.metadata(*below))
        if not answer.is_success and answer.status != NOT_FOUND:
            raise self._client.failure(answer)


def _texts(credential: Credential) -> dict[str, str]:
    return {name: value.get_secret_value() for name, value in credential.fields.items()}


def _shown(fields: Mapping[str, str]) -> dict[str, str]:
    return {name if name != WHOLE else _WHOLE_FIELD: text for name, text in fields.items()}
