"""Secrets in the environment, and in the project's `.env` beneath it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import final

from pydantic import SecretStr
from typing_extensions import override

from orchestrator.errors import SecretNotFoundError
from orchestrator.model.secret import SecretRef
from orchestrator.secrets.base import Secret, SecretStore
from orchestrator.secrets.dotenv import read_dotenv


@final
class EnvironmentStore(SecretStore):
    """`env:NAME`: a variable of the environment, or else of the project's `.env`."""

    def __init__(self, environment: Mapping[str, SecretStr], dotenv: Path) -> None:
        """Keep the places.

        Args:
            environment: Variables; what is set here wins, even when it is empty.
            dotenv: The `.env` file, which need not be there.
        """
        self._environment = environment
        self._dotenv = dotenv

    @override
    def read(self, reference: SecretRef) -> Secret:
        value = self.look_up(reference.name)
        if value is None:
            raise SecretNotFoundError(
                f"{reference.name} is set neither in the environment nor in {self._dotenv}",
                hint=f"Add a line {reference.name}=... to {self._dotenv}, which needs mode 0600.",
            )
        return Secret(value)

    def given(self, name: str) -> SecretStr | None:
        """Return a variable of the environment itself; None if it is not set."""
        return self._environment.get(name)

    def look_up(self, name: str) -> SecretStr | None:
        """Return a variable's value; None if it is not set.

        Raises:
            SecretStoreUnavailableError: `.env` cannot be read or trusted.
        """
        if (given := self.given(name)) is not None:
            return given
        values = read_dotenv(self._dotenv) if os.path.lexists(self._dotenv) else {}
        return SecretStr(values[name]) if name in values else None
