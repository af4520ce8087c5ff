"""`agents config`: what a client's own configuration needs to reach a role.

The entry runs `agents connect`, so no token is ever in such a file.
"""

import json
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias, cast

from orchestrator.cli import json_text, toml_text
from orchestrator.cli.client_file import read_client_file, write_client_file
from orchestrator.cli.client_hook import CLIENT, PREFIX, Hook, place_hook
from orchestrator.cli.output import note, say, say_json
from orchestrator.cli.places import find_root
from orchestrator.errors import ConfigError, SettingsError
from orchestrator.files import PRIVATE_FILE

Entry: TypeAlias = "dict[str, str | list[str]]"

_TOML_PLACE: Final = re.compile(r"\(at line (\d+), column (\d+)\)")


@dataclass(frozen=True, slots=True)
class Client:
    """One client.

    Attributes:
        title: What people call it.
        section: The key under which its file keeps servers.
        says_type: Whether an entry says that it is a stdio server.
        file: Tells its file, from the directory in which it is used; None if it has none.
        next_step: What to do after its file was written; `{name}`, `{folder}` are filled in.
        is_toml: Whether its file is TOML; JSON otherwise.
    """

    title: str
    section: str
    says_type: bool
    file: Callable[[Path], Path] | None
    next_step: str
    is_toml: bool = False


def _desktop_file(_: Path) -> Path:
    if sys.platform == "darwin":
        folder = Path.home() / "Library" / "Application Support"
    else:
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return folder / "Claude" / "claude_desktop_config.json"


def _codex_file(_: Path) -> Path:
    return Path(os.environ.get("CODEX_HOME") or Path.home() / ".codex") / "config.toml"


CLIENTS: Final = {
    # Source: https://code.claude.com/docs/en/mcp, project scope.
    "claude-code": Client(
        "Claude Code",
        "mcpServers",
        says_type=True,
        file=lambda folder: folder / ".mcp.json",
        next_step="Start `claude` in {folder} and approve the server {name}; "
        "`/mcp` shows its state.",
    ),
    # Source: https://modelcontextprotocol.io/docs/develop/connect-local-servers.
    "claude-desktop": Client(
        "Claude Desktop",
        "mcpServers",
        says_type=False,
        file=_desktop_file,
        next_step="Quit Claude Desktop and start it again; {name} is under Settings, Developer.",
    ),
    # Source: https://cursor.com/docs/context/mcp.
    "cursor": Client(
        "Cursor",
        "mcpServers",
        says_type=True,
        file=lambda folder: folder / ".cursor" / "mcp.json",
        next_step="Open {folder} in Cursor and turn {name} on in its settings, under MCP.",
    ),
    # Source: https://code.visualstudio.com/docs/copilot/reference/mcp-configuration.
    "vscode": Client(
        "VS Code",
        "servers",
        says_type=True,
        file=lambda folder: folder / ".vscode" / "mcp.json",
        next_step="Open {folder} in VS Code, run `MCP: List Servers`, and start {name}.",
    ),
    # Source: https://developers.openai.com/codex/mcp.
    "codex": Client(
        "Codex",
        "mcp_servers",
        says_type=False,
        file=_codex_file,
        next_step="Start Codex again; `/mcp` shows {name}.",
        is_toml=True,
    ),
    "json": Client("any client", "mcpServers", says_type=False, file=None, next_step=""),
}


def config(  # noqa: PLR0913  one for each option
    project: Path | None,
    role: str,
    client: str,
    *,
    write: bool,
    hook: bool = False,
    as_json: bool = False,
) -> None:
    """Print what a client needs to reach a role, or merge it into the client's own file.

    With `hook`, the client also asks its person before it calls a destructive tool.

    Raises:
        SettingsError: There is no such client or role.
        RoleFileError: The project's files have mistakes.
        ConfigError: The client's file cannot be changed safely; it stays as it is.
    """
    kind = CLIENTS.get(client)
    if kind is None:
        raise SettingsError(
            f"there is no client {client!r}", hint=f"Known are: {', '.join(CLIENTS)}."
        )
    root = find_root(project)
    _check_role(root, role)
    name = f"{PREFIX}{role}"
    if hook:
        _check_hook(client, kind)
    entry = _entry(kind, root, role)
    if kind.file is None:
        if write:
            raise SettingsError(
                "`--client json` has no file of its own", hint="Leave `--write` out."
            )
        say(_snippet(kind, name, entry))
        return
    folder = _folder(root)
    path = kind.file(folder)
    changed = write and _merge(path, kind, name, entry)
    hooked = place_hook(folder, _program(), root, role, write=write) if hook else None
    if as_json:
        told: dict[str, object] = {"client": client, "file": str(path), "changed": changed}
        told["entry"] = {name: entry}
        if hooked is not None:
            told["hook"] = hooked.describe()
        say_json(told)
    elif write:
        if hooked is not None:
            state = "Wrote" if hooked.is_changed else "There is already"
            note(f"{state} the confirmation hook in {hooked.file}")
        if changed:
            note(f"Wrote {name} into {path}")
        else:
            note(f"{path} has {name} already; nothing was changed")
        note(kind.next_step.format(name=name, folder=folder))
    else:
        _show(path, _snippet(kind, name, entry), hooked)


def _show(path: Path, snippet: str, hooked: Hook | None) -> None:
    say(snippet)
    note(f"This belongs into {path}; `--write` merges it there.")
    if hooked is not None:
        say(hooked.snippet)
        note(f"And this into {hooked.file}.")


def _check_hook(client: str, kind: Client) -> None:
    if client != CLIENT:
        raise SettingsError(
            f"there is no confirmation hook for {kind.title}",
            hint=f"`--hook` goes with `--client {CLIENT}`; `approval:` in the role's file holds "
            "calls of every client.",
        )


def _check_role(root: Path, role: str) -> None:
    from orchestrator.config.project import load_project, select_roles

    _ = select_roles(load_project(root), (role,))


def _folder(root: Path) -> Path:
    """Tell in which directory the client is used: the project's, or this one if it is elsewhere."""
    here = Path.cwd()
    return root if here.is_relative_to(root) else here


def _entry(kind: Client, root: Path, role: str) -> Entry:
    command, project = _program(), str(root)
    for text in (command, project):
        if "${" in text or not text.isprintable():
            raise SettingsError(
                f"{text!r} cannot stand in a client's configuration",
                hint="Clients would replace `${`; give the directory a plain name.",
            )
    entry: Entry = {"type": "stdio"} if kind.says_type else {}
    return entry | {"command": command, "args": ["connect", role, "-C", project]}


def _program() -> str:
    """Find this program; the name by which it was called stays the same when it is upgraded."""
    called = Path(sys.argv[0])
    names = [called.absolute()] if called.name == "agents" and called.is_absolute() else []
    names.append(Path(sys.executable).parent / "agents")
    for path in names:
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
    found = shutil.which("agents")
    if found is None:
        raise SettingsError(
            "the `agents` program is not found", hint="Install the package with its scripts."
        )
    return str(Path(found).absolute())


def _snippet(kind: Client, name: str, entry: Entry) -> str:
    if kind.is_toml:
        return toml_text.write_table(kind.section, name, entry).rstrip("\n")
    return json.dumps({kind.section: {name: entry}}, indent=2, ensure_ascii=False)


def _merge(path: Path, kind: Client, name: str, entry: Entry) -> bool:
    """Set the entry in a client's file.

    Returns:
        Whether the file was changed.

    Raises:
        ConfigError: It cannot be done safely; nothing was changed.
    """
    real = Path(os.path.realpath(path))
    add = f"Add this yourself:\n{_snippet(kind, name, entry)}"
    found = read_client_file(real, path)
    text, mode = ("", PRIVATE_FILE) if found is None else found
    try:
        old = _present(text, kind, name)
        _check_ours(old, entry, path, name)
        if old is not None and old.items() >= entry.items():
            return False
        if kind.is_toml:
            new = toml_text.set_table(text, kind.section, name, entry)
        else:
            new = json_text.set_member(text, (kind.section, name), {**(old or {}), **entry})
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path}:{error.lineno}:{error.colno}: this is not plain JSON ({error.msg}); "
            "nothing was changed",
            hint=f"Comments and trailing commas cannot be kept. {add}",
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{path}:{_toml_place(str(error), text)}: this is not TOML ({error}); "
            "nothing was changed",
            hint="Correct the file, then try again.",
        ) from error
    except RecursionError as error:
        raise ConfigError(f"{path}: it is nested too deeply; nothing was changed") from error
    except (json_text.StructureError, toml_text.StructureError) as error:
        raise ConfigError(f"{path}: {error}; nothing was changed", hint=add) from error
    write_client_file(real, path, new, mode, before=found)
    return True


def _present(text: str, kind: Client, name: str) -> "dict[str, object] | None":
    """Tell the entry that is there, None if there is none."""
    if not text.strip():
        return None
    whole = cast("object", tomllib.loads(text) if kind.is_toml else json.loads(text))
    node = whole
    for key in (kind.section, name):
        if not isinstance(node, dict):
            raise json_text.StructureError("an object is expected where something else is")
        mapping = cast("dict[str, object]", node)
        if key not in mapping:
            return None
        node = mapping[key]
    if not isinstance(node, dict):
        raise json_text.StructureError(f"{name!r} is no server")
    return cast("dict[str, object]", node)


def _check_ours(old: "dict[str, object] | None", entry: Entry, path: Path, name: str) -> None:
    """Make sure that an entry of this name is for this role of this project.

    Another project may have a role of the same name: its client must not lose it silently, nor
    reach another project's tools under the name that it knows.
    """
    if old is None or old.get("args") == entry["args"]:
        return
    args = old.get("args")
    words = cast("list[object]", args) if isinstance(args, list) else []
    *head, project = words or [None]
    is_ours = head == entry["args"][:-1] and isinstance(project, str)
    if is_ours and not Path(str(project)).is_dir():
        return  # that project was moved or removed
    owner = f"the project {project}" if is_ours else "something else"
    raise ConfigError(
        f"{path}: {name} is there already, for {owner}; nothing was changed",
        hint=f"Remove or rename {name} in that file first.",
    )


def _toml_place(message: str, text: str) -> str:
    match = _TOML_PLACE.search(message)
    if match is not None:
        return f"{match[1]}:{match[2]}"
    lines = text.split("\n")
    return f"{len(lines)}:{len(lines[-1]) + 1}"
