"""Secrets of 1Password, by its own program."""

import shutil
from pathlib import Path
from typing import Final, final

from pydantic import SecretStr
from typing_extensions import override

from orchestrator.errors import SecretNotFoundError, SecretStoreUnavailableError
from orchestrator.model.secret import SecretRef
from orchestrator.secrets.base import Secret, SecretStore
from orchestrator.secrets.env import EnvironmentStore
from orchestrator.secrets.program import SYSTEM_PATH, Task, run

TIMEOUT_SECONDS: Final = 10.0
_TOKEN: Final = "OP_SERVICE_ACCOUNT_TOKEN"  # noqa: S105  the name of a variable
_CONNECT: Final = ("OP_CONNECT_HOST", "OP_CONNECT_TOKEN")
_ABSENT: Final = ("isn't a", "doesn't have a", "could not find", "couldn't find")


@final
class OnePasswordStore(SecretStore):
    """`op://VAULT/ITEM/FIELD`, passed to `op read` as it is.

    Source: 1Password CLI 2, `op read`; service accounts; Connect.
    """

    def __init__(self, environment: EnvironmentStore, path: str = SYSTEM_PATH) -> None:
        """Keep where its login and the program are found."""
        self._environment = environment
        self._path = path

    @override
    def read(self, reference: SecretRef) -> Secret:
        program = shutil.which("op", path=self._path)
        if program is None:
            raise SecretStoreUnavailableError(
                "the program op of 1Password is not installed",
                hint=f"Put it into one of {self._path.replace(':', ', ')}.",
            )
        task = Task(
            name="op read",
            argv=(str(Path(program).absolute()), "read", "--no-newline", str(reference)),
            timeout=TIMEOUT_SECONDS,
            secrets=self._login(),
        )
        try:
            return Secret(SecretStr(run(task)))
        except SecretStoreUnavailableError as error:
            message, hint = f"{reference}: {error}", error.hint
        if any(words in message for words in _ABSENT):
            raise SecretNotFoundError(message)
        raise SecretStoreUnavailableError(message, hint=hint)

    def _login(self) -> dict[str, SecretStr]:
        """Find the variables of one login; op itself would prefer Connect without a word."""
        token = self._environment.look_up(_TOKEN)
        connect = {name: self._environment.look_up(name) for name in _CONNECT}
        given = {name: value for name, value in connect.items() if value is not None}
        if token is not None and given:
            raise SecretStoreUnavailableError(
                f"{_TOKEN} and {next(iter(given))} are both set", hint="Keep one of the logins."
            )
        if token is not None:
            return {_TOKEN: token}
        if len(given) < len(_CONNECT):
            raise SecretStoreUnavailableError(
                "1Password needs a login of its own here",
                hint=f"Set {_TOKEN} in the environment or in .env; a desktop app is not asked.",
            )
        return given
