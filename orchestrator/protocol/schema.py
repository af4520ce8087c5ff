"""JSON Schemas that narrow a tool's arguments: what is in them, and what they ask for.

They are written by the project's owner, in 2020-12 and without references: what they mean must not
depend on anything that stands elsewhere.
"""

from collections.abc import Collection, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from orchestrator.model.base import Json, JsonObject

ANNOTATIONS: Final = frozenset(
    {
        "title",
        "description",
        "default",
        "examples",
        "deprecated",
        "readOnly",
        "writeOnly",
        "$comment",
    }
)
_NUMBERS: Final = frozenset({"number", "integer"})
_STRINGS: Final = frozenset({"string"})
_ARRAYS: Final = frozenset({"array"})
_OBJECTS: Final = frozenset({"object"})
# What a keyword says something about; values of all other types it lets pass.
TYPES_OF: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "minimum": _NUMBERS,
        "maximum": _NUMBERS,
        "exclusiveMinimum": _NUMBERS,
        "exclusiveMaximum": _NUMBERS,
        "multipleOf": _NUMBERS,
        "minLength": _STRINGS,
        "maxLength": _STRINGS,
        "pattern": _STRINGS,
        "format": _STRINGS,
        "items": _ARRAYS,
        "prefixItems": _ARRAYS,
        "contains": _ARRAYS,
        "minContains": _ARRAYS,
        "maxContains": _ARRAYS,
        "minItems": _ARRAYS,
        "maxItems": _ARRAYS,
        "uniqueItems": _ARRAYS,
        "unevaluatedItems": _ARRAYS,
        "properties": _OBJECTS,
        "patternProperties": _OBJECTS,
        "additionalProperties": _OBJECTS,
        "unevaluatedProperties": _OBJECTS,
        "propertyNames": _OBJECTS,
        "required": _OBJECTS,
        "minProperties": _OBJECTS,
        "maxProperties": _OBJECTS,
        "dependentRequired": _OBJECTS,
        "dependentSchemas": _OBJECTS,
    }
)
# Schemas for the same value; to be met is not what the last two ask for.
_HERE: Final = frozenset({"allOf", "anyOf", "oneOf", "then", "else", "dependentSchemas"})
_TESTS: Final = frozenset({"if", "not"})
# Schemas for what is inside the value.
_INSIDE: Final = frozenset(
    {
        "properties",
        "patternProperties",
        "additionalProperties",
        "unevaluatedProperties",
        "propertyNames",
        "items",
        "prefixItems",
        "contains",
        "unevaluatedItems",
    }
)
_OF_MANY: Final = frozenset(
    {
        "allOf",
        "anyOf",
        "oneOf",
        "prefixItems",
        "properties",
        "patternProperties",
        "dependentSchemas",
    }
)
KNOWN: Final = ANNOTATIONS | TYPES_OF.keys() | _HERE | _TESTS | {"type", "enum", "const"}
ANY_TYPE: Final = frozenset({"any"})

Loc = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Spot:
    """A schema inside a schema.

    Attributes:
        schema: The schema.
        loc: Keys and positions that lead to it.
        path: Names of the properties that lead to the value that it is about.
        types: Types that this value may have, as far as is said here or around it: empty if
            nothing is, `ANY_TYPE` if its values are told one by one.
        is_test: Whether it only decides what else has to be met.
    """

    schema: JsonObject
    loc: Loc = ()
    path: tuple[str, ...] = ()
    types: frozenset[str] = frozenset()
    is_test: bool = False


def spots(schema: JsonObject) -> Iterator[Spot]:
    """Walk through a schema for an object, each schema before those inside it."""
    waiting = [Spot(schema, types=_OBJECTS)]
    while waiting:
        spot = waiting.pop()
        spot = replace(spot, types=_types(spot.schema) or spot.types)
        yield spot
        for keyword in spot.schema.keys() & (_HERE | _TESTS | _INSIDE):
            for rest, inner in _members(keyword, spot.schema[keyword]):
                inside = replace(spot, schema=inner, loc=(*spot.loc, keyword, *rest))
                if keyword in _TESTS:
                    inside = replace(inside, is_test=True)
                if keyword in _INSIDE:
                    inside = replace(inside, types=frozenset())
                if keyword == "properties":
                    inside = replace(inside, path=(*spot.path, *map(str, rest)))
                waiting.append(inside)


def _types(schema: JsonObject) -> frozenset[str]:
    if schema.keys() & {"enum", "const"}:
        return ANY_TYPE
    match schema.get("type"):
        case str(name):
            return frozenset({name})
        case list(names):
            return frozenset(name for name in names if isinstance(name, str))
        case _:
            return frozenset()


def _members(keyword: str, value: Json) -> Iterator[tuple[Loc, JsonObject]]:
    match value:
        case list() if keyword in _OF_MANY:
            members: list[tuple[Loc, Json]] = [((n,), inner) for n, inner in enumerate(value)]
        case dict() if keyword in _OF_MANY:
            members = [((name,), inner) for name, inner in value.items()]
        case _:
            members = [((), value)]
    for loc, inner in members:
        if isinstance(inner, dict):
            yield loc, inner


def constrained(spot: Spot) -> tuple[str, ...]:
    """Tell the properties that a schema asks something of."""
    properties = spot.schema.get("properties")
    if spot.is_test or not isinstance(properties, dict):
        return ()
    return tuple(
        name
        for name, inner in properties.items()
        if isinstance(inner, dict) and inner.keys() - ANNOTATIONS
    )


def require_constrained(schema: JsonObject, optional: Collection[str]) -> JsonObject:
    """Require every property that something is asked of: one that is missing would meet it all.

    Args:
        schema: The schema; it is not changed.
        optional: Properties that may be missing all the same; dots lead into objects.
    """
    changed = deepcopy(schema)
    for spot in spots(changed):
        names = [name for name in constrained(spot) if ".".join((*spot.path, name)) not in optional]
        if names:
            already = spot.schema.get("required")
            known = already if isinstance(already, list) else []
            spot.schema["required"] = [*known, *(name for name in names if name not in known)]
    return changed
