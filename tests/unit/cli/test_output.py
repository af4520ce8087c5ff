"""How commands print."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from orchestrator.cli.output import is_colourful, paint, paint_state, say_json, seconds, table

GREEN, RED, RESET = "\x1b[32m", "\x1b[31m", "\x1b[0m"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let standard output be a terminal that knows colours."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.mark.usefixtures("terminal")
def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal gets colour unless it is dumb, or its user said no."""
    assert is_colourful()
    assert paint("x", "green") == f"{GREEN}x{RESET}"
    monkeypatch.setenv("TERM", "dumb")
    assert not is_colourful()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "")
    assert paint("x", "green") == "x"


def test_a_pipe_gets_no_colour() -> None:
    """Programs that read our output never see an escape sequence."""
    assert paint_state("ready") == "ready"


@pytest.mark.usefixtures("terminal")
def test_every_state_has_a_colour() -> None:
    """Whatever is not known to be well is red."""
    assert paint_state("ready").startswith(GREEN)
    assert paint_state("crash-looping").startswith(RED)
    assert paint_state("quarantined").startswith(RED)


@pytest.mark.usefixtures("terminal")
def test_colour_does_not_count_as_width() -> None:
    """Columns stand below each other, painted or not."""
    lines = table(
        ("ROLE", "STATE", "PID"),
        [["reader", paint("ready", "green"), "1"], ["x", paint("crash-looping", "red"), "22"]],
    )
    assert lines == [
        "ROLE    STATE          PID",
        f"reader  {GREEN}ready{RESET}          1",
        f"x       {RED}crash-looping{RESET}  22",
    ]


def test_a_table_without_rows_is_its_head() -> None:
    """Nothing to show still shows what would be shown."""
    assert table(("A", "BB"), []) == ["A  BB"]


@given(st.lists(st.lists(st.text("ab", max_size=9), min_size=3, max_size=3), max_size=6))
def test_columns_never_overlap(rows: list[list[str]]) -> None:
    """Every cell begins where its title begins."""
    head = ("ONE", "TWO", "THREE")
    first, *lines = table(head, rows)
    for line, row in zip(lines, rows, strict=True):
        for title, cell in zip(head, row, strict=True):
            begin = first.index(title)
            assert line[begin : begin + len(cell)] == cell


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0s"),
        (0.9, "0s"),
        (119.9, "119s"),
        (120, "2m"),
        (7199, "119m"),
        (7200, "2h"),
        (172_799, "47h"),
        (172_800, "2d"),
    ],
)
def test_times_are_short(value: float | None, text: str) -> None:
    """A time keeps two digits or so: the larger unit begins at two of it."""
    assert seconds(value) == text


def test_json_keeps_its_order_and_letters(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON for programs is indented, in the order of the keys, in plain letters."""
    say_json({"b": "é", "a": [1]})
    text = capsys.readouterr().out
    assert list(TypeAdapter(dict[str, object]).validate_json(text)) == ["b", "a"]
    assert "é" in text
