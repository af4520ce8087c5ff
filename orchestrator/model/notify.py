"""Who is told what happens: the targets in `agents.yaml`."""

import re
from datetime import timedelta
from typing import Annotated, ClassVar, Final, Literal, Self, TypeAlias
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    Tag,
    WithJsonSchema,
    model_validator,
)

from orchestrator.errors import SecretRefError
from orchestrator.model.base import Json, Model, PositiveDuration
from orchestrator.model.names import SLUG_PATTERN, AgentField, RoleField
from orchestrator.model.reference import SecretCommand, SecretRefField
from orchestrator.model.secret import SecretRef

# The first part of a topic: what messages are about.
Subject: TypeAlias = Literal["approval", "incident", "test"]
TargetField = Annotated[str, StringConstraints(pattern=SLUG_PATTERN)]
ADDRESS_PATTERN: Final = r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*"
_ADDRESS: Final = re.compile(ADDRESS_PATTERN)
_SERVER: Final = re.compile(r"(?P<host>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\]):(?P<port>[0-9]{1,5})")
_LAST_PORT: Final = 65_535
_HERE: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def check_webhook(text: str) -> str:
    """Make sure that a text is a URL that a message may be sent to.

    Raises:
        ValueError: It is not: others could read the message, or it holds a password.
    """
    try:
        parts = urlsplit(text)
        host = parts.hostname
    except ValueError:
        raise ValueError("this is no URL") from None
    if not host or not re.fullmatch(r"[!-~]+", text) or parts.username is not None:
        raise ValueError("a webhook is a URL such as https://alerts.example.com/hook")
    if parts.scheme != "https" and not (parts.scheme == "http" and host in _HERE):
        raise ValueError("messages hold links that let people decide: the URL has to be https")
    return text


def _read_webhook(value: object) -> str | SecretRef:
    match value:
        case SecretRef():
            return value
        case str() if value.startswith(("http://", "https://")):
            return check_webhook(value)
        case str():
            try:
                return SecretRef.parse(value)
            except SecretRefError:
                raise ValueError(
                    "a webhook is a URL, or a reference to one, such as env:ALERTS_URL"
                ) from None
        case dict():
            return SecretCommand.model_validate(value).reference()
        case _:
            raise ValueError("a webhook is a URL, or a reference to one, such as env:ALERTS_URL")


def _write_webhook(value: str | SecretRef) -> Json:
    return value if isinstance(value, str) else value.data()


def _check_server(text: str) -> str:
    match = _SERVER.fullmatch(text)
    if not match or not 0 < int(match["port"]) <= _LAST_PORT:
        raise ValueError("a mail server is a host and a port, such as smtp.example.com:587")
    return text


def _check_address(text: str) -> str:
    if not _ADDRESS.fullmatch(text):
        raise ValueError("this is no mail address")
    return text


WebhookField = Annotated[
    str | SecretRef,
    PlainValidator(
        _read_webhook,
        json_schema_input_type=Annotated[
            str,
            WithJsonSchema(
                {
                    "type": "string",
                    "examples": ["https://alerts.example.com/hook", "env:ALERTS_URL"],
                }
            ),
        ]
        | SecretCommand,
    ),
    PlainSerializer(_write_webhook),
]
AddressField = Annotated[str, AfterValidator(_check_address)]
ServerField = Annotated[str, AfterValidator(_check_server)]
Topics = Annotated[tuple[Subject, ...], Field(strict=False)]


class _Target(Model):
    """What every target has.

    Attributes:
        topics: What it is told about; everything if it is empty.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(validate_by_name=True, validate_by_alias=True)

    topics: Topics = ()


class Webhook(_Target):
    """An HTTP endpoint that takes Slack's messages.

    Attributes:
        topics: What it is told about; everything if it is empty.
        webhook: Its URL, or a reference to it where whoever knows it may write.
        secret: Signs each message, so that the endpoint can tell that it is ours.
        approver: The approver whose own it is: links in its messages let them decide without their
            passphrase. Only where nobody else reads it.
    """

    webhook: WebhookField
    secret: SecretRefField | None = None
    approver: AgentField | Literal[""] = ""


class Mailbox(_Target):
    """People who get mail.

    Attributes:
        topics: What they are told about; everything if it is empty.
        smtp: The mail server, `HOST:PORT`.
        security: `starttls`, `tls` from the first byte on, or `none`, on this machine alone.
        user: The login, if it wants one.
        password: Its password.
        sender: Whom mail is from; `from` in the file.
        to: Who gets it, beside a role's `owner:` where that has an address.
    """

    smtp: ServerField
    security: Literal["starttls", "tls", "none"] = "starttls"
    user: Annotated[str, StringConstraints(min_length=1, max_length=254)] | None = None
    password: SecretRefField | None = None
    sender: AddressField = Field(alias="from")
    to: Annotated[tuple[AddressField, ...], Field(min_length=1, strict=False)]

    @property
    def server(self) -> tuple[str, int]:
        """Its host and its port."""
        host, _, port = self.smtp.rpartition(":")
        return host.strip("[]"), int(port)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.security == "none" and self.server[0] not in _HERE:
            raise ValueError("mail without TLS goes to a server on this machine alone")
        if (self.user is None) != (self.password is None):
            raise ValueError("a user needs a password, and a password a user")
        return self


class Pager(_Target):
    """A program that gets each message as JSON on its stdin.

    Attributes:
        topics: What it is told about; everything if it is empty.
        command: The program, absolute, and its arguments; no shell, and no secret.
        timeout: How long it may take.
        approver: The approver whose own it is: links in its messages let them decide without their
            passphrase. Only where nobody else reads it.
    """

    command: Annotated[
        tuple[Annotated[str, StringConstraints(min_length=1, max_length=4096)], ...],
        Field(min_length=1, max_length=64, strict=False),
    ]
    timeout: PositiveDuration = timedelta(seconds=30)
    approver: AgentField | Literal[""] = ""


def _kind(value: object) -> str | None:
    for key, model in (("webhook", Webhook), ("smtp", Mailbox), ("command", Pager)):
        if isinstance(value, model) or (isinstance(value, dict) and key in value):
            return model.__name__
    return None


Target = Annotated[
    Annotated[Webhook, Tag(Webhook.__name__)]
    | Annotated[Mailbox, Tag(Mailbox.__name__)]
    | Annotated[Pager, Tag(Pager.__name__)],
    Discriminator(
        _kind,
        custom_error_type="notify_target",
        custom_error_message="a target has `webhook:`, `smtp:` or `command:`",
        custom_error_context={"error": "a target has `webhook:`, `smtp:` or `command:`"},
    ),
]


class NotifyPlan(Model):
    """Who is told, and who owns what.

    Attributes:
        targets: By name.
        owners: What role files say of their owners, by role.
    """

    targets: dict[TargetField, Target] = Field(default_factory=dict)
    owners: dict[RoleField, str] = Field(default_factory=dict)


def address_in(owner: str) -> str:
    """Find the mail address in what a role file says of its owner; empty if there is none."""
    found = _ADDRESS.search(owner)
    return "" if found is None else found[0].strip(".'")
