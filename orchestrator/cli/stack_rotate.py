"""`agents rotate --compose`: other secrets for the servers of a stack, without a failed call.

A new generation of a role's secrets is a new set of files, and a server that reads them is started
beside the one that serves. The gateway attests it, sends all new calls to it, and lets the one
before finish what it has; only then does that one end, and its files with it.
"""

import os
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from orchestrator.cli.agentsd import close_to_others
from orchestrator.cli.output import note, say_json
from orchestrator.cli.places import find_root
from orchestrator.cli.stack import Stack, run
from orchestrator.cli.stack_bootstrap import bootstrap
from orchestrator.config.project import Project, load_project
from orchestrator.control.stack import secrets_of
from orchestrator.errors import AgentsError, SettingsError
from orchestrator.files import hold_lock, make_private_directory, write_atomically
from orchestrator.model.secret import ISSUED
from orchestrator.model.workload import WorkloadSpec
from orchestrator.secrets.resolve import SecretResolver

# The directories around it are closed to everybody else; the user in the container is another one.
_MODE: Final = 0o444


def rotate_token(compose: Path, roles: tuple[str, ...], agent: str) -> None:
    """Have the gateway of a stack replace the token of an agent; its output is ours."""
    stack = Stack(compose)
    words = ["agents", "rotate", "start", *roles, "--agent", agent]
    done = subprocess.run(  # noqa: S603 - no shell, and every word was checked
        stack.command("exec", "-T", stack.gateway, *words), check=False
    )
    sys.exit(done.returncode)


def rotate_stack(
    project: Path | None, compose: Path, only: tuple[str, ...], *, as_json: bool
) -> None:
    """Bring what the roles' references say now into a stack, running or not.

    Args:
        project: The project.
        compose: The stack's file.
        only: The roles; all of the stack without any.
        as_json: Whether a program reads.

    Raises:
        SecretError: A secret cannot be had; nothing was done.
        SettingsError: The stack cannot be used, or does not take it; it is as it was.
    """
    close_to_others()
    stack, loaded = Stack(compose), load_project(find_root(project))
    if foreign := sorted({*only} - stack.roles.keys()):
        raise SettingsError(
            f"{compose} has no role {foreign[0]}", hint=f"It has {', '.join(stack.roles)}."
        )
    chosen = only or tuple(stack.roles)
    for place in (stack.secrets.parent, stack.secrets, state := stack.secrets / "state"):
        make_private_directory(place)
    with hold_lock(stack.secrets / "lock"):
        told = _rotate_all(stack, loaded, chosen, state)
    if as_json:
        say_json({"stack": stack.name, "roles": told})
    for place in stack.taken():
        note(
            f"Another program has {place}, so {stack.gateway} would not start: write "
            f"{stack.port_variable}=PORT, a free one, into {stack.directory / '.env'}."
        )


def _rotate_all(
    stack: Stack, loaded: Project, chosen: Collection[str], state: Path
) -> dict[str, object]:
    wanted = secrets_of(loaded, tuple(stack.roles), state)
    resolver = _resolver(loaded, state)
    for one in wanted.bootstraps.values():
        if one.server in stack.bootstraps:
            bootstrap(stack, one, resolver)
    values = {role: _values(resolver, wanted.roles[role]) for role in sorted(wanted.roles)
              if role in chosen}  # fmt: skip
    return {role: _rotate(stack, role, secrets) for role, secrets in values.items()}


def _resolver(project: Project, state: Path) -> SecretResolver:
    given = {name: SecretStr(value) for name, value in os.environ.items()}
    return SecretResolver(project.root, state, given, accounts=project.settings.stores)


def _values(resolver: SecretResolver, spec: WorkloadSpec) -> Mapping[str, SecretStr]:
    """Look a role's secrets up.

    Raises:
        SecretError: One cannot be had.
        SettingsError: One is made by an issuer, who has no hold over a stack.
    """
    for name, reference in spec.secrets.items():
        if reference.scheme in ISSUED:
            raise SettingsError(
                f"{name} of {spec.role} is made by an issuer (`{reference.scheme}:`), and only the "
                "daemon of `agents up` makes, proves and ends what issuers make",
                hint="Run the role by `agents up`; or refer to a store in which somebody else "
                "keeps it, such as vault:// or aws-sm://, and rotate after each change there.",
            )
    return {str(name): value for name, value in resolver.resolve_all(spec.secrets).items()}


def _rotate(stack: Stack, role: str, secrets: Mapping[str, SecretStr]) -> dict[str, object]:
    """Give one role's server its secrets, if they are others.

    Whatever ends this in the middle, the next one goes on: the generation is written down before
    a server has it, and the files of those before go last.
    """
    old = stack.generation(role)
    one = stack.roles[role]
    place = stack.secrets / one.service
    found = {name: _read(_file(place, name, old)) for name in secrets}
    running = stack.containers(one.service)
    if found == {name: value.get_secret_value() for name, value in secrets.items()}:
        stale = [each for each in stack.containers(one.service, ended=True)
                 if _generation_of(each) != old]  # fmt: skip
        if not stale and not (running and _others(place, old)):
            _forget_others(place, old)
            note(f"{role}: nothing is new.")
            return {"generation": old, "changed": False}
        note(f"{role}: an earlier rotation did not come to its end; it goes on.")
        new = old
    else:
        new = old + 1 if running or None not in found.values() else old
        if new != old:
            stack.check_variable(role)
        make_private_directory(place)
        for name, value in secrets.items():
            path = _file(place, name, new)
            path.unlink(missing_ok=True)
            write_atomically(path, value.get_secret_value().encode(), mode=_MODE)
        if new == old:
            note(f"{role}: the files of its secrets are written.")
            return {"generation": new, "changed": True}
        stale = running
    try:
        _begin(stack, role, stale, new)
    except BaseException:
        if new != old:  # after its servers, which would not start again without them
            stack.set_generation(role, old)
            _forget_others(place, old)
        raise
    _end(stack, role, stale)
    _forget_others(place, new)
    note(f"{role}: generation {new} of its secrets is in use.")
    return {"generation": new, "changed": True}


def _begin(stack: Stack, role: str, before: Sequence[str], new: int) -> None:
    """Have a server with other secrets serve, beside those that did, if any does.

    Raises:
        SettingsError: It did not become ready; the one before serves on, with its own files.
    """
    one = stack.roles[role]
    stack.set_generation(role, new)
    running = stack.containers(one.service)
    if not running:
        return
    try:
        count = max(len(running), len({*running} & {*before}) + 1)
        beside = ("--no-deps", "--no-recreate", "--scale", f"{one.service}={count}")
        _ = stack.run("up", "-d", *beside, "--wait", one.service)
        fresh = next(each for each in stack.containers(one.service) if each not in before)
        name = run(["docker", "inspect", "-f", "{{.Name}}", fresh]).strip().lstrip("/")
        note(f"{role}: {name} runs beside the one that serves.")
        _ = _attach(stack, role, one.url.replace(f"//{one.service}:", f"//{name}:"))
    except BaseException as error:
        kept = {*running} & {*before}
        for each in {*stack.containers(one.service, ended=True)} - {*before} if kept else ():
            _ = run(["docker", "rm", "-f", each])
        if isinstance(error, AgentsError):
            error.hint = "The server before serves on, with the secrets that it has."
        elif kept:  # the gateway may have gone over to the other one
            with suppress(AgentsError):
                _attach(stack, role, one.url)
        raise


def _end(stack: Stack, role: str, before: Sequence[str]) -> None:
    """End the containers that served before, and go back to the service's own name."""
    for each in before:
        _ = run(["docker", "stop", each])
        _ = run(["docker", "rm", each])
    one = stack.roles[role]
    if stack.containers(one.service):  # whoever starts it anew gives its container another name
        _attach(stack, role, one.url)


def _generation_of(container: str) -> int:
    """Tell the generation of secrets with which a container was made."""
    label = '{{index .Config.Labels "bandmaster.generation"}}'
    text = run(["docker", "inspect", "-f", label, container]).strip()
    return int(text) if text.isdecimal() else 0


def _others(place: Path, generation: int) -> list[Path]:
    """Tell the files of other generations."""
    return [path for path in place.glob("*.g*") if path.suffix != f".g{generation}"]


def _forget_others(place: Path, generation: int) -> None:
    for path in _others(place, generation):
        path.unlink(missing_ok=True)


def _attach(stack: Stack, role: str, url: str) -> None:
    _ = stack.run("exec", "-T", stack.gateway, "agents", "attach", role, url)


def _file(place: Path, name: str, generation: int) -> Path:
    return place / f"{name}.g{generation}"


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        return None
