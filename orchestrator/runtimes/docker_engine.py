"""The engine of a project's containers: which one it is, asked in threads of its own."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar, final

import anyio.to_thread

from orchestrator.errors import ContainerError
from orchestrator.runtimes.docker_client import DockerClient
from orchestrator.runtimes.docker_files import DockerFiles

T = TypeVar("T")

# Each takes a thread while the engine works; containers start four at a time as fast as at once.
_THREADS: Final = 8


@final
class Engine:
    """One engine at a time; nothing is asked before somebody needs it."""

    def __init__(self, files: DockerFiles) -> None:
        """Keep the places, in which its name is remembered."""
        self._files = files
        self._client: DockerClient | None = None
        self._limiter = anyio.CapacityLimiter(_THREADS)

    @property
    def is_used(self) -> bool:
        """Whether this project has, or had, containers."""
        return bool(self._files.engine())

    async def choose(self, socket: str, is_empty: Callable[[], Awaitable[bool]]) -> None:
        """Take the engine that a workload asks for.

        Args:
            socket: Its socket.
            is_empty: Tells whether the engine that was used so far has no container of ours.

        Raises:
            ContainerEngineError: It cannot be asked.
            ContainerError: Containers of this project are on another one.
        """
        known = self._files.engine()
        if known == socket:
            return
        if known and self._files.has_seats and not await is_empty():
            raise ContainerError(
                f"this project has containers on the engine at {known}, and `docker: socket:` "
                f"is {socket} now",
                hint="`agents down`, then `agents up`.",
            )
        client = DockerClient(socket)
        # One that was never reached is not remembered as one that may have containers.
        _ = await anyio.to_thread.run_sync(client.version, limiter=self._limiter)
        self._client = client
        self._files.set_engine(socket)

    def client(self) -> DockerClient:
        """Tell the client of the engine."""
        if self._client is None:
            self._client = DockerClient(self._files.engine())
        return self._client

    async def ask(self, question: Callable[[DockerClient], T]) -> T:
        """Ask the engine in a thread.

        Raises:
            ContainerEngineError: It cannot be asked.
        """
        return await anyio.to_thread.run_sync(question, self.client(), limiter=self._limiter)
