"""What is kept of arguments."""

import pytest

from orchestrator.audit.summary import keep_name, name_client, name_resource, pick, summarize
from orchestrator.model.base import Json

KEY = "sk-live-0123456789abcdef0123"


def test_no_value_is_in_a_summary() -> None:
    """Kinds and sizes are told, and names as far as they look like names."""
    arguments: dict[str, Json] = {
        "text": "secret",
        "number": 10**30,
        "part": 1.5,
        "yes": True,
        "nothing": None,
        "list": [1, 2],
        "object": {"a": 1},
        "a name with spaces": "x",
    }
    assert summarize(arguments) == {
        "text": "text(6)",
        "number": "integer",
        "part": "number",
        "yes": "boolean",
        "nothing": "null",
        "list": "list(2)",
        "object": "object(1)",
        "?": "text(1)",
    }
    assert summarize(None) == summarize({}) == {}


def test_a_summary_is_bounded() -> None:
    """Of many arguments the first are told, and how many there are."""
    told = summarize({f"a{number}": "x" for number in range(1000)})
    assert len(told) == 17
    assert told["?"] == "1000 in all"


def test_named_values_are_kept_short_and_never_secret() -> None:
    """Only what the server file names is kept, cut, and not if it looks like a secret."""
    arguments: dict[str, Json] = {
        "to": "0x" + "a" * 40,
        "long": "x" * 10_000_000,
        "key": KEY,
        "number": 7,
        "flag": False,
        "huge": 10**100,
        "list": [KEY],
        "other": "not named",
    }
    names = ("to", "long", "key", "number", "flag", "huge", "list", "missing")
    kept = pick(arguments, names)
    assert kept.pop("long") == "x" * 125 + "..."
    assert kept == {
        "to": "0x" + "a" * 40,
        "key": "?",
        "number": "7",
        "flag": "false",
        "huge": "integer",
        "list": "list(1)",
    }
    assert pick(None, names) == {}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("tools/call", "tools/call"),
        ("a b", "?"),
        ("\x1b[2J", "?"),
        (KEY, "?"),
        ("x" * 300, "?"),
        ("", "?"),
    ],
)
def test_names(text: str, kept: str) -> None:
    """What somebody wrote is kept if it looks like a name."""
    assert keep_name(text) == kept


@pytest.mark.parametrize(
    ("info", "kept"),
    [
        ({"name": "Claude Desktop", "version": "1.2.3"}, "Claude-Desktop/1.2.3"),
        ({"name": "cli"}, "cli"),
        ({"name": "cli", "version": "\n"}, "cli/?"),
        ({"name": KEY, "version": "1"}, "?/1"),
        ({"name": 7}, ""),
        ("cli", ""),
        (None, ""),
    ],
)
def test_clients(info: Json, kept: str) -> None:
    """A program is told as it calls itself, as far as that looks like a name."""
    assert name_client(info) == kept


@pytest.mark.parametrize(
    ("uri", "kept"),
    [
        ("file:///etc/motd", {"uri": "file:///etc/motd"}),
        ("https://me:word@host/a?token=1#x", {"uri": "https://host/a"}),
        (f"x:/{KEY}", {"uri": "?"}),
        (7, {}),
    ],
)
def test_resources(uri: Json, kept: dict[str, str]) -> None:
    """A resource is told without what may hold a password."""
    assert name_resource(uri) == kept
