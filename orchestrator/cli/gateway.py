"""`agents gateway`: the gateway in the foreground, over servers that somebody else starts."""

import re
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Final

import anyio

from orchestrator.cli.agentsd import close_to_others, leaves, open_many
from orchestrator.cli.daemon_log import configure_log
from orchestrator.cli.project import check_project
from orchestrator.cli.wishes import need_port, write_wishes
from orchestrator.control.attach import attach
from orchestrator.control.state import StateFile
from orchestrator.errors import AgentsError, SettingsError
from orchestrator.files import hold_lock, make_private_directory, write_atomically
from orchestrator.model.desired import Desired, GatewaySettings
from orchestrator.model.names import RoleName
from orchestrator.model.settings import HOST_PATTERN, check_attach
from orchestrator.paths import Paths
from orchestrator.wiring.daemon import run_daemon

_LISTEN: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):([0-9]{1,5})")
_LAST_PORT: Final = 65_535


def gateway(
    project: Path | None,
    only: tuple[str, ...],
    *,
    listen: str | None,
    attached: tuple[str, ...],
    hosts: tuple[str, ...],
) -> None:
    """Serve roles until SIGTERM or Ctrl-C.

    Args:
        project: The project.
        only: The roles to serve; all without any.
        listen: Address to listen on, which other machines may reach; None for that of agents.yaml.
        attached: Further addresses of servers, as ROLE=URL.
        hosts: Further names under which the gateway is reached.

    Raises:
        RoleFileError: Files have mistakes; nothing was started.
        SettingsError: A place or an address cannot be used; nothing was started.
        LockHeldError: Another daemon or command has the state.
    """
    # The first process of a container is not ended by a signal that it does not handle.
    for number in (signal.SIGTERM, signal.SIGINT):
        _ = signal.signal(number, _leave)
    close_to_others()
    open_many()
    checked = check_project(project, None, only, attached=True)
    urls = {**checked.project.settings.attach, **dict(map(_attachment, attached))}
    wanted = attach(checked.desired, urls)
    settings = _listening(wanted.gateway, listen, hosts)
    paths, level = checked.paths, checked.project.settings.log_level
    _write_down(paths, wanted.model_copy(update={"gateway": settings}))
    configure_log(level, paths.daemon_log)
    failures: list[AgentsError] = []
    try:
        anyio.run(
            lambda: run_daemon(paths, attached=True),
            backend="asyncio",
            backend_options={"use_uvloop": True},
        )
    except* AgentsError as group:
        failures.extend(leaves(group))
    if failures:
        raise failures[0]


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def _attachment(text: str) -> tuple[RoleName, str]:
    """Read ROLE=URL.

    Raises:
        SettingsError: It is something else.
    """
    role, _, url = text.partition("=")
    try:
        return RoleName(role), check_attach(url)
    except ValueError as error:
        raise SettingsError(
            f"--attach {text}: {error}",
            hint="Example: --attach treasury=http://treasury-wallet:8080/mcp",
        ) from None


def _listening(
    known: GatewaySettings, listen: str | None, hosts: tuple[str, ...]
) -> GatewaySettings:
    """Put what the command line says in the place of what the files say.

    Raises:
        SettingsError: It is no address, or no host.
    """
    for host in hosts:
        if not re.fullmatch(HOST_PATTERN, host):
            raise SettingsError(
                f"--host {host} is no name of a host", hint="Example: --host gateway:8700"
            )
    update: dict[str, object] = {"hosts": (*known.hosts, *hosts)}
    if listen is not None:
        match = _LISTEN.fullmatch(listen)
        if not match or int(match[3]) > _LAST_PORT:
            raise SettingsError(
                f"--listen {listen} is no address of this machine with a port",
                hint="Example: --listen 0.0.0.0:8700",
            )
        update |= {"host": match[1] or match[2], "port": int(match[3])}
    return known.model_copy(update=update)


def _write_down(paths: Paths, wanted: Desired) -> None:
    """Make the places that the daemon needs, and write down what it has to serve."""
    for place in (paths.state, paths.run, paths.logs):
        make_private_directory(place)
    write_atomically(paths.state / ".gitignore", b"*\n")
    with hold_lock(paths.lock):
        state = StateFile(paths.control_state)
        need_port(wanted.gateway, state.state.port)
        write_wishes(state, wanted)
