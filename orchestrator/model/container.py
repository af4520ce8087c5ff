"""What a server file may say of containers, and one container as it should run."""

import re
from typing import Annotated, Final, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
)

from orchestrator.model.base import Model
from orchestrator.model.destination import parse_destination
from orchestrator.model.names import HTTP_PATH_PATTERN, SecretField, UserField

_UNITS: Final = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
SIZE_PATTERN: Final = r"^[0-9]{1,6}(KiB|MiB|GiB)$"
_DIGEST: Final = r"sha256:[0-9a-f]{64}"
_PART: Final = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_NAME: Final = rf"(?:[A-Za-z0-9.-]+(?::[0-9]{{1,5}})?/)?{_PART}(?:/{_PART})*"
_TAG: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
# Source: distribution/reference, grammar of image references; an image id is a digest alone.
IMAGE_PATTERN: Final = rf"^({_DIGEST}|{_NAME}(:{_TAG})?(@{_DIGEST})?)$"
_INSIDE: Final = re.compile(r"(/[A-Za-z0-9._-]+)+")
# Kernel interfaces, and what Bandmaster itself puts into a container.
_TAKEN: Final = ("/proc", "/sys", "/dev", "/tmp", "/run/bandmaster")  # noqa: S108 - inside a container
# Inside a container, and nowhere else: no file of the host is meant.
CHANNEL: Final = "/run/bandmaster"
HTTP_SEAT: Final = "/run/bandmaster-http"
LOG: Final = "/run/bandmaster-log"
SOCKET: Final = f"{HTTP_SEAT}/http.sock"
PORT: Final = 8080
# A log that grows faster than it is looked after ends there, and so does a file full of holes.
LARGEST_FILE: Final = 2**30


def parse_size(text: object) -> int:
    """Read a size such as `256MiB`.

    Raises:
        ValueError: It is none.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    if not isinstance(text, str) or not re.fullmatch(SIZE_PATTERN, text):
        raise ValueError("a size is a number with KiB, MiB or GiB, such as 256MiB")
    return int(text[:-3]) * _UNITS[text[-3:]]


def format_size(value: int) -> str:
    """Write a size so that `parse_size` reads it back."""
    unit = next(unit for unit in ("GiB", "MiB", "KiB") if value % _UNITS[unit] == 0)
    return f"{value // _UNITS[unit]}{unit}"


def is_pinned(image: str) -> bool:
    """Tell whether an image is named by what is in it, so that nobody can put another there."""
    return re.search(rf"(^|@){_DIGEST}$", image) is not None


def _check_size(value: int) -> int:
    if value <= 0 or value % _UNITS["KiB"]:
        raise ValueError("a size has to be more than nothing")
    return value


def _check_inside(text: str) -> str:
    parts = text.split("/")
    if not _INSIDE.fullmatch(text) or {".", ".."} & set(parts):
        raise ValueError("a place inside a container is an absolute path, such as /var/lib/wallet")
    if any(text == taken or text.startswith((f"{taken}/", f"{taken}-")) for taken in _TAKEN):
        raise ValueError("this place inside the container is taken; name another one")
    return text


def _check_destination(text: str) -> str:
    return str(parse_destination(text))


Size: TypeAlias = Annotated[
    int,
    BeforeValidator(parse_size),
    AfterValidator(_check_size),
    PlainSerializer(format_size, return_type=str),
    WithJsonSchema({"type": "string", "pattern": SIZE_PATTERN, "examples": ["256MiB"]}),
]
ImageField = Annotated[str, StringConstraints(pattern=IMAGE_PATTERN, max_length=512)]
InsideField = Annotated[
    str,
    AfterValidator(_check_inside),
    WithJsonSchema({"type": "string", "examples": ["/var/lib/wallet"]}),
]
DestinationField = Annotated[
    str,
    AfterValidator(_check_destination),
    WithJsonSchema({"type": "string", "examples": ["api.example.com:443"]}),
]
_Words = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
Cpus = Annotated[float, Field(ge=0.01, le=512, allow_inf_nan=False)]
Pids = Annotated[int, Field(ge=4, le=32768)]


class PortServing(Model):
    """How a server is told to speak HTTP on a port of all addresses of its container.

    Attributes:
        command: Program and arguments, in the place of those of `container:`.
        env: Plain variables beside the others; `{port}` is filled in.
        path: Path of the URL at which it speaks MCP.
        health: Program and arguments inside that end with 0 as soon as it serves; `{port}` is
            filled in. The gateway needs none, but it is started after that.
    """

    command: Annotated[tuple[_Words, ...], Field(strict=False)] = ()
    env: dict[SecretField, str] = Field(default_factory=dict)
    path: Annotated[str, StringConstraints(pattern=HTTP_PATH_PATTERN)] = "/mcp"
    health: Annotated[tuple[_Words, ...], Field(strict=False)] = ()


class Container(Model):
    """How an instance is started in a container, for roles with `runtime: container`.

    Attributes:
        image: The image, by digest: `name@sha256:...`, or the id `sha256:...` of a local one. It
            has to be on this machine already and to have a shell, `/bin/sh`.
        allow_tag: Whether `image` may be a tag, which means another image tomorrow.
        command: Program and arguments inside the image; the image's own by default. Placeholders
            mean what they mean inside: `{state}` and `{project}` only where a directory is kept.
        user: The user of the image that it runs as, by name, never root.
        env: Plain variables beside those of `launch.env`; filled in the same way.
        keep: Directories of this machine that it writes, each with its place inside. Everything
            else is read-only, and gone with the container.
        memory: How much memory it may take, swap included.
        cpus: How many processors it may keep busy.
        pids: How many processes and threads it may have.
        tmp: Size of its `/tmp`, which is in memory, is its home, and runs no programs.
        file: Size of the largest file that it may write, its log included.
        http: How it speaks HTTP on a port, where Compose, Swarm or Kubernetes start it. A server
            that is launched with `transport: http` and `listen: port` needs none.
    """

    image: ImageField
    allow_tag: bool = False
    command: Annotated[tuple[_Words, ...], Field(strict=False)] = ()
    user: UserField = "mcp"
    env: dict[SecretField, str] = Field(default_factory=dict)
    keep: dict[_Words, InsideField] = Field(default_factory=dict)
    memory: Size = 256 * 2**20
    cpus: Cpus = 0.5
    pids: Pids = 64
    tmp: Size = 16 * 2**20
    file: Size = LARGEST_FILE
    http: PortServing | None = None


class ContainerSpec(Model):
    """One container as it should run; its arguments and variables are those of its workload.

    Attributes:
        image: The image.
        user: The user of the image that it runs as.
        keep: Absolute directories of this machine that it writes, each with its place inside.
        memory: How much memory it may take, swap included.
        cpus: How many processors it may keep busy.
        pids: How many processes and threads it may have.
        tmp: Size of its `/tmp`.
        file: Size of the largest file that it may write.
        egress: Hosts and ports that it may reach; none by default.
        engine: Socket of the engine that runs it.
        proxy: The image of the proxy through which it reaches them; empty where it needs none.
    """

    image: ImageField
    user: UserField
    keep: dict[str, InsideField]
    memory: Size
    cpus: Cpus
    pids: Pids
    tmp: Size
    file: Size = LARGEST_FILE
    egress: Annotated[tuple[DestinationField, ...], Field(strict=False)] = ()
    engine: str
    proxy: str = ""
