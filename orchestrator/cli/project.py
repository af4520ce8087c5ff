"""Reads and checks a whole project, and tells what it would run."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pydantic import BaseModel

from orchestrator.cli.places import find_root
from orchestrator.cli.users import choose_users
from orchestrator.config.command import resolve_command
from orchestrator.config.places import Places
from orchestrator.config.project import Project, load_project, select_roles
from orchestrator.config.settings import check_socket_paths
from orchestrator.control.desired import SYSTEM_PATH, desired
from orchestrator.errors import FileProblem, RoleFileError, SettingsError
from orchestrator.model.desired import BOOTSTRAP_ROLE, Desired, GatewaySettings
from orchestrator.model.issuers import WalletSuiteIssuer
from orchestrator.model.names import RoleName, ServerName
from orchestrator.model.role import Role
from orchestrator.model.secret import SecretRef, variables_of
from orchestrator.model.server import Server
from orchestrator.model.settings import parse_address
from orchestrator.paths import Paths


@dataclass(frozen=True, slots=True)
class Checked:
    """A project whose files passed every check.

    Attributes:
        project: What the files say.
        paths: Where the project keeps what.
        desired: What should run.
        variables: Names of the environment variables that secret references ask for.
    """

    project: Project
    paths: Paths
    desired: Desired
    variables: frozenset[str]


def check_project(
    given: Path | None, roles_dir: Path | None, only: tuple[str, ...], *, attached: bool = False
) -> Checked:
    """Read and check everything that the user wrote; nothing is started or changed.

    Args:
        given: The project's directory.
        roles_dir: The directory of its role files.
        only: The roles that are meant; all without any.
        attached: Whether somebody else starts their servers, whose programs need not be here.

    Raises:
        RoleFileError: Files have mistakes; all of them are named.
        SettingsError: A place cannot be used, or somebody else starts a role's server.
    """
    root = find_root(given)
    project = load_project(root, roles_dir)
    paths = Paths(root, project.state, project.run)
    roles = {role.role: role for role in select_roles(project, only)}
    if not attached and (foreign := sorted(project.settings.attach.keys() & roles.keys())):
        raise SettingsError(
            f"agents.yaml says under `attach:` that somebody else starts {', '.join(foreign)}",
            hint="`agents gateway` serves such roles; or take them out there.",
        )
    problems: list[FileProblem] = []
    argvs: dict[RoleName, tuple[str, ...]] = {}
    bootstrap_argvs: dict[ServerName, tuple[str, ...]] = {}
    for name, role in roles.items():
        server = project.servers[role.server]
        if attached:
            argvs[name] = bootstrap_argvs[role.server] = ("attached",)
            continue
        try:
            if role.runtime == "process":
                argvs[name] = resolve_command(server, role, project)
            if server.launch.command is not None and _has_short_lived(server, role, project):
                bootstrap_argvs[role.server] = resolve_command(server, None, project)
        except RoleFileError as error:
            problems.extend(error.problems)
    if problems:
        raise RoleFileError(tuple(dict.fromkeys(problems)))
    address = parse_address(project.settings.listen)
    wanted = desired(
        roles=roles,
        servers=project.servers,
        gateway=GatewaySettings(
            host=address.host,
            port=address.port,
            hosts=(*project.settings.hosts, *project.settings.auth.hosts),
            origins=project.settings.origins,
            auth=project.settings.auth,
        ),
        argvs=argvs,
        bootstrap_argvs=bootstrap_argvs,
        places=lambda name: Places(root, paths.state, name),
        baseline=lambda name: _baseline(paths, name),
        issuers=project.settings.issuers,
        vault=project.settings.vault,
        users=choose_users(project),
        stores=project.settings.stores,
        docker=project.settings.docker,
        notify=project.settings.notify,
        audit=project.settings.audit,
    )
    specs = [
        *wanted.roles.values(),
        *(one.spec for one in wanted.bootstraps.values()),
        *wanted.credentials.owners.values(),
    ]
    check_socket_paths(paths.run, [spec.name for spec in specs])
    variables = frozenset(
        name
        for spec in specs
        for reference in spec.secrets.values()
        for name in variables_of(reference)
    ) | frozenset(name for ref in _references(project.settings) for name in variables_of(ref))
    return Checked(project, paths, wanted, variables)


def _has_short_lived(server: Server, role: Role, project: Project) -> bool:
    """Tell whether a role needs instances that make something and end: always processes."""
    upstream = role.rotation.upstream
    issuer = project.settings.issuers.get(upstream.issuer or "") if upstream else None
    return server.bootstrap is not None or (
        role.runtime == "container" and isinstance(issuer, WalletSuiteIssuer)
    )


def _references(value: object) -> Iterator[SecretRef]:
    """Find every secret reference in settings, however deep."""
    match value:
        case SecretRef():
            yield value
        case BaseModel():
            for name in type(value).model_fields:
                yield from _references(cast("object", getattr(value, name)))
        case dict():
            for inner in cast("dict[str, object]", value).values():
                yield from _references(inner)
        case _:
            pass


def _baseline(paths: Paths, role: str) -> dict[str, str]:
    """Tell the variables that every instance has; nothing else of ours reaches it."""
    name = role or BOOTSTRAP_ROLE
    return {
        "HOME": str(paths.home_of(name)),
        "LANG": "C.UTF-8",
        "PATH": SYSTEM_PATH,
        "TMPDIR": str(paths.temporary_of(name)),
        "TZ": "UTC",
    }
