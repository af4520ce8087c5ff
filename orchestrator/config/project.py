"""Loads a project: settings, roles and servers, all checked before anything starts."""

import errno
import stat
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Generic, TypeVar, final

from orchestrator.config.check import check_launcher, check_role, check_server
from orchestrator.config.containercheck import check_kind, check_shared_files
from orchestrator.config.keepcheck import check_places
from orchestrator.config.places import Places
from orchestrator.config.problems import check, did_you_mean, quoted, sort_problems
from orchestrator.config.rotationcheck import (
    check_bootstrap_secrets,
    check_rotation,
    check_shared_secrets,
)
from orchestrator.config.settings import FILE_NAME, load_settings, run_directory, state_directory
from orchestrator.config.yamlfile import Document, read_yaml, why, writable
from orchestrator.errors import FileProblem, RoleFileError, SettingsError
from orchestrator.files import is_read_only, who_may_write
from orchestrator.model.base import Model
from orchestrator.model.names import RoleName, ServerName
from orchestrator.model.role import Role
from orchestrator.model.server import Server
from orchestrator.model.settings import Settings

_ModelT = TypeVar("_ModelT", bound=Model)


@final
@dataclass(frozen=True, slots=True)
class Project:
    """Everything that a person wrote, and it is all right.

    Attributes:
        root: The project's directory, absolute.
        settings: The settings, with defaults where the file says nothing.
        roles: Roles by name.
        servers: Servers by name.
        role_files: Where each role says what it says.
        server_files: The same for servers.
    """

    root: Path
    settings: Settings
    roles: Mapping[RoleName, Role]
    servers: Mapping[ServerName, Server]
    role_files: Mapping[RoleName, Document] = field(repr=False)
    server_files: Mapping[ServerName, Document] = field(repr=False)

    @property
    def state(self) -> Path:
        """Directory of everything that is kept; it may not exist yet."""
        return state_directory(self.root, self.settings)

    @property
    def run(self) -> Path:
        """Directory of the sockets; it may not exist yet."""
        return run_directory(self.root, self.settings)

    def places(self, role: RoleName | None = None) -> Places:
        """Tell what placeholders stand for, in the files of a role or in a bootstrap."""
        return Places(self.root, self.state, role or "")


def load_project(root: Path, roles_dir: Path | None = None) -> Project:
    """Read and check every file of a project; nothing is changed.

    Args:
        root: The project's directory.
        roles_dir: Directory of the role files, `roles` in the project by default.

    Raises:
        RoleFileError: Carries every problem of every file.
    """
    root = root.absolute()
    problems: list[FileProblem] = []
    settings = _load_settings(root, problems)
    folder = root / "roles" if roles_dir is None else roles_dir.absolute()
    servers = dict(_load_folder(root, folder / "servers", Server, problems))
    roles = dict(_load_folder(root, folder, Role, problems))
    if not roles and not problems:
        problems.append(_whole(_shown(root, folder), "no role file is here", "run `agents init`"))
    problems += _cross_check(roles, servers, settings)
    if settings is not None:
        problems += check_places(
            {stem: (each.model, each.document) for stem, each in servers.items() if each},
            root,
            state_directory(root, settings),
            run_directory(root, settings),
        )
    if problems or settings is None:
        raise RoleFileError(sort_problems(problems))
    good_roles = [loaded for loaded in roles.values() if loaded]
    good_servers = [loaded for loaded in servers.values() if loaded]
    return Project(
        root=root,
        settings=settings,
        roles=MappingProxyType({each.model.role: each.model for each in good_roles}),
        servers=MappingProxyType({each.model.server: each.model for each in good_servers}),
        role_files=MappingProxyType({each.model.role: each.document for each in good_roles}),
        server_files=MappingProxyType({each.model.server: each.document for each in good_servers}),
    )


def _load_settings(root: Path, problems: list[FileProblem]) -> Settings | None:
    try:
        _check_directory(root, str(root))
        return load_settings(root)
    except RoleFileError as error:
        problems.extend(error.problems)
        return None


def select_roles(project: Project, only: Sequence[str] = ()) -> tuple[Role, ...]:
    """Tell the roles that a command is about.

    Args:
        project: The project.
        only: Names given on the command line; none of them means all roles.

    Returns:
        The roles, in the order of their names.

    Raises:
        SettingsError: There is no such role.
    """
    for name in only:
        if name not in project.roles:
            raise SettingsError(
                f"there is no role {quoted(name)}",
                hint=f"{did_you_mean(name, project.roles)}.",
            )
    return tuple(role for name, role in sorted(project.roles.items()) if not only or name in only)


@dataclass(frozen=True, slots=True)
class _Loaded(Generic[_ModelT]):
    model: _ModelT
    document: Document


@contextmanager
def _collect(problems: list[FileProblem]) -> Generator[None]:
    try:
        yield
    except RoleFileError as error:
        problems.extend(error.problems)


def _load_folder(
    root: Path, folder: Path, model: type[_ModelT], problems: list[FileProblem]
) -> Iterator[tuple[str, _Loaded[_ModelT] | None]]:
    """Load every file of a directory, by its name without ending; None where it has mistakes."""
    paths: list[Path] = []
    with _collect(problems):
        _check_directory(folder, _shown(root, folder))
    with _collect(problems):
        paths = _files(folder, _shown(root, folder)) if folder.is_dir() else []
    for path in paths:
        shown = _shown(root, path)
        loaded: _Loaded[_ModelT] | None = None
        with _collect(problems):
            if path.suffix != ".yaml":
                raise RoleFileError(
                    (_whole(shown, "this file would be ignored", "let its name end with .yaml"),)
                )
            document = read_yaml(path, shown)
            loaded = _Loaded(check(model, document), document)
        yield path.stem, loaded


def _files(folder: Path, shown: str) -> list[Path]:
    try:
        return sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() in {".yaml", ".yml"} and not path.name.startswith(".")
        )
    except OSError as error:
        raise RoleFileError((_whole(shown, "cannot be read", why(error)),)) from error


def _check_directory(path: Path, shown: str) -> None:
    try:
        facts = path.stat()
    except OSError as error:
        hint = "run `agents init`" if error.errno == errno.ENOENT else why(error)
        raise RoleFileError((_whole(shown, "there is no such directory", hint),)) from error
    if not stat.S_ISDIR(facts.st_mode):
        raise RoleFileError((_whole(shown, "is no directory", ""),))
    if (writer := who_may_write(facts)) and not is_read_only(path):
        raise RoleFileError((writable(shown, writer),))


def _cross_check(
    roles: Mapping[str, _Loaded[Role] | None],
    servers: Mapping[str, _Loaded[Server] | None],
    settings: Settings | None,
) -> Iterator[FileProblem]:
    models = {stem: loaded and loaded.model for stem, loaded in servers.items()}
    for stem, role in roles.items():
        if role:
            yield from check_role(role.model, role.document, stem, models)
            server = models.get(role.model.server)
            yield from check_rotation(role.model, role.document, server, settings)
            yield from check_kind(role.model, role.document, server, settings)
    found = [(role.model, role.document) for role in roles.values() if role]
    yield from check_shared_secrets(found, settings)
    sharing = {stem for stem, server in models.items() if server and server.launch.shares_files}
    by_name = {stem: (role.model, role.document) for stem, role in roles.items() if role}
    yield from check_shared_files(by_name, sharing.__contains__)
    for stem, server in servers.items():
        if server:
            yield from check_server(server.model, server.document, stem)
            yield from check_bootstrap_secrets(server.model, server.document)
            users = [role.model for role in roles.values() if role and role.model.server == stem]
            yield from check_launcher(server.model, server.document, users)
    for agent in () if settings is None else settings.auth.agents:
        for name in agent.roles:
            if name not in roles:
                problem = f"there is no role {quoted(name)}"
                known = did_you_mean(name, roles)
                yield FileProblem(FILE_NAME, 0, 0, "auth.agents", problem, known)


def _shown(root: Path, path: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _whole(shown: str, problem: str, expected: str) -> FileProblem:
    return FileProblem(shown, 0, 0, "", problem, expected)
