"""The process engine of a project, and the gateway's address; light enough for any command."""

import socket
from pathlib import Path
from typing import Final, cast

from orchestrator.errors import ContainerEngineError
from orchestrator.model.desired import GatewaySettings
from orchestrator.paths import Paths
from orchestrator.runtimes.docker_runtime import DockerRuntime
from orchestrator.runtimes.engine import Engine, EngineFiles

# What listens on all addresses is reached on this one.
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing binds it here


def engine_of(paths: Paths) -> Engine:
    """Give the process engine of a project."""
    return Engine(EngineFiles(paths.run, paths.logs))


def is_lost(paths: Paths, socket: str) -> bool:
    """Tell whether containers may be there whose state was deleted."""
    return not paths.run.is_dir() and Path(socket).exists()


async def end_containers(paths: Paths, socket: str) -> bool:
    """End every container of a project, where it ever had one.

    Args:
        paths: Where the project keeps what.
        socket: The engine to ask if its state was deleted under it.

    Returns:
        Whether there was any.

    Raises:
        ContainerEngineError: Its engine cannot be asked.
    """
    runtime = DockerRuntime(EngineFiles(paths.run, paths.logs))
    if not is_lost(paths, socket):
        return await runtime.end_all()
    try:
        return bool(await runtime.end_lost(socket))
    except ContainerEngineError:
        return False  # nobody knows that there was any


def bind(listening: GatewaySettings, last_port: int = 0) -> socket.socket:
    """Bind and listen on the gateway's address.

    Args:
        listening: The address.
        last_port: The port to ask for first where any will do.

    Raises:
        OSError: The address cannot be had.
    """
    family = socket.AF_INET6 if ":" in listening.host else socket.AF_INET
    wanted = [listening.port] if listening.port else [last_port, 0]
    for port in wanted[:-1]:
        try:
            return _listen(family, listening.host, port)
        except OSError:
            continue
    return _listen(family, listening.host, wanted[-1])


def _listen(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    listener = socket.create_server((host, port), family=family, backlog=1024)
    # Accepted connections inherit it: a reply must not wait for the last one's acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def address_of(listener: socket.socket) -> tuple[str, int]:
    """Tell a listening socket's host, as it stands in a URL of this machine, and its port."""
    host, port = cast("tuple[str, int]", listener.getsockname()[:2])
    host = _EVERYWHERE.get(host, host)
    return (f"[{host}]" if ":" in host else host), port
