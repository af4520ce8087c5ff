"""How a container comes to wait for its launch; of one that does not, nothing stays."""

from contextlib import suppress
from functools import partial
from typing import final

import anyio
import anyio.to_thread

from orchestrator.errors import ContainerError, RuntimeUnavailableError
from orchestrator.model.container import ContainerSpec
from orchestrator.model.names import WorkloadName
from orchestrator.model.workload import WorkloadSpec
from orchestrator.runtimes.docker_answers import Found, Image
from orchestrator.runtimes.docker_container import (
    PROJECT,
    VERSION,
    configuration,
    container_name,
    labels,
    version_of,
)
from orchestrator.runtimes.docker_end import end
from orchestrator.runtimes.docker_engine import Engine
from orchestrator.runtimes.docker_files import DockerFiles, keep_directory
from orchestrator.runtimes.docker_images import Images
from orchestrator.runtimes.docker_network import DockerNetworks
from orchestrator.runtimes.docker_running import Register, Running
from orchestrator.runtimes.docker_seats import require_here, seat_in_memory
from orchestrator.runtimes.users import is_root


@final
class Starter:
    """Starts containers of one project."""

    def __init__(
        self,
        engine: Engine,
        files: DockerFiles,
        networks: DockerNetworks,
        register: Register,
        turn: anyio.Lock,
    ) -> None:
        """Keep what is needed.

        Args:
            engine: The engine, once somebody chose it.
            files: The places that containers see.
            networks: Their networks.
            register: Is told which of them runs.
            turn: Held by whoever makes or removes networks.
        """
        self._engine = engine
        self._files = files
        self._networks = networks
        self._register = register
        self._turn = turn
        self._images = Images(engine)

    async def start(self, spec: WorkloadSpec, container: ContainerSpec) -> tuple[str, ...]:
        """Have a container wait for its launch.

        Returns:
            The ids of all proxies, where it needs a network.

        Raises:
            ContainerEngineError: The engine cannot be asked.
            ContainerError: There can be no such container; nothing is left of the attempt.
        """
        name = container_name(self._files.project, spec.name)
        image = await self._images.find(container)
        program = spec.argv or image.program
        if not program:
            raise ContainerError(
                f"the image {container.image} names no program",
                hint="Name one under `container: command:` of the server.",
            )
        serves_socket = spec.http is not None and spec.http.listen == "socket"
        serves_port = spec.http is not None and not serves_socket
        has_network = serves_port or bool(container.egress)
        places = self._files.places(spec.name, spec.role, serves_socket=serves_socket)
        made = configuration(
            self._files.project,
            spec,
            container,
            places,
            image=image.id,
            program=program,
            network=self._networks.name(spec.role) if has_network else "none",
            volumes=image.volumes,
            # Without root its socket is another user's; our group, which is its directory's, has
            # to reach it.
            umask="077" if is_root() or not serves_socket else "007",
        )
        there = await self._engine.ask(lambda client: client.find(name))
        if there is not None:
            _require_own(there, self._files.project, name)
            # Its files may have been deleted under it.
            is_same = there.labels.get(VERSION) == version_of(made) and self._files.knows(spec.name)
            if is_same and await self._register.look(spec.name, there.id) is not None:
                return ()
            await end(self._engine, there, spec.stop.grace)
        await self._check_user(spec, container, image, name)
        await anyio.to_thread.run_sync(self._files.prepare, spec.name, places)
        begun: list[str] = []
        try:
            async with self._turn:
                if has_network:
                    prepare = partial(self._networks.prepare, spec.role, container)
                    _ = await self._engine.ask(prepare)
                begun.append(await self._engine.ask(lambda client: client.create(name, made)))
            running = await self._begin(spec.name, name, begun[0])
            require_here(running.pid, self._files.seat(spec.name))
            if places.serves_socket and not places.http:
                await seat_in_memory(self._engine, self._files, spec.name, running)
            if has_network:
                await self._engine.ask(lambda _: self._networks.prove(spec.role, running.pid))
                return await self._engine.ask(self._networks.revive)
        except BaseException:
            with anyio.CancelScope(shield=True), suppress(RuntimeUnavailableError):
                for each in begun:  # by id: the name may be somebody else's
                    await self._engine.ask(lambda client, each=each: client.remove(each))
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._files.forget, spec.name)
            raise
        return ()

    async def _begin(self, workload: WorkloadName, name: str, identifier: str) -> Running:
        """Start a container."""
        await self._engine.ask(lambda client: client.start(identifier, name))
        running = await self._register.look(workload, identifier)
        if running is None:
            raise ContainerError(
                f"the container of {workload} ended at once", hint="See the log of its role."
            )
        return running

    async def _check_user(
        self, spec: WorkloadSpec, container: ContainerSpec, image: Image, name: str
    ) -> None:
        """Make sure that the image has a shell and the user, who can write what it keeps."""
        mine = labels(self._files.project, spec.name, spec.role)
        user = await self._images.user(container, image, name, mine)
        for place in container.keep:
            await anyio.to_thread.run_sync(keep_directory, place, user, container.user)


def need_container(spec: WorkloadSpec) -> ContainerSpec:
    """Tell a workload's container, which it has to have."""
    if spec.container is None:
        raise AssertionError(f"{spec.name} is no container")
    return spec.container


def is_own(found: Found, project: str) -> bool:
    """Tell whether a container belongs to a project."""
    return found.labels.get(PROJECT) == project


def _require_own(found: Found, project: str, name: str) -> None:
    if not is_own(found, project):
        raise ContainerError(
            f"a container of somebody else is called {name}",
            hint="Rename or remove it. Nothing of it was touched.",
        )
