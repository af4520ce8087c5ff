"""Turns references into values, with the checks that are the same for every store."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, final

from pydantic import SecretStr

from orchestrator.errors import SecretError, SecretNotFoundError, SecretStoreUnavailableError
from orchestrator.model.names import SecretName
from orchestrator.model.secret import SecretRef
from orchestrator.secrets.dotenv import DotenvStore
from orchestrator.secrets.env import EnvironmentStore
from orchestrator.secrets.file import FileStore

# Shorter ones could be guessed, and could not be taken out of logs without hitting other words.
SHORTEST: Final = 8


@final
class SecretResolver:
    """Resolves references, anew each time, so that a changed value is seen."""

    def __init__(
        self, project_root: Path, state: Path, environment: Mapping[str, SecretStr]
    ) -> None:
        """Set up the stores.

        Args:
            project_root: The project's directory, for `{project}` and `.env`.
            state: The directory of its state, for `{state}`.
            environment: The variables that `env:` looks into first.
        """
        self._places = {"{project}/": f"{project_root}/", "{state}/": f"{state}/"}
        self._stores = {
            "env": EnvironmentStore(environment, project_root / ".env"),
            "dotenv": DotenvStore(),
            "file": FileStore(),
        }

    def resolve(self, reference: SecretRef) -> SecretStr:
        """Return the value of one reference.

        Raises:
            SecretNotFoundError: There is none, or an empty one.
            SecretStoreUnavailableError: Its store cannot be read or trusted, or what it holds
                cannot be a secret.
        """
        value = self._stores[reference.scheme].read(self._absolute(reference))
        if not value:
            raise SecretNotFoundError(f"{reference} is empty")
        if "\0" in value:
            raise SecretStoreUnavailableError(f"{reference} holds a NUL character")
        if len(value) < SHORTEST:
            raise SecretStoreUnavailableError(
                f"{reference} is too short for a secret", hint=f"At least {SHORTEST} characters."
            )
        return SecretStr(value)

    def resolve_all(
        self, secrets: Mapping[SecretName, SecretRef]
    ) -> Mapping[SecretName, SecretStr]:
        """Return the values of all variables of one role.

        Raises:
            SecretStoreUnavailableError: At least one has a store that cannot be used.
            SecretNotFoundError: At least one is missing, and every store can be used.
        """
        values: dict[SecretName, SecretStr] = {}
        errors: dict[SecretName, SecretError] = {}
        for name, reference in secrets.items():
            try:
                values[name] = self.resolve(reference)
            except SecretError as error:
                errors[name] = error
        if errors:
            raise _merged(errors)
        return values

    def _absolute(self, reference: SecretRef) -> SecretRef:
        for placeholder, place in self._places.items():
            if reference.path.startswith(placeholder):
                return replace(reference, path=place + reference.path.removeprefix(placeholder))
        return reference


def _merged(errors: Mapping[SecretName, SecretError]) -> SecretError:
    message = "\n".join(f"{name}: {error}" for name, error in errors.items())
    hints = dict.fromkeys(error.hint for error in errors.values() if error.hint)
    is_missing = all(isinstance(error, SecretNotFoundError) for error in errors.values())
    kind = SecretNotFoundError if is_missing else SecretStoreUnavailableError
    return kind(message, hint="\n".join(hints) or None)
