"""`agents up` and `agents restart`: start the engine or join it, and follow until settled."""

import gc
import os
import signal
import sys
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Final, cast

import anyio
from pydantic import SecretStr

from orchestrator.cli.agentsd import COMPLAINT, close_to_others
from orchestrator.cli.down import stop_everything
from orchestrator.cli.output import note, paint, paint_state, say, say_json
from orchestrator.cli.places import find_paths
from orchestrator.cli.project import Checked, check_project
from orchestrator.cli.status import Object, is_ready, render, roles_of
from orchestrator.cli.users import check_users, make_users, tell_shared
from orchestrator.cli.wishes import need_port, write_wishes
from orchestrator.control.admin_client import ask, is_listening
from orchestrator.control.plan import Remove, changes, plan
from orchestrator.control.state import StateFile, read_state
from orchestrator.errors import (
    ControlUnavailableError,
    LockHeldError,
    NotRunningError,
    SecretError,
    SecretNotFoundError,
    SecretStoreUnavailableError,
    SettingsError,
    WorkloadNotReadyError,
)
from orchestrator.files import hold_lock, make_private_directory, write_atomically
from orchestrator.model.names import RoleName, SecretName
from orchestrator.model.secret import ISSUED, SecretRef
from orchestrator.model.settings import check_attach
from orchestrator.paths import Paths
from orchestrator.runtimes.engine import end_ghosts
from orchestrator.runtimes.fence import end_orphan
from orchestrator.runtimes.variables import read_variables, write_variables
from orchestrator.secrets.resolve import SecretResolver
from orchestrator.wiring.engine import engine_of

CONTROL_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.01
GHOST_GRACE: Final = timedelta(seconds=20)
LOG_TAIL_BYTES: Final = 65_536
CONTROL_PROGRAM: Final = "agentsd"


def up(  # noqa: PLR0913  one for each option
    project: Path | None,
    roles_dir: Path | None,
    only: tuple[str, ...],
    *,
    detach: bool,
    dry_run: bool,
    users: bool,
    as_json: bool,
) -> None:
    """Run the project's roles.

    Args:
        project: The project's directory.
        roles_dir: The directory of its role files.
        only: The roles to run; all without any.
        detach: Whether to return as soon as all of them are ready.
        dry_run: Whether to tell only what would be done.
        users: Whether to make a unix user for each role that has none.
        as_json: Whether to print JSON.

    Raises:
        RoleFileError: Files have mistakes; nothing was started.
        SecretError: A secret is missing; nothing was started.
        SettingsError: A place or the port cannot be used; nothing was started.
        WorkloadNotReadyError: With `detach`: a role did not become ready; the others run.
    """
    close_to_others()  # secrets may stand in the environment of this shell
    checked = check_project(project, roles_dir, only)
    if dry_run:
        _tell_plan(checked, as_json=as_json)
        return
    if users:
        make_users(checked.project, only)
        checked = check_project(project, roles_dir, only)
    check_users(checked.project, checked.desired, checked.paths)
    if not as_json:
        tell_shared(checked.desired)
    _check_secrets(checked)
    joined, replies = _begin(checked, quiet=as_json)
    if detach:
        try:
            body = _show_until_settled(replies, quiet=as_json)
        except KeyboardInterrupt:
            note("\nLeft; it goes on starting. `agents down` stops it.")
            raise
        _tell_result(body, set(checked.desired.roles), as_json=as_json)
        return
    _stay(checked.paths, replies, joined=joined, as_json=as_json)


def _begin(checked: Checked, *, quiet: bool) -> tuple[bool, Iterator[Object]]:
    """Start the engine, or hand what should run to the one that is there."""
    engine = engine_of(checked.paths)
    try:
        running = anyio.run(engine.find)
        if running is not None:
            if not quiet:
                note(f"Already running here (engine {running}); joining it.")
                _tell_removals(checked)
            return True, _join(checked, running)
        _prepare(checked)
        _ = anyio.run(engine.start, _daemon_command(checked), _given(checked))
    except LockHeldError as error:
        raise LockHeldError(
            "another `agents` command is starting or stopping this project",
            hint="Wait a moment, then try again.",
        ) from error
    return False, _follow(checked.paths)


def _tell_removals(checked: Checked) -> None:
    """Say which roles will stop, as they are not among those to run."""
    actions = plan(checked.desired.roles, read_state(checked.paths.control_state).roles)
    gone = [action.role for action in actions if isinstance(action, Remove)]
    if gone:
        note(f"Stopping {', '.join(gone)}: not among the roles to run.")


def restart(project: Path | None, role: str, *, as_json: bool) -> None:
    """Replace a role's instance.

    Raises:
        NotRunningError: Nothing runs, or not this role.
        WorkloadNotReadyError: The new instance did not become ready.
    """
    _replace(project, {"op": "restart", "role": role}, role, as_json=as_json)


def attach(project: Path | None, role: str, url: str, *, as_json: bool) -> None:
    """Have the server at another address serve a role.

    Raises:
        NotRunningError: Nothing runs, or not this role.
        SettingsError: It is no address of a server.
        WorkloadNotReadyError: The other one did not become ready.
    """
    try:
        request: dict[str, object] = {"op": "attach", "role": role, "url": check_attach(url)}
    except ValueError as error:
        raise SettingsError(f"{url}: {error}") from None
    _replace(project, request, role, as_json=as_json)


def _replace(project: Path | None, request: dict[str, object], role: str, *, as_json: bool) -> None:
    paths = find_paths(project)
    replies = ask(paths.control_socket, request, patience=None)
    body = _show_until_settled(_to_the_end(replies), quiet=as_json)
    mine = next(one for one in roles_of(body) if one["role"] == role)
    if mine["state"] != "ready":
        raise WorkloadNotReadyError(f"{role}: {mine['detail']}", hint=str(mine["hint"]) or None)
    if as_json:
        say_json(mine)
    else:
        pid = "" if mine["pid"] is None else f", pid {mine['pid']}"
        say(f"{role} runs as generation {mine['generation']}{pid}.")


# Before anything starts.


def _tell_plan(checked: Checked, *, as_json: bool) -> None:
    current = read_state(checked.paths.control_state).roles
    actions = plan(checked.desired.roles, current)
    rows: list[dict[str, object]] = []
    for action in actions:
        row: dict[str, object] = {"action": action.verb, "role": action.role}
        if not isinstance(action, Remove):
            old = current.get(action.role)
            row["tools"] = len(action.spec.tools)
            row["changes"] = list(changes(old, action.spec)) if old else []
        rows.append(row)
    if as_json:
        say_json({"actions": rows})
        return
    for row in rows:
        changed = cast("list[str]", row.get("changes", []))
        say(f"{row['action']:8} {row['role']}" + (f"  ({', '.join(changed)})" if changed else ""))
    say("Nothing would change." if not rows else "Nothing was done.")


def _check_secrets(checked: Checked) -> None:
    """Refuse to start while a secret is missing that no bootstrap makes."""
    paths = checked.paths
    made = {path for one in checked.desired.bootstraps.values() for path in one.files}
    stores = checked.project.settings.stores
    resolver = SecretResolver(paths.root, paths.state, _given(checked), accounts=stores)
    errors: list[SecretError] = []
    for spec in checked.desired.roles.values():
        wanted: dict[SecretName, SecretRef] = {
            name: ref
            for name, ref in spec.secrets.items()
            if ref.scheme not in ISSUED
            and all(each.path not in made or Path(each.path).exists() for each in ref.chain())
        }
        try:
            _ = resolver.resolve_all(wanted)
        except SecretError as error:
            message = "\n".join(f"{spec.role}: {line}" for line in str(error).splitlines())
            errors.append(type(error)(message, hint=error.hint))
    if not errors:
        return
    missing = all(isinstance(error, SecretNotFoundError) for error in errors)
    kind = SecretNotFoundError if missing else SecretStoreUnavailableError
    hints = dict.fromkeys(error.hint for error in errors if error.hint)
    raise kind(
        "\n".join(str(error) for error in errors),
        hint="\n".join([*hints, "Nothing was started."]),
    )


def _given(checked: Checked) -> Mapping[str, SecretStr]:
    """Tell the variables of this shell that secret references ask for."""
    return {name: SecretStr(os.environ[name]) for name in checked.variables if name in os.environ}


def _prepare(checked: Checked) -> None:
    """Write down what should run, where nothing runs yet."""
    paths, wanted = checked.paths, checked.desired
    for place in (paths.state, paths.run, paths.logs):
        make_private_directory(place)
    # Whatever the project's own file says, tokens and keys must not get into a repository.
    write_atomically(paths.state / ".gitignore", b"*\n")
    engine = engine_of(paths)
    # Its directory may have been deleted under a running engine.
    with hold_lock(engine.files.lock):
        if anyio.run(end_ghosts, engine.files, GHOST_GRACE):
            note("An engine whose files were deleted was still running; it was stopped first.")
        # A daemon whose engine was killed still serves, and holds the lock and the port.
        _ = end_orphan(engine.files.fence(CONTROL_PROGRAM))
    with hold_lock(paths.lock):
        state = StateFile(paths.control_state)
        need_port(wanted.gateway, state.state.port)
        write_wishes(state, wanted)


def _daemon_command(checked: Checked) -> list[str]:
    paths, level = checked.paths, checked.project.settings.log_level
    module = "orchestrator.cli.agentsd"
    places = [str(paths.root), str(paths.state), str(paths.run)]
    return [sys.executable, "-I", "-m", module, *places, level]


# While it starts.


def _join(checked: Checked, running: int) -> Iterator[Object]:
    """Hand what should run to the daemon that is there."""
    write_variables(running, {**read_variables(running), **_given(checked)})
    _await_control(checked.paths)
    request: dict[str, object] = {
        "op": "apply",
        "desired": checked.desired.model_dump(mode="json", by_alias=True),
    }
    return _to_the_end(ask(checked.paths.control_socket, request, patience=None))


def _follow(paths: Paths) -> Iterator[Object]:
    """Follow the daemon that is being started until nothing is on its way any more."""
    _await_control(paths)
    try:
        for body in ask(paths.control_socket, {"op": "status", "follow": True}):
            yield body
            gateway = cast("Object", body["gateway"])
            if all(role["settled"] for role in roles_of(body)) and (
                gateway["ready"] or gateway["detail"]
            ):
                return
    except ControlUnavailableError as error:
        complaint = _complaint(paths)
        if not complaint:
            raise
        raise ControlUnavailableError(
            f"the daemon ended: {complaint}", hint="See `agents logs --daemon`, then `agents down`."
        ) from error


def _await_control(paths: Paths) -> None:
    """Wait until the daemon takes orders."""
    end = time.monotonic() + CONTROL_SECONDS
    while not is_listening(paths.control_socket):
        if not paths.run.joinpath("supervisor.sock").exists():
            raise NotRunningError("it was stopped by another command in the meantime")
        if time.monotonic() > end:
            complaint = _complaint(paths)
            raise ControlUnavailableError(
                f"the daemon did not come up within {CONTROL_SECONDS:g} s"
                + (f": {complaint}" if complaint else ""),
                hint="See `agents logs --daemon`, then `agents down`.",
            )
        time.sleep(POLL_SECONDS)


def _complaint(paths: Paths) -> str:
    """Find the daemon's last words about why it ended, if it had any."""
    try:
        with paths.daemon_log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            _ = file.seek(max(0, size - LOG_TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    found = (line for line in reversed(lines) if line.startswith(COMPLAINT))
    return next(found, "").removeprefix(COMPLAINT)


def _to_the_end(replies: Generator[Object, None, object]) -> Iterator[Object]:
    """Give every status of a request, the result included."""
    result = yield from replies
    yield cast("Object", result)


def _show_until_settled(replies: Iterator[Object], *, quiet: bool) -> Object:
    """Print a line for every change of a role's state; return the last status."""
    seen: dict[object, object] = {}
    body: Object | None = None
    for body in replies:
        for role in roles_of(body):
            state = (role["state"], role["generation"], role["detail"])
            if seen.get(role["role"]) != state:
                seen[role["role"]] = state
                if not quiet:
                    _tell_change(role)
    if body is None:
        raise ControlUnavailableError("the daemon told nothing")
    return body


def _tell_change(role: Object) -> None:
    text = f"{role['role']:12} {paint_state(str(role['state']))}"
    if role["state"] == "ready":
        tools = cast("list[str]", role["tools"])
        pid = "" if role["pid"] is None else f"pid {role['pid']}, "
        text += paint(f"  {len(tools)} tools, {pid}{role['url']}", "dim")
        if role["detail"]:
            text += f"\n{'':12} {role['detail']}"
    elif role["detail"]:
        text += f"  {role['detail']}"
    note(text)


def _tell_result(body: Object, wanted: set[RoleName], *, as_json: bool) -> None:
    gateway = cast("Object", body["gateway"])
    if {role["role"] for role in roles_of(body)} != wanted:
        raise NotRunningError("it was stopped or changed by another command in the meantime")
    if as_json:
        say_json(body)
    if not gateway["ready"]:
        raise SettingsError(f"the gateway does not listen: {gateway['detail']}")
    if not is_ready(body):
        failed = [role for role in roles_of(body) if role["state"] != "ready"]
        raise WorkloadNotReadyError(
            "\n".join(f"{role['role']} is {role['state']}: {role['detail']}" for role in failed),
            hint="\n".join(dict.fromkeys(str(role["hint"]) for role in failed if role["hint"])),
        )
    if not as_json:
        say(f"Ready at {gateway['url']}. `agents status` shows it, `agents down` stops it.")


# In the foreground.


def _stay(paths: Paths, replies: Iterator[Object], *, joined: bool, as_json: bool) -> None:
    """Show the status until Ctrl-C; then stop everything, unless somebody else started it."""
    gc.enable()  # the command line goes without; from here on it may run for weeks
    try:
        with _signals_as_interrupts():
            _ = _show_until_settled(replies, quiet=as_json)
            _watch(paths, joined=joined, as_json=as_json)
    except (KeyboardInterrupt, OSError):
        pass  # an OSError is a terminal that is gone, while the table was drawn
    # What was started must be stopped all the same.
    with suppress(OSError):
        note("\nLeft; everything runs on. `agents down` stops it." if joined else "\nStopping ...")
    if not joined:
        _ = stop_everything(paths)
        with suppress(OSError):
            note("Everything is stopped.")


def _watch(paths: Paths, *, joined: bool, as_json: bool) -> None:
    while True:
        try:
            replies = ask(paths.control_socket, {"op": "status", "follow": True})
            if as_json:
                for body in replies:
                    say_json(body)
            elif sys.stdout.isatty():
                _draw(replies, "Ctrl-C leaves it." if joined else "Ctrl-C stops everything.")
            else:
                _ = _show_until_settled(replies, quiet=False)
        except ControlUnavailableError:
            _await_control(paths)  # the daemon was restarted


def _draw(replies: Iterator[Object], footer: str) -> None:
    from rich.live import Live
    from rich.text import Text

    with Live(refresh_per_second=4, transient=True) as live:
        for body in replies:
            text = "\n".join([*render(body), "", paint(footer, "dim")])
            live.update(Text.from_ansi(text))


@contextmanager
def _signals_as_interrupts() -> Generator[None]:
    """Let SIGTERM and SIGHUP end the foreground as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            _ = signal.signal(number, handler)
