"""Secrets that systemd gives a service."""

import stat
from pathlib import Path
from typing import Final, final

from pydantic import SecretStr
from typing_extensions import override

from orchestrator.errors import SecretNotFoundError, SecretStoreUnavailableError
from orchestrator.model.secret import SecretRef
from orchestrator.secrets.base import Secret, SecretStore
from orchestrator.secrets.env import EnvironmentStore
from orchestrator.secrets.file import read_secret_file, without_newline

VARIABLE: Final = "CREDENTIALS_DIRECTORY"


@final
class SystemdCredentialStore(SecretStore):
    """`systemd-cred:NAME`: a file of `$CREDENTIALS_DIRECTORY`, decrypted by systemd.

    Source: systemd.exec(5), LoadCredential= and LoadCredentialEncrypted=.
    """

    def __init__(self, environment: EnvironmentStore) -> None:
        """Keep where the directory's name is found."""
        self._environment = environment

    @override
    def read(self, reference: SecretRef) -> Secret:
        place = self._environment.given(VARIABLE)
        if place is None:
            raise SecretStoreUnavailableError(
                f"{VARIABLE} is not set, so no systemd service started this",
                hint=f"Start it as a service with LoadCredential={reference.name}:/some/file.",
            )
        directory = Path(place.get_secret_value())
        if not directory.is_absolute():
            raise SecretStoreUnavailableError(f"{VARIABLE} is no absolute path")
        # systemd lets the service's user read by an access list, which shows as the group's bit.
        try:
            text = read_secret_file(directory / reference.name, readers=stat.S_IRGRP)
        except SecretNotFoundError as error:
            raise SecretNotFoundError(
                str(error), hint=f"Add LoadCredential={reference.name}:/some/file to the service."
            ) from error
        return Secret(SecretStr(without_newline(text)))
