"""Where the record is brought to, beside its own files: the sinks in `agents.yaml`."""

import re
from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self, TypeAlias
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    WithJsonSchema,
    model_validator,
)

from orchestrator.model.base import Model
from orchestrator.model.names import SLUG_PATTERN
from orchestrator.model.reference import SecretRefField

SinkField = Annotated[str, StringConstraints(pattern=SLUG_PATTERN)]
Transport: TypeAlias = Literal["udp", "tcp", "tls", "unix"]
_HERE: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_LAST_PORT: Final = 65_535
_SERVER: Final = re.compile(
    r"(?P<transport>udp|tcp|tls)://"
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?))"
    r":(?P<port>[0-9]{1,5})/?"
)
_NO_SERVER: Final = (
    "a syslog server is written as udp://127.0.0.1:514, tcp://HOST:PORT, tls://HOST:PORT or "
    "unix:/dev/log"
)
_READABLE: Final = (
    "whoever is on the way there could read the record: take {}, or add `plain: true` if the way "
    "is a network of its own"
)


@dataclass(frozen=True, slots=True)
class SyslogServer:
    """Where a syslog server listens.

    Attributes:
        transport: How it is reached.
        host: Its name or address; the path of a socket.
        port: Its port, 0 for a socket.
    """

    transport: Transport
    host: str
    port: int = 0

    @property
    def is_open(self) -> bool:
        """Whether others could read what is sent there."""
        return self.transport in {"udp", "tcp"} and self.host not in _HERE


def parse_syslog(text: str) -> SyslogServer:
    """Read where a syslog server listens.

    Raises:
        ValueError: It does not say so.
    """
    if text.startswith("unix:/") and "\0" not in text:
        return SyslogServer("unix", text.removeprefix("unix:"))
    match = _SERVER.fullmatch(text)
    if match is None or not 0 < int(match["port"]) <= _LAST_PORT:
        raise ValueError(_NO_SERVER)
    host = match["six"] or match["host"]
    for transport in ("udp", "tcp", "tls"):
        if match["transport"] == transport:
            return SyslogServer(transport, host, int(match["port"]))
    raise AssertionError("the pattern knows no other")


def _check_syslog(text: str) -> str:
    _ = parse_syslog(text)
    return text


def _check_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("this is no URL") from None
    if not host or parts.scheme not in {"http", "https"} or not re.fullmatch(r"[!-~]+", text):
        raise ValueError("a receiver is a URL such as https://siem.example.com/ingest")
    if parts.username is not None or parts.password is not None:
        raise ValueError("no secret stands in a URL: put it under `secret:`, as a reference")
    if parts.fragment:
        raise ValueError("nothing of a URL behind # is ever sent: remove it")
    return text


def is_open_url(url: str) -> bool:
    """Whether others could read what is sent there."""
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname not in _HERE


def _check_file(text: str) -> str:
    if text.startswith("~") or "$" in text or "\0" in text or text.endswith("/"):
        raise ValueError("this is the path of a file, and nothing in it is expanded")
    return text


UrlField = Annotated[
    str,
    AfterValidator(_check_url),
    WithJsonSchema({"type": "string", "examples": ["https://siem.example.com/ingest"]}),
]
SyslogField = Annotated[
    str,
    AfterValidator(_check_syslog),
    WithJsonSchema(
        {"type": "string", "examples": ["tls://logs.example.com:6514", "unix:/dev/log"]}
    ),
]
FileField = Annotated[
    str, StringConstraints(min_length=1, max_length=4096), AfterValidator(_check_file)
]
BatchField = Annotated[int, Field(ge=1, le=10_000)]


class _Sink(Model):
    """What every sink has.

    Attributes:
        batch: How many lines are brought at once at most.
    """

    batch: BatchField = 500


class _UrlSink(_Sink):
    """What is reached by a URL has this, too.

    Attributes:
        batch: How many lines are brought at once at most.
        secret: Shown to it as `Authorization: Bearer`.
        ca: A file with the authorities that its certificate is checked against, inside the project
            unless absolute; those of the machine without it.
        plain: Whether it may be reached without TLS: the way there is a network of its own.
    """

    secret: SecretRefField | None = None
    ca: FileField | None = None
    plain: bool = False

    def check(self, url: str) -> None:
        """Make sure that nobody on the way reads more than was agreed to."""
        if is_open_url(url) and self.secret is not None:
            raise ValueError("whoever is on the way there could read its secret: take https")
        if is_open_url(url) and not self.plain:
            raise ValueError(_READABLE.format("https"))


class HttpSink(_UrlSink):
    """An HTTP endpoint that takes lines of text.

    Attributes:
        batch: How many lines are brought at once at most.
        secret: Shown to it as `Authorization: Bearer`.
        ca: A file with the authorities that its certificate is checked against, inside the project
            unless absolute; those of the machine without it.
        plain: Whether it may be reached without TLS: the way there is a network of its own.
        http: Its URL.
        format: How the lines are written.
    """

    http: UrlField
    format: Literal["jsonl", "ocsf"] = "jsonl"

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.check(self.http)
        return self


class OtlpSink(_UrlSink):
    """A collector of OpenTelemetry logs, by OTLP/HTTP in JSON.

    Attributes:
        batch: How many lines are brought at once at most.
        secret: Shown to it as `Authorization: Bearer`.
        ca: A file with the authorities that its certificate is checked against, inside the project
            unless absolute; those of the machine without it.
        plain: Whether it may be reached without TLS: the way there is a network of its own.
        otlp: Its URL for logs, such as http://127.0.0.1:4318/v1/logs.
    """

    otlp: UrlField

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.check(self.otlp)
        return self


class SyslogSink(_Sink):
    """A syslog server, RFC 5424.

    Attributes:
        batch: How many lines are brought at once at most.
        syslog: Where it listens: udp://HOST:PORT, tcp://HOST:PORT, tls://HOST:PORT or unix:PATH.
        format: How the lines are written.
        longest: Bytes of one message at most; what is longer is cut and says so. 2048 by UDP, 8192
            by a socket, 65536 else.
        ca: A file with the authorities that its certificate is checked against, inside the project
            unless absolute; those of the machine without it.
        plain: Whether it may be reached without TLS: the way there is a network of its own.
    """

    syslog: SyslogField
    format: Literal["cef", "jsonl"] = "cef"
    longest: Annotated[int, Field(ge=480, le=1_048_576)] | None = None
    ca: FileField | None = None
    plain: bool = False

    @property
    def server(self) -> SyslogServer:
        """Where it listens."""
        return parse_syslog(self.syslog)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.server.is_open and not self.plain:
            raise ValueError(_READABLE.format("tls://"))
        return self


class FileSink(_Sink):
    """A file of its own, which is appended to.

    Attributes:
        batch: How many lines are brought at once at most.
        file: The file, inside the project unless absolute; its directory has to be there. What
            rotates logs may move it away at any time.
        format: How the lines are written.
    """

    file: FileField
    format: Literal["jsonl", "ocsf", "cef", "csv"] = "jsonl"


_KINDS: Final = (
    ("http", HttpSink),
    ("syslog", SyslogSink),
    ("file", FileSink),
    ("otlp", OtlpSink),
)
_WHICH: Final = "a sink has `http:`, `syslog:`, `file:` or `otlp:`"


def _kind(value: object) -> str | None:
    for key, model in _KINDS:
        if isinstance(value, model) or (isinstance(value, dict) and key in value):
            return model.__name__
    return None


Sink = Annotated[
    Annotated[HttpSink, Tag(HttpSink.__name__)]
    | Annotated[SyslogSink, Tag(SyslogSink.__name__)]
    | Annotated[FileSink, Tag(FileSink.__name__)]
    | Annotated[OtlpSink, Tag(OtlpSink.__name__)],
    Discriminator(
        _kind,
        custom_error_type="audit_sink",
        custom_error_message=_WHICH,
        custom_error_context={"error": _WHICH},
    ),
]
