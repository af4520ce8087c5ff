"""Arguments of a call, as a person gives them and as they are told in short."""

import io
import sys
from pathlib import Path

import pytest

from orchestrator.cli.arguments import read_arguments, short_form
from orchestrator.errors import SettingsError
from orchestrator.model.base import Json

SCHEMA: Json = {
    "type": "object",
    "properties": {
        "chain": {"enum": ["ethereum", "base"]},
        "to": {"type": "string"},
        "amount": {"type": ["string", "number"]},
        "count": {"type": "integer"},
        "dry": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
        "memo": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["to", "chain"],
}


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("to=0x00", "0x00"),
        ("to=5", "5"),
        ("to=null", "null"),
        ("to=a=b", "a=b"),
        ("to=", ""),
        ("chain=base", "base"),
        ("amount=5", 5),
        ("amount=5 ETH", "5 ETH"),
        ("count=5", 5),
        ("dry=true", True),
        ("memo=true", "true"),
        ("memo=null", None),
        ("memo=12", "12"),
        ('tags=["a"]', ["a"]),
        ("unknown=5", 5),
        ("unknown=word", "word"),
        ("big=123456789012345678901234567890", 123456789012345678901234567890),
    ],
)
def test_a_value_is_what_the_schema_wants(pair: str, value: Json) -> None:
    """Text stays text where the tool wants a text; elsewhere a value is JSON if it can be."""
    assert read_arguments(None, [pair], SCHEMA) == {pair.partition("=")[0]: value}


def test_arguments_come_from_the_command_line_a_file_or_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Single ones are added to them, and win."""
    path = tmp_path / "arguments.json"
    _ = path.write_text('{"to": "file", "count": 1}')
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"to": "stdin"}')))
    assert read_arguments('{"to": "here"}', [], SCHEMA) == {"to": "here"}
    assert read_arguments(f"@{path}", ["count=2"], SCHEMA) == {"to": "file", "count": 2}
    assert read_arguments("-", [], SCHEMA) == {"to": "stdin"}
    assert read_arguments(None, [], None) == {}


@pytest.mark.parametrize("text", ["{", "[]", "5", "", '{"a": NaN}', "@/nowhere/file", "@/etc"])
def test_what_is_no_object_is_refused(text: str) -> None:
    """It is said what is wrong, and the text is not repeated."""
    with pytest.raises(SettingsError) as caught:
        _ = read_arguments(text, [], SCHEMA)
    assert "NaN" not in str(caught.value)


@pytest.mark.parametrize("pair", ["novalue", "=5"])
def test_a_pair_has_a_key_and_a_value(pair: str) -> None:
    """Anything else is refused."""
    with pytest.raises(SettingsError):
        _ = read_arguments(None, [pair], SCHEMA)


def test_arguments_in_short() -> None:
    """Those that are needed come first, the others in brackets, each with its type."""
    assert short_form(SCHEMA) == (
        "to: string, chain: ethereum|base, [amount: string|number], [count: integer], "
        "[dry: boolean], [memo: string], [tags: string[]]"
    )


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (None, ""),
        (True, ""),
        ({"type": "object"}, ""),
        ({"properties": []}, ""),
        ({"properties": {"a": True}}, "[a: any]"),
        ({"properties": {"a": {}}, "required": "a"}, "[a: any]"),
        ({"properties": {"a": {"const": 5}}}, "[a: 5]"),
        ({"properties": {"a": {"enum": list("abcdef")}}}, "[a: a|b|c|d|...]"),
        ({"properties": {"a\x1b[0m": {"type": "st\u202ering"}}}, "[a\\u001b[0m: st\\u202ering]"),
        ({"properties": {"a": {"enum": ["x" * 99]}}}, f"[a: {'x' * 37}...]"),
        ({"properties": {"a": {"type": "array", "items": {"type": "array"}}}}, "[a: array[]]"),
    ],
)
def test_odd_schemas_are_told_all_the_same(schema: Json, told: str) -> None:
    """A server may write anything into a schema."""
    assert short_form(schema) == told
