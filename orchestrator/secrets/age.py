"""Secrets in files that age encrypted."""

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast, final

from pydantic import SecretStr
from typing_extensions import override

from orchestrator.errors import SecretNotFoundError, SecretStoreUnavailableError
from orchestrator.model.secret import SecretRef
from orchestrator.secrets.base import LookUp, Secret, SecretStore, missing_library
from orchestrator.secrets.dotenv import parse_dotenv
from orchestrator.secrets.file import read_secret_bytes, without_newline


class _OneIdentity(Protocol):
    def from_str(self, text: str) -> object: ...
    def from_buffer(self, content: bytes) -> object: ...


class _Kind(Protocol):
    @property
    def Identity(self) -> _OneIdentity: ...  # noqa: N802  the library's name


class _Pyrage(Protocol):
    """What is used of pyrage, which has no types."""

    @property
    def DecryptError(self) -> type[Exception]: ...  # noqa: N802  as above
    @property
    def IdentityError(self) -> type[Exception]: ...  # noqa: N802  as above
    @property
    def x25519(self) -> _Kind: ...
    @property
    def ssh(self) -> _Kind: ...
    def decrypt(self, _: bytes, identities: Sequence[object], /) -> bytes: ...


@final
class AgeStore(SecretStore):
    """`age:PATH?identity=REFERENCE#KEY`: the decrypted text, or one of its `KEY=value` lines.

    Source: age-encryption.org/v1; identities of age and of SSH.
    """

    def __init__(self, look_up: LookUp) -> None:
        """Keep how the reference of the identity is resolved."""
        self._look_up = look_up

    @override
    def read(self, reference: SecretRef) -> Secret:
        if reference.inner is None:
            raise AssertionError("an age file without an identity")
        path = Path(reference.path)
        # It is encrypted, and often lies beside the code: others may read it, but not replace it.
        content = read_secret_bytes(path, readers=stat.S_IRGRP | stat.S_IROTH)
        text = _decrypt(path, content, self._look_up(reference.inner).value, reference.inner)
        if not reference.name:
            return Secret(SecretStr(without_newline(text)))
        values = parse_dotenv(text, path)
        if reference.name not in values:
            raise SecretNotFoundError(f"{path} does not set {reference.name}")
        return Secret(SecretStr(values[reference.name]))


def _decrypt(path: Path, content: bytes, identity: SecretStr, where: SecretRef) -> str:
    pyrage = _pyrage()
    identities = _identities(pyrage, identity, where)
    # No cause is kept anywhere here: nobody knows what a library's errors hold.
    try:
        plain = pyrage.decrypt(content, identities)
    except pyrage.DecryptError:
        plain = None
    if plain is None:
        raise SecretStoreUnavailableError(
            f"{path} cannot be decrypted with the identity of {where}",
            hint="It is damaged, no age file, or was encrypted for somebody else.",
        )
    try:
        return plain.decode()
    except UnicodeDecodeError:
        pass
    raise SecretStoreUnavailableError(f"{path} holds no UTF-8 text")


def _pyrage() -> _Pyrage:
    try:
        import pyrage  # noqa: PLC0415  an extra
    except ImportError:
        raise missing_library("age") from None
    return cast("_Pyrage", cast("object", pyrage))


def _identities(pyrage: _Pyrage, identity: SecretStr, where: SecretRef) -> Sequence[object]:
    text = identity.get_secret_value()
    try:
        if text.lstrip().startswith("-----BEGIN"):
            return [pyrage.ssh.Identity.from_buffer(text.encode())]
        lines = [line.strip() for line in text.splitlines()]
        keys = [line for line in lines if line and not line.startswith("#")]
        if keys:
            return [pyrage.x25519.Identity.from_str(key) for key in keys]
    except pyrage.IdentityError:
        pass
    raise SecretStoreUnavailableError(
        f"{where} holds no identity of age or SSH",
        hint="Take the whole of what age-keygen wrote; one with a passphrase is not possible.",
    )
