"""Finding the program that starts a server."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.config.command import resolve_command
from orchestrator.config.launchers import refused_launcher
from orchestrator.config.project import load_project
from orchestrator.errors import RoleFileError
from orchestrator.model.names import RoleName, ServerName

Replace = Callable[[str, str], None]
Resolve = Callable[..., tuple[str, ...]]


@pytest.fixture
def resolve(root: Path) -> Resolve:
    """Resolve the command of the project's one server."""

    def run(path: str | None = None, *, bootstrap: bool = False) -> tuple[str, ...]:
        project = load_project(root)
        role = None if bootstrap else project.roles[RoleName("clerk")]
        return resolve_command(project.servers[ServerName("shop")], role, project, path)

    return run


def make_program(path: Path, mode: int = 0o755) -> Path:
    """Write a program that does nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


def test_placeholders_are_filled_in(root: Path, server: Replace, resolve: Resolve) -> None:
    """The running Python is kept as it is named, so that a virtual environment stays one."""
    server("-m, shop]", '-m, shop, "{project}|{state}|{role}"]')
    assert resolve() == (sys.executable, "-m", "shop", f"{root}|{root}/.agents|clerk")
    assert resolve(bootstrap=True)[-1] == f"{root}|{root}/.agents|"


def test_a_path_is_taken_from_the_project(root: Path, server: Replace, resolve: Resolve) -> None:
    """A program with a slash in its name stands in the project, wherever we were started."""
    server('"{python}", -m, shop', "bin/shop")
    program = make_program(root / "bin/shop")
    assert resolve() == (str(program),)


def test_a_name_is_looked_up_beside_python_first(
    root: Path, server: Replace, resolve: Resolve
) -> None:
    """A bare name is found beside the running Python, then in the absolute parts of PATH."""
    server('"{python}", -m, shop', Path(sys.executable).name)
    make_program(root / "bin/shop")
    make_program(root / "bin" / Path(sys.executable).name)
    assert resolve(str(root / "bin")) == (sys.executable,)
    server(f"[{Path(sys.executable).name}]", "[shop]")
    assert resolve(f"bin:.::{root}/bin") == (str(root / "bin/shop"),)


@pytest.mark.parametrize("mode", [None, 0o644])
def test_a_program_that_is_missing_or_cannot_be_started(
    root: Path, server: Replace, resolve: Resolve, mode: int | None
) -> None:
    """The message points at the command and tells what to install."""
    server('"{python}", -m, shop', "shop")
    if mode:
        make_program(root / "bin/shop", mode)
    with pytest.raises(RoleFileError) as caught:
        resolve(str(root / "bin"))
    assert str(caught.value) == (
        "roles/servers/shop.yaml:6:13: launch.command[0]: the program shop is not installed; "
        "install package shop 1.0, or name the program by its whole path"
    )


def test_a_program_that_others_may_write(root: Path, server: Replace, resolve: Resolve) -> None:
    """Whoever can write the program would run with the role's secrets."""
    server('"{python}", -m, shop', "bin/shop")
    make_program(root / "bin/shop", 0o777)
    with pytest.raises(RoleFileError, match=r"everybody may write the program .*chmod go-w"):
        resolve()


def test_a_program_whose_directories_others_may_write(
    root: Path, server: Replace, resolve: Resolve
) -> None:
    """Nor may anybody else put another program or directory in its place."""
    server('"{python}", -m, shop', "bin/inside/shop")
    make_program(root / "bin/inside/shop")
    assert resolve() == (f"{root}/bin/inside/shop",)
    (root / "bin").chmod(0o777)
    with pytest.raises(RoleFileError, match=rf"everybody may write {root}/bin, with the program"):
        resolve()
    (root / "bin").chmod(0o1777)
    assert resolve() == (f"{root}/bin/inside/shop",)


def test_a_script_that_others_may_write(root: Path, server: Replace, resolve: Resolve) -> None:
    """What an interpreter is told to run is as much the server as a program is."""
    server("-m, shop", '-I, "{project}/shop.py"')
    assert resolve()[-1] == f"{root}/shop.py"
    make_program(root / "shop.py", 0o666)
    with pytest.raises(RoleFileError, match=r"everybody may write the script .*chmod go-w"):
        resolve()


def test_a_link_does_not_hide_a_launcher(root: Path, server: Replace, resolve: Resolve) -> None:
    """A program is judged by the name that it has in truth as well."""
    server('"{python}", -m, shop', "bin/shop")
    npx = make_program(root / "tools/npx")
    (root / "bin").mkdir()
    (root / "bin/shop").symlink_to(npx)
    with pytest.raises(RoleFileError, match="npx fetches code when it starts"):
        resolve()


@pytest.mark.parametrize(
    "command",
    [
        *["npx -y x", "uvx x", "npm exec x", "pnpm dlx x", "yarn dlx x", "bun x x", "pipx run x"],
        *["uv tool run x", "uv run x", "deno run https://x", "/usr/bin/npx x", "npm --yes exec x"],
    ],
)
def test_programs_that_fetch_are_always_refused(command: str) -> None:
    """What fetches code at its start is refused even without secrets."""
    assert refused_launcher(command.split(), has_secrets=False)


@pytest.mark.parametrize(
    "command", ["sh -c x", "bash -e -c x", "env A=b x", "docker run x", "podman run x", "sudo x"]
)
def test_programs_that_hide_are_refused_with_secrets(command: str) -> None:
    """What hides the program that runs is refused where there are secrets to take."""
    assert refused_launcher(command.split(), has_secrets=True)
    assert not refused_launcher(command.split(), has_secrets=False)


@pytest.mark.parametrize(
    "command", ["node server.js", "python -m x", "sh start.sh", "npm", "uv x.py"]
)
def test_plain_programs_are_fine(command: str) -> None:
    """An installed program, an interpreter with a script, and a script are all right."""
    assert not refused_launcher(command.split(), has_secrets=True)
