"""What a model is told about arguments that a role does not allow."""

import time

import pytest

from orchestrator.model.base import Json, JsonObject
from orchestrator.model.names import ToolName
from orchestrator.policy.arguments import ArgumentRule, compile_rules
from orchestrator.protocol.validator import _step

RULE: JsonObject = {
    "properties": {
        "chain": {"enum": ["ethereum", "bnb"]},
        "to": {"type": "string", "pattern": "^0x[0-9a-f]{4}$"},
        "transfer": {
            "type": "object",
            "properties": {"amount": {"type": "number", "maximum": 3}},
            "required": ["amount"],
        },
        "note": False,
        "list": {"type": "array", "items": {"type": "string", "minLength": 3}},
        "when": {"type": "string", "format": "date"},
        "either": {"anyOf": [{"const": 1}, {"const": 2}]},
        "many": {"enum": [f"value-{number:04}" for number in range(100)]},
    },
    "required": ["chain"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "`chain` is required"),
        ({"chain": "tron"}, '`chain` must be one of "ethereum", "bnb"'),
        ({"chain": "bnb", "to": "canary"}, '`to` must match "^0x[0-9a-f]{4}$"'),
        ({"chain": "bnb", "to": 7}, '`to` must be of type "string"'),
        ({"chain": "bnb", "transfer": {}}, "`transfer.amount` is required"),
        ({"chain": "bnb", "transfer": {"amount": 4}}, "`transfer.amount` must be at most 3"),
        ({"chain": "bnb", "note": "canary"}, "`note` is not allowed"),
        ({"chain": "bnb", "list": ["abc", "a"]}, "`list[1]` must have at least 3 characters"),
        ({"chain": "bnb", "when": "now"}, '`when` must be in the format "date"'),
        ({"chain": "bnb", "either": 3}, "`either` must meet `anyOf` of the tool's input schema"),
        ({"chain": "bnb", "many": 1}, "`many` must be one of the 100 in the tool's input schema"),
        (
            {"chain": "bnb", "canary": 1},
            "the arguments must have no other names than in the tool's input schema",
        ),
        (
            {"chain": 1, "to": 7},
            '`chain` must be one of "ethereum", "bnb"; `to` must be of type "string"',
        ),
    ],
)
def test_words(arguments: JsonObject, words: str) -> None:
    """A refusal names the argument and what is allowed, and never what was given."""
    rule = ArgumentRule(RULE)
    assert not rule.accepts(arguments)
    assert sorted(rule.explain(arguments).split("; ")) == sorted(words.split("; "))
    assert "canary" not in rule.explain(arguments)


def test_names_that_the_caller_made_up() -> None:
    """A name that stands in no schema is the caller's, and may be anything."""
    rule = ArgumentRule({"additionalProperties": {"type": "string"}})
    assert rule.explain({"canary": 1}) == '`?` must be of type "string"'


def test_rules_inside_rules() -> None:
    """What a schema inside `allOf` asks for is told in the same words."""
    rule = ArgumentRule({"allOf": [{"properties": {"a": {"const": 1}}}]})
    assert rule.explain({"a": 2}) == "`a` must be 1"
    assert _step({"a": 1}, 0) is None
    assert _step([1], "a") is None
    assert _step([1], 1) is None


def test_a_bounded_explanation() -> None:
    """However much is wrong, only the first few mistakes are told."""
    rule = ArgumentRule({"additionalProperties": {"type": "string", "maxLength": 1}})
    arguments: JsonObject = {f"name-{number}": number for number in range(1_000)}
    assert len(rule.explain(arguments)) < 200


def test_a_rule_that_cannot_be_read() -> None:
    """It is told apart from no rule: nothing is allowed then."""
    good: JsonObject = {"type": "object"}
    rules = compile_rules({ToolName("a"): {"type": "nonsense"}, ToolName("b"): good})
    assert rules[ToolName("a")] is None
    assert rules[ToolName("b")] is not None


def test_many_mistakes_at_once() -> None:
    """Arguments with any number of mistakes are told the first one, in next to no time."""
    rule = ArgumentRule(RULE)
    ones: Json = [1 for _ in range(100_000)]
    arguments: JsonObject = {"chain": "bnb", "list": ones}
    begun = time.process_time()
    assert rule.explain(arguments) == '`list[0]` must be of type "string"'
    assert time.process_time() - begun < 0.7  # 1.5 s and more, if all were made
