"""Merging a server's schema with a rule: what agents see accepts what both accept."""

import copy
import json
from functools import cache
from typing import cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema_rs import Draft202012Validator

from orchestrator.model.base import Json, JsonObject
from orchestrator.policy.tighten import tighten

NAMES = st.sampled_from(["a", "b", "c"])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 4),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.sampled_from(["", "x", "xy", "yx"]),
)
VALUES: st.SearchStrategy[Json] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=3)
TYPES = st.sampled_from(["string", "number", "integer", "object", "array", "boolean", "null"])
SMALL = st.integers(0, 3)


@cache
def schemas(depth: int, *, references: bool) -> st.SearchStrategy[Json]:
    """Make schemas, with references to definitions and to properties if asked for."""
    keywords: dict[str, st.SearchStrategy[Json]] = {
        "type": TYPES | st.lists(TYPES, min_size=1, max_size=3, unique=True).map(list[Json]),
        "enum": st.lists(VALUES, min_size=1, max_size=4),
        "const": SCALARS,
        "minimum": SMALL,
        "maximum": SMALL,
        "exclusiveMaximum": SMALL,
        "multipleOf": st.integers(1, 3),
        "minLength": SMALL,
        "maxLength": SMALL,
        "pattern": st.sampled_from(["x", "^x", "y$"]),
        "minItems": SMALL,
        "uniqueItems": st.booleans(),
        "required": st.lists(NAMES, max_size=2, unique=True).map(list[Json]),
        "maxProperties": SMALL,
        "title": st.just("a title"),
    }
    if references:
        keywords["$ref"] = st.sampled_from(["#/$defs/d", "#/properties/a", "#/properties/b"])
    if depth:
        inner = schemas(depth - 1, references=references)
        some = st.lists(inner, min_size=1, max_size=2)
        named = st.dictionaries(NAMES, inner, max_size=3)
        keywords |= {
            "properties": named,
            "patternProperties": st.dictionaries(st.sampled_from(["^a", "b"]), inner, max_size=1),
            "additionalProperties": inner,
            "unevaluatedProperties": st.booleans(),
            "propertyNames": st.just({"maxLength": 1}),
            "items": inner,
            "prefixItems": some,
            "contains": inner,
            "minContains": SMALL,
            "allOf": some,
            "anyOf": some,
            "oneOf": some,
            "not": inner,
            "if": inner,
            "then": inner,
            "else": inner,
            "dependentRequired": st.just({"a": ["b"]}),
        }
    made = st.fixed_dictionaries({}, optional=keywords)
    return st.booleans() | made if depth < 2 else made


def objects(*, references: bool) -> st.SearchStrategy[JsonObject]:
    """Make schemas as tools have them."""

    def finish(schema: Json) -> JsonObject:
        made: JsonObject = {"type": "object"}
        if isinstance(schema, dict):
            made |= schema
        _ = made.pop("$ref", None)
        if references:
            made["$defs"] = {"d": {"enum": [1, "x", None]}}
            own = made.get("properties")
            made["properties"] = {"a": True, "b": {}, **(own if isinstance(own, dict) else {})}
        return made

    return schemas(2, references=references).map(finish)


def accepts(schema: JsonObject, value: Json) -> bool:
    """Check a value by another library than our own modules do."""
    return Draft202012Validator(schema, offline=True).is_valid(value)


def is_sound(schema: JsonObject) -> bool:
    """Tell whether every reference leads somewhere."""
    try:
        _ = Draft202012Validator(schema, offline=True).is_valid({"a": {"a": 1}})
    except ValueError:
        return False
    return True


@settings(max_examples=100, deadline=None)
@given(objects(references=False), objects(references=False), OBJECTS)
@example(
    {"properties": {"a": {}}, "additionalProperties": False}, {"properties": {"b": {}}}, {"b": 1}
)
@example({"const": 1}, {"const": True}, {"a": 1})
@example({"properties": {"a": {"const": 1}}}, {"properties": {"a": {"const": True}}}, {"a": True})
@example({"required": ["a"]}, {"properties": {"a": False}}, {"a": 1})
@example({"enum": [{"a": [1, True]}]}, {"enum": [{"a": [1.0, True]}, 2]}, {"a": [1, True]})
@example({"enum": [{"a": [1]}]}, {"enum": [{"a": [True]}, {"b": 1}]}, {"a": [1]})
@example({"unevaluatedProperties": False}, {"properties": {"a": {}}}, {"a": 1})
@example({"patternProperties": {"^a": False}}, {"properties": {"a": {}}}, {"a": 1})
def test_merged_is_both(server: JsonObject, rule: JsonObject, value: JsonObject) -> None:
    """The merged schema accepts exactly what the server's and the rule accept."""
    before = copy.deepcopy((server, rule))
    merged = tighten(server, rule)
    assert accepts(merged, value) == (accepts(server, value) and accepts(rule, value))
    assert (server, rule) == before


@settings(max_examples=100, deadline=None)
@given(objects(references=True), objects(references=False), OBJECTS)
def test_references_keep_their_meaning(
    server: JsonObject, rule: JsonObject, value: JsonObject
) -> None:
    """The same holds where the server's schema refers to its definitions and properties."""
    if not is_sound(server):
        return  # a reference to a property that there is not, or round in a circle
    merged = tighten(server, rule)
    assert accepts(merged, value) == (accepts(server, value) and accepts(rule, value))


WALLET: JsonObject = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "chain": {"description": "Chain name.", "enum": ["ethereum", "bnb"], "type": "string"},
        "to": {"pattern": "^0x[0-9a-f]+$", "type": "string", "maxLength": 42},
        "amount": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        "note": {"type": "string"},
    },
    "required": ["chain", "to"],
    "x-vendor": {"kept": True},
}


def test_what_agents_read() -> None:
    """Keywords are merged in place, descriptions stay, and what may not be given is not shown."""
    rule: JsonObject = {
        "properties": {
            "chain": {"enum": ["tron", "ethereum"]},
            "to": {"type": "string", "maxLength": 20, "pattern": "^0xa"},
            "amount": {"type": "string", "description": "At most one."},
            "note": False,
        },
        "required": ["to", "amount"],
    }
    assert tighten(WALLET, rule) == {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "chain": {"description": "Chain name.", "enum": ["ethereum"], "type": "string"},
            "to": {
                "pattern": "^0x[0-9a-f]+$",
                "type": "string",
                "maxLength": 20,
                "allOf": [{"pattern": "^0xa"}],
            },
            "amount": {
                "anyOf": [{"type": "string"}, {"type": "null"}],
                "default": None,
                "type": "string",
                "description": "At most one.",
            },
        },
        "required": ["chain", "to", "amount"],
        "x-vendor": {"kept": True},
    }


def test_the_same_again() -> None:
    """A property that refers to another keeps its meaning when that one is narrowed or dropped."""
    server: JsonObject = {
        "type": "object",
        "properties": {"from": {"type": "string"}, "to": {"$ref": "#/properties/from"}},
    }
    merged = tighten(server, {"properties": {"from": {"const": "me"}}})
    assert accepts(merged, {"from": "me", "to": "you"})
    assert not accepts(merged, {"from": "you", "to": "me"})
    assert not accepts(merged, {"from": "me", "to": 1})
    dropped = tighten(server, {"properties": {"to": True}, "additionalProperties": False})
    assert dropped["properties"] == {"to": {"$ref": "#/$defs/bandmaster:from"}}
    assert accepts(dropped, {"to": "x"})
    assert not accepts(dropped, {"to": 1})


@pytest.mark.parametrize(
    "reference", [{"$ref": "#"}, {"$ref": "#/allOf/0"}, {"$dynamicRef": "#x"}, {"$id": "http://x"}]
)
def test_references_to_anywhere(reference: JsonObject) -> None:
    """A schema that refers to something else is left as it is, beside the rule."""
    server: JsonObject = {"type": "object", "allOf": [{}], "properties": {"a": reference}}
    rule: JsonObject = {"properties": {"a": {"const": 1}}}
    assert tighten(server, rule) == {**server, "allOf": [{}, rule]}


@pytest.mark.parametrize(
    "server",
    [
        '{"properties": []}',
        '{"properties": {"a": "string"}}',
        '{"properties": {"a": {"items": [{}]}}}',
        '{"required": true}',
        '{"type": 7}',
        '{"enum": "abc"}',
        '{"maximum": "abc", "exclusiveMaximum": true, "uniqueItems": "no"}',
        '{"allOf": "abc"}',
        '{"$defs": [], "properties": {"a": {"$ref": "#/properties/b"}}}',
        '{"additionalProperties": "no"}',
    ],
)
def test_rubbish(server: str) -> None:
    """What is no schema is merged with nothing, and nothing breaks."""
    theirs = cast("JsonObject", json.loads(server))
    rule: JsonObject = {
        "type": "object",
        "properties": {"a": {"items": {"type": "string"}}},
        "required": ["a"],
        "enum": [1],
        "maximum": 1,
        "exclusiveMaximum": 2,
        "uniqueItems": True,
        "allOf": [{}],
    }
    merged = tighten(theirs, rule)
    assert all(key in merged for key in theirs)
    assert tighten({}, rule) == rule
