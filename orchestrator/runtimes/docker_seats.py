"""That a container's places are the ones that are meant here, and where the engine made one."""

from pathlib import Path

from orchestrator.errors import ContainerError
from orchestrator.model.container import CHANNEL, HTTP_SEAT
from orchestrator.model.names import WorkloadName
from orchestrator.runtimes.docker_engine import Engine
from orchestrator.runtimes.docker_files import DockerFiles
from orchestrator.runtimes.docker_running import Running


def require_here(pid: int, outside: Path, inside: str = CHANNEL) -> None:
    """Make sure that the engine means the same process and the same directories as this machine.

    Args:
        pid: The container's first process, as the engine counts.
        outside: A directory here.
        inside: Where the container has it.

    Raises:
        ContainerError: The engine counts processes or has mounts by itself, as one without root.
    """
    try:
        its, ours = Path(f"/proc/{pid}/root{inside}").stat(), outside.stat()
    except PermissionError:
        return  # of another user's process nobody but root sees this
    except OSError:
        is_same = not Path(f"/proc/{pid}").exists()  # it ended, as is noticed elsewhere
    else:
        is_same = (its.st_dev, its.st_ino) == (ours.st_dev, ours.st_ino)
    if not is_same:
        raise ContainerError(
            f"process {pid} here is not the container's that the engine means",
            hint="Run Bandmaster where the engine runs; one without root is not supported.",
        )


async def seat_in_memory(
    engine: Engine, files: DockerFiles, name: WorkloadName, running: Running
) -> None:
    """Find the place for a server's socket that the engine made, and have our way lead there.

    Raises:
        ContainerError: It is not where this machine could reach it.
    """
    found = await engine.ask(lambda client: client.find(running.container))
    for mount in () if found is None else found.mounts:
        if mount.inside == HTTP_SEAT:
            require_here(running.pid, Path(mount.outside), HTTP_SEAT)
            files.link_http(name, mount.outside)
            return
    raise ContainerError(
        f"the container of {name} has no place for its socket", hint="See the engine's log."
    )
