"""Durations."""

from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.model.base import format_duration, parse_duration


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=3650)))
def test_a_written_duration_is_read_back(value: timedelta) -> None:
    """Writing and reading a duration loses nothing above a millisecond."""
    whole = value - value % timedelta(milliseconds=1)
    assert parse_duration(format_duration(whole)) == whole


@given(st.text(alphabet="0123456789mshd ٣", max_size=24))
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    """No text ends in any other error, however large its numbers."""
    with suppress(ValueError):
        assert parse_duration(text) <= timedelta(days=3650)


@pytest.mark.parametrize("text", ["", "5", "1.5s", "-1s", "s", "1 s", "٣s", "9999d", 7, None])
def test_what_is_no_duration(text: object) -> None:
    """A number without unit, a fraction, and more than ten years are none."""
    with pytest.raises(ValueError, match="a duration is"):
        parse_duration(text)
