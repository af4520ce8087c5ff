"""Finds the project that a command is about."""

from pathlib import Path
from typing import Final

from orchestrator.errors import SettingsError
from orchestrator.paths import Paths

MARKS: Final = ("agents.yaml", "roles", ".agents")


def find_root(given: Path | None) -> Path:
    """Find the project directory: the given one, or the nearest one at or above this directory.

    Raises:
        SettingsError: The given one is no directory.
    """
    if given is not None:
        root = given.absolute()
        if not root.is_dir():
            raise SettingsError(f"{given} is no directory", hint="Name the project's directory.")
        return root
    here = Path.cwd()
    for place in (here, *here.parents):
        if (place / "agents.yaml").is_file() or (place / "roles" / "servers").is_dir():
            return place
    return here


def find_paths(given: Path | None) -> Paths:
    """Tell where the project keeps what, reading no more than `agents.yaml`.

    Raises:
        RoleFileError: `agents.yaml` has mistakes.
        SettingsError: The given one is no directory.
    """
    root = find_root(given)
    if not any((root / mark).exists() for mark in MARKS):
        raise SettingsError(
            f"{root} is no project: it has neither agents.yaml nor roles/",
            hint="Go to the project's directory, or name it with -C DIR.",
        )
    if not (root / "agents.yaml").exists():
        # The defaults, without the quarter of a second that reading settings costs.
        state = root / ".agents"
        return Paths(root, state, state / "run")
    from orchestrator.config.settings import (
        load_settings,
        run_directory,
        state_directory,
    )

    settings = load_settings(root)
    return Paths(root, state_directory(root, settings), run_directory(root, settings))
