"""A project as other engines run it: servers in containers, a gateway in front; pure data."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from orchestrator.errors import SettingsError
from orchestrator.model.destination import Destination, is_public

GATEWAY: Final = "agents-gateway"
GATEWAY_PORT: Final = 8700
PROXY_PORT: Final = 3128
# Inside every container: where the project's files are, what is kept, and each secret's own file.
PROJECT: Final = "/project"
VOLUME: Final = "/var/lib/bandmaster"
STATE: Final = f"{VOLUME}/state"
SECRETS: Final = "/run/secrets"
# The user of Bandmaster's images, and of every other one in a stack.
USER: Final = 10001
_PROJECT_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?")
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_LONGEST_SECRET: Final = 64
# What Bandmaster's own containers get. The gateway's memory follows from docs/performance.md.
GATEWAY_BYTES: Final = 512 * 2**20
PROXY_BYTES: Final = 96 * 2**20
TMP_BYTES: Final = 16 * 2**20


@dataclass(frozen=True, slots=True)
class StackServer:
    """One role's server, as a container that speaks HTTP.

    Attributes:
        role: The role.
        server: The server.
        image: Its image.
        command: Program and arguments; the image's own if empty.
        env: Plain variables.
        secrets: Variables whose values are in files.
        port: Where it listens.
        path: Path of its URL.
        keep: Directories that it writes, each the name of a volume and its place inside. A volume
            of that name is one, whichever roles keep it.
        memory: Bytes that it may take.
        cpus: Processors that it may keep busy.
        pids: Processes and threads that it may have.
        tmp: Bytes of its `/tmp`.
        egress: What it may reach.
        stop_seconds: How long it may take to end.
        startup_seconds: How long it may take to listen.
        health: Program and arguments inside that end with 0 as soon as it serves; empty if nobody
            knows one.
        generation: Of its credentials; part of the names of its secrets.
    """

    role: str
    server: str
    image: str
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    secrets: tuple[str, ...] = ()
    port: int = 8080
    path: str = "/mcp"
    keep: Mapping[str, str] = field(default_factory=dict[str, str])
    memory: int = 256 * 2**20
    cpus: float = 0.5
    pids: int = 64
    tmp: int = TMP_BYTES
    egress: tuple[Destination, ...] = ()
    stop_seconds: int = 40
    startup_seconds: int = 60
    health: tuple[str, ...] = ()
    generation: int = 1

    @property
    def name(self) -> str:
        """Name of its service."""
        return f"{self.role}-{self.server}"

    @property
    def proxy(self) -> str:
        """Name of the proxy through which it reaches other hosts."""
        return f"{self.role}-egress"

    @property
    def secret_set(self) -> str:
        """Name of all its credentials together, where they have one; generation included."""
        return f"{self.name}-g{self.generation}"

    @property
    def url(self) -> str:
        """Where the gateway reaches it."""
        return f"http://{self.name}:{self.port}{self.path}"

    @property
    def variables(self) -> dict[str, str]:
        """Every plain variable: its own, where each secret is, and its way out."""
        files = {f"{name}_FILE": f"{SECRETS}/{name}" for name in self.secrets}
        way = f"http://{self.proxy}:{PROXY_PORT}" if self.egress else ""
        ways = {name: way for name in ("HTTP_PROXY", "HTTPS_PROXY", "https_proxy") if way}
        return {**self.env, **files, **ways}


@dataclass(frozen=True, slots=True)
class Once:
    """What has to be done once for a server, where nobody but `agents up` can do it.

    Attributes:
        server: The server.
        role: A role whose first start does it.
        marks: Files that are there as soon as it is done, and hold secrets; as all paths here
            inside the project, or absolute.
        keep: Directories that it fills, by the name of the volume that takes their content.
        secrets: The files of variables whose values it makes, by the name of a role's server.
    """

    server: str
    role: str
    marks: tuple[str, ...]
    keep: Mapping[str, str]
    secrets: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Stack:
    """All of it.

    Attributes:
        project: Name of the project, as a label.
        image: Bandmaster's own image.
        servers: Its servers, one a role.
        files: What the gateway reads, by path in the project; never a secret.
        hosts: Values of `Host` that the gateway lets in beside its service's name.
        bootstraps: Servers in their owner's mode, for what has to be done once; nothing else
            reaches them. Where their secrets are is the same as for roles.
        once: The same things, for engines that are handed what `agents up` made.
        asks: Where the gateway itself asks for keys of identity providers.
    """

    project: str
    image: str
    servers: tuple[StackServer, ...]
    files: Mapping[str, str]
    hosts: tuple[str, ...] = ()
    bootstraps: tuple[StackServer, ...] = ()
    once: tuple[Once, ...] = ()
    asks: tuple[Destination, ...] = ()

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of the roles."""
        return tuple(server.role for server in self.servers)

    @property
    def minute(self) -> int:
        """A minute from 17 to 46 for the daily job, so that not all projects begin at once."""
        return 17 + int.from_bytes(hashlib.sha256(self.project.encode()).digest()) % 30


def check_names(stack: Stack) -> None:
    """Make sure that names can be labels, and each service's its own, and one that DNS can carry.

    Raises:
        SettingsError: Two have the same name, or one is none.
    """
    if not _PROJECT_NAME.fullmatch(stack.project):
        raise SettingsError(
            f"{stack.project!r} cannot be the name of a stack, which is a label of all its parts",
            hint="Give it one with --name: up to 63 lower-case letters, digits and dashes.",
        )
    names = [GATEWAY, *(server.name for server in stack.servers)]
    names += [server.proxy for server in stack.servers if server.egress]
    for name in names:
        if not _LABEL.fullmatch(name):
            raise SettingsError(
                f"{name!r} would be the name of a service, and is none in DNS",
                hint="Role and server may have 62 letters together, and no dash at their end.",
            )
        if names.count(name) > 1:
            raise SettingsError(
                f"two services would have the name {name!r}",
                hint="Give the role or the server another name.",
            )


def swarm_secret(server: StackServer, variable: str) -> str:
    """Name the secret of one variable in a swarm; each generation has one of its own.

    Raises:
        SettingsError: It would be longer than a swarm takes.
    """
    name = f"{server.name}-g{server.generation}-{variable}"
    if len(name) > _LONGEST_SECRET:
        raise SettingsError(
            f"the secret {name} would have more than {_LONGEST_SECRET} letters, too many "
            "for a swarm",
            hint="Give the role or the server a shorter name.",
        )
    return name


def revision(files: Mapping[str, str]) -> str:
    """Name what is in files; another content has another name."""
    digest = hashlib.sha256()
    for name, text in sorted(files.items()):
        digest.update(f"{name}\0{len(text.encode())}\0{text}".encode())
    return digest.hexdigest()[:10]


def gateway_command(stack: Stack) -> list[str]:
    """Write the gateway's words."""
    listen = f"0.0.0.0:{GATEWAY_PORT}"
    return ["agents", "gateway", "--project", PROJECT, "--listen", listen, *stack.roles]


def proxy_command(server: StackServer) -> list[str]:
    """Write the words of a server's forward proxy."""
    listed = [word for each in server.egress for word in ("--allow", str(each))]
    return ["agents", "egress", "--listen", f":{PROXY_PORT}", *listed]


def proxy_health() -> list[str]:
    """Write the words that end with 0, in a proxy's container, as soon as it listens."""
    asks = f"import socket; socket.create_connection(('127.0.0.1', {PROXY_PORT}), 4)"
    return ["CMD", "python3", "-I", "-S", "-c", asks]


def open_ports(destinations: Iterable[Destination]) -> list[int]:
    """Tell the ports at which names and public addresses are listed."""
    return sorted({
        each.port for each in destinations if each.address is None or is_public(each.address)
    })  # fmt: skip


def inside_addresses(destinations: Iterable[Destination]) -> list[Destination]:
    """Tell the listed addresses that are private, and so have to be allowed one by one."""
    return sorted(
        each for each in destinations if each.address is not None and not is_public(each.address)
    )
