"""From a server's input schema and a rule of the role to the schema that agents see.

It accepts exactly what both accept. Keywords are merged one by one where that is exact, as models
and the checkers of common clients read that best; what cannot be merged goes into `allOf`.
References of the server, and all that they lead to, stay as they are.
"""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from types import MappingProxyType
from typing import Final, TypeAlias

from orchestrator.model.base import Json, JsonObject
from orchestrator.protocol.schema import ANNOTATIONS

_Schema: TypeAlias = JsonObject | bool

# Keywords that mean something only together, or that depend on others beside them.
_PROPERTIES: Final = ("properties", "patternProperties", "additionalProperties")
_ITEMS: Final = ("items", "prefixItems", "additionalItems")
_GROUPS: Final = (
    _PROPERTIES,
    _ITEMS,
    ("contains", "minContains", "maxContains"),
    ("if", "then", "else"),
)
# What depends on all that stands beside it, or means another schema altogether.
_WHOLE: Final = frozenset({"unevaluatedProperties", "unevaluatedItems"})
_REFERENCES: Final = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})
_DEFINITIONS: Final = ("#/$defs/", "#/definitions/")
_PROPERTY: Final = "#/properties/"
# Values of these are no schemas.
_DATA: Final = frozenset({"enum", "const", "default", "examples"})
_SET_ASIDE: Final = "bandmaster:"


def tighten(server: JsonObject, rule: JsonObject) -> JsonObject:
    """Merge a server's schema and a rule.

    Args:
        server: The input schema of a tool, as the server wrote it; anything may be in it.
        rule: A schema as role files have it: checked, without references.
    """
    pointers = set(_references(server))
    if any(not pointer.startswith((*_DEFINITIONS, _PROPERTY)) for pointer in pointers):
        # Something may point anywhere into what would change.
        return _add(server, rule)
    if any(pointer.startswith(_PROPERTY) for pointer in pointers):
        server = _set_aside(server)
    return _merge(server, rule)


def _references(schema: Json) -> Iterator[str]:
    waiting = [schema]
    while waiting:
        match waiting.pop():
            case dict() as node:
                for key, value in node.items():
                    if key in _REFERENCES and not isinstance(value, dict):
                        yield str(value)
                    elif key not in _DATA:
                        waiting.append(value)
            case list() as node:
                waiting.extend(node)
            case _:
                pass


def _set_aside(schema: JsonObject) -> JsonObject:
    """Keep what references to properties mean, as the properties are about to change.

    `{"to": {"$ref": "#/properties/from"}}` is how some makers of schemas say "the same again".
    """
    properties, definitions = schema.get("properties"), schema.get("$defs", {})
    if not isinstance(properties, dict) or not isinstance(definitions, dict):
        return schema
    kept = {f"{_SET_ASIDE}{name}": inner for name, inner in properties.items()}
    moved = deepcopy({**schema, "$defs": {**definitions, **kept}})
    waiting: list[Json] = [moved]
    while waiting:
        match waiting.pop():
            case dict() as node:
                for key, value in node.items():
                    if key in _REFERENCES and isinstance(value, str):
                        if value.startswith(_PROPERTY):
                            rest = value.removeprefix(_PROPERTY)
                            node[key] = f"#/$defs/{_SET_ASIDE}{rest}"
                    elif key not in _DATA:
                        waiting.append(value)
            case list() as node:
                waiting.extend(node)
            case _:
                pass
    return moved


def _both(one: Json, other: Json) -> Json:
    """Merge two schemas of the same value."""
    if one is False or other is False:
        return False
    if not isinstance(one, dict) or not one:
        return other
    if not isinstance(other, dict) or not other or one == other:
        return one
    return _merge(one, other)


def _merge(server: JsonObject, rule: JsonObject) -> JsonObject:
    if server.keys() & (_WHOLE | _REFERENCES) or rule.keys() & _WHOLE:
        return _add(server, rule)
    merged, rest = dict(server), dict[str, Json]()
    todo = dict(rule)
    for group in _GROUPS:
        mine = {key: todo.pop(key) for key in group if key in todo}
        if not mine:
            continue
        if not server.keys() & set(group):
            merged |= mine
        elif group is _PROPERTIES and (changed := _merge_properties(server, mine)) is not None:
            merged |= changed
        elif group is _ITEMS and server.keys() & {*group} == mine.keys() == {"items"}:
            merged["items"] = _both(server["items"], mine["items"])
        else:
            rest |= mine
    for key, value in todo.items():
        if key not in server or key in ANNOTATIONS or server[key] == value:
            merged[key] = value
        elif (narrowed := _narrow(key, server[key], value)) is not None:
            merged[key] = narrowed
        else:
            rest[key] = value
    return _add(merged, rest) if rest else merged
