"""What every model of outside data has in common."""

import re
from datetime import timedelta
from typing import Annotated, ClassVar, Final, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    JsonValue,
    PlainSerializer,
    WithJsonSchema,
)

Json: TypeAlias = JsonValue
JsonObject: TypeAlias = dict[str, Json]
# For a TypeAdapter, whose errors repeat inputs even if those of the models inside do not.
HIDE_INPUT: Final = ConfigDict(hide_input_in_errors=True)


class Model(BaseModel):
    """Frozen data from outside; unknown keys are refused, and no message repeats an input."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        hide_input_in_errors=True,
        validate_default=True,
        # A model inside another is built as a part of it; most are never used alone.
        defer_build=True,
    )


_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")
_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
DURATION_PATTERN = r"^([0-9]{1,9}(ms|s|m|h|d))+$"
_LONGEST = timedelta(days=3650)


def parse_duration(text: object) -> timedelta:
    """Read a duration such as `90d`, `24h`, `1h30m` or `250ms`.

    Raises:
        ValueError: It is not one.
    """
    if isinstance(text, timedelta):
        return text
    if not isinstance(text, str) or not re.fullmatch(DURATION_PATTERN, text):
        raise ValueError("a duration is a number with its unit, such as 250ms, 30s, 24h or 90d")
    total = timedelta()
    for match in _DURATION.finditer(text):
        # Checked at each step: timedelta itself ends with an OverflowError, no ValueError.
        total += min(int(match[1]) * _UNITS[match[2]], 2 * _LONGEST)
        if total > _LONGEST:
            raise ValueError("a duration is at most ten years")
    return total


def format_duration(value: timedelta) -> str:
    """Write a duration so that `parse_duration` reads it back."""
    rest = value // timedelta(milliseconds=1)
    text = ""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)):
        count, rest = divmod(rest, size)
        if count:
            text += f"{count}{unit}"
    return text or "0s"


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN, "examples": ["30s", "90d"]}),
]


def _refuse_zero(value: timedelta) -> timedelta:
    if not value:
        raise ValueError("this duration has to be longer than nothing")
    return value


PositiveDuration = Annotated[Duration, AfterValidator(_refuse_zero)]
