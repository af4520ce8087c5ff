"""Runs workloads in containers of an engine such as Docker.

A started container is a seat: a shell in it waits for its environment, which comes over a FIFO,
and then becomes the server. So secrets reach the server's process and nothing else, and a crash of
the control plane at any point leaves a container that waits or one that serves, never two: its
name is its fence. Each launch has a container of its own; the engine restarts none.
"""

import os
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Final, TypeVar, final

import anyio
import anyio.to_thread
from pydantic import SecretStr
from typing_extensions import override

from orchestrator.errors import (
    ContainerEngineError,
    ContainerError,
    RuntimeUnavailableError,
    WorkloadStartError,
)
from orchestrator.model.base import JsonObject
from orchestrator.model.container import CHANNEL, PORT, ContainerSpec
from orchestrator.model.names import SecretName, WorkloadName
from orchestrator.model.workload import EngineState, WorkloadExit, WorkloadSpec, WorkloadStatus
from orchestrator.runtimes.address import Address
from orchestrator.runtimes.base import FeedGap, Process, Runtime
from orchestrator.runtimes.docker_client import DockerClient, Found, Image
from orchestrator.runtimes.docker_container import (
    PROJECT,
    SHELL,
    VERSION,
    WORKLOAD,
    configuration,
    container_name,
    environment,
    fill_inside,
    labels,
    version_of,
)
from orchestrator.runtimes.docker_events import Connected, Died, EventReader, Lost, Reminder
from orchestrator.runtimes.docker_files import DockerFiles, InsideUser, keep_directory, user_in
from orchestrator.runtimes.docker_network import DockerNetworks
from orchestrator.runtimes.engine import EngineFiles
from orchestrator.runtimes.identity import boot_id, is_alive, look_up
from orchestrator.runtimes.users import is_root

T = TypeVar("T")

SEAT_SECONDS: Final = 10.0
STRAY_GRACE: Final = timedelta(seconds=5)
_KILL_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 1.0
# Each takes a thread while the engine works; containers start four at a time as fast as at once.
_THREADS: Final = 8
_STATES: Final[Mapping[str, EngineState]] = {
    "created": EngineState.STOPPED,
    "running": EngineState.RUNNING,
    "paused": EngineState.RUNNING,
    "restarting": EngineState.RUNNING,
    "removing": EngineState.STOPPING,
    "exited": EngineState.STOPPED,
    "dead": EngineState.FAILED,
}


@dataclass(frozen=True, slots=True)
class _Running:
    """A container that was seen running.

    Attributes:
        container: Its id.
        pid: Its first process, as this machine counts.
        started: That process's start, so that no other one is taken for it.
    """

    container: str
    pid: int
    started: int

    @property
    def is_alive(self) -> bool:
        """Whether that process still runs."""
        return is_alive(self.pid, self.started, boot_id())


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
        self._client: DockerClient | None = None
        self._limiter = anyio.CapacityLimiter(_THREADS)
        self._running: dict[WorkloadName, _Running] = {}
        self._ids: dict[str, tuple[WorkloadName, _Running]] = {}
        self._users: dict[tuple[str, str], InsideUser] = {}
        self._trouble = ""

    @property
    def is_used(self) -> bool:
        """Whether this project has, or had, containers."""
        return bool(self._files.engine())

    def knows(self, name: WorkloadName) -> bool:
        """Tell whether a workload is a container, as far as that can be told without the engine."""
        return name in self._running or self._files.knows(name)

    @override
    def notes(self) -> tuple[str, ...]:
        if not self._trouble:
            return ()
        return (f"{self._trouble}; containers that run go on, none is started",)

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
            running = await self._look(name, each.id) if state is EngineState.RUNNING else None
            if running is None:
                if state is EngineState.RUNNING:
                    state = EngineState.STOPPED
                found[name] = WorkloadStatus(name=name, state=state)
                continue
            found[name] = WorkloadStatus(
                name=name, state=state, pid=running.pid, waiting=self._files.is_waiting(name)
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
            for name, running in self._running.items()
            if running.is_alive
        }

    @override
    async def start(self, spec: WorkloadSpec) -> None:
        """Have a container wait for its launch.

        Raises:
            ContainerEngineError: The engine cannot be asked.
            ContainerError: There can be no such container; nothing is left of the attempt.
        """
        container = _need(spec)
        await self.choose(container.engine)
        name = container_name(self._files.project, spec.name)
        image = await self._image(container)
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
            # Without root its socket is another user's, which has to be open to be connected to.
            umask="077" if is_root() or not serves_socket else "000",
        )
        there = await self._ask(lambda client: client.find(name))
        if there is not None:
            self._require_own(there, name)
            # Its files may have been deleted under it.
            is_same = there.labels.get(VERSION) == version_of(made) and self._files.knows(spec.name)
            if is_same and await self._look(spec.name, there.id) is not None:
                return
            await self._end(there, spec.stop.grace)
        await self._check_user(spec, container, image, name)
        await anyio.to_thread.run_sync(self._files.prepare, spec.name, places)
        begun: list[str] = []
        try:
            async with self._turn:
                if has_network:
                    prepare = partial(self._networks.prepare, spec.role, container)
                    _ = await self._ask(prepare)
                begun.append(await self._ask(lambda client: client.create(name, made)))
            await self._begin(spec.name, name, begun[0])
            self._require_here(spec.name)
            if has_network:
                pid = self._running[spec.name].pid
                await self._ask(lambda _: self._networks.prove(spec.role, pid))
                self._proxies.update(await self._ask(self._networks.revive))
        except BaseException:
            with anyio.CancelScope(shield=True), suppress(RuntimeUnavailableError):
                for each in begun:  # by id: the name may be somebody else's
                    await self._ask(lambda client, each=each: client.remove(each))
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._files.forget, spec.name)
            raise

    @override
    async def launch(self, spec: WorkloadSpec, secrets: Mapping[SecretName, SecretStr]) -> Process:
        if missing := sorted(spec.secrets.keys() - secrets.keys()):
            raise WorkloadStartError(f"no value for {', '.join(missing)}")
        running = self._running.get(spec.name)
        if running is None or not running.is_alive:
            there = await self._own(spec.name)
            running = None if there is None else await self._look(spec.name, there.id)
        if running is None:
            raise WorkloadStartError(f"the container of {spec.name} is not there, or ended at once")
        if not self._files.is_waiting(spec.name):
            raise WorkloadStartError(f"{spec.name} runs already, as process {running.pid}")
        container = _need(spec)
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
            await self._end(there, grace)
        _ = self._running.pop(name, None)
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
        reader = EventReader(self._connected(), self._files.project)
        reader.begin()
        try:
            while True:
                match await reader.next():
                    case Connected():
                        self._trouble = ""
                        gone = [one for one, its in self._ids.items() if not its[1].is_alive]
                        for each in gone:
                            del self._ids[each]
                        self._proxies.update(await self._ask(self._networks.revive))
                        yield FeedGap()
                    case Died(container) if container in self._proxies:
                        reader.remind(_LOOK_SECONDS)
                    case Reminder():
                        self._proxies.update(await self._ask(self._networks.revive))
                    case Died() as died:
                        if (end := self._end_of(died)) is not None:
                            yield end
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

    # --- one container -----------------------------------------------------------------------

    async def _begin(self, workload: WorkloadName, name: str, identifier: str) -> None:
        """Start a container."""
        await self._ask(lambda client: client.start(identifier, name))
        if await self._look(workload, identifier) is None:
            raise ContainerError(
                f"the container of {workload} ended at once", hint="See the log of its role."
            )

    def _require_here(self, workload: WorkloadName) -> None:
        """Make sure that the engine's number of a process means the same process here.

        Raises:
            ContainerError: The engine counts processes by itself, as one without root does.
        """
        pid = self._running[workload].pid
        try:
            inside = Path(f"/proc/{pid}/root{CHANNEL}").stat()
            outside = self._files.seat(workload).stat()
        except PermissionError:
            return  # of another user's process nobody but root sees this
        except OSError:
            is_same = not Path(f"/proc/{pid}").exists()  # it ended, as is noticed elsewhere
        else:
            is_same = (inside.st_dev, inside.st_ino) == (outside.st_dev, outside.st_ino)
        if not is_same:
            raise ContainerError(
                f"process {pid} here is not the container's that the engine means",
                hint="Run Bandmaster where the engine runs; one without root is not supported.",
            )

    async def _check_user(
        self, spec: WorkloadSpec, container: ContainerSpec, image: Image, name: str
    ) -> None:
        """Make sure that the image has a shell and the user, who can write what it keeps."""
        user = self._users.get((image.id, container.user))
        if user is None:
            mine = labels(self._files.project, spec.name, spec.role)
            user = await self._ask(partial(_read_user, image, container, name, mine))
            self._users[image.id, container.user] = user
        for place in container.keep:
            await anyio.to_thread.run_sync(keep_directory, place, user, container.user)

    async def _address(self, spec: WorkloadSpec, running: _Running) -> str:
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

    async def _look(self, name: WorkloadName, container: str) -> _Running | None:
        """Tell the process of a running container; None if it does not run any more."""
        known = self._running.get(name)
        if known is not None and known.container == container and known.is_alive:
            return known
        found = await self._ask(lambda client: client.find(container))
        facts = look_up(found.state.pid) if found is not None and found.state.pid else None
        if found is None or facts is None or not found.state.running:
            return None
        running = _Running(container, found.state.pid, facts.started)
        self._running[name] = running
        self._ids[container] = (name, running)
        return running

    def _end_of(self, died: Died) -> WorkloadExit | None:
        known = self._ids.pop(died.container, None)
        if known is None:
            return None
        name, running = known
        return WorkloadExit(name=name, pid=running.pid, code=died.code, cause=died.cause)

    async def _own(self, name: WorkloadName) -> Found | None:
        """Find a workload's container; somebody else's of this name is none."""
        if not self.is_used:
            return None
        called = container_name(self._files.project, name)
        found = await self._ask(lambda client: client.find(called))
        return found if found is not None and self._is_own(found) else None

    def _is_own(self, found: Found) -> bool:
        return found.labels.get(PROJECT) == self._files.project

    def _require_own(self, found: Found, name: str) -> None:
        if not self._is_own(found):
            raise ContainerError(
                f"a container of somebody else is called {name}",
                hint="Rename or remove it. Nothing of it was touched.",
            )

    async def _end(self, there: Found, grace: timedelta) -> None:
        """Ask a container to end, wait, kill it, and remove it."""
        if there.state.running and there.state.pid:
            try:
                process = os.pidfd_open(there.state.pid)
            except ProcessLookupError:
                process = None
            if process is not None:
                try:
                    await self._quit(there, process, grace.total_seconds())
                finally:
                    os.close(process)
        await self._ask(lambda client: client.remove(there.id))

    async def _quit(self, there: Found, process: int, seconds: float) -> None:
        # The first process of a container does not even notice what it has no handler for.
        if seconds > 0 and _heeds(there.state.pid, SIGTERM):
            await self._ask(lambda client: client.kill(there.id, SIGTERM))
            with anyio.move_on_after(seconds):
                await anyio.wait_readable(process)
                return
        await self._ask(lambda client: client.kill(there.id, SIGKILL))
        with anyio.move_on_after(_KILL_SECONDS):
            await anyio.wait_readable(process)
            return
        raise ContainerEngineError(f"{there.labels.get(WORKLOAD)} does not end, not even killed")

    # --- images ------------------------------------------------------------------------------

    async def _image(self, container: ContainerSpec) -> Image:
        """Find the image, and make sure that it can run here.

        Raises:
            ContainerError: It is not here, or of another machine.
        """
        name = container.image
        image = await self._ask(lambda client: client.find_image(name))
        if image is None:
            raise await self._missing(name)
        version = await self._ask(lambda client: client.version())
        if image.system not in {"", "linux"} or image.architecture not in {
            "",
            version.architecture,
        }:
            raise ContainerError(
                f"the image {name} is for {image.system}/{image.architecture}, and this machine is "
                f"linux/{version.architecture}",
                hint="Take the one for this machine; its digest is another one.",
            )
        return image

    async def _missing(self, name: str) -> ContainerError:
        bare, _, digest = name.partition("@")
        if digest and await self._ask(lambda client: client.has_name(bare)):
            return ContainerError(
                f"the image {bare} is on this machine with another digest than {digest}",
                hint=f"`docker pull {name}`, or correct the digest in the server file if you trust "
                "what is here.",
            )
        return ContainerError(
            f"the image {name} is not on this machine, and none is fetched by itself",
            hint=f"`docker pull {name}`, or build it."
            if not name.startswith("sha256:")
            else "Build or load it again, and write its new id into the server file.",
        )

    # --- the engine --------------------------------------------------------------------------

    async def choose(self, socket: str) -> None:
        """Take the engine that a workload asks for.

        Raises:
            ContainerEngineError: It cannot be asked.
            ContainerError: Containers of this project are on another one.
        """
        known = self._files.engine()
        if known != socket:
            if known and self._files.has_seats and await self.observe():
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

    def _connected(self) -> DockerClient:
        if self._client is None:
            self._client = DockerClient(self._files.engine())
        return self._client

    async def _ask(self, question: Callable[[DockerClient], T]) -> T:
        """Ask the engine in a thread.

        Raises:
            ContainerEngineError: It cannot be asked.
        """
        client = self._connected()
        return await anyio.to_thread.run_sync(question, client, limiter=self._limiter)


def _need(spec: WorkloadSpec) -> ContainerSpec:
    if spec.container is None:
        raise AssertionError(f"{spec.name} is no container")
    return spec.container


def _read_user(
    image: Image, container: ContainerSpec, name: str, mine: dict[str, str], client: DockerClient
) -> InsideUser:
    """Look into an image, through a container that is never started."""
    labelled: JsonObject = {**mine}
    made = client.create(name, {"Image": image.id, "Entrypoint": [SHELL], "Labels": labelled})
    try:
        if not client.has_file(made, SHELL):
            raise ContainerError(
                f"the image {container.image} has no {SHELL}",
                hint="A shell in it reads its environment, so that no secret is told to the "
                "engine. Take an image that has one.",
            )
        return user_in(client.read_file(made, "/etc/passwd"), container.user, container.image)
    finally:
        client.remove(made)


def _heeds(pid: int, number: int) -> bool:
    """Tell whether a process catches a signal; False without a process."""
    try:
        text = Path(f"/proc/{pid}/status").read_text("utf-8", "replace")
    except OSError:
        return False
    line = next((line for line in text.splitlines() if line.startswith("SigCgt:")), "SigCgt: 0")
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)
