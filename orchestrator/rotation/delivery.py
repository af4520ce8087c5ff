"""Brings an agent its new token, to where it looks for it."""

import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final, final

from pydantic import SecretStr

from orchestrator.errors import RotationError
from orchestrator.files import read_regular, script_of, sync_directory, write_atomically
from orchestrator.model.names import AgentName, RoleName, TokenId
from orchestrator.model.rotation import Delivery
from orchestrator.rotation.running import ProgramError, check, run
from orchestrator.tokens.mint import read_id

_LONGEST_FILE_BYTES: Final = 4096
COMMAND_SECONDS: Final = 30
# What a program needs to run; it does not get our own variables.
_ENVIRONMENT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER", "LOGNAME")


@final
class Deliverer:
    """Puts tokens into files, and hands them to programs."""

    def __init__(self, state: Path, project: Path) -> None:
        """Prepare.

        Args:
            state: What `{state}` stands for.
            project: What `{project}` stands for; programs run here.
        """
        self._state = state
        self._project = project

    def path_of(self, delivery: Delivery) -> Path | None:
        """Tell the file that a rule names, None if it names none.

        Raises:
            RotationError: It is not absolute.
        """
        if delivery.file is None:
            return None
        text = delivery.file.replace("{state}", str(self._state))
        path = Path(text.replace("{project}", str(self._project)))
        if not path.is_absolute():
            raise RotationError(
                f"{delivery.file} is no absolute path",
                hint="Let it begin with /, {state}/ or {project}/.",
            )
        return path

    def put(self, path: Path, text: SecretStr, old: TokenId | None) -> None:
        """Replace a file's token; the old one is kept beside it until it is forgotten.

        Args:
            path: The file.
            text: The new token.
            old: The id of the token that it replaces.

        Raises:
            OSError: It cannot be written; what was there is still there.
        """
        if old is not None and self.holds(path, old):
            content, _ = read_regular(path, _LONGEST_FILE_BYTES, follow=False)
            write_atomically(self.beside(path), content)
        write_atomically(path, text.get_secret_value().encode() + b"\n")

    def holds(self, path: Path, token_id: TokenId) -> bool:
        """Tell whether a file holds a token."""
        try:
            content, _ = read_regular(path, _LONGEST_FILE_BYTES, follow=False)
            return read_id(content.decode().strip()) == token_id
        except (OSError, UnicodeDecodeError):
            return False

    def restore(self, path: Path, old: TokenId) -> bool:
        """Put the old token back; tells whether it is there now.

        Raises:
            OSError: It cannot be put back.
        """
        beside = self.beside(path)
        if self.holds(beside, old):
            beside.replace(path)
            sync_directory(path.parent)
        return self.holds(path, old)

    @staticmethod
    def beside(path: Path) -> Path:
        """Tell where the old token of a file is meanwhile."""
        return path.with_name(f".{path.name}.old")

    def forget(self, path: Path) -> None:
        """Remove the old token."""
        with suppress(FileNotFoundError):
            self.beside(path).unlink()

    async def run(
        self, command: tuple[str, ...], text: SecretStr, agent: AgentName, role: RoleName
    ) -> None:
        """Hand a token to a program, on its stdin; what it started and left is killed with it.

        Raises:
            RotationError: It did not end well, or somebody else could replace it.
        """
        environment: Mapping[str, str] = {
            **{name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            "BANDMASTER_AGENT": agent,
            "BANDMASTER_ROLE": role,
        }
        script = script_of(command, self._project)
        shown = command[0] if script is None else f"{command[0]} {script}"
        try:
            check(command, self._project)
            status, _ = await run(
                command,
                environment,
                text.get_secret_value().encode() + b"\n",
                timedelta(seconds=COMMAND_SECONDS),
                directory=self._project,
                is_heard=False,
            )
        except ProgramError as error:
            raise RotationError(f"{shown} {error}") from None
        if status:
            raise RotationError(f"{shown} ended with status {status}")
