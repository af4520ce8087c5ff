"""Schemas of rules: what is in them, and what they ask for."""

import copy

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.model.base import Json, JsonObject
from orchestrator.protocol.schema import ANY_TYPE, Spot, constrained, require_constrained, spots
from orchestrator.protocol.validator import Checker, fault_of, no_object_meets

NESTED: JsonObject = {
    "properties": {
        "chain": {"enum": ["ethereum"]},
        "note": {"description": "Anything."},
        "gone": False,
        "transfer": {
            "type": "object",
            "properties": {"amount": {"type": "number", "maximum": 5}, "memo": {"const": "x"}},
            "required": ["to"],
        },
        "list": {"type": "array", "items": {"properties": {"id": {"const": 1}}}},
    },
    "anyOf": [{"properties": {"a": {"const": 1}}}],
    "not": {"properties": {"b": {"const": 1}}},
    "if": {"properties": {"c": {"const": 1}}},
    "then": {"properties": {"d": {"const": 1}}},
}


def at(schema: JsonObject, *loc: str | int) -> Spot:
    """Find the spot at a place."""
    return next(spot for spot in spots(schema) if spot.loc == loc)


def test_spots() -> None:
    """Every schema inside a schema is told with its place, its path and what is known of it."""
    amount = at(NESTED, "properties", "transfer", "properties", "amount")
    assert (amount.path, amount.types) == (("transfer", "amount"), {"number"})
    assert at(NESTED, "properties", "chain").types == ANY_TYPE
    assert at(NESTED, "properties", "note").types == frozenset()
    assert at(NESTED, "properties", "list", "items").path == ("list",)
    assert at(NESTED, "anyOf", 0).types == {"object"}
    assert at(NESTED, "then").path == ()
    tests = [spot.loc for spot in spots(NESTED) if spot.is_test]
    assert set(tests) == {
        ("not",), ("not", "properties", "b"), ("if",), ("if", "properties", "c"),
    }  # fmt: skip
    assert not constrained(at(NESTED, "if"))
    assert constrained(at(NESTED)) == ("chain", "transfer", "list")


def test_what_is_constrained_is_required() -> None:
    """What something is asked of has to be there, at any depth, unless it is optional."""
    before = copy.deepcopy(NESTED)
    made = require_constrained(NESTED, ["list", "transfer.memo"])
    assert before == NESTED
    assert at(made).schema["required"] == ["chain", "transfer"]
    assert at(made, "properties", "transfer").schema["required"] == ["to", "amount"]
    assert at(made, "properties", "list", "items").schema["required"] == ["id"]
    assert at(made, "anyOf", 0).schema["required"] == ["a"]
    assert at(made, "then").schema["required"] == ["d"]
    assert "required" not in at(made, "if").schema
    assert "required" not in at(made, "not").schema
    assert not Checker(made).accepts({})


NAMES = st.sampled_from(["a", "b", "c.d"])
LEAVES: st.SearchStrategy[Json] = st.sampled_from(
    [True, False, {}, {"const": 1}, {"type": "string"}, {"title": "x"}, {"properties": 7}, 3, "x"]
)
SCHEMAS: st.SearchStrategy[Json] = st.recursive(
    LEAVES,
    lambda inner: st.dictionaries(
        st.sampled_from(["properties", "items", "allOf", "not", "if", "then", "type", "required"]),
        inner | st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2),
        max_size=3,
    ),
    max_leaves=10,
)


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from(["properties", "allOf", "then"]), SCHEMAS), st.sets(NAMES))
def test_rubbish_is_walked_through(schema: JsonObject, optional: set[str]) -> None:
    """Whatever stands in place of a schema, walking through it ends, and so does completing it."""
    for spot in spots(schema):
        _ = constrained(spot)
    made = require_constrained(schema, optional)
    assert require_constrained(made, optional) == made


@settings(max_examples=300)
@given(
    st.dictionaries(st.sampled_from(["a", "b"]), LEAVES.filter(lambda one: isinstance(one, dict))),
    st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from([1, "x", None])),
)
def test_to_require_only_narrows(properties: JsonObject, value: JsonObject) -> None:
    """What meets a completed schema meets the schema as it was written."""
    schema: JsonObject = {"properties": properties}
    if fault_of(schema) is None and Checker(require_constrained(schema, [])).accepts(value):
        assert Checker(schema).accepts(value)


def test_faults() -> None:
    """What is wrong with a schema is told by its place, and a sound one has no fault."""
    assert fault_of({"properties": {"a": {"type": "text"}}}) is not None
    looks_ahead = fault_of({"properties": {"a": {"pattern": "(?=a)"}}})
    assert looks_ahead is not None
    assert looks_ahead.loc == ("properties", "a", "pattern")
    unknown = fault_of({"properties": {"a": {"format": "colour"}}})
    assert unknown is not None
    assert unknown.loc == ("properties", "a", "format")
    assert fault_of({"$ref": "http://127.0.0.1:1/schema"}) is not None
    assert fault_of(NESTED) is None


def test_impossible_schemas() -> None:
    """A schema is called impossible only when no object meets it."""
    assert no_object_meets({"properties": {"a": False}, "required": ["a"]})
    assert no_object_meets({"type": "string"})
    assert not no_object_meets({"properties": {"a": False}})
    assert not no_object_meets({})


def test_numbers_beyond_machine_words() -> None:
    """Amounts in a blockchain's smallest unit are compared exactly."""
    checker = Checker({"properties": {"wei": {"type": "integer", "maximum": 10**29}}})
    assert checker.accepts({"wei": 10**29})
    assert not checker.accepts({"wei": 10**29 + 1})


def test_patterns_take_bounded_time() -> None:
    """A pattern that would keep other engines busy for ever is answered at once."""
    checker = Checker({"properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}})
    assert not checker.accepts({"a": "a" * 100_000 + "!"})
