"""`agents tools`: what an agent of a role sees."""

import json
import shutil
import sys
from pathlib import Path
from typing import Final

import anyio

from orchestrator.cli.arguments import short_form
from orchestrator.cli.output import note, paint, say, say_json, table
from orchestrator.cli.reach import reach, refusal_of
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.text import cut, visible

_LIST_SECONDS: Final = 60.0
_NARROW: Final = 40
_COLOURS: Final = {"READ": "green", "WRITE": "yellow", "DESTRUCTIVE": "red"}


def tools(project: Path | None, role: str, *, full: bool, as_json: bool) -> None:
    """List the tools of a role as its agents see them.

    Raises:
        AgentsError: They cannot be listed.
    """
    way = reach(project, role)

    async def ask() -> list[Json]:
        with anyio.fail_after(_LIST_SECONDS):
            response = await way.asker.list_tools()
        if response.error is not None:
            raise refusal_of(response.error)
        found = (response.result or {}).get("tools")
        return found if isinstance(found, list) else []

    found = [tool for tool in anyio.run(ask) if isinstance(tool, dict)]
    if as_json:
        shown = [
            {"name": tool.get("name"), "class": way.classes.get(_name(tool)), "definition": tool}
            for tool in found
        ]
        say_json({"role": role, "tools": shown, "held": way.held})
        return
    if full:
        say("\n\n".join(_whole(tool, way.classes.get(_name(tool), "-")) for tool in found))
    elif found:
        head = ("TOOL", "CLASS", "ARGUMENTS", "DESCRIPTION")
        rows = [_row(tool, way.classes.get(_name(tool), "-")) for tool in found]
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
        for line in table(head, _narrowed(rows, width)):
            say(line)
    else:
        say("no tools")
    if way.held:
        note(f"Held, so not shown: {', '.join(way.held)}. See `agents pins diff {role}`.")


def _name(tool: JsonObject) -> str:
    return str(tool.get("name"))


def _words(tool: JsonObject) -> str:
    said = tool.get("description") or tool.get("title") or ""
    return said if isinstance(said, str) else ""


def _row(tool: JsonObject, kind: str) -> list[str]:
    first = next((line.strip() for line in _words(tool).splitlines() if line.strip()), "")
    coloured = paint(kind, _COLOURS[kind]) if kind in _COLOURS else kind
    return [
        visible(_name(tool), ""),
        coloured,
        short_form(tool.get("inputSchema")),
        visible(first, ""),
    ]


def _narrowed(rows: list[list[str]], width: int) -> list[list[str]]:
    """Cut arguments and descriptions so that a line fits; without a width nothing is cut."""
    if not width:
        return rows
    name, kind = max(len(row[0]) for row in rows), len("DESTRUCTIVE")
    left = max(2 * _NARROW, width - name - kind - 6)
    longest = min(max(len(row[2]) for row in rows), left // 2)
    longest = max(longest, len("ARGUMENTS"))
    return [[row[0], row[1], cut(row[2], longest), cut(row[3], left - longest)] for row in rows]


def _whole(tool: JsonObject, kind: str) -> str:
    rest = {key: value for key, value in tool.items() if key not in {"name", "description"}}
    parts = [f"{paint(visible(_name(tool), ''), 'bold')}  {kind}"]
    if _words(tool):
        parts.append(visible(_words(tool).strip()))
    parts.append(visible(json.dumps(rest, indent=2, ensure_ascii=False)))
    return "\n".join(parts)
