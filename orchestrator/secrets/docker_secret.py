"""Secrets that Docker puts into a container."""

import stat
from pathlib import Path
from typing import Final, final

from pydantic import SecretStr
from typing_extensions import override

from orchestrator.errors import SecretNotFoundError
from orchestrator.model.secret import SecretRef
from orchestrator.secrets.base import Secret, SecretStore
from orchestrator.secrets.file import read_secret_file, without_newline

PLACE: Final = Path("/run/secrets")


@final
class DockerSecretStore(SecretStore):
    """`docker-secret:NAME`: a file of `/run/secrets`, without one newline at its end."""

    def __init__(self, place: Path = PLACE) -> None:
        """Keep the directory, which is another one in tests only."""
        self._place = place

    @override
    def read(self, reference: SecretRef) -> Secret:
        path = self._place / reference.name
        # Docker makes them readable for all of the container (0444), which is the boundary.
        try:
            text = read_secret_file(path, readers=stat.S_IRGRP | stat.S_IROTH)
        except SecretNotFoundError as error:
            raise SecretNotFoundError(
                str(error), hint=f"Give the container the secret {reference.name}."
            ) from error
        return Secret(SecretStr(without_newline(text)))
