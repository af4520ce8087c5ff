"""Checks of values against JSON Schemas, with every door to the outside closed."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias, final

from jsonschema_rs import (
    CanonicalSchema,
    Draft202012,
    Draft202012Validator,
    RegexOptions,
    ValidationError,
    ValidationErrorKind,
    canonical,
    canonicalize,
)

from orchestrator.model.base import Json, JsonObject

# An engine that never goes back: its time grows with the text and the pattern, whatever they are.
_LINEAR = RegexOptions()
# Of a value with more parts only the first miss is told: the engine makes all of them before it
# tells any, at up to 50 microseconds each.
_MOST_PARTS = 256

Loc: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Miss:
    """One thing that a value does not meet.

    Attributes:
        loc: Where in the value; names in it may be the value's own.
        keyword: The keyword that asks for it; empty where a schema lets nothing pass.
        asked: What stands behind the keyword; for `required` the one name that is missing.
    """

    loc: Loc
    keyword: str
    asked: Json


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a schema is none.

    Attributes:
        loc: Where in the schema.
        keyword: What there is wrong, as a keyword of the schema of schemas.
    """

    loc: Loc
    keyword: str


@final
class Checker:
    """One schema, ready to check values, by JSON Schema 2020-12.

    Formats are checked, unknown ones are faults; references to other documents are not followed.
    """

    def __init__(self, schema: JsonObject) -> None:
        """Make it ready.

        Raises:
            ValueError: It is no schema, or none that can be checked in bounded time.
        """
        self._schema = schema
        self._validator = Draft202012Validator(
            schema,
            validate_formats=True,
            ignore_unknown_formats=False,
            pattern_options=_LINEAR,
            offline=True,
        )
        self.accepts = self._validator.is_valid

    def misses(self, value: Json, most: int) -> Iterator[Miss]:
        """Tell what a value does not meet, in the first so many places; of a large one, in one."""
        if _is_small(value):
            for error in islice(self._validator.iter_errors(value), most):
                yield self._miss(error)
            return
        try:
            self._validator.validate(value)
        except ValidationError as error:
            yield self._miss(error)

    def _miss(self, error: ValidationError) -> Miss:
        loc = tuple(error.instance_path)
        match error.kind:
            case ValidationErrorKind.Required(missing):
                return Miss(loc, "required", missing)
            case ValidationErrorKind.FalseSchema():
                return Miss(loc, "", None)
            case _:
                *place, keyword = error.schema_path or [""]
                asked: Json = self._schema
                for part in (*place, keyword):
                    asked = _step(asked, part)
                return Miss(loc, str(keyword), asked)


def _is_small(value: Json) -> bool:
    """Tell whether a value has few parts, without looking at many."""
    waiting, seen = [value], 0
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict | list):
            seen += len(node)
            if seen > _MOST_PARTS:
                return False
            waiting.extend(node.values() if isinstance(node, dict) else node)
    return True


def _step(value: Json, part: str | int) -> Json:
    match value:
        case dict() if isinstance(part, str):
            return value.get(part)
        case list() if isinstance(part, int) and part < len(value):
            return value[part]
        case _:
            return None


def fault_of(schema: JsonObject) -> Fault | None:
    """Tell why a schema cannot be used, or None if it can."""
    try:
        _ = Checker(schema)
    except ValidationError as error:
        # Not its words: they repeat the schema.
        return Fault(tuple(error.instance_path), error.kind.name)
    return None


def no_object_meets(schema: JsonObject) -> bool:
    """Tell whether it is sure that no object at all meets a schema without faults."""
    known: CanonicalSchema = canonicalize(
        {"type": "object", "allOf": [schema]}, draft=Draft202012, offline=True
    )
    return known.satisfiability() == canonical.Satisfiability.NO
