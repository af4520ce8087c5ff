"""Who decides: the operator, or an approver who is asked for a passphrase."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from orchestrator.cli.hidden import ask_hidden
from orchestrator.control.admin_client import Object, ask_once
from orchestrator.errors import SettingsError

_LONGEST_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Who:
    """What was said of the person.

    Attributes:
        name: Their name, None for the operator.
        file: The file that holds their passphrase; `-` is standard input; None: it is asked.
    """

    name: str | None
    file: Path | None

    def ticket(self, socket: Path) -> str:
        """Let the person in; empty for the operator.

        Raises:
            SettingsError: There is no passphrase to be had.
            ApproverError: It is wrong.
        """
        if self.name is None:
            if self.file is not None:
                raise SettingsError("--passphrase-file needs --as NAME")
            return ""
        passphrase = read_passphrase(self.file, f"Passphrase of {self.name}: ")
        request: Object = {"op": "approver.login", "name": self.name, "passphrase": passphrase}
        return str(cast("Object", ask_once(socket, request))["ticket"])


def read_passphrase(file: Path | None, prompt: str) -> str:
    """Read a passphrase: from a file, from standard input, or from a person.

    Raises:
        SettingsError: There is none.
    """
    if file is None:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise SettingsError(
                "there is no terminal to ask for the passphrase on",
                hint="Give it with --passphrase-file; - is standard input.",
            )
        text = ask_hidden(prompt)
    else:
        text = _read(file)
    passphrase = text.removesuffix("\n")
    if not passphrase or "\n" in passphrase:
        raise SettingsError("a passphrase is one line of text, and not empty")
    return passphrase


def _read(file: Path) -> str:
    try:
        raw = sys.stdin.buffer.read(_LONGEST_BYTES + 1) if str(file) == "-" else file.read_bytes()
        if len(raw) > _LONGEST_BYTES:
            raise SettingsError(f"{file} is too long for a passphrase")
        return raw.decode()
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise SettingsError(f"{file} is no text") from None
