"""Secrets in AWS Secrets Manager."""

from collections.abc import Mapping
from typing import final

from pydantic import SecretStr
from typing_extensions import override

from orchestrator.errors import SecretNotFoundError, SecretStoreUnavailableError
from orchestrator.model.secret import SecretRef
from orchestrator.model.stores import DEFAULT_STORE, aws_store, region_of
from orchestrator.secrets.aws_client import CURRENT, NOT_FOUND, AwsClient, read_object
from orchestrator.secrets.base import Secret, SecretStore


@final
class AwsStore(SecretStore):
    """`aws-sm://NAME-OR-ARN?stage=AWSCURRENT#JSONKEY`: a secret, or one key of its JSON object."""

    def __init__(self, clients: Mapping[str, AwsClient]) -> None:
        """Keep the regions, by the names of their stores; a reference names none of them."""
        self._clients = clients

    @override
    def read(self, reference: SecretRef) -> Secret:
        client = self._client(reference)
        version = reference.option("version")
        which = (
            {"VersionId": version}
            if version
            # Never left out: what is read without it is not the same everywhere.
            else {"VersionStage": reference.option("stage") or CURRENT}
        )
        answer = client.call("get_secret_value", SecretId=reference.path, **which)
        if answer.code == NOT_FOUND:
            raise SecretNotFoundError(f"{reference}: {answer.problem}")
        if not answer.is_success:
            error = client.failure(answer)
            raise SecretStoreUnavailableError(f"{reference}: {error}", hint=error.hint)
        return Secret(
            SecretStr(_chosen(reference, answer.text("SecretString"))),
            version_id=answer.text("VersionId"),
        )

    def _client(self, reference: SecretRef) -> AwsClient:
        name = aws_store(
            reference.path, {name: client.region for name, client in self._clients.items()}
        )
        if name is None:
            names = ", ".join(sorted(self._clients))
            problem = f"it could be in any of {names}" if names else "there is no store of kind aws"
            region = region_of(reference.path)
            if region:
                problem = f"there is no store, or more than one, for the region {region}"
            raise SecretStoreUnavailableError(
                f"{reference}: {problem}",
                hint=f"Write one under `stores:` in agents.yaml: {DEFAULT_STORE}: "
                f"{{kind: aws, region: {region or 'eu-central-1'}}}.",
            )
        return self._clients[name]


def _chosen(reference: SecretRef, text: str) -> str:
    if not text:
        raise SecretStoreUnavailableError(f"{reference}: it is empty, or no text")
    if not reference.name:
        return text
    fields = read_object(text)
    if fields is None:
        raise SecretStoreUnavailableError(
            f"{reference}: it is no JSON object", hint="Leave out what stands behind #."
        )
    value = fields.get(reference.name)
    if value is None:
        known = ", ".join(sorted(fields))
        raise SecretNotFoundError(
            f"{reference}: there is no such key", hint=f"Keys there: {known}."
        )
    if not isinstance(value, str):
        raise SecretStoreUnavailableError(f"{reference}: the key holds no text")
    return value
