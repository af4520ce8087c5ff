"""What a role's calls may do, beyond which tools they may name: its policy as data."""

import re
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, ClassVar, Final, Literal, Self, TypeAlias, get_args

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

from orchestrator.model.amount import PLAIN_DECIMAL, format_amount, parse_amount
from orchestrator.model.base import Json, Model, PositiveDuration
from orchestrator.model.names import ToolField

# Who may share one process of a role.
Sharing: TypeAlias = Literal["per-role", "per-agent", "per-session"]
# What a server may ask its caller in the middle of a request.
Asking: TypeAlias = Literal["elicitation", "sampling", "roots"]

# Names, or every one that there is.
Readable = (
    Annotated[tuple[Annotated[str, Field(min_length=1, max_length=2048)], ...], Field(strict=False)]
    | Literal["all"]
)
Asks = Annotated[tuple[Asking, ...], Field(strict=False)]
ClassWord: TypeAlias = Literal["read", "write", "destructive"]
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_CLASSES: Final[tuple[str, ...]] = get_args(ClassWord)
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Amount = Annotated[
    Decimal,
    BeforeValidator(parse_amount),
    PlainSerializer(format_amount, return_type=str),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": PLAIN_DECIMAL}, {"type": "number"}]}),
]


class Limit(Model):
    """How much of something may happen; what is not said has no limit.

    Attributes:
        calls_per_minute: Steady rate of calls.
        burst: How many calls may come at once before the rate holds; a tenth of the rate, and at
            least 1, unless it is said.
        concurrency: How many calls may be under way at the same time.
    """

    calls_per_minute: Count | None = None
    burst: Count | None = None
    concurrency: Count | None = None


class Limits(Limit):
    """Limits of a role: of all its calls together, of each agent, of each tool.

    Attributes:
        calls_per_minute: Steady rate of all calls together.
        burst: How many calls may come at once before the rate holds; a tenth of the rate, and at
            least 1, unless it is said.
        concurrency: How many calls may be under way at the same time.
        queue: How many calls may wait for a place where `concurrency` is limited; agents take
            turns.
        queue_patience: How long one waits.
        agent: What each agent may do.
        tools: What all agents together may do with one tool.
    """

    queue: Annotated[int, Field(ge=0, le=10_000)] = 32
    queue_patience: PositiveDuration = timedelta(seconds=5)
    agent: Limit = Limit()
    tools: dict[ToolField, Limit] = Field(default_factory=dict)


class ToolRule(Model):
    """How a tool is narrowed.

    Attributes:
        arguments: A JSON Schema (2020-12, without references) that arguments have to meet beside
            the server's own; agents see both as one.
        optional: Arguments in `arguments` that a call may leave out; all others have to be given,
            as nobody knows what the server makes of a missing one. Dots lead into objects.
    """

    arguments: dict[str, Json] = Field(default_factory=dict)
    optional: Annotated[tuple[str, ...], Field(strict=False)] = ()


class Sum(Model):
    """A bound on what an argument may add up to, over all agents of the role.

    Attributes:
        tool: The tool.
        argument: The argument, a number or a plain decimal in a text, which a call then has to
            give; dots lead into objects.
        window: The time over which it is added up, ending now.
        max: The largest sum; in quotes, where it has many digits.
    """

    tool: ToolField
    argument: Annotated[str, Field(min_length=1, max_length=200)]
    window: PositiveDuration
    max: Annotated[Amount, Field(gt=0)]


def _read_approval(value: object) -> object:
    """Take a word for an object: the name of a class, or of a tool."""
    if not isinstance(value, str):
        return value
    return {"class": value} if value in _CLASSES else {"tool": value}


class ApprovalRule(Model):
    """What people have to approve, call by call.

    Attributes:
        kind: Every tool of this class.
        tool: This tool.
        quorum: How many different people have to approve a call.
        expires: How long a call waits for people, and then, approved, for being made.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(validate_by_name=True, validate_by_alias=True)

    kind: ClassWord | None = Field(default=None, alias="class")  # `class` in the file
    tool: ToolField | None = None
    quorum: Annotated[int, Field(ge=1, le=10)] = 1
    expires: PositiveDuration = timedelta(hours=1)

    @model_validator(mode="after")
    def _name_one(self) -> Self:
        if (self.kind is None) == (self.tool is None):
            raise ValueError("name either a class or a tool")
        return self


ApprovalField = Annotated[
    ApprovalRule,
    BeforeValidator(_read_approval, json_schema_input_type=ClassWord | ToolField | ApprovalRule),
]
Approvals = Annotated[tuple[ApprovalField, ...], Field(strict=False)]


def _read_until(value: object) -> object:
    """Take a day for its end, and a time without a zone for UTC."""
    if not isinstance(value, str):
        return value
    try:
        if _DAY.fullmatch(value):
            return datetime.combine(date.fromisoformat(value), time.max, UTC)
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError("a date, such as 2026-12-24, or a time: 2026-12-24T18:00:00Z") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


Until = Annotated[
    datetime,
    BeforeValidator(_read_until),
    WithJsonSchema({"type": "string", "examples": ["2026-12-24", "2026-12-24T18:00:00Z"]}),
]


class ShadowRule(Model):
    """Which calls are recorded and not made, for a time.

    Attributes:
        tools: These tools, or every one that changes something.
        until: When that ends: a day, which counts to its end, or a time; in UTC.
    """

    tools: (
        Annotated[tuple[ToolField, ...], Field(min_length=1, strict=False)] | Literal["all-writes"]
    ) = "all-writes"
    until: Until


class RolePolicy(Model):
    """All of it.

    Attributes:
        limits: How much may happen.
        tools: How single tools are narrowed.
        sums: What arguments may add up to.
        resources: URIs, or URI templates with `{name}` for one path segment, that may be read;
            `all` for every one.
        prompts: Prompts that may be had; `all` for every one.
        asks: What the server may ask its callers.
        approval: What people have to approve, call by call.
        identifies: By tool, the arguments that tell what a call is about.
        receipts: By tool, how what a call does is told to people.
        shadow: Which calls are recorded and not made.
    """

    limits: Limits = Limits()
    tools: dict[ToolField, ToolRule] = Field(default_factory=dict)
    sums: Annotated[tuple[Sum, ...], Field(strict=False)] = ()
    resources: Readable = ()
    prompts: Readable = ()
    asks: Asks = ()
    approval: Approvals = ()
    identifies: dict[ToolField, Annotated[tuple[str, ...], Field(strict=False)]] = Field(
        default_factory=dict
    )
    receipts: dict[ToolField, str] = Field(default_factory=dict)
    shadow: ShadowRule | None = None


OPEN_TO_TOOLS: Final = RolePolicy()
