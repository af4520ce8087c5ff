"""Which unix user each role runs as, and the making of those that are missing."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from orchestrator.cli.output import note
from orchestrator.config.project import Project
from orchestrator.control.desired import owner_of
from orchestrator.errors import FileProblem, RoleFileError, SettingsError
from orchestrator.model.desired import Desired
from orchestrator.model.issuers import WalletSuiteIssuer
from orchestrator.model.names import RoleName
from orchestrator.model.role import Role
from orchestrator.model.workload import WorkloadSpec
from orchestrator.paths import Paths
from orchestrator.runtimes.users import (
    Account,
    account_name,
    find_account,
    is_root,
    make_account,
    need_account,
    out_of_reach,
    shared_note,
)


def choose_users(project: Project) -> Mapping[str, str]:
    """Tell the user of each role and owner's instance: as files say, or as `--users` made it."""
    chosen = {str(name): role.user for name, role in project.roles.items() if role.user is not None}
    if is_root():
        for name, _ in _without_user(project):
            made = account_name(project.root, name)
            if find_account(made) is not None:
                chosen[name] = made
    return chosen


def make_users(project: Project, only: tuple[str, ...]) -> None:
    """Make a system user for each role whose file names none, and say so.

    Raises:
        SettingsError: This is not root, or one cannot be made.
    """
    if not is_root():
        raise SettingsError(
            "only root makes users, and starts instances as another user",
            hint="Start it as root, or leave --users out. Nothing was started.",
        )
    for name, role in _without_user(project):
        made = account_name(project.root, name)
        if (not only or role.role in only) and find_account(made) is None:
            account = make_account(made, f"Bandmaster role {role.role}")
            note(f"Made the system user {account.name} (uid {account.user}) for {name}.")
    for name, role in sorted(project.roles.items()):
        if role.user is None and _shares_files(project, role) and (not only or name in only):
            note(f"No user for {name}: instances of the server {role.server} share files.")


def _without_user(project: Project) -> Iterator[tuple[str, Role]]:
    """Tell what may have a user of its own and is not given one by a file, with its role."""
    issuers = project.settings.issuers
    for name, role in sorted(project.roles.items()):
        if _shares_files(project, role):
            continue
        if role.user is None and role.runtime == "process":
            yield name, role
        upstream = role.rotation.upstream
        issuer = issuers.get(upstream.issuer or "") if upstream is not None else None
        if isinstance(issuer, WalletSuiteIssuer) and issuer.user is None:
            yield owner_of(name), role


def check_users(project: Project, desired: Desired, paths: Paths) -> None:
    """Refuse users that instances cannot run as, before anything starts.

    Args:
        project: What the files say.
        desired: What should run.
        paths: The project's directories.

    Raises:
        RoleFileError: A file names such a user.
        SettingsError: A user cannot reach what its role needs.
    """
    problems = [
        problem
        for name in sorted(desired.roles)
        if (problem := _problem(project, project.roles[name])) is not None
    ]
    if problems:
        raise RoleFileError(tuple(problems))
    owners = desired.credentials.owners
    for role, spec in (*desired.roles.items(), *owners.items()):
        account = need_account(spec.user)
        if account is not None:
            _check_reach(role, account, spec, paths)
    for role, spec in owners.items():
        if spec.user and spec.user == desired.roles[role].user:
            raise SettingsError(
                f"{role}: its owner's instance would run as {spec.user}, the role's own user, who "
                "could read the owner's secrets",
                hint="Name another `user:` for the issuer in agents.yaml. Nothing was started.",
            )


def tell_shared(desired: Desired) -> None:
    """Say once what it means that roles share the user of everything else."""
    users = [spec.user for spec in desired.roles.values() if spec.container is None]
    if shared := shared_note(users):
        note(f"Note: {shared}.")


def _shares_files(project: Project, role: Role) -> bool:
    return project.servers[role.server].launch.shares_files


def _problem(project: Project, role: Role) -> FileProblem | None:
    if role.user is None:
        return None
    account, document = find_account(role.user), project.role_files[role.role]
    if account is None:
        return document.problem(
            ("user",), f"this machine has no user {role.user}",
            "make it, or remove this line: `agents up --users` makes one",
        )  # fmt: skip
    if not account.user or not account.group:
        return document.problem(("user",), "is root, or in its group", "name another user")
    if account.user != os.geteuid() and not is_root():
        return document.problem(
            ("user",), "only root starts instances as another user", "start as root, or remove it"
        )
    return None


def _check_reach(role: RoleName, account: Account, spec: WorkloadSpec, paths: Paths) -> None:
    """Find what would end the instance at once, or leave it without its own directories."""
    places = [(spec.argv[0], os.X_OK), (str(_around(paths.state)), os.X_OK)]
    if spec.http is not None and not paths.run.is_relative_to(paths.state):
        places.append((str(_around(paths.run)), os.X_OK))
    if not Path(spec.directory).is_relative_to(paths.state):
        places.append((spec.directory, os.X_OK))
    if bad := out_of_reach(account, places):
        raise SettingsError(
            f"{role}: the user {account.name} may not use {bad}{_behind(bad)}, or pass a directory "
            "on the way",
            hint="Put it where other users may pass, such as /opt or /srv, or open the way: "
            "`chmod o+x` each directory of that path. Nothing was started.",
        )


def _behind(place: str) -> str:
    """Tell where links lead, as their directories count."""
    real = str(Path(place).resolve())
    return f" (which is {real})" if real != place else ""


def _around(place: Path) -> Path:
    """Tell the nearest directory around one of ours, which itself is opened as far as needed."""
    return next(each for each in place.parents if each.exists())
