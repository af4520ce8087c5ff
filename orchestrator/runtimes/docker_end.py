"""How a container is ended: asked, waited for, killed, removed."""

import os
from datetime import timedelta
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Final

import anyio

from orchestrator.errors import ContainerEngineError
from orchestrator.runtimes.docker_answers import Found
from orchestrator.runtimes.docker_container import WORKLOAD
from orchestrator.runtimes.docker_engine import Engine

_KILL_SECONDS: Final = 10.0


async def end(engine: Engine, there: Found, grace: timedelta) -> None:
    """Ask a container to end, wait, kill it, and remove it.

    Raises:
        ContainerEngineError: The engine cannot be asked, or the container does not end.
    """
    if there.state.running and there.state.pid:
        try:
            process = os.pidfd_open(there.state.pid)
        except ProcessLookupError:
            process = None
        if process is not None:
            try:
                await _quit(engine, there, process, grace.total_seconds())
            finally:
                os.close(process)
    await engine.ask(lambda client: client.remove(there.id))


async def _quit(engine: Engine, there: Found, process: int, seconds: float) -> None:
    # The first process of a container does not even notice what it has no handler for.
    if seconds > 0 and _heeds(there.state.pid, SIGTERM):
        await engine.ask(lambda client: client.kill(there.id, SIGTERM))
        with anyio.move_on_after(seconds):
            await anyio.wait_readable(process)
            return
    await engine.ask(lambda client: client.kill(there.id, SIGKILL))
    with anyio.move_on_after(_KILL_SECONDS):
        await anyio.wait_readable(process)
        return
    raise ContainerEngineError(f"{there.labels.get(WORKLOAD)} does not end, not even killed")


def _heeds(pid: int, number: int) -> bool:
    """Tell whether a process catches a signal; False without a process."""
    try:
        text = Path(f"/proc/{pid}/status").read_text("utf-8", "replace")
    except OSError:
        return False
    line = next((line for line in text.splitlines() if line.startswith("SigCgt:")), "SigCgt: 0")
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)
