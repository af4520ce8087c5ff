"""`agents render compose`: files for Docker Compose, written from the role files."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from orchestrator.cli.output import note, say, say_json
from orchestrator.cli.places import find_root
from orchestrator.config.project import Project, load_project, select_roles
from orchestrator.control.stack import stack_of
from orchestrator.errors import SettingsError
from orchestrator.files import write_atomically
from orchestrator.render.compose import WHOLE, compose_file
from orchestrator.render.stack import GATEWAY_PORT

DIFFERS: Final = 2
IMAGE: Final = "bandmaster:local"
_SETTINGS: Final = "gateway/agents.yaml"
_IGNORED: Final = "# Written by `agents render compose`.\n/.env\n/secrets/\n"


def compose(
    project: Path | None,
    only: tuple[str, ...],
    *,
    out: Path | None,
    is_check: bool,
    as_json: bool,
) -> None:
    """Write the files for Compose; ends with 2 when `is_check` finds a difference.

    Args:
        project: The project.
        only: The roles whose files are written; all, and that of the whole stack, without any.
        out: Where; `compose` in the project by default.
        is_check: Whether files are only compared.
        as_json: Whether a program reads.

    Raises:
        RoleFileError: Files have mistakes; nothing was written.
        SettingsError: A role cannot run so; nothing was written.
    """
    loaded = load_project(find_root(project))
    place = (loaded.root / "compose" if out is None else out).absolute()
    write(compose_files(loaded, only, place), place, is_check=is_check, as_json=as_json)


def compose_files(project: Project, only: tuple[str, ...], place: Path) -> dict[str, str]:
    """Write the files for Compose, by name.

    Raises:
        SettingsError: A role cannot run so.
    """
    image = project.settings.docker.image or IMAGE
    names = sorted(project.roles)
    mounts = {_way(place, project.root / "roles"): "roles", f"./{_SETTINGS}": "agents.yaml"}
    whole = stack_of(project, (), name="bandmaster", image=image)
    files = {".gitignore": _IGNORED, _SETTINGS: whole.files["agents.yaml"]}
    if not only:
        files[f"{WHOLE}.yaml"] = compose_file(whole, WHOLE, GATEWAY_PORT, mounts)
    for role in select_roles(project, only):
        name = role.role
        if name in {WHOLE, "gateway"}:
            raise SettingsError(f"the file of the role {name} would be that of something else")
        stack = stack_of(project, (name,), name=f"bandmaster-{name}", image=image)
        port = GATEWAY_PORT + 1 + names.index(name)
        files[f"{name}.yaml"] = compose_file(stack, name, port, mounts)
    return files


def write(files: Mapping[str, str], place: Path, *, is_check: bool, as_json: bool) -> None:
    """Write files where they differ, or tell which do.

    Args:
        files: Their content by name.
        place: Where.
        is_check: Whether nothing is written; the exit status tells whether something would be.
        as_json: Whether a program reads.

    Raises:
        SettingsError: A file cannot be written.
    """
    differing = [name for name, text in files.items() if not _is_there(place / name, text)]
    try:
        for name in [] if is_check else differing:
            path = place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, files[name].encode(), mode=0o644)
    except OSError as error:
        raise SettingsError(f"{place} cannot be written: {error.strerror}") from error
    if as_json:
        say_json({"directory": str(place), "files": sorted(files),
                  "differs" if is_check else "written": sorted(differing)})  # fmt: skip
    else:
        for name in differing:
            say(f"{'differs' if is_check else 'written'}: {place / name}")
        if not differing:
            note("Everything is as it would be written.")
    if is_check and differing:
        sys.exit(DIFFERS)


def _is_there(path: Path, text: str) -> bool:
    try:
        return path.read_text("utf-8") == text
    except (OSError, UnicodeDecodeError):
        return False


def _way(place: Path, target: Path) -> str:
    """Write the way from one directory to another as Compose wants it."""
    way = os.path.relpath(target, place)
    return way if way.startswith(".") else f"./{way}"
