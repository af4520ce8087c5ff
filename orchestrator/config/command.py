"""Finds the program that starts a server, once, before anything runs."""

import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

from orchestrator.config.launchers import refused_launcher
from orchestrator.config.project import Project
from orchestrator.config.yamlfile import Loc
from orchestrator.errors import RoleFileError
from orchestrator.files import script_of, who_may_replace
from orchestrator.model.role import Role
from orchestrator.model.server import Server

_PROGRAM: Loc = ("launch", "command", 0)


def resolve_command(
    server: Server, role: Role | None, project: Project, path: str | None = None
) -> tuple[str, ...]:
    """Fill in a server's command and find its program.

    Args:
        server: The server.
        role: The role that it will serve, or None for a bootstrap.
        project: Where the files are, for placeholders and for messages.
        path: Directories to look in, as in `PATH`; this process's own by default. The
            directory of the running Python comes first.

    Returns:
        The program as an absolute path, then the arguments.

    Raises:
        RoleFileError: There is no such program, or none that may be started.
    """
    places = project.places(role.role if role else None)
    if server.launch.command is None:
        raise AssertionError("a server without a command was let through")
    program, *arguments = (places.fill(word) for word in server.launch.command)
    found = _find(program, project.root, os.environ.get("PATH", "") if path is None else path)
    if found is None:
        _refuse(
            project,
            server,
            f"the program {program} is not installed",
            f"install {server.source}, or name the program by its whole path",
        )
    has_secrets = bool(role.secrets if role else server.bootstrap and server.bootstrap.secrets)
    # Once more, now that the program's true name is known: a link may have hidden it.
    for name in (found, str(Path(found).resolve())):
        if refused := refused_launcher((name, *arguments), has_secrets=has_secrets):
            _refuse(project, server, *refused)
    directory = Path(places.fill(server.launch.directory or "/"))
    for what in (Path(found), script_of((found, *arguments), directory)):
        # What is not there shows when it is started.
        if what is None or not what.exists():
            continue
        if replacer := who_may_replace(what):
            writer, place = replacer
            kind = "program" if str(what) == found else "script"
            inside = "" if place == what else f"{place}, with "
            _refuse(
                project,
                server,
                f"{writer} may write {inside}the {kind} {what}, "
                "and it would run with this environment",
                f"chmod go-w {place}",
            )
    return (found, *arguments)


def _find(program: str, root: Path, path: str) -> str | None:
    if "/" in program:
        # Not Path.resolve: a virtual environment's `python` is a link that must stay one.
        places = [os.path.normpath(root / program)]
    else:
        folders = [str(Path(sys.executable).parent), *path.split(os.pathsep)]
        places = [f"{folder}/{program}" for folder in folders if folder.startswith("/")]
    return next((place for place in places if shutil.which(place)), None)


def _refuse(project: Project, server: Server, problem: str, expected: str) -> NoReturn:
    document = project.server_files[server.server]
    raise RoleFileError((document.problem(_PROGRAM, problem, expected),))
