"""Projects: every mistake in role and server files, with its place and our words for it."""

import json
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.problems import check
from orchestrator.config.project import load_project, select_roles
from orchestrator.config.yamlfile import parse_yaml
from orchestrator.errors import FileProblem, RoleFileError, SettingsError
from orchestrator.model.names import RoleName, ServerName
from orchestrator.model.role import Role
from orchestrator.model.server import Server

Replace = Callable[[str, str], None]
Complaints = Callable[[], list[str]]

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Mistake:
    """One way to spoil a file, and what is said about it."""

    old: str
    new: str
    messages: list[str]


def mistakes(kind: str) -> dict[str, Mistake]:
    """Read the mistakes that a kind of file may have, by name."""
    table: dict[str, dict[str, Any]] = yaml.safe_load((HERE / f"{kind}-mistakes.yaml").read_text())  # pyright: ignore[reportExplicitAny, reportAny] # a table of our own
    return {
        name: Mistake(entry["replace"], entry["with"], entry["messages"])  # pyright: ignore[reportAny] # the same
        for name, entry in table.items()
    }


ROLE_MISTAKES = mistakes("role")
SERVER_MISTAKES = mistakes("server")


@pytest.mark.parametrize("name", ROLE_MISTAKES)
def test_each_mistake_in_a_role_file(name: str, role: Replace, complaints: Complaints) -> None:
    """Each mistake in a role file has one message, with line and column, and no secret in it."""
    mistake = ROLE_MISTAKES[name]
    role(mistake.old, mistake.new)
    found = complaints()
    assert found == [f"roles/clerk.yaml:{message}" for message in mistake.messages]
    assert "canary" not in str(found)


@pytest.mark.parametrize("name", SERVER_MISTAKES)
def test_each_mistake_in_a_server_file(name: str, server: Replace, complaints: Complaints) -> None:
    """The same for a server file."""
    mistake = SERVER_MISTAKES[name]
    server(mistake.old, mistake.new)
    found = complaints()
    assert found == [f"roles/servers/shop.yaml:{message}" for message in mistake.messages]
    assert "canary" not in str(found)


def test_a_project_without_mistakes(root: Path) -> None:
    """A sound project gives its roles, servers, default settings and directories."""
    project = load_project(root)
    assert list(project.roles) == ["clerk"]
    assert list(project.servers) == ["shop"]
    assert project.settings.listen == "127.0.0.1:8700"
    assert (project.state, project.run) == (root / ".agents", root / ".agents/run")
    server = project.servers[ServerName("shop")]
    assert len(server.tools_of(None, "owner")) == 4
    assert len(server.tools_of(None, "agent")) == 3
    assert (
        project.places(RoleName("clerk")).fill("{state}/{role}/{x}{")
        == f"{root}/.agents/clerk/{{x}}{{"
    )


def test_problems_of_all_files_come_together(root: Path, role: Replace, server: Replace) -> None:
    """One run tells the mistakes of all files, in the order of files and lines."""
    (root / "agents.yaml").write_text("lisen: 1\n")
    (root / "roles/other.yaml").write_text("a: [\n")
    role("owner:", "ower:")
    server("owner:", "ower:")
    with pytest.raises(RoleFileError) as caught:
        load_project(root)
    places = [f"{each.path}:{each.line}" for each in caught.value.problems]
    assert places == [
        "agents.yaml:1",
        "roles/clerk.yaml:1",
        "roles/clerk.yaml:3",
        "roles/other.yaml:2",
        "roles/servers/shop.yaml:1",
        "roles/servers/shop.yaml:3",
    ]
    assert "Nothing was started" in str(caught.value.hint)


def test_a_broken_server_file_is_not_called_unknown(
    server: Replace, complaints: Complaints
) -> None:
    """A role whose server file has mistakes gets no complaint of its own."""
    server("owner: me@example.com\n", "")
    assert complaints() == ["roles/servers/shop.yaml:1:1: owner: is missing; whom to ask about it"]


def test_a_role_needs_at_least_one_tool(server: Replace, complaints: Complaints) -> None:
    """Bands without a tool in the role's mode promise nothing, and are refused."""
    server("class: READ}", "class: READ, modes: [owner]}")
    server("class: WRITE}", "class: WRITE, modes: [owner]}")
    assert complaints() == ["roles/clerk.yaml:5:8: bands: these bands have no tool in this mode"]


def test_owner_mode_needs_a_server_with_modes(
    role: Replace, server: Replace, complaints: Complaints
) -> None:
    """A mode that the server could not be told is refused."""
    server("modes: {variable: SHOP_MODE, from_band: pay}\n", "")
    server(", modes: [owner]", "")
    role("server: shop", "server: shop\nmode: owner")
    assert complaints() == [
        "roles/clerk.yaml:5:7: mode: the server shop does not know modes; remove this line"
    ]


def test_bands_that_are_not_cumulative_may_be_picked(
    role: Replace, server: Replace, complaints: Complaints
) -> None:
    """Where bands stand alone, any of them may be asked for."""
    server("  variable: SHOP_BANDS\n  full: full\n", "  cumulative: false\n")
    role("[look, order]", "[order]")
    assert complaints() == []


def test_secrets_decide_whether_a_wrapper_is_refused(
    role: Replace, server: Replace, complaints: Complaints
) -> None:
    """A shell may start a server that gets no secret."""
    server('["{python}", -m, shop]', "[/bin/sh, -c, shop]")
    server('  secrets: {SHOP_TOKEN: "file:{state}/shop/token"}\n', "")
    role("secrets:\n  SHOP_TOKEN: env:SHOP_TOKEN\n", "")
    assert complaints() == []


def test_no_roles_at_all(root: Path, complaints: Complaints) -> None:
    """A directory without roles says how to get some."""
    (root / "roles/clerk.yaml").unlink()
    assert complaints() == ["roles: no role file is here; run `agents init`"]
    (root / "roles/servers/shop.yaml").unlink()
    (root / "roles/servers").rmdir()
    (root / "roles").rmdir()
    assert complaints() == [
        "roles: there is no such directory; run `agents init`",
        "roles/servers: there is no such directory; run `agents init`",
    ]


def test_no_project_at_all(tmp_path: Path) -> None:
    """A directory that is not there is told by its name."""
    with pytest.raises(RoleFileError, match="nowhere: there is no such directory"):
        load_project(tmp_path / "nowhere")


def test_no_file_is_ignored_by_mistake(root: Path, complaints: Complaints) -> None:
    """A role file with another ending is an error; hidden files and notes are none."""
    (root / "roles/clerk.yaml").rename(root / "roles/clerk.yml")
    (root / "roles/.hidden.yaml").write_text("[")
    (root / "roles/README.md").write_text("x")
    assert complaints() == [
        "roles/clerk.yml: this file would be ignored; let its name end with .yaml"
    ]


def test_directories_that_others_may_write_are_refused(root: Path, complaints: Complaints) -> None:
    """Whoever may add a role file decides what runs."""
    (root / "roles").chmod(0o777)
    (root / "roles/clerk.yaml").chmod(0o666)
    assert complaints() == [
        "roles: everybody may write it, and whoever writes it decides what runs; chmod go-w roles",
        (
            "roles/clerk.yaml: everybody may write it, and whoever writes it decides what runs; "
            "chmod go-w roles/clerk.yaml"
        ),
    ]


def test_a_directory_that_cannot_be_listed(root: Path, complaints: Complaints) -> None:
    """A file in the place of a directory is told as such."""
    (root / "roles/servers/shop.yaml").unlink()
    (root / "roles/servers").rmdir()
    (root / "roles/servers").write_text("")
    assert complaints() == [
        "roles/clerk.yaml:4:9: server: no server file `shop`; known: none",
        "roles/servers: is no directory",
    ]


def test_roles_may_stand_elsewhere(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """`roles_dir` names another directory, and messages name its files in full."""
    other = tmp_path_factory.mktemp("elsewhere") / "team"
    (root / "roles").rename(other)
    assert list(load_project(root, other).roles) == ["clerk"]
    (other / "clerk.yaml").write_text("a: 1\n")
    with pytest.raises(RoleFileError, match=f"{other}/clerk.yaml:1:1: a: unknown key"):
        load_project(root, other)


def test_roles_are_selected_by_name(root: Path) -> None:
    """Without names all roles are meant; an unknown one is told with its likely meaning."""
    project = load_project(root)
    assert [role.role for role in select_roles(project)] == ["clerk"]
    assert [role.role for role in select_roles(project, ["clerk"])] == ["clerk"]
    with pytest.raises(SettingsError) as caught:
        select_roles(project, ["clark"])
    assert str(caught.value) == "there is no role `clark`"
    assert caught.value.hint == "did you mean `clerk`? known: clerk."


def test_no_value_ends_in_a_traceback(root: Path, role: Replace) -> None:
    """A value that pydantic refuses is in no part of the error, not even in its context."""
    canary = "can" + "ary-can" + "ary"
    role("env:SHOP_TOKEN", canary)
    role("SHOP_COLOUR: red", f"SHOP_COLOUR: [{canary}]")
    with pytest.raises(RoleFileError) as caught:
        load_project(root)
    error = caught.value
    assert len(error.problems) == 2
    assert canary not in "".join(traceback.format_exception(error)) + repr(error.problems)
    assert error.__context__ is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
ROLE_KEYS = [
    "role",
    "justification",
    "owner",
    "server",
    "bands",
    "mode",
    "env",
    "secrets",
    "restart",
]
SERVER_KEYS = ["server", "launch", "bands", "modes", "tools", "probe", "stop", "bootstrap", "era"]


@given(
    st.dictionaries(st.sampled_from(ROLE_KEYS), JSON, max_size=9),
    st.dictionaries(st.sampled_from(SERVER_KEYS), JSON, max_size=9),
)
def test_any_content_is_a_model_or_a_role_file_error(
    role_content: dict[str, object], server_content: dict[str, object]
) -> None:
    """Whatever stands under the right keys, nothing but problems with places comes out."""
    for model, content in ((Role, role_content), (Server, server_content)):
        problems: tuple[FileProblem, ...] = ()
        try:
            document = parse_yaml(json.dumps(content).encode(), "f")  # every JSON text is YAML
            check(model, document)
        except RoleFileError as error:
            problems = error.problems
        assert all(problem.line for problem in problems if problem.field)


def test_root_of_a_relative_path(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative directory becomes absolute, so that a later change of directory does no harm."""
    monkeypatch.chdir(root)
    assert load_project(Path()).root == Path(os.path.realpath(root))
