"""`agents config`: the entry, and the files of clients that must not be damaged."""

from __future__ import annotations

import json
import stat
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli import json_text, toml_text
from orchestrator.cli.clients import CLIENTS, config
from orchestrator.errors import ConfigError, SettingsError

ROLES = Path(__file__).parents[3] / "roles"
AGENTS = str(Path(sys.executable).parent / "agents")
JSON_CLIENTS = ["claude-code", "claude-desktop", "cursor", "vscode"]

Files = Callable[[str], Path]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a project with the stock roles, with a home and settings of nobody."""
    root, home = tmp_path / "project", tmp_path / "home"
    root.mkdir()
    home.mkdir()
    (root / "roles" / "servers").mkdir(parents=True)
    for path in (*ROLES.glob("*.yaml"), *ROLES.glob("servers/*.yaml")):
        _ = (root / "roles" / path.relative_to(ROLES)).write_bytes(path.read_bytes())
    monkeypatch.chdir(root)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("CODEX_HOME", raising=False)
    return root


@pytest.fixture
def files(project: Path) -> Files:
    """Tell where each client keeps its servers."""
    home = project.parent / "home"
    places = {
        "claude-code": project / ".mcp.json",
        "claude-desktop": home / ".config/Claude/claude_desktop_config.json",
        "cursor": project / ".cursor/mcp.json",
        "vscode": project / ".vscode/mcp.json",
        "codex": home / ".codex/config.toml",
    }
    if sys.platform == "darwin":
        places["claude-desktop"] = (
            home / "Library/Application Support/Claude/claude_desktop_config.json"
        )

    def place(client: str) -> Path:
        places[client].parent.mkdir(parents=True, exist_ok=True)
        return places[client]

    return place


def entry(project: Path, role: str = "treasury") -> dict[str, object]:
    """Write the entry that is expected."""
    return {"command": AGENTS, "args": ["connect", role, "-C", str(project)]}


def load(path: Path) -> dict[str, dict[str, dict[str, object]]]:
    """Read a client's file."""
    text = path.read_text()
    return cast(
        "dict[str, dict[str, dict[str, object]]]",
        tomllib.loads(text) if path.suffix == ".toml" else json.loads(text),
    )


@pytest.mark.parametrize("client", CLIENTS)
def test_prints_what_to_add(project: Path, client: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without `--write` every client's entry is printed in its own form, and nothing is written."""
    config(None, "treasury", client, write=False)
    text = capsys.readouterr().out
    kind = CLIENTS[client]
    whole = tomllib.loads(text) if kind.is_toml else json.loads(text)
    found = cast("dict[str, dict[str, object]]", whole)[kind.section]["bandmaster-treasury"]
    kinds = {"type": "stdio"} if kind.says_type else {}
    assert found == {**kinds, **entry(project)}
    assert {path.name for path in project.iterdir()} == {"roles"}
    assert "mga_" not in text


@pytest.mark.parametrize("client", [*JSON_CLIENTS, "codex"])
def test_makes_a_file_that_is_not_there(
    project: Path, files: Files, client: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing file is made, private, and the user is told where it is and what comes next."""
    config(None, "treasury", client, write=True)
    path = files(client)
    found = load(path)[CLIENTS[client].section]["bandmaster-treasury"]
    assert found.items() >= entry(project).items()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    told = capsys.readouterr()
    assert told.out == ""
    assert str(path) in told.err
    assert len(told.err.splitlines()) == 2


@pytest.mark.parametrize("client", [*JSON_CLIENTS, "codex"])
def test_second_run_changes_nothing(
    project: Path, files: Files, client: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Writing twice leaves the very same file, and says so."""
    config(project, "treasury", client, write=True)
    path = files(client)
    before = (path.read_bytes(), path.stat().st_ino)
    _ = capsys.readouterr()
    config(project, "treasury", client, write=True)
    assert (path.read_bytes(), path.stat().st_ino) == before
    assert "nothing was changed" in capsys.readouterr().err


@pytest.mark.parametrize("indent", ["  ", "    ", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_json_keeps_every_foreign_byte(files: Files, indent: str, newline: str) -> None:
    """Foreign servers, order, indentation, line ends and number forms stay byte for byte."""
    before = (
        '{\n>"théme": 1.50,\n>"mcpServers": {\n>>"other": {"command": "x", "args": ["-y", "b"]}\n'
        '>},\n>"last": [1,\n2e3]\n}\n'
    )
    before = before.replace(">", indent).replace("\n", newline)
    path = files("claude-code")
    _ = path.write_bytes(before.encode())
    path.chmod(0o640)
    config(None, "treasury", "claude-code", write=True)
    after = path.read_bytes().decode()
    added = after.index(f',{newline}{indent * 2}"bandmaster-treasury"')
    tail = before.index(f"{newline}{indent}}},{newline}{indent}" + '"last"')
    assert after[:added] == before[:tail]
    assert after.endswith(before[tail:])
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert f'{newline}{indent * 3}"command"' in after
    assert list(load(path)["mcpServers"]) == ["other", "bandmaster-treasury"]


@pytest.mark.parametrize(
    "before",
    ["", "  \n", "{}", '{"a": 1}', '{"a":1,"mcpServers":{}}', '{"mcpServers": {"x": {}}, "b": []}'],
)
def test_json_of_any_form_is_extended(project: Path, files: Files, before: str) -> None:
    """Empty, one-line and nested files get the entry and lose nothing."""
    path = files("cursor")
    _ = path.write_text(before)
    config(None, "treasury", "cursor", write=True)
    wanted = cast(
        "dict[str, dict[str, object]]", json.loads(before or "{}") if before.strip() else {}
    )
    wanted.setdefault("mcpServers", {})["bandmaster-treasury"] = {
        "type": "stdio",
        **entry(project),
    }
    assert load(path) == wanted


def test_own_entry_is_renewed_and_keeps_what_the_user_added(project: Path, files: Files) -> None:
    """A stale program path is replaced; keys that the user added to the entry stay."""
    path = files("vscode")
    stale = {**entry(project), "command": "/old/agents", "envFile": "x"}
    after = {"type": "stdio", "command": "y"}
    _ = path.write_text(
        json.dumps({"servers": {"bandmaster-treasury": stale, "after": after}}, indent=4)
    )
    config(None, "treasury", "vscode", write=True)
    servers = load(path)["servers"]
    assert servers["bandmaster-treasury"] == {**entry(project), "envFile": "x", "type": "stdio"}
    assert servers["after"] == after


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{\n  // mine\n  "servers": {}\n}\n', ":2:3"),
        ('{\n  "servers": {},\n}\n', ":"),
        ('{"servers": {', ":1:14"),
        ("nonsense", ":1:1"),
    ],
)
def test_what_is_no_plain_json_is_refused(files: Files, text: str, place: str) -> None:
    """Comments, trailing commas and broken files are refused with the place and what to add."""
    path = files("vscode")
    _ = path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        config(None, "treasury", "vscode", write=True)
    assert f"{path}{place}" in str(refused.value)
    assert "nothing was changed" in str(refused.value)
    assert '"bandmaster-treasury"' in str(refused.value.hint)
    assert path.read_text() == text


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '{"mcpServers": []}',
        '{"mcpServers": {"bandmaster-treasury": 1}}',
        '{"mcpServers": {}, "mcpServers": {}}',
        '{"mcpServers": {"bandmaster-treasury": {"command": "other"}}}',
        "[" * 100_000,
    ],
)
def test_json_of_another_shape_is_refused(files: Files, text: str) -> None:
    """A file in which the entry has no clear place stays as it is."""
    # There are libraries that raise it so far that a deeply nested text ends the process.
    assert sys.getrecursionlimit() < 10_000
    path = files("claude-code")
    _ = path.write_text(text)
    with pytest.raises(ConfigError, match="nothing was changed"):
        config(None, "treasury", "claude-code", write=True)
    assert path.read_text() == text


@pytest.mark.parametrize("client", ["claude-desktop", "codex"])
def test_entry_of_another_project_is_not_taken_over(
    project: Path, files: Files, client: str
) -> None:
    """Two projects with a role of one name do not take each other's entry; a dead one's is."""
    other = project.parent / "other"
    _ = project.rename(other)
    _ = other.joinpath("x").write_text("")
    project.mkdir()
    for path in other.rglob("*.yaml"):
        target = project / path.relative_to(other)
        target.parent.mkdir(parents=True, exist_ok=True)
        _ = target.write_bytes(path.read_bytes())
    config(other, "treasury", client, write=True)
    path = files(client)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=f"for the project {other}"):
        config(project, "treasury", client, write=True)
    assert path.read_bytes() == before
    _ = other.rename(project.parent / "gone")
    config(project, "treasury", client, write=True)
    found = load(path)[CLIENTS[client].section]["bandmaster-treasury"]
    assert found["args"] == ["connect", "treasury", "-C", str(project)]


TOML = """\
# mine
model = "o3"   # keep


[mcp_servers.other]
command = 'x'
args = [
  "a", # why
]
[tui]
theme = "dark" """


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_toml_keeps_every_foreign_byte(project: Path, files: Files, newline: str) -> None:
    """Comments, spaces, line ends and a missing last newline of a TOML file are kept."""
    before = TOML.replace("\n", newline)
    path = files("codex")
    _ = path.write_bytes(before.encode())
    config(None, "treasury", "codex", write=True)
    config(None, "executor", "codex", write=True)
    after = path.read_bytes().decode()
    assert after.startswith(before + newline)
    assert after.count(newline) == after.count("\n")
    servers = load(path)["mcp_servers"]
    assert list(servers) == ["other", "bandmaster-treasury", "bandmaster-executor"]
    assert servers["bandmaster-treasury"] == entry(project)
    assert servers["bandmaster-executor"] == entry(project, "executor")


def test_toml_table_is_renewed_in_place(project: Path, files: Files) -> None:
    """Our own table is renewed where it stands; keys and tables that were added to it stay."""
    config(None, "treasury", "codex", write=True)
    path = files("codex")
    text = path.read_text()
    text = text.replace(f'"{AGENTS}"', '"/old/agents"').replace(
        "# bandmaster-treasury: end", "tool_timeout_sec = 5 # slow\n# bandmaster-treasury: end"
    )
    text = f"a = 1\n{text}[mcp_servers.bandmaster-treasury.tools.x]\nmode = 'prompt'\n"
    _ = path.write_text(text)
    config(None, "treasury", "codex", write=True)
    assert path.read_text() == text.replace('"/old/agents"', f'"{AGENTS}"')
    assert load(path)["mcp_servers"]["bandmaster-treasury"] == {
        **entry(project),
        "tool_timeout_sec": 5,
        "tools": {"x": {"mode": "prompt"}},
    }


@pytest.mark.parametrize(
    "text",
    [
        "a = 1\nb = = 2\n",
        "a = [1,\n",
        "mcp_servers = {}\n",
        "mcp_servers = 1\n",
        "[mcp_servers.bandmaster-treasury]\ncommand = 'x'\n",
    ],
)
def test_toml_that_cannot_be_extended_is_refused(files: Files, text: str) -> None:
    """A broken TOML file, or one in which our table has no clear place, stays as it is."""
    path = files("codex")
    _ = path.write_text(text)
    with pytest.raises(ConfigError, match="nothing was changed") as refused:
        config(None, "treasury", "codex", write=True)
    assert path.read_text() == text
    if "= =" in text:
        assert f"{path}:2:5:" in str(refused.value)
    if "[1," in text:
        assert f"{path}:2:1:" in str(refused.value)


def test_toml_table_without_its_marks_is_not_changed(project: Path, files: Files) -> None:
    """A table of ours that was reformatted is not rewritten: the user is told what it should be."""
    path = files("codex")
    args = json.dumps(entry(project)["args"])
    text = f"[mcp_servers.bandmaster-treasury]\ncommand = '/old'\nargs = {args}\n"
    _ = path.write_text(text)
    with pytest.raises(ConfigError, match="without touching") as refused:
        config(None, "treasury", "codex", write=True)
    assert path.read_text() == text
    assert AGENTS in str(refused.value.hint)


def test_symlink_is_followed(project: Path, files: Files) -> None:
    """A user's link to the real file stays a link, and the real file is replaced."""
    real = project.parent / "dotfiles.toml"
    _ = real.write_text("a = 1\n")
    path = files("codex")
    path.symlink_to(real)
    config(None, "treasury", "codex", write=True)
    assert path.is_symlink()
    assert "bandmaster-treasury" in real.read_text()


def test_file_that_is_none_is_refused(files: Files) -> None:
    """A directory in the file's place ends as a sentence."""
    files("claude-code").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        config(None, "treasury", "claude-code", write=True)


def test_used_from_elsewhere_the_file_is_there(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `-C`, a per-directory client's file is made where the user stands."""
    (tmp_path / "app").mkdir()
    monkeypatch.chdir(tmp_path / "app")
    config(project, "treasury", "claude-code", write=True)
    assert (tmp_path / "app/.mcp.json").is_file()
    assert not (project / ".mcp.json").exists()
    monkeypatch.chdir(project / "roles")
    config(None, "treasury", "claude-code", write=True)
    assert (project / ".mcp.json").is_file()


@pytest.mark.usefixtures("project")
def test_unknown_names_are_told_with_the_known_ones() -> None:
    """An unknown client or role is refused, with the names that exist."""
    with pytest.raises(SettingsError) as client:
        config(None, "treasury", "emacs", write=False)
    assert "claude-code, claude-desktop, cursor, vscode, codex, json" in str(client.value.hint)
    with pytest.raises(SettingsError) as role:
        config(None, "tresury", "json", write=False)
    assert "treasury" in str(role.value.hint)
    with pytest.raises(SettingsError, match="no file of its own"):
        config(None, "treasury", "json", write=True)


def test_directory_that_clients_would_replace_is_refused(project: Path) -> None:
    """A project path with `${` is refused, as clients fill in variables there."""
    odd = project.parent / "a${HOME}"
    _ = project.rename(odd)
    with pytest.raises(SettingsError, match="cannot stand"):
        config(odd, "treasury", "claude-code", write=False)


NAMES = st.text(alphabet="abcmcpServers", min_size=1, max_size=10)
VALUES: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(NAMES, VALUES, max_size=4), st.sampled_from([None, 0, 2, "\t"]))
def test_json_change_is_that_change(data: dict[str, object], indent: int | str | None) -> None:
    """Setting a member of any object, written in any form, changes that member and no other."""
    text = json.dumps({**data, "mcpServers": {}}, indent=indent)
    new = json_text.set_member(text, ("mcpServers", "é"), {"command": "c", "args": ["d"]})
    wanted = {**data, "mcpServers": {"é": {"command": "c", "args": ["d"]}}}
    assert json.loads(new) == wanted
    again = json_text.set_member(new, ("mcpServers", "é"), {"command": "c", "args": ["d"]})
    assert json.loads(again) == wanted


@given(st.text())
def test_toml_texts_are_read_back(text: str) -> None:
    """Any text that is put into a table is read back as it was."""
    written = toml_text.write_table("p", "n", {"command": text, "args": [text]})
    assert tomllib.loads(written) == {"p": {"n": {"command": text, "args": [text]}}}
