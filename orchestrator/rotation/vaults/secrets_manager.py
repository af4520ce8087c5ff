"""Made credentials in AWS Secrets Manager: one secret a role, one version a credential.

The labels are those that everybody uses there: AWSPENDING for a new credential, AWSCURRENT for
the one that counts, AWSPREVIOUS for the one before. A version's id is made of our own name for it,
so that what a crash left behind is found.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Final, final

from anyio import to_thread
from pydantic import SecretStr
from typing_extensions import override

from orchestrator.errors import SecretNotFoundError, SecretStoreUnavailableError
from orchestrator.model.names import RoleName
from orchestrator.rotation.ports import WHOLE, Credential, Vault
from orchestrator.secrets.aws_client import (
    CURRENT,
    EXISTS,
    NOT_FOUND,
    PENDING,
    PREVIOUS,
    AwsAnswer,
    AwsClient,
    read_object,
)

_ROLE: Final = "{role}"
# Ids have 32 to 64 characters.
_ID_LENGTH: Final = 64
_LONGEST_NAME: Final = 52
# A version that holds no credential, and its label.
_EMPTY: Final = "{}"
_NOTHING: Final = "NOTHING"


def version_id(name: str) -> str:
    """Make the id of a version of our name for it, always the same."""
    if len(name) > _LONGEST_NAME:
        raise SecretStoreUnavailableError("the name of a version is too long")
    return f"{name}-{hashlib.sha256(name.encode()).hexdigest()}"[:_ID_LENGTH]


def _other_id(words: str) -> str:
    """Make the id of a version that is no credential."""
    return hashlib.sha256(words.encode()).hexdigest()


def version_name(identifier: str) -> str | None:
    """Tell our name of a version by its id, None if it is none of ours."""
    name = identifier.rpartition("-")[0]
    is_ours = 0 < len(name) <= _LONGEST_NAME and version_id(name) == identifier
    return name if is_ours else None


@final
class AwsVault(Vault):
    """Keeps the credentials of roles as versions of secrets."""

    def __init__(self, client: AwsClient, secret: str) -> None:
        """Keep the place; nothing is asked yet.

        Args:
            client: The region.
            secret: The secret's name or ARN; `{role}` is filled in. Without it all is one role's.
        """
        self._client = client
        self._secret = secret

    @override
    async def put(self, role: RoleName, version: str, credential: Credential) -> None:
        await to_thread.run_sync(self._put, self.secret(role), version, _written(credential))

    @override
    async def get(self, role: RoleName, version: str) -> Credential:
        found = await self.find(role, version_id(version))
        if found is None:
            raise SecretNotFoundError(f"{self.secret(role)} has no version {version}")
        return found

    @override
    async def promote(self, role: RoleName, version: str) -> None:
        await to_thread.run_sync(self._promote, self.secret(role), version)

    @override
    async def drop(self, role: RoleName, version: str) -> None:
        await to_thread.run_sync(self._drop, self.secret(role), version)

    async def unlabel(self, role: RoleName, version: str) -> None:
        """Take the labels from a version, unless it is the one that counts; no error without any.

        Raises:
            SecretStoreUnavailableError: It could not be asked.
        """
        secret = self.secret(role)
        await to_thread.run_sync(lambda: self._unlabel(secret, version, self._stages(secret)))

    async def current(self, role: RoleName) -> Credential | None:
        """Give what counts now, None if nothing does.

        Raises:
            SecretStoreUnavailableError: It cannot be read, or is no text.
        """
        return await to_thread.run_sync(self._read, self.secret(role), {"VersionStage": CURRENT})

    async def find(self, role: RoleName, identifier: str) -> Credential | None:
        """Give a version by its id, None if there is none.

        Raises:
            SecretStoreUnavailableError: It cannot be read, or is no text.
        """
        return await to_thread.run_sync(self._read, self.secret(role), {"VersionId": identifier})

    async def names(self, role: RoleName) -> frozenset[str]:
        """Tell our names of all versions that have a label.

        Raises:
            SecretStoreUnavailableError: It could not be asked.
        """
        stages = await to_thread.run_sync(self._stages, self.secret(role))
        found = (version_name(identifier) for identifier in stages)
        return frozenset(name for name in found if name is not None)

    def secret(self, role: RoleName) -> str:
        """Tell the name or ARN of a role's secret."""
        return self._secret.replace(_ROLE, role)

    def _put(self, secret: str, version: str, text: str) -> None:
        answer = self._add(secret, version_id(version), text, PENDING)
        if answer.code == NOT_FOUND:
            # With nothing in it at first: the first version of a secret is the current one.
            made = self._client.call(
                "create_secret",
                Name=secret,
                SecretString=_EMPTY,
                ClientRequestToken=_other_id("nothing yet"),
                Description="Written by Bandmaster",
            )
            if not made.is_success and made.code != EXISTS:
                raise self._client.failure(made)
            answer = self._add(secret, version_id(version), text, PENDING)
        if not answer.is_success:
            raise self._client.failure(answer)

    def _add(self, secret: str, identifier: str, text: str, stage: str) -> AwsAnswer:
        return self._client.call(
            "put_secret_value",
            SecretId=secret,
            ClientRequestToken=identifier,
            SecretString=text,
            VersionStages=[stage],
        )

    def _promote(self, secret: str, version: str) -> None:
        mine = version_id(version)
        stages = self._stages(secret)
        if mine not in stages:
            raise SecretStoreUnavailableError(f"{secret} has no version {version}")
        current = _holder(stages, CURRENT)
        if current != mine:
            # AWSPREVIOUS follows by itself.
            self._move(secret, CURRENT, {"MoveToVersionId": mine}, current)
        if PENDING in stages[mine]:
            self._move(secret, PENDING, {}, mine)

    def _drop(self, secret: str, version: str) -> None:
        mine = version_id(version)
        stages = self._stages(secret)
        if CURRENT in stages.get(mine, ()):
            # This label cannot be taken off, it can only move on.
            instead = _other_id(f"{version} is gone")
            answer = self._add(secret, instead, _EMPTY, _NOTHING)
            if not answer.is_success:
                raise self._client.failure(answer)
            self._move(secret, CURRENT, {"MoveToVersionId": instead}, mine)
            stages = self._stages(secret)
        self._unlabel(secret, version, stages)

    def _unlabel(self, secret: str, version: str, stages: Mapping[str, frozenset[str]]) -> None:
        mine = version_id(version)
        for stage in stages.get(mine, frozenset[str]()) & {PENDING, PREVIOUS}:
            self._move(secret, stage, {}, mine)

    def _move(self, secret: str, stage: str, to: Mapping[str, str], origin: str | None) -> None:
        taken = {"RemoveFromVersionId": origin} if origin else {}
        answer = self._client.call(
            "update_secret_version_stage", SecretId=secret, VersionStage=stage, **to, **taken
        )
        if not answer.is_success:
            raise self._client.failure(answer)

    def _stages(self, secret: str) -> Mapping[str, frozenset[str]]:
        answer = self._client.call("describe_secret", SecretId=secret)
        if answer.code == NOT_FOUND:
            return {}
        if not answer.is_success:
            raise self._client.failure(answer)
        return answer.stages()

    def _read(self, secret: str, which: Mapping[str, str]) -> Credential | None:
        answer = self._client.call("get_secret_value", SecretId=secret, **which)
        if answer.code == NOT_FOUND:
            return None
        if not answer.is_success:
            raise self._client.failure(answer)
        text = answer.text("SecretString")
        if not text:
            raise SecretStoreUnavailableError(f"{secret} holds no text")
        return _credential(text)


def _holder(stages: Mapping[str, frozenset[str]], stage: str) -> str | None:
    return next((identifier for identifier, labels in stages.items() if stage in labels), None)


def _fields(text: str) -> Mapping[str, str] | None:
    """Read the fields of a credential, None if it is one text."""
    found = read_object(text)
    if found is None:
        return None
    fields = {name: value for name, value in found.items() if isinstance(value, str)}
    return fields if len(fields) == len(found) else None


def _credential(text: str) -> Credential | None:
    if text == _EMPTY:
        return None
    fields = _fields(text)
    return Credential(
        {WHOLE: SecretStr(text)}
        if fields is None
        else {name: SecretStr(value) for name, value in fields.items()}
    )


def _written(credential: Credential) -> str:
    """Write a credential so that others can read it: its one text, or its fields as JSON."""
    texts = {name: value.get_secret_value() for name, value in credential.fields.items()}
    # A text that looks like fields itself is written as a field, so that it is read back as it is.
    is_plain = set(texts) == {WHOLE} and _fields(texts[WHOLE]) is None
    return texts[WHOLE] if is_plain else json.dumps(texts, sort_keys=True)
