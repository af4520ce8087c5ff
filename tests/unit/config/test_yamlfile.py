"""YAML files: what is taken, what is refused, and where."""

import os
import traceback
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import yamlfile
from orchestrator.config.yamlfile import LIMIT_BYTES, Document, Place, parse_yaml, read_yaml
from orchestrator.errors import FileProblem, RoleFileError


def complaints(content: bytes) -> list[str]:
    """Tell what is wrong with some bytes."""
    with pytest.raises(RoleFileError) as caught:
        parse_yaml(content, "f.yaml")
    return str(caught.value).splitlines()


MISTAKES = {
    "duplicate key": (
        b"a: 1\nb: 2\na: 3\n",
        "f.yaml:3:1: a: a key that stands here twice; the first one is in line 1; keep one",
    ),
    "duplicate nested key": (
        b"top:\n  - {x: 1, x: 2}\n",
        "f.yaml:2:12: top[0].x: a key that stands here twice; the first one is in line 2; keep one",
    ),
    "anchor": (b"a: &x 1\n", "f.yaml:1:4: a: anchors (&name) are not allowed; write the value out"),
    "alias": (b"a: *x\n", "f.yaml:1:4: a: aliases (*name) are not allowed; write the value out"),
    "merge key": (
        b"<<: {a: 1}\n",
        "f.yaml:1:1: merge keys (<<) are not allowed; write the keys out",
    ),
    "tag": (
        b"a:\n  b: !!python/name:os.system x\n",
        "f.yaml:2:6: a.b: tags (!name) are not allowed; write a plain value",
    ),
    "two documents": (
        b"a: 1\n---\nb: 2\n",
        "f.yaml:2:1: a second document begins here; one document a file",
    ),
    "not UTF-8": (
        "ä: 1\nb: ".encode() + b"\xff\n",
        "f.yaml:2:4: a byte that is not UTF-8; save the file as UTF-8",
    ),
    "UTF-16": (
        "a: 1".encode("utf-16"),
        "f.yaml:1:1: a byte that is not UTF-8; save the file as UTF-8",
    ),
    "control character": (b"a: x\x07\n", "f.yaml:1:5: a control character; remove it"),
    "turned writing": (
        "a: x\u202ey\n".encode(),
        "f.yaml:1:5: a character that turns the direction of writing; remove it",
    ),
    "tab": (b"a:\n\tb: 1\n", "f.yaml:2:1: a tab used for indentation; indent with spaces"),
    "empty": (b"", "f.yaml: the file is empty; remove it or fill it in"),
    "only comments": (b"# x\n", "f.yaml: the file is empty; remove it or fill it in"),
    "a list": (b"- a\n", "f.yaml:1:1: the file is no mapping; write `key: value` lines"),
    "too large": (b"#" * (LIMIT_BYTES + 1), "f.yaml: the file is too large; at most 256 KiB"),
    "too deep": (b"a: " + b"[" * 100_000, "f.yaml:1:19: nested too deeply; at most 16 levels"),
    "list as key": (b"? [a]\n: b\n", "f.yaml:1:3: a key that is no plain text; write `key: value`"),
    "empty key": (b"~: b\n", "f.yaml:1:1: an empty key; write `key: value`"),
    "tagged key": (
        b"!x a: b\n",
        "f.yaml:1:1: anchors and tags are not allowed; write a plain key",
    ),
    "leading zero": (b"a: 0600\n", "f.yaml:1:4: a: a number that begins with 0; put it in quotes"),
    "long number": (
        b"a: 12345678901234567890\n",
        "f.yaml:1:4: a: a number with too many digits; put it in quotes",
    ),
    "infinite number": (
        b"a: 1e999\n",
        "f.yaml:1:4: a: a number that is too large; put it in quotes",
    ),
    "colon": (
        b"a: b: c\n",
        (
            "f.yaml:1:5: a `:` that cannot stand here; check the indentation, or put a text that "
            "contains `: ` in quotes"
        ),
    ),
    "open bracket": (
        b"a: [1, 2\nb: 3\n",
        (
            "f.yaml:2:2: a list in [ ] or a mapping in { } is not closed; separate its parts by "
            "commas and close it"
        ),
    ),
    "open quote": (b"a: 'x\n", "f.yaml:2:1: a quoted text is not closed; add the closing quote"),
    "reserved": (
        b"a: @x\n",
        (
            "f.yaml:1:4: a value that begins with @ or `, or another reserved character; put the "
            "value in quotes"
        ),
    ),
    "crooked": (
        b"a:\n  - b\n c: 1\n",
        "f.yaml:3:2: a line that does not line up with its neighbours; check the indentation",
    ),
    "unknown version": (
        b"%YAML 3.0\n---\na: 1\n",
        "f.yaml:1:1: this is no YAML; check quotes, colons, brackets and indentation",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_is_told_with_its_place(name: str) -> None:
    """Each kind of mistake has one message, with line and column."""
    content, message = MISTAKES[name]
    assert complaints(content) == [message]


def test_all_mistakes_of_a_file_are_told() -> None:
    """One run tells every mistake that does not stop the reading, and no more than a screenful."""
    assert len(complaints(b"a: &x 1\nb: *x\nc: !t 1\nc: 2\n")) == 4
    assert len(complaints(b"a: 1\n" * 1000)) == yamlfile.LIMIT_PROBLEMS


def test_plain_values_are_those_of_yaml_1_2() -> None:
    """`yes`, `no`, `on`, `off`, dates and sexagesimal numbers are text; quotes make text."""
    text = b"""\
a: [yes, no, on, off, 2026-01-01, 12:30:00, 1_000, 0x1f, .inf, .nan, '1', "true"]
b: [true, False, null, ~, 7, -7, 1.5, 1e3]
c:
on: 1
"""
    assert parse_yaml(text, "f").data == {
        "a": [
            *["yes", "no", "on", "off", "2026-01-01", "12:30:00", "1_000", "0x1f", ".inf", ".nan"],
            *["1", "true"],
        ],
        "b": [True, False, None, None, 7, -7, 1.5, 1000.0],
        "c": None,
        "on": 1,
    }


def test_positions_of_keys_and_values() -> None:
    """Every key and every value has its place; a byte order mark does not shift it."""
    document = parse_yaml(b"\xef\xbb\xbfa: {b: [1, x]}\n", "f")
    assert document.keys[("a", "b")] == Place(1, 5)
    assert document.values[("a", "b", 1)] == Place(1, 12)
    assert document.look(("a", "b", 1)) == "x"
    assert document.look(("a", "c")) is None
    assert document.look(("a", "b", 7)) is None


def test_a_missing_thing_points_at_what_it_is_missing_from() -> None:
    """A location that is not there takes the place of the nearest one around it."""
    document = parse_yaml(b"a:\n  b: 1\n", "f")
    assert str(document.problem(("a", "zzz"), "is missing")) == "f:1:1: a.zzz: is missing"
    assert str(Document("f", {}, {}, {}).problem((), "is wrong")) == "f:1:1: is wrong"


@given(
    st.binary(max_size=400)
    | st.text(max_size=400).map(lambda text: text.encode("utf-8", "replace"))
)
def test_any_bytes_are_a_document_or_a_role_file_error(content: bytes) -> None:
    """No input ends in any other error."""
    problems: tuple[FileProblem, ...] = ()
    document = Document("f", {}, {}, {})
    try:
        document = parse_yaml(content, "f")
    except RoleFileError as error:
        problems = error.problems
    assert bool(problems) != (() in document.values)


PIECES = [
    *["a", ": ", ":", "- ", "\n", "\n  ", "\t", "[", "]", "{", "}", ", ", "'", '"', "&x ", "*x"],
    *["!t ", "!!str ", "<<", "? ", "|\n", ">-\n", "---\n", "...\n", "%YAML 1.2\n", "#", "1e9"],
    *["0x1", "~", "\u2028", "\x85", "\r", "\ufeff", "é", "@", "`", "\\"],
]


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_any_mix_of_yaml_is_a_document_or_a_role_file_error(text: str) -> None:
    """The same for what almost is YAML; and every mistake points into the file."""
    problems: tuple[FileProblem, ...] = ()
    try:
        parse_yaml(text.encode(), "f")
    except RoleFileError as error:
        problems = error.problems
    assert all(problem.line <= len(text.encode()) + 2 for problem in problems)


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_the_slow_parser_takes_no_other_documents(text: str) -> None:
    """Without libyaml nothing else is raised, and what both take means the same."""
    results: list[object] = []
    for loader in (yaml.CSafeLoader, yaml.SafeLoader):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(yamlfile, "_LOADER", loader)
            try:
                results.append(parse_yaml(text.encode(), "f").data)
            except RoleFileError:
                results.append(None)
    assert None in results or results[0] == results[1]


def test_a_bad_byte_does_not_carry_the_content_along() -> None:
    """Neither message nor error chain of an undecodable file holds its text."""
    value = "can" + "ary"  # the line itself is part of a traceback
    with pytest.raises(RoleFileError) as caught:
        parse_yaml(f"secret: {value}\n".encode() + b"\xff", "f")
    assert value not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None


def test_a_file_that_others_may_write_is_refused(tmp_path: Path) -> None:
    """Whoever can write the file decides what runs, so that only its owner may."""
    path = tmp_path / "f.yaml"
    path.write_text("a: 1")
    path.chmod(0o666)
    with pytest.raises(RoleFileError, match=r"everybody may write it.*; chmod go-w f\.yaml"):
        read_yaml(path, "f.yaml")
    path.chmod(0o664)
    if os.geteuid() == 0:
        os.chown(path, -1, 54_321)
        with pytest.raises(RoleFileError, match="group 54321 may write it"):
            read_yaml(path, "f.yaml")
        os.chown(path, 54_321, -1)
        path.chmod(0o600)
        with pytest.raises(RoleFileError, match=r"its owner, user 54321, may write.*chown"):
            read_yaml(path, "f.yaml")


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    """A missing file, a directory and a pipe that nobody feeds are problems of that file."""
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (
        ("missing", "no such file or directory"),
        ("directory", "is a directory|not a regular file"),
        ("pipe", "not a regular file"),
    ):
        with pytest.raises(RoleFileError, match=f"f: cannot be read; ({reason})"):
            read_yaml(tmp_path / name, "f")
