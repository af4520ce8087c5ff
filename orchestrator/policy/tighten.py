"""From a server's input schema and a rule of the role to the schema that agents see.

It accepts what both accept. Keywords are merged one by one where that is exact, as models and the
checkers of common clients read that best; what cannot be merged goes into `allOf`. References of
the server, and all that they lead to, keep their meaning.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from types import MappingProxyType
from typing import Final

from typing_extensions import TypeIs

from orchestrator.model.base import Json, JsonObject
from orchestrator.protocol.schema import ANNOTATIONS

# Keywords that mean something only together.
_PROPERTIES: Final = frozenset({"properties", "patternProperties", "additionalProperties"})
_ITEMS: Final = frozenset({"items", "prefixItems", "additionalItems"})
_GROUPS: Final = (
    _PROPERTIES,
    _ITEMS,
    frozenset({"contains", "minContains", "maxContains"}),
    frozenset({"if", "then", "else"}),
)
# Keywords that depend on all that stands beside them.
_WHOLE: Final = frozenset({"unevaluatedProperties", "unevaluatedItems"})
_REFERENCES: Final = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})
_DEFINITIONS: Final = ("#/$defs/", "#/definitions/")
_PROPERTY: Final = "#/properties/"
_KEPT: Final = "bandmaster:"
# What stands behind these is no schema.
_DATA: Final = frozenset({"enum", "const", "default", "examples"})


def tighten(server: JsonObject, rule: JsonObject) -> JsonObject:
    """Merge a server's schema and a rule; neither is changed.

    Args:
        server: The input schema of a tool, as the server wrote it; anything may be in it.
        rule: A schema as role files have it: checked, without references.
    """
    pointers = [str(node[key]) for node, key in _references(server)]
    if any(not pointer.startswith((*_DEFINITIONS, _PROPERTY)) for pointer in pointers):
        # Something may point anywhere into what would change.
        return _add(server, rule)
    if any(pointer.startswith(_PROPERTY) for pointer in pointers):
        return _merge(_keep_properties(server), rule)
    return _merge(server, rule)


def _references(schema: JsonObject) -> Iterator[tuple[JsonObject, str]]:
    """Find every reference, and every new root that references may begin at."""
    waiting: list[Json] = [schema]
    while waiting:
        match waiting.pop():
            case dict() as node:
                for key, value in node.items():
                    is_root = key == "$id" and node is not schema
                    if (key in _REFERENCES or is_root) and isinstance(value, str):
                        yield node, key
                    elif key not in _DATA:
                        waiting.append(value)
            case list() as items:
                waiting.extend(items)
            case _:
                pass


def _keep_properties(schema: JsonObject) -> JsonObject:
    """Keep what references to properties mean, as the properties are about to change.

    `{"to": {"$ref": "#/properties/from"}}` is how some makers of schemas say "the same again".
    """
    properties, definitions = schema.get("properties"), schema.get("$defs", {})
    if not isinstance(properties, dict) or not isinstance(definitions, dict):
        return schema
    kept = {f"{_KEPT}{name}": inner for name, inner in properties.items()}
    changed: JsonObject = deepcopy(schema)
    changed["$defs"] = {**definitions, **deepcopy(kept)}
    for node, key in _references(changed):
        pointer = str(node[key])
        if pointer.startswith(_PROPERTY):
            node[key] = f"{_DEFINITIONS[0]}{_KEPT}{pointer.removeprefix(_PROPERTY)}"
    return changed


def _merge(server: JsonObject, rule: JsonObject) -> JsonObject:
    if server.keys() & (_WHOLE | _REFERENCES) or rule.keys() & _WHOLE:
        return _add(server, rule)
    merged, rest, single = dict(server), dict[str, Json](), dict(rule)
    for group in _GROUPS:
        mine = {key: single.pop(key) for key in rule if key in group}
        changed = _merge_group(server, mine, group) if mine else {}
        if changed is None:
            rest |= mine
        else:
            merged |= changed
    for key, value in single.items():
        narrowed = value
        if key in server and key not in ANNOTATIONS and not _is_same(server[key], value):
            narrow = _NARROW.get(key)
            narrowed = None if narrow is None else narrow(server[key], value)
        if narrowed is None:
            rest[key] = value
        else:
            merged[key] = narrowed
    return _add(merged, rest) if rest else merged


def _merge_group(server: JsonObject, mine: JsonObject, group: frozenset[str]) -> JsonObject | None:
    """Merge keywords of one group; None where that would not be exact."""
    theirs = {key: server[key] for key in group & server.keys()}
    if not theirs:
        return mine
    if group is _PROPERTIES:
        return _merge_properties(theirs, mine)
    if group is _ITEMS and theirs.keys() == mine.keys() == {"items"}:
        items = theirs["items"]
        return {"items": _both(items, mine["items"])} if isinstance(items, dict | bool) else None
    return None


def _merge_properties(theirs: JsonObject, mine: JsonObject) -> JsonObject | None:
    """Merge name by name: what one does not name, it has under `additionalProperties`."""
    their_rest, my_rest = (each.get("additionalProperties", True) for each in (theirs, mine))
    their_own, my_own = theirs.get("properties", {}), mine.get("properties", {})
    if (
        "patternProperties" in {*theirs, *mine}
        or not isinstance(their_own, dict)
        or not isinstance(my_own, dict)
        or not all(isinstance(each, dict | bool) for each in (*their_own.values(), their_rest))
    ):
        return None
    rest = _both(their_rest, my_rest)
    own: dict[str, Json] = {}
    for name in {**their_own, **my_own}:
        both = _both(their_own.get(name, their_rest), my_own.get(name, my_rest))
        if both is not False or rest is not False:
            own[name] = both
    merged: dict[str, Json] = {"properties": own}
    return merged if rest is True else {**merged, "additionalProperties": rest}


def _both(one: Json, other: Json) -> Json:
    """Merge two schemas of the same value."""
    if one is False or other is False:
        return False
    if not isinstance(one, dict) or not one:
        return other
    if not isinstance(other, dict) or not other or _is_same(one, other):
        return one
    return _merge(one, other)


def _add(schema: JsonObject, rule: JsonObject) -> JsonObject:
    """Let a schema ask for a rule, too, without looking into either."""
    others = schema.get("allOf", [])
    if not isinstance(others, list):
        return schema
    # `unevaluatedProperties` takes note of what its neighbours allow, unless they are denied twice.
    added: JsonObject = {"not": {"not": rule}} if schema.keys() & _WHOLE else rule
    return {**schema, "allOf": [*others, added]}


def _is_same(one: Json, other: Json) -> bool:
    # To Python `1`, `1.0` and `True` are equal.
    return repr(one) == repr(other)


def _is_number(value: Json) -> TypeIs[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _least(one: Json, other: Json) -> Json:
    return min(one, other) if _is_number(one) and _is_number(other) else None


def _greatest(one: Json, other: Json) -> Json:
    return max(one, other) if _is_number(one) and _is_number(other) else None


def _either(one: Json, other: Json) -> Json:
    return one or other if isinstance(one, bool) and isinstance(other, bool) else None


def _concatenate(one: Json, other: Json) -> Json:
    return [*one, *other] if isinstance(one, list) and isinstance(other, list) else None


def _unite(one: Json, other: Json) -> Json:
    if not isinstance(one, list) or not isinstance(other, list):
        return None
    return [*one, *(each for each in other if each not in one)]


def _intersect(one: Json, other: Json) -> Json:
    if not isinstance(one, list) or not isinstance(other, list):
        return None
    return [each for each in one if any(_is_equal(each, mine) for mine in other)] or None


def _is_equal(one: Json, other: Json) -> bool:
    """Compare as JSON Schema does: `1` is `1.0`, and neither is `true`."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_equal, one, other))
    return one == other


def _intersect_types(one: Json, other: Json) -> Json:
    types: list[str] = []
    for mine in _type_names(one):
        for theirs in _type_names(other):
            pair = {mine, theirs}
            both = mine if len(pair) == 1 else "integer" if pair == _NUMBERS else None
            if both is not None and both not in types:
                types.append(both)
    return (types[0] if len(types) == 1 else [*types]) if types else None


def _type_names(value: Json) -> Sequence[str]:
    if isinstance(value, list):
        return [name for name in value if isinstance(name, str)]
    return [value] if isinstance(value, str) else []


_NUMBERS: Final = {"number", "integer"}
# How two of the same keyword become one that asks for both; None where there is none.
_NARROW: Final[Mapping[str, Callable[[Json, Json], Json]]] = MappingProxyType(
    {
        "type": _intersect_types,
        "enum": _intersect,
        "required": _unite,
        "allOf": _concatenate,
        "uniqueItems": _either,
        "minimum": _greatest,
        "exclusiveMinimum": _greatest,
        "minLength": _greatest,
        "minItems": _greatest,
        "minProperties": _greatest,
        "maximum": _least,
        "exclusiveMaximum": _least,
        "maxLength": _least,
        "maxItems": _least,
        "maxProperties": _least,
    }
)
