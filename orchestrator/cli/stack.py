"""A stack of Docker Compose, by way of its own command."""

import errno
import json
import os
import re
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast, final

from orchestrator.errors import SettingsError
from orchestrator.files import write_atomically

_KEY: Final = "x-bandmaster"
_SECONDS: Final = 180.0
_SHOWN: Final = 3
# What the engine or Compose say, and what helps; the first that fits.
_HELP: Final = (
    (
        re.compile(r"port is already allocated|address already in use|ports are not available"),
        "Another program has that port: name a free one by the variable in compose/README.md.",
    ),
    (
        re.compile(r"permission denied .*docker|docker.* permission denied", re.IGNORECASE),
        "Whoever runs this has to be allowed to use the engine's socket.",
    ),
    (
        re.compile(r"cannot connect to the docker daemon|docker daemon running", re.IGNORECASE),
        "Start the engine for containers.",
    ),
    (
        re.compile(r"pull access denied|no such image|manifest unknown", re.IGNORECASE),
        "Build the images by `scripts/images`, or name them by the stack's variables.",
    ),
)
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class StackRole:
    """A role of a stack.

    Attributes:
        service: The service of its server.
        url: Where the gateway looks for it.
        variable: The variable that says the generation of its secrets.
    """

    service: str
    url: str
    variable: str


@final
class Stack:
    """One stack. Nothing secret is ever part of a command's words."""

    def __init__(self, file: Path) -> None:
        """Read what the file says, as Compose understands it.

        Raises:
            SettingsError: There is no Compose, or the file was not written by us.
        """
        self.file = file.absolute()
        self.directory = self.file.parent
        body = cast("dict[str, object]", json.loads(self.run("config", "--format", "json")))
        mine = cast("dict[str, object]", body.get(_KEY))
        if not mine:
            raise SettingsError(
                f"{file} was not written by `agents render compose`",
                hint="Name such a file, such as compose/compose.yaml.",
            )
        self.name = str(body["name"])
        self.gateway = str(mine["gateway"])
        known = cast("dict[str, dict[str, str]]", mine["roles"])
        self.roles = {
            role: StackRole(one["service"], one["url"], one["generation"])
            for role, one in known.items()
        }
        self.bootstraps = cast("dict[str, str]", mine["bootstraps"])
        services = cast("dict[str, dict[str, object]]", body["services"])
        self.port_variable = str(mine["port"])
        published = cast("list[dict[str, str]]", services[self.gateway].get("ports", []))
        self._ports = [(one.get("host_ip", ""), int(one["published"])) for one in published]

    @property
    def secrets(self) -> Path:
        """Where the files of its secrets are."""
        return self.directory / "secrets" / self.name

    def command(self, *words: str) -> list[str]:
        """Write a command about this stack."""
        return ["docker", "compose", "-f", str(self.file), *words]

    def run(self, *words: str) -> str:
        """Carry a command out, and give its output.

        Raises:
            SettingsError: It failed; tells its last words.
        """
        return run(self.command(*words))

    def containers(self, service: str, *, ended: bool = False) -> list[str]:
        """Tell the containers of a service that run, or also those that have ended."""
        return self.run("ps", "-q", *(("-a",) if ended else ()), service).split()

    def taken(self) -> list[str]:
        """Tell the addresses that the gateway would not get, as somebody else has them."""
        is_elsewhere = not os.environ.get("DOCKER_HOST", "unix://").startswith("unix://")
        if is_elsewhere or self.containers(self.gateway):
            return []
        return [f"{host}:{port}" for host, port in self._ports if not _is_free(host, port)]

    def generation(self, role: str) -> int:
        """Tell the generation of a role's secrets."""
        variable = self.roles[role].variable
        text = os.environ.get(variable) or _variables(self.directory / ".env").get(variable, "1")
        if not _NUMBER.fullmatch(text):
            raise SettingsError(
                f"{variable} in {self.directory / '.env'} is no generation",
                hint="Write the number that the newest files of secrets end with, or take it out.",
            )
        return int(text)

    def check_variable(self, role: str) -> None:
        """Make sure that another generation would be seen.

        Raises:
            SettingsError: Something else says the generation, and Compose hears that first.
        """
        variable = self.roles[role].variable
        if variable in os.environ:
            raise SettingsError(
                f"{variable} is set around this command, so that servers would start with the "
                "secrets before",
                hint=f"Unset it; {self.directory / '.env'} is where it is kept.",
            )

    def set_generation(self, role: str, generation: int) -> None:
        """Have whatever is started from now on use other files of secrets."""
        path, variable = self.directory / ".env", self.roles[role].variable
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if line.partition("=")[0].strip() != variable]
        text = "\n".join([*kept, f"{variable}={generation}", ""])
        write_atomically(path, text.encode())


def run(words: Sequence[str]) -> str:
    """Carry a command of Docker's out, and give its output.

    Raises:
        SettingsError: It failed; tells its last words.
    """
    shown = " ".join(words[:2])
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and every word is ours
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
    except FileNotFoundError:
        raise SettingsError(
            "there is no `docker` command here", hint="Install Docker with Compose 2.24 or newer."
        ) from None
    except subprocess.TimeoutExpired:
        raise SettingsError(f"`{shown}` did not end within {_SECONDS:.0f} s") from None
    if done.returncode:
        said = "; ".join(done.stderr.strip().splitlines()[-_SHOWN:])
        raise SettingsError(
            f"`{shown}` failed: {said or f'exit status {done.returncode}'}",
            hint=next((words for seen, words in _HELP if seen.search(done.stderr)), None),
        )
    return done.stdout


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            place.bind((host, port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True


def _variables(path: Path) -> Mapping[str, str]:
    if not path.exists():
        return {}
    pairs = (line.partition("=") for line in path.read_text("utf-8").splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
