"""A hook on the client's side: its person is asked before a destructive tool is called.

It is a convenience and no control: a client may be run without it. What has to be approved is
said in the role's file, and held by the gateway.
"""

import json
import os
import re
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

from orchestrator.cli import json_text
from orchestrator.cli.client_file import read_client_file, write_client_file
from orchestrator.cli.output import say
from orchestrator.cli.places import find_root
from orchestrator.errors import AgentsError, ConfigError
from orchestrator.files import PRIVATE_FILE

CLIENT: Final = "claude-code"
PREFIX: Final = "bandmaster-"
_KEY: Final = ("hooks", "PreToolUse")
_MOST_BYTES: Final = 16 * 1024 * 1024
# Source: https://code.claude.com/docs/en/hooks, a status of 2 stops the call.
_STOP: Final = 2


@dataclass(frozen=True, slots=True)
class Hook:
    """A hook, as it stands in the client's settings.

    Attributes:
        file: The settings.
        entry: What stands there.
        is_changed: Whether it was written just now.
    """

    file: Path
    entry: "dict[str, object]" = field(repr=False)
    is_changed: bool

    @property
    def snippet(self) -> str:
        """What a person would add by hand."""
        return json.dumps({_KEY[0]: {_KEY[1]: [self.entry]}}, indent=2, ensure_ascii=False)

    def describe(self) -> "dict[str, object]":
        """Tell it as data."""
        return {"file": str(self.file), "changed": self.is_changed, "entry": self.entry}


def place_hook(folder: Path, program: str, root: Path, role: str, *, write: bool) -> Hook:
    """Tell a role's hook, or merge it into Claude Code's settings of a directory.

    Args:
        folder: Where the client is used.
        program: Our own program.
        root: The project.
        role: The role.
        write: Whether it is merged.

    Raises:
        ConfigError: The settings cannot be changed safely; they stay as they are.
    """
    path = folder / ".claude" / "settings.json"
    # Source: https://code.claude.com/docs/en/hooks, PreToolUse and its matchers.
    matcher = f"mcp__{PREFIX}{role}__.*"
    command = shlex.join([program, "hook", role, "-C", str(root)])
    entry: dict[str, object] = {
        "matcher": matcher,
        "hooks": [{"type": "command", "command": command}],
    }
    return Hook(path, entry, write and _merge(path, entry, matcher))


def _merge(path: Path, entry: "dict[str, object]", matcher: str) -> bool:
    real = Path(os.path.realpath(path))
    found = read_client_file(real, path)
    text, mode = ("", PRIVATE_FILE) if found is None else found
    try:
        old = _present(text)
        if entry in old:
            return False
        # An older one of this role is replaced; all others stay.
        kept = [one for one in old if not _is_ours(one, matcher)]
        new = json_text.set_member(text, _KEY, [*kept, entry])
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path}:{error.lineno}:{error.colno}: this is not plain JSON ({error.msg}); "
            "nothing was changed",
            hint="Correct the file, then try again.",
        ) from error
    except (json_text.StructureError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}; nothing was changed") from error
    write_client_file(real, path, new, mode, before=found)
    return True


def _present(text: str) -> "list[object]":
    node: object = cast("object", json.loads(text if text.strip() else "{}"))
    for key in _KEY:
        if not isinstance(node, dict):
            raise json_text.StructureError("an object is expected where something else is")
        node = cast("dict[str, object]", node).get(key, [] if key == _KEY[-1] else {})
    if not isinstance(node, list):
        raise json_text.StructureError(f"{_KEY[-1]} is no list")
    return cast("list[object]", node)


def _is_ours(one: object, matcher: str) -> bool:
    return isinstance(one, dict) and cast("dict[str, object]", one).get("matcher") == matcher


def answer_hook(project: Path | None, role: str) -> None:
    """Read what the client is about to call, and say whether its person is to be asked.

    What cannot be understood is asked about; what cannot even be read is stopped. So is whatever
    else goes wrong: with any other status than that the client would go on unasked.
    """
    try:
        called = _called(sys.stdin.buffer.read(_MOST_BYTES + 1), role)
        reason = _reason(project, role, called)
    except Exception as error:
        why = str(error) if isinstance(error, OSError | ValueError) else type(error).__name__
        _ = sys.stderr.write(f"the hook of {PREFIX}{role} does not understand the client: {why}")
        raise SystemExit(_STOP) from error
    if reason:
        told = {
            "hookEventName": "PreToolUse",
            "permissionDecision": "ask",
            "permissionDecisionReason": reason,
        }
        say(json.dumps({"hookSpecificOutput": told}))


def _called(data: bytes, role: str) -> str:
    """Tell the tool as the client names it."""
    told = cast("object", json.loads(data))
    name = cast("dict[str, object]", told).get("tool_name") if isinstance(told, dict) else None
    head = f"mcp__{PREFIX}{role}__"
    if not isinstance(name, str) or not name.startswith(head):
        raise ValueError("no tool of this role is named")
    return name[len(head) :]


def _reason(project: Path | None, role: str, called: str) -> str:
    """Tell why the person is to be asked; empty if there is no reason."""
    from orchestrator.config.project import load_project, select_roles

    try:
        loaded = load_project(find_root(project))
        [one] = select_roles(loaded, (role,))
        tools = loaded.servers[one.server].tools
    except AgentsError as error:
        return f"The project's files cannot be read, so nobody knows what this does: {error}"
    kinds = {tool.kind for name, tool in tools.items() if _as_client(name) == called}
    if not kinds:
        return f"The server file of {one.server} does not know this tool."
    if "DESTRUCTIVE" not in kinds:
        return ""
    return f"{called} is destructive: it cannot be taken back. The role is {role}."


def _as_client(name: str) -> str:
    """Write a tool's name as the client does."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)
