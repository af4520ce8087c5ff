"""What `agents.yaml` may say."""

import ipaddress
import re
from typing import Annotated, Literal, NamedTuple, TypeAlias

from pydantic import AfterValidator, Field, StringConstraints, WithJsonSchema

from orchestrator.model.audit import Audit
from orchestrator.model.auth import Auth
from orchestrator.model.base import Model
from orchestrator.model.container import ImageField
from orchestrator.model.issuers import IssuerSettings, OwnVault
from orchestrator.model.names import RoleField
from orchestrator.model.notify import Target, TargetField
from orchestrator.model.rotation import IssuerField
from orchestrator.model.stores import Account, StoreField

LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]

_ADDRESS = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:\[\]]+)):(?P<port>[0-9]{1,5})")
_HOST = r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?)"
HOST_PATTERN = rf"^{_HOST}(:[0-9]{{1,5}})?$"
ORIGIN_PATTERN = rf"^https?://{_HOST}(:[0-9]{{1,5}})?$"
_LAST_PORT = 65_535
_URL = re.compile(rf"http://{_HOST}:(?P<port>[0-9]{{1,5}})(/[!-~]*)")


class Address(NamedTuple):
    """Where the gateway listens; port 0 takes any free one."""

    host: str
    port: int


def parse_address(text: str) -> Address:
    """Read `HOST:PORT`, the host being this machine's own.

    Raises:
        ValueError: It is no address, or one that other machines reach.
    """
    match = _ADDRESS.fullmatch(text)
    if not match or int(match["port"]) > _LAST_PORT:
        raise ValueError("an address is a host and a port, such as 127.0.0.1:8700 or [::1]:8700")
    host = match["six"] or match["host"]
    if host == "localhost":
        host = "127.0.0.1"
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise ValueError(
            "other machines could reach this address, and TLS is not built in yet; listen on "
            "127.0.0.1 and put a TLS proxy in front"
        )
    return Address(host, int(match["port"]))


def _check_address(text: str) -> str:
    _ = parse_address(text)
    return text


def _check_host(text: str) -> str:
    if not re.fullmatch(HOST_PATTERN, text):
        raise ValueError("a host is a name and maybe a port, such as agents.example.com:443")
    return text


def _check_origin(text: str) -> str:
    if not re.fullmatch(ORIGIN_PATTERN, text):
        raise ValueError("an origin is http:// or https:// with a host, and no path")
    return text


def check_attach(text: str) -> str:
    """Make sure that a text is the address of a server.

    Raises:
        ValueError: It is not.
    """
    match = _URL.fullmatch(text)
    if not match or not 0 < int(match["port"]) <= _LAST_PORT:
        raise ValueError(
            "the address of a server is http://, a host, a port and a path, such as "
            "http://monitoring-wallet:8080/mcp"
        )
    return text


def _check_place(text: str) -> str:
    if text.startswith("~") or "$" in text or "\0" in text:
        raise ValueError("nothing is expanded in a directory's name; write it out")
    return text


AddressField = Annotated[
    str,
    AfterValidator(_check_address),
    WithJsonSchema({"type": "string", "examples": ["127.0.0.1:8700"]}),
]
HostField = Annotated[
    str, AfterValidator(_check_host), WithJsonSchema({"type": "string", "pattern": HOST_PATTERN})
]
OriginField = Annotated[
    str,
    AfterValidator(_check_origin),
    WithJsonSchema({"type": "string", "pattern": ORIGIN_PATTERN}),
]
AttachField = Annotated[
    str,
    AfterValidator(check_attach),
    WithJsonSchema({"type": "string", "examples": ["http://monitoring-wallet:8080/mcp"]}),
]
PlaceField = Annotated[
    str, StringConstraints(min_length=1, max_length=4096), AfterValidator(_check_place)
]


class Docker(Model):
    """The engine that runs the containers of roles with `runtime: container`.

    Attributes:
        socket: Its socket, an absolute path. Whoever may write to it is as good as root.
        image: Bandmaster's own image, by digest or id, for the proxy of roles that list `egress:`.
        allow_tag: Whether `image` may be a tag, which means another image tomorrow.
    """

    socket: PlaceField = "/var/run/docker.sock"
    image: ImageField | None = None
    allow_tag: bool = False


class Settings(Model):
    """The whole of `agents.yaml`; each key may be left out, and so may the file.

    Attributes:
        listen: Address of the gateway, on this machine only. Port 0 takes any free one.
        hosts: Further values of the `Host` header that are let in, such as a proxy's name.
        origins: Values of the `Origin` header that are let in; none by default, so no browser.
        state: Directory of everything that is kept. Inside the project, unless absolute.
        run: Directory of the sockets, `run` inside the state by default. A short path: the
            system limits how long the path of a socket may be.
        log_level: The least severe events that are logged.
        auth: Which tokens agents show.
        audit: How long the record is kept, and what happens while it cannot be written.
        stores: Stores of secrets that are reached over the network: how, and with which login.
        issuers: Who makes the credentials that `rotation: upstream:` of roles replaces.
        vault: Where the project keeps what issuers made.
        docker: The engine for containers.
        notify: Who is told of incidents and of calls that wait for people, by a name.
        attach: URLs of servers that somebody else starts, such as Compose, by role; only `agents
            gateway` serves such roles. Plain HTTP: the way there is to be a network of its own.
    """

    listen: AddressField = "127.0.0.1:8700"
    hosts: Annotated[tuple[HostField, ...], Field(strict=False)] = ()
    origins: Annotated[tuple[OriginField, ...], Field(strict=False)] = ()
    state: PlaceField = ".agents"
    run: PlaceField | None = None
    log_level: LogLevel = "info"
    auth: Auth = Auth()
    audit: Audit = Audit()
    stores: dict[StoreField, Account] = Field(default_factory=dict)
    issuers: dict[IssuerField, IssuerSettings] = Field(default_factory=dict)
    vault: OwnVault = OwnVault()
    docker: Docker = Docker()
    notify: dict[TargetField, Target] = Field(default_factory=dict)
    attach: dict[RoleField, AttachField] = Field(default_factory=dict)

    @property
    def address(self) -> Address:
        """Where the gateway listens."""
        return parse_address(self.listen)
