"""Runs workloads in containers of an engine such as Docker.

A started container is a seat: a shell in it waits for its environment, which comes over a FIFO,
and then becomes the server. So secrets reach the server's process and nothing else, and a crash of
the control plane at any point leaves a container that waits or one that serves, never two: its
name is its fence. Each launch has a container of its own; the engine restarts none.
"""

from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from datetime import timedelta
from typing import Final, TypeVar, final

import anyio
import anyio.to_thread
from pydantic import SecretStr
from typing_extensions import override

from orchestrator.errors import WorkloadStartError
from orchestrator.model.container import PORT
from orchestrator.model.names import SecretName, WorkloadName
from orchestrator.model.workload import EngineState, WorkloadExit, WorkloadSpec, WorkloadStatus
from orchestrator.runtimes.address import Address
from orchestrator.runtimes.base import FeedGap, Process, Runtime
from orchestrator.runtimes.docker_answers import Found
from orchestrator.runtimes.docker_client import DockerClient
from orchestrator.runtimes.docker_container import (
    PROJECT,
    WORKLOAD,
    container_name,
    environment,
    fill_inside,
)
from orchestrator.runtimes.docker_end import end
from orchestrator.runtimes.docker_engine import Engine
from orchestrator.runtimes.docker_events import Connected, Died, EventReader, Lost, Reminder
from orchestrator.runtimes.docker_files import DockerFiles
from orchestrator.runtimes.docker_network import DockerNetworks
from orchestrator.runtimes.docker_running import Register, Running
from orchestrator.runtimes.docker_start import Starter, is_own, need_container
from orchestrator.runtimes.engine import EngineFiles
from orchestrator.runtimes.identity import boot_id

T = TypeVar("T")

SEAT_SECONDS: Final = 10.0
STRAY_GRACE: Final = timedelta(seconds=5)
_LOOK_SECONDS: Final = 1.0
_STATES: Final[Mapping[str, EngineState]] = {
    "created": EngineState.STOPPED,
    "running": EngineState.RUNNING,
    "paused": EngineState.RUNNING,
    "restarting": EngineState.RUNNING,
    "removing": EngineState.STOPPING,
    "exited": EngineState.STOPPED,
    "dead": EngineState.FAILED,
}


@final
class DockerRuntime(Runtime):
    """The verbs, on one engine for containers; it is asked only if there ever was one."""

    def __init__(self, files: EngineFiles) -> None:
        """Keep the places; nothing is asked of the engine yet."""
        self._files = DockerFiles(files)
        self._networks = DockerNetworks(self._files.project)
        # Nobody makes a role's network while somebody else removes it.
        self._turn = anyio.Lock()
        self._proxies: set[str] = set()
        self._engine = Engine(self._files)
        self._register = Register(self._engine)
        self._starter = Starter(
            self._engine, self._files, self._networks, self._register, self._turn
        )
        self._trouble = ""

    @property
    def is_used(self) -> bool:
        """Whether this project has, or had, containers."""
        return self._engine.is_used

    def knows(self, name: WorkloadName) -> bool:
        """Tell whether a workload is a container, as far as that can be told without the engine."""
        return self._register.knows(name) or self._files.knows(name)

    @override
    def notes(self) -> tuple[str, ...]:
        lost = f"{self._trouble}; containers that run go on, none is started"
        return tuple(filter(None, (lost if self._trouble else "", self._networks.trouble)))

    async def guard(self) -> None:
        """Make sure that containers' networks are still closed; needs no engine."""
        await anyio.to_thread.run_sync(self._networks.keep_closed)

    @override
    async def observe(self) -> Mapping[WorkloadName, WorkloadStatus]:
        if not self.is_used:
            return {}
        listed = await self._ask(lambda client: client.list(f"{PROJECT}={self._files.project}"))
        found: dict[WorkloadName, WorkloadStatus] = {}
        for each in listed:
            name = WorkloadName(each.labels.get(WORKLOAD, ""))
            # One that was made of an image of ours bears its labels, and another name.
            if f"/{container_name(self._files.project, name)}" not in each.names:
                continue
            state = _STATES.get(each.state, EngineState.FAILED)
            # The list is an older one where the engine's disk is full; so each is asked about.
            running = await self._register.look(name, each.id)
            if running is None:
                if state is EngineState.RUNNING:
                    state = EngineState.STOPPED
                found[name] = WorkloadStatus(name=name, state=state)
                continue
            found[name] = WorkloadStatus(
                name=name,
                state=EngineState.RUNNING,
                pid=running.pid,
                waiting=self._files.is_waiting(name),
            )
        return found

    def remembered(self) -> Mapping[WorkloadName, WorkloadStatus]:
        """Tell which containers were seen and still run, without the engine."""
        return {
            name: WorkloadStatus(
                name=name,
                state=EngineState.RUNNING,
                pid=running.pid,
                waiting=self._files.is_waiting(name),
            )
            for name, running in self._register.alive().items()
        }

    @override
    async def start(self, spec: WorkloadSpec) -> None:
        """Have a container wait for its launch.

        Raises:
            ContainerEngineError: The engine cannot be asked.
            ContainerError: There can be no such container; nothing is left of the attempt.
        """
        container = need_container(spec)
        await self.choose(container.engine)
        self._proxies.update(await self._starter.start(spec, container))

    @override
    async def launch(self, spec: WorkloadSpec, secrets: Mapping[SecretName, SecretStr]) -> Process:
        if missing := sorted(spec.secrets.keys() - secrets.keys()):
            raise WorkloadStartError(f"no value for {', '.join(missing)}")
        running = self._register.known(spec.name)
        if running is None:
            there = await self._own(spec.name)
            running = None if there is None else await self._register.look(spec.name, there.id)
        if running is None:
            raise WorkloadStartError(f"the container of {spec.name} is not there, or ended at once")
        if not self._files.is_waiting(spec.name):
            raise WorkloadStartError(f"{spec.name} runs already, as process {running.pid}")
        container = need_container(spec)
        plain = self._networks.variables(container, spec.role)
        plain |= {str(name): fill_inside(value) for name, value in spec.env.items()}
        given = {str(name): secrets[name].get_secret_value() for name in spec.secrets}
        if both := sorted(plain.keys() & given.keys()):
            raise WorkloadStartError(f"{', '.join(both)} is both a plain variable and a secret")
        address = await self._address(spec, running)
        try:
            with anyio.fail_after(SEAT_SECONDS):
                await self._files.hand_over(spec.name, environment(plain | given))
        except TimeoutError as error:
            raise WorkloadStartError(
                f"the container of {spec.name} did not wait for its launch",
                hint=f"See `agents logs {spec.role}`.",
            ) from error
        directory = str(self._files.seat(spec.name))
        return Process(spec.name, running.pid, running.started, boot_id(), directory, address)

    @override
    async def signal(self, name: WorkloadName, number: int) -> None:
        there = await self._own(name)
        if there is not None and there.state.running:
            await self._ask(lambda client: client.kill(there.id, number))

    @override
    async def stop(self, name: WorkloadName, grace: timedelta) -> None:
        there = await self._own(name)
        if there is not None:
            await end(self._engine, there, grace)
        self._register.forget(name)
        # A server may have left as many files there as it liked.
        await anyio.to_thread.run_sync(self._files.forget, name)
        if self.is_used:
            async with self._turn:
                await self._ask(self._networks.clear)

    @override
    async def exits(self) -> AsyncGenerator[WorkloadExit | FeedGap]:
        """Follow the ends of containers.

        The first item is always a FeedGap. It ends with ContainerEngineError when the engine is
        gone.
        """
        reader = EventReader(self._engine.client(), self._files.project)
        reader.begin()
        try:
            while True:
                match await reader.next():
                    case Connected():
                        self._trouble = ""
                        self._register.forget_ended()
                        self._proxies.update(await self._ask(self._networks.revive))
                        yield FeedGap()
                    case Died(container) if container in self._proxies:
                        reader.remind(_LOOK_SECONDS)
                    case Reminder():
                        self._proxies.update(await self._ask(self._networks.revive))
                    case Died() as died:
                        if (exited := self._register.end_of(died)) is not None:
                            yield exited
                    case Lost(error):
                        self._trouble = str(error)
                        raise error
        finally:
            reader.close()

    @override
    async def sweep(self, keep: Collection[WorkloadName]) -> tuple[WorkloadName, ...]:
        """End containers that are ours and that nobody keeps."""
        swept: list[WorkloadName] = []
        for name in (await self.observe()).keys() - set(keep):
            await self.stop(name, STRAY_GRACE)
            swept.append(name)
        if self.is_used:
            async with self._turn:
                await self._ask(self._networks.clear)
        return tuple(sorted(swept))

    async def end_all(self) -> bool:
        """End every container of the project, and forget that there were any.

        Returns:
            Whether there was any.

        Raises:
            ContainerEngineError: The engine cannot be asked; nothing is forgotten then.
        """
        if not self.is_used:
            return False
        swept = await self.sweep(())
        self._files.forget_all()
        return bool(swept)

    async def end_lost(self, socket: str) -> int:
        """End every container of a project whose state was deleted under them.

        Returns:
            How many there were.

        Raises:
            ContainerEngineError: The engine cannot be asked.
        """
        client, mine = DockerClient(socket), f"{PROJECT}={self._files.project}"
        found = await anyio.to_thread.run_sync(client.list, mine)
        for each in found:
            await anyio.to_thread.run_sync(client.remove, each.id)
        await anyio.to_thread.run_sync(self._networks.clear, client)
        return len(found)

    async def choose(self, socket: str) -> None:
        """Take the engine that a workload asks for.

        Raises:
            ContainerEngineError: It cannot be asked.
            ContainerError: Containers of this project are on another one.
        """
        await self._engine.choose(socket, self._is_empty)

    # --- one container -----------------------------------------------------------------------

    async def _is_empty(self) -> bool:
        return not await self.observe()

    async def _address(self, spec: WorkloadSpec, running: Running) -> str:
        """Tell where a server serves HTTP; empty for one that does not."""
        if spec.http is None:
            return ""
        if spec.http.listen == "socket":
            return str(Address(spec.http.path, socket=str(self._files.socket(spec.name))))
        found = await self._ask(lambda client: client.find(running.container))
        endpoints = {} if found is None else found.settings.networks
        endpoint = endpoints.get(self._networks.name(spec.role))
        if endpoint is None or not endpoint.address:
            raise WorkloadStartError(f"the container of {spec.name} has no address")
        return str(Address(spec.http.path, port=PORT, host=endpoint.address))

    async def _own(self, name: WorkloadName) -> Found | None:
        """Find a workload's container; somebody else's of this name is none."""
        if not self.is_used:
            return None
        called = container_name(self._files.project, name)
        found = await self._ask(lambda client: client.find(called))
        return found if found is not None and is_own(found, self._files.project) else None

    async def _ask(self, question: Callable[[DockerClient], T]) -> T:
        return await self._engine.ask(question)
