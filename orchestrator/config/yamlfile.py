"""YAML files as plain data, with the line and column of every key and value.

Only what a person writes by hand is taken: one document, mappings with text keys, lists, and the
plain values of YAML 1.2 (`yes`, `no`, `on` and `off` are text). What makes a file mean something
else than it seems to is refused: duplicate keys, anchors, aliases, merge keys, tags, directions of
writing that turn in mid-line.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isinf
from pathlib import Path
from typing import NamedTuple, TypeAlias, final

import yaml
from yaml.events import (
    AliasEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
)

from orchestrator.config.secretlike import is_sayable
from orchestrator.errors import FileProblem, RoleFileError
from orchestrator.files import is_read_only, read_regular, who_may_write
from orchestrator.model.base import Json, JsonObject

LIMIT_BYTES = 256 * 1024
LIMIT_DEPTH = 16
LIMIT_PROBLEMS = 30

Loc: TypeAlias = tuple[str | int, ...]

_LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader

# Source: YAML 1.2.2, section 10.3.2 (core schema), without octal, hexadecimal, .inf and .nan.
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_MOST_DIGITS = 15  # what every reader of JSON holds exactly

_UNPRINTABLE = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\u2027\u202f-\u2065\u206a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")

_QUOTES = "check the colon and the indentation; inside { } or [ ] a text with braces needs quotes"

# Words of libyaml and of PyYAML's own scanner, and ours for them. First match wins.
_SYNTAX: tuple[tuple[str, str, str], ...] = (
    ("mapping values are not allowed", "a `:` that cannot stand here",
     "check the indentation, or put a text that contains `: ` in quotes"),
    ("expected ',' or", "a list in [ ] or a mapping in { } is not closed",
     "separate its parts by commas and close it"),
    ("unexpected end of stream", "a quoted text is not closed", "add the closing quote"),
    ("unknown escape", "an unknown escape in a text in double quotes",
     "use single quotes for a text with backslashes"),
    ("tab character", "a tab used for indentation", "indent with spaces"),
    ("cannot start any token", "a value that begins with @ or `, or another reserved character",
     "put the value in quotes"),
    ("'-' indicator", "a key among the `- ` lines of a list", "check the indentation"),
    ("expected key", "a line that does not line up with its neighbours", "check the indentation"),
    ("<block end>", "a line that does not line up with its neighbours", "check the indentation"),
    ("expected ':'", "a line that is no `key: value`", _QUOTES),
    ("could not find expected", "a line that is no `key: value`", _QUOTES),
    ("node content", "a value is missing or misplaced", "check commas and brackets"),
)  # fmt: skip


class Place(NamedTuple):
    """A position in a file; both count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Document:
    """One file as data.

    Attributes:
        path: The file, as messages name it.
        data: The whole content.
        keys: Where each key of a mapping stands.
        values: Where each value starts; the whole content has the empty location.
    """

    path: str
    data: JsonObject
    keys: Mapping[Loc, Place]
    values: Mapping[Loc, Place]

    def problem(
        self, loc: Loc, problem: str, expected: str = "", *, at_key: bool = False
    ) -> FileProblem:
        """Describe a mistake at a location, or at the nearest thing around it that is there.

        Args:
            loc: Keys and list positions from the top.
            problem: What is wrong.
            expected: What would be right.
            at_key: Point at the key, not at its value.
        """
        found = self._place(loc, at_key=at_key)
        return FileProblem(self.path, found.line, found.column, dotted(loc), problem, expected)

    def _place(self, loc: Loc, *, at_key: bool) -> Place:
        if at_key and loc in self.keys:
            return self.keys[loc]
        if loc in self.values:
            return self.values[loc]
        # Something that is missing: the key of what it is missing from.
        parent = loc[:-1]
        return self._place(parent, at_key=True) if loc else Place(1, 1)

    def look(self, loc: Loc) -> Json:
        """Return the value at a location, None where there is none."""
        value: Json = self.data
        for part in loc:
            match value:
                case dict() if isinstance(part, str) and part in value:
                    value = value[part]
                case list() if isinstance(part, int) and 0 <= part < len(value):
                    value = value[part]
                case _:
                    return None
        return value


def texts(value: Json, loc: Loc) -> Iterator[tuple[Loc, str]]:
    """Tell every text inside a value, with its location; `loc` is that of the value."""
    match value:
        case str():
            yield loc, value
        case list():
            for index, item in enumerate(value):
                yield from texts(item, (*loc, index))
        case dict():
            for key, item in value.items():
                yield from texts(item, (*loc, key))
        case _:
            pass


def dotted(loc: Loc) -> str:
    """Write a location as a person reads it: `launch.command[0]`."""
    text = ""
    for part in loc:
        word = f"[{part}]" if isinstance(part, int) else part if is_sayable(part) else "?"
        text += f".{word}" if text and isinstance(part, str) else word
    return text


def read_yaml(path: Path, shown: str) -> Document:
    """Read a file that decides what runs, so that nobody else may be able to write it.

    Args:
        path: The file.
        shown: Its name in messages.

    Raises:
        RoleFileError: It cannot be read or is not such a file.
    """
    try:
        content, facts = read_regular(path, LIMIT_BYTES, follow=True)
    except OSError as error:
        raise _whole(shown, "cannot be read", why(error)) from error
    if (writer := who_may_write(facts)) and not is_read_only(path):
        raise RoleFileError((writable(shown, writer),))
    return parse_yaml(content, shown)


def why(error: OSError) -> str:
    """Tell in the system's words why something could not be read."""
    return (error.strerror or os.strerror(error.errno or 0)).lower()


def writable(shown: str, writer: str) -> FileProblem:
    """Describe a file or directory that somebody else may write.

    Args:
        shown: Its name in messages.
        writer: Who, in words of `who_may_write`.
    """
    return FileProblem(
        shown, 0, 0, "",
        f"{writer} may write it, and whoever writes it decides what runs",
        f"chown $USER {shown}" if writer.startswith("its") else f"chmod go-w {shown}",
    )  # fmt: skip


def _whole(shown: str, problem: str, expected: str) -> RoleFileError:
    return RoleFileError((FileProblem(shown, 0, 0, "", problem, expected),))


def parse_yaml(content: bytes, shown: str) -> Document:
    """Read the bytes of a file.

    Args:
        content: The bytes.
        shown: The file's name in messages.

    Raises:
        RoleFileError: They are no plain YAML mapping; carries every problem found.
    """
    if len(content) > LIMIT_BYTES:
        raise _whole(shown, "the file is too large", f"at most {LIMIT_BYTES // 1024} KiB")
    text = _decode(content, shown)
    for pattern, problem in (
        (_BIDI, "a character that turns the direction of writing"),
        (_UNPRINTABLE, "a control character"),
    ):
        if match := pattern.search(text):
            place = _place_in(text, match.start())
            raise RoleFileError((FileProblem(shown, *place, "", problem, "remove it"),))
    return _Reader(shown, text).read()


def _decode(content: bytes, shown: str) -> str:
    # The error object holds the whole content: it must not become part of what is raised.
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        start = error.start
    place = _place_in(content[:start].decode("utf-8", "replace"), start)
    raise RoleFileError(
        (FileProblem(shown, *place, "", "a byte that is not UTF-8", "save the file as UTF-8"),)
    )


def _place_in(text: str, offset: int) -> Place:
    before = text[:offset]
    return Place(before.count("\n") + 1, len(before) - before.rfind("\n"))


@final
class _Reader:
    """Turns the parser's events into data; stops at what makes going on pointless."""

    def __init__(self, shown: str, text: str) -> None:
        self._shown = shown
        self._text = text
        self._problems: list[FileProblem] = []
        self._keys: dict[Loc, Place] = {}
        self._values: dict[Loc, Place] = {}

    def read(self) -> Document:
        """Read the one document."""
        data: Json = None
        documents = 0
        events = self._events()
        for event in events:
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._add(event, (), "a second document begins here", "one document a file")
                    break
            elif isinstance(event, NodeEvent):
                data = self._node(event, (), events)
        if not self._problems and data is None:
            raise _whole(self._shown, "the file is empty", "remove it or fill it in")
        if not self._problems and not isinstance(data, dict):
            self._problems.append(
                FileProblem(
                    self._shown,
                    *self._values[()],
                    "",
                    "the file is no mapping",
                    "write `key: value` lines",
                )
            )
        if self._problems or not isinstance(data, dict):
            raise RoleFileError(tuple(self._problems))
        return Document(self._shown, data, self._keys, self._values)

    def _events(self) -> Iterator[Event]:
        mark: Place | None = None
        words = ""
        try:
            yield from yaml.parse(self._text, Loader=_LOADER)
        except yaml.MarkedYAMLError as error:
            words = error.problem or ""
            if error.problem_mark:
                mark = Place(error.problem_mark.line + 1, error.problem_mark.column + 1)
        except yaml.YAMLError:
            words = "unreadable"
        if words:
            raise RoleFileError((*self._problems, self._syntax(words, mark)))

    def _syntax(self, words: str, mark: Place | None) -> FileProblem:
        place = mark or Place(0, 0)
        if self._is_tab(place):
            problem, expected = "a tab used for indentation", "indent with spaces"
        else:
            problem, expected = next(
                ((ours, right) for theirs, ours, right in _SYNTAX if theirs in words),
                ("this is no YAML", "check quotes, colons, brackets and indentation"),
            )
        return FileProblem(self._shown, *place, "", problem, expected)

    def _is_tab(self, place: Place) -> bool:
        lines = self._text.split("\n")
        if not 0 < place.line <= len(lines):
            return False
        line = lines[place.line - 1]
        return "\t" in line[: len(line) - len(line.lstrip())]

    def _add(self, event: Event, loc: Loc, problem: str, expected: str) -> None:
        self._problems.append(
            FileProblem(self._shown, *_start(event), dotted(loc), problem, expected)
        )
        if len(self._problems) >= LIMIT_PROBLEMS:
            raise RoleFileError(tuple(self._problems))

    def _node(self, event: NodeEvent, loc: Loc, events: Iterator[Event]) -> Json:
        self._values[loc] = _start(event)
        if isinstance(event, AliasEvent):
            self._add(event, loc, "aliases (*name) are not allowed", "write the value out")
            return None
        if event.anchor is not None:
            self._add(event, loc, "anchors (&name) are not allowed", "write the value out")
        if isinstance(event, ScalarEvent | CollectionStartEvent) and event.tag is not None:
            self._add(event, loc, "tags (!name) are not allowed", "write a plain value")
        if isinstance(event, ScalarEvent):
            return self._scalar(event, loc)
        if len(loc) >= LIMIT_DEPTH:
            # Going on would need as many stack frames as the file has brackets.
            problem = FileProblem(
                self._shown,
                *_start(event),
                "",
                "nested too deeply",
                f"at most {LIMIT_DEPTH} levels",
            )
            raise RoleFileError((*self._problems, problem))
        if isinstance(event, MappingStartEvent):
            return self._mapping(loc, events)
        return self._sequence(loc, events)

    def _sequence(self, loc: Loc, events: Iterator[Event]) -> list[Json]:
        items: list[Json] = []
        for event in events:
            if isinstance(event, SequenceEndEvent):
                break
            if isinstance(event, NodeEvent):
                items.append(self._node(event, (*loc, len(items)), events))
        return items

    def _mapping(self, loc: Loc, events: Iterator[Event]) -> JsonObject:
        content: JsonObject = {}
        for event in events:
            if isinstance(event, MappingEndEvent):
                break
            if not isinstance(event, NodeEvent):
                continue
            key = self._key(event, loc, events)
            value = next(events)
            if not isinstance(value, NodeEvent):
                break
            if key is None or key in content:
                # Walked all the same: its own mistakes count, its content does not.
                kept = self._keys.copy(), self._values.copy()
                _ = self._node(value, (*loc, key or "?"), events)
                self._keys, self._values = kept
                continue
            self._keys[(*loc, key)] = _start(event)
            content[key] = self._node(value, (*loc, key), events)
        return content

    def _key(self, event: NodeEvent, loc: Loc, events: Iterator[Event]) -> str | None:
        if not isinstance(event, ScalarEvent):
            self._add(event, loc, "a key that is no plain text", "write `key: value`")
            if not isinstance(event, AliasEvent):
                _ = self._node(event, (*loc, "?"), events)
            return None
        if event.anchor is not None or event.tag is not None:
            self._add(event, loc, "anchors and tags are not allowed", "write a plain key")
        plain = event.style in {None, ""}
        if plain and event.value == "<<":
            self._add(event, loc, "merge keys (<<) are not allowed", "write the keys out")
            return None
        if plain and _NULL.fullmatch(event.value):
            self._add(event, loc, "an empty key", "write `key: value`")
            return None
        first = self._keys.get((*loc, event.value))
        if first is not None:
            self._add(
                event,
                (*loc, event.value),
                "a key that stands here twice",
                f"the first one is in line {first.line}; keep one",
            )
        return event.value

    def _scalar(self, event: ScalarEvent, loc: Loc) -> Json:
        text = event.value
        if event.style not in {None, ""}:
            return text
        if _NULL.fullmatch(text):
            return None
        if _BOOL.fullmatch(text):
            return text.lower() == "true"
        return self._number(event, loc) if _FLOAT.fullmatch(text) else text

    def _number(self, event: ScalarEvent, loc: Loc) -> Json:
        text = event.value
        digits = text.lstrip("+-")
        value: int | float = 0
        if len(digits) > 1 and digits.startswith("0") and digits[1].isdigit():
            self._add(event, loc, "a number that begins with 0", "put it in quotes")
        elif len(digits) > _MOST_DIGITS:
            self._add(event, loc, "a number with too many digits", "put it in quotes")
        else:
            value = int(text) if _INT.fullmatch(text) else float(text)
            if isinf(value):
                self._add(event, loc, "a number that is too large", "put it in quotes")
        return value


def _start(event: Event) -> Place:
    mark = event.start_mark
    return Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
