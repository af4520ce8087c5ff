"""Secrets of the desktop's keyring."""

import os
from typing import Final, final
from urllib.parse import unquote

from pydantic import SecretStr
from typing_extensions import override

from orchestrator.errors import SecretNotFoundError, SecretStoreUnavailableError
from orchestrator.model.secret import SecretRef
from orchestrator.secrets.base import Secret, SecretStore
from orchestrator.secrets.env import EnvironmentStore
from orchestrator.secrets.library import ask_library

BUS: Final = "DBUS_SESSION_BUS_ADDRESS"


@final
class KeyringStore(SecretStore):
    """`keyring://SERVICE/USER`: the password of a user in the Secret Service or KWallet.

    A locked keyring asks on the desktop; the answer has to come within ten seconds.
    """

    def __init__(self, environment: EnvironmentStore) -> None:
        """Keep where the address of the session bus is found."""
        self._environment = environment

    @override
    def read(self, reference: SecretRef) -> Secret:
        service, user = unquote(reference.path), unquote(reference.name)
        bus = self._environment.given(BUS)
        runtime = f"/run/user/{os.geteuid()}"
        env = {"XDG_RUNTIME_DIR": runtime}
        if bus is not None:
            env[BUS] = bus.get_secret_value()
        elif os.path.exists(f"{runtime}/bus"):  # noqa: PTH110  a name of the system, no file of ours
            env[BUS] = f"unix:path={runtime}/bus"
        answer = ask_library("keyring", {"service": service, "user": user}, env)
        match answer:
            case {"value": str(value)}:
                return Secret(SecretStr(value))
            case {"absent": True}:
                raise SecretNotFoundError(f"the keyring has no entry for {reference}")
            case {"problem": "none"}:
                raise SecretStoreUnavailableError(
                    f"{reference}: there is no keyring here",
                    hint="Secret Service and KWallet need the session bus of a desktop login; for "
                    "a server take another scheme. A keyring in a plain file is never used.",
                )
            case {"problem": "locked"}:
                raise SecretStoreUnavailableError(
                    f"{reference}: the keyring is locked", hint="Unlock it on the desktop."
                )
            case _:
                raise SecretStoreUnavailableError(f"{reference}: the keyring failed")
