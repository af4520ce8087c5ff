"""Text of others is shown as what it is."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.model.base import Json
from orchestrator.model.text import cut, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, ünïcode, 中文, 😀", "plain text, ünïcode, 中文, 😀"),
        ("\x1b[2J\x07\x00\x7f\x9b", "\\u001b[2J\\u0007\\u0000\\u007f\\u009b"),
        ("\u202eabc\u2066", "\\u202eabc\\u2066"),
        ("a\u200bb\ufeff\u00ad", "a\\u200bb\\ufeff\\u00ad"),
        ("\U000e0041", "\\udb40\\udc41"),
        ("a\ufe01\u3164\u2800", "a\\ufe01\\u3164\\u2800"),
        ("one\ntwo\tthree\r", "one\ntwo\tthree\\u000d"),
        ("\u2028\u2029\u0085", "\\u2028\\u2029\\u0085"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_is_not_seen_is_written_out(text: str, shown: str) -> None:
    """Controls, bidirectional overrides and invisible letters; readable text stays as it is."""
    assert visible(text) == shown


def test_line_ends_can_be_written_out_too() -> None:
    """Where a text has to stay on its line."""
    assert visible("one\ntwo", "") == "one\\u000atwo"


@given(st.text())
def test_a_visible_text_is_printable(text: str) -> None:
    """And what was so before is not changed."""
    shown = visible(text, "")
    assert shown.isprintable()
    assert visible(shown, "") == shown


VALUES: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(VALUES)
def test_json_stays_the_same_json(value: Json) -> None:
    """What is written out in a JSON text is an escape of JSON."""
    text = visible(json.dumps(value, indent=2, ensure_ascii=False))
    assert json.loads(text) == value


def test_a_cut_text_shows_that_it_was_longer() -> None:
    """It has the length that is asked for."""
    assert (cut("abcdef", 6), cut("abcdefg", 6), cut("abc", 0)) == ("abcdef", "abc...", "...")
