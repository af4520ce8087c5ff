"""Reads `agents.yaml`, and tells where a project keeps what."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from orchestrator.config.check import check_settings
from orchestrator.config.problems import check
from orchestrator.config.rotationcheck import check_issuers
from orchestrator.config.sinkcheck import check_sinks
from orchestrator.config.yamlfile import read_yaml
from orchestrator.errors import RoleFileError, SettingsError
from orchestrator.model.names import WorkloadName
from orchestrator.model.settings import Settings

FILE_NAME = "agents.yaml"

# `sun_path` holds 108 bytes, the last one NUL. supervisord first binds `supervisor.sock.PID`.
_LONGEST_SOCKET_BYTES = 107
_LONGEST_SUPERVISOR_BYTES = 94
_MOST_GENERATIONS = 999_999


def load_settings(root: Path) -> Settings:
    """Read the settings of a project; without a file all of them have their defaults.

    Args:
        root: The project's directory, absolute.

    Raises:
        RoleFileError: The file has mistakes.
    """
    path = root / FILE_NAME
    if not os.path.lexists(path):
        return Settings()
    document = read_yaml(path, FILE_NAME)
    settings = check(Settings, document)
    problems = tuple(
        document.problem((key,), *problem)
        for key, place in (("state", settings.state), ("run", settings.run))
        if place is not None and (problem := _foreign_place(root, root / place))
    )
    problems += tuple(check_issuers(settings, document))
    problems += tuple(check_settings(settings, document))
    problems += tuple(check_sinks(settings, document, root))
    if problems:
        raise RoleFileError(problems)
    return settings


def _foreign_place(root: Path, place: Path) -> tuple[str, str] | None:
    """Tell why a directory must not become ours: its mode is set to 0700 when we start."""
    # Not Path.resolve: a link may point to where nothing is yet.
    path = Path(os.path.normpath(place))
    if root.is_relative_to(path):
        return "would close the project's own directory to others", "name one inside, or elsewhere"
    try:
        mode = path.stat().st_mode
    except OSError:
        return None
    if not stat.S_ISDIR(mode):
        return "is no directory", "name another place"
    if mode & stat.S_ISVTX:
        return "is a directory that many share", "name one of its own inside it"
    return None


def state_directory(root: Path, settings: Settings) -> Path:
    """Tell where the project keeps its state."""
    return Path(os.path.normpath(root / settings.state))


def run_directory(root: Path, settings: Settings) -> Path:
    """Tell where the project keeps its sockets."""
    if settings.run is None:
        return state_directory(root, settings) / "run"
    return Path(os.path.normpath(root / settings.run))


def check_socket_paths(run: Path, workloads: Iterable[WorkloadName] = ()) -> None:
    """Make sure that every socket's path is short enough for the system.

    Args:
        run: The directory of the sockets.
        workloads: The workloads that will have a seat in it.

    Raises:
        SettingsError: One is too long.
    """
    places = [(run / "supervisor.sock", _LONGEST_SUPERVISOR_BYTES)]
    places += [(run / "control.sock", _LONGEST_SOCKET_BYTES)]
    for name in workloads:
        stem = name.rpartition(".g")[0]
        seat = run / "seats" / f"{stem}.g{_MOST_GENERATIONS}" / "seat.sock"
        places.append((seat, _LONGEST_SOCKET_BYTES))
    for path, limit in places:
        length = len(os.fsencode(path))
        if length > limit:
            raise SettingsError(
                f"the socket {path} has a path of {length} bytes; the system allows {limit}",
                hint=f"Set `run:` in {FILE_NAME} to a short directory, "
                f"such as /run/user/{os.geteuid()}/{run.parent.parent.name or 'agents'}.",
            )
