"""Which lines of the record somebody wants."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.audit.reader import parse, since
from orchestrator.audit.story import run_of

if TYPE_CHECKING:
    from orchestrator.model.base import JsonObject


@dataclass(frozen=True, slots=True)
class Query:
    """What lines have to be like; what is empty does not matter.

    Attributes:
        since: The first moment, as times are written in the record.
        until: The last moment.
        role: The role.
        agent: Who asked.
        tool: The tool.
        outcome: How it ended, or the category of the refusal.
        code: Code of the refusal, or the beginning of it up to a dot.
        event: Which event, or the beginning of it up to a dot.
        run: The run, session, trace or request.
        text: A text that is anywhere in the line, in capital letters or not.
    """

    since: str = ""
    until: str = ""
    role: str = ""
    agent: str = ""
    tool: str = ""
    outcome: str = ""
    code: str = ""
    event: str = ""
    run: str = ""
    text: str = ""

    def matches(self, line: bytes, told: "JsonObject") -> bool:
        """Whether a line is like that."""
        if self.text and self.text.casefold() not in line.decode("utf-8", "replace").casefold():
            return False
        if self.run and self.run not in [run_of(told), told.get("request"), told.get("trace")]:
            return False
        if any(
            wanted and told.get(name) != wanted
            for name, wanted in (
                ("role", self.role),
                ("agent", self.agent),
                ("tool", self.tool),
                ("outcome", self.outcome),
            )
        ):
            return False
        return _begins(told.get("code"), self.code) and _begins(told.get("event"), self.event)


def _begins(value: object, wanted: str) -> bool:
    return not wanted or value == wanted or str(value).startswith(f"{wanted}.")


def select(directory: Path, query: Query) -> "Iterator[tuple[bytes, JsonObject]]":
    """Give the lines that somebody wants, the oldest first, with what they tell."""
    for line in since(directory, query.since):
        told = parse(line)
        if told is None:
            continue
        if query.until and str(told.get("time", "")) > query.until:
            continue  # clocks go back, too
        if query.matches(line, told):
            yield line, told


def tone(told: Mapping[str, object]) -> str:
    """Tell how a request ended, for its colour: `ok`, `failed` or `refused`."""
    if told.get("event") in {"decision", "omitted", "gap"}:
        return "refused"
    return "ok" if told.get("outcome") == "ok" else "failed"
