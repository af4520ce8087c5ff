"""Secrets that SecretSpec finds in one of its many stores."""

from pathlib import Path
from typing import final

from pydantic import SecretStr
from typing_extensions import override

from orchestrator.errors import SecretNotFoundError, SecretStoreUnavailableError
from orchestrator.model.secret import SecretRef
from orchestrator.secrets.base import Secret, SecretStore
from orchestrator.secrets.env import EnvironmentStore
from orchestrator.secrets.keyring import BUS
from orchestrator.secrets.library import ask_library


@final
class SecretSpecStore(SecretStore):
    """`secretspec:NAME`: a secret that the project's `secretspec.toml` declares.

    Source: SecretSpec 0.21, Python SDK.
    """

    def __init__(self, environment: EnvironmentStore, project: Path) -> None:
        """Keep the places."""
        self._environment = environment
        self._project = project

    @override
    def read(self, reference: SecretRef) -> Secret:
        file = self._project / "secretspec.toml"
        if not file.is_file():
            raise SecretStoreUnavailableError(
                f"{reference}: there is no {file}", hint=f"Declare {reference.name} in it."
            )
        bus = self._environment.given(BUS)
        request = {
            "file": str(file),
            "name": reference.name,
            "profile": reference.option("profile"),
            "scope": reference.option("scope"),
        }
        env = {BUS: bus.get_secret_value()} if bus is not None else {}
        match ask_library("secretspec", request, env, self._project):
            case {"value": str(value)}:
                return Secret(SecretStr(value))
            case {"problem": "unknown"}:
                raise SecretNotFoundError(f"{reference}: {file} does not declare it")
            case {"problem": "missing"}:
                raise SecretNotFoundError(f"{reference}: no store of SecretSpec has it")
            case {"problem": "others", "names": list(names)}:
                raise SecretNotFoundError(
                    f"{reference}: SecretSpec answers nothing while others of the profile are "
                    f"missing: {', '.join(str(name) for name in names)}",
                    hint="Set them, or name a smaller scope: ?scope=.",
                )
            case {"problem": "default"}:
                raise SecretStoreUnavailableError(
                    f"{reference} stands in {file} as a default",
                    hint="A secret never stands in a file of the project: keep it in a store.",
                )
            case {"problem": "files", "names": list(names)}:
                raise SecretStoreUnavailableError(
                    f"{reference}: SecretSpec would write others of the profile into files: "
                    f"{', '.join(str(name) for name in names)}",
                    hint="Take `as_path` away, or name a scope without them: ?scope=.",
                )
            case {"problem": "failed", "kind": str(kind)}:
                raise SecretStoreUnavailableError(
                    f"{reference}: SecretSpec failed: {kind.replace('_', ' ')}",
                    hint="`secretspec check` tells more.",
                )
            case _:
                raise SecretStoreUnavailableError(f"{reference}: SecretSpec failed")
