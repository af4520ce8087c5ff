"""The engine for containers, asked through Docker's own library; every call blocks.

Its errors become ours here.
"""

import socket
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Final, Protocol, cast, final

from orchestrator.errors import ContainerEngineError, ContainerError
from orchestrator.model.base import Json, JsonObject
from orchestrator.runtimes.docker_answers import (
    LISTED,
    NETWORKS,
    Found,
    Image,
    Listed,
    NetworkFound,
    Version,
    read,
    read_all,
)
from orchestrator.runtimes.docker_trouble import cure_of, short, unreachable

# Everything that is used here is in this version (Docker 20.10) and later ones.
OLDEST_API: Final = (1, 41)
_SECONDS: Final = 60
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409
_PIECE_BYTES: Final = 64 * 1024


class EventStream(Protocol):
    """Events as they come; closing it from another thread ends whoever reads it."""

    def __next__(self) -> object:
        """Wait for the next one."""
        ...

    def close(self) -> None:
        """End it."""
        ...


class _Api(Protocol):
    """What is used of `docker.APIClient`, which has no types."""

    def version(self) -> object: ...
    def inspect_image(self, image: str) -> object: ...
    def images(self, name: str) -> object: ...
    def inspect_container(self, container: str) -> object: ...
    def containers(self, *, all: bool, filters: Mapping[str, Json]) -> object: ...  # noqa: A002 - its name
    def create_container_from_config(self, config: JsonObject, name: str) -> object: ...
    def start(self, container: str) -> None: ...
    def kill(self, container: str, signal: int) -> None: ...
    def remove_container(self, container: str, **options: object) -> None: ...
    def get_archive(
        self, container: str, path: str, _piece: int = ..., /
    ) -> tuple[object, JsonObject]: ...
    def networks(self, *, filters: Mapping[str, Json]) -> object: ...
    def create_network(self, name: str, **options: object) -> object: ...
    def connect_container_to_network(self, container: str, _network: str, /) -> None: ...
    def remove_network(self, _network: str, /) -> None: ...
    def events(self, *, since: int, filters: Mapping[str, Json], decode: bool) -> object: ...
    def close(self) -> None: ...


class _Chunks(Protocol):
    def __iter__(self) -> Generator[bytes]: ...
    def close(self) -> None: ...


@final
class DockerClient:
    """One engine. Any thread may ask it."""

    def __init__(self, place: str) -> None:
        """Keep the socket's path; nothing is asked yet."""
        self.socket = place
        self._api: _Api | None = None
        self._version: Version | None = None

    # The engine itself.

    def version(self) -> Version:
        """Tell the engine's version, once it could be asked.

        Raises:
            ContainerEngineError: It cannot be, or is too old.
        """
        if self._version is None:
            with self._asking("its version") as api:
                found = read(Version, api.version())
            spoken = tuple(int(part) for part in found.api.split("."))
            if spoken < OLDEST_API:
                raise ContainerEngineError(
                    f"the container engine {found.engine} is too old",
                    hint="Docker 20.10 or newer is needed.",
                )
            self._version = found
        return self._version

    def events(self, project: str) -> EventStream:
        """Follow the ends of a project's containers; a few that are past come first."""
        with self._asking("for events") as api:
            stream = api.events(
                since=int(time.time()) - 1,
                filters={
                    "type": ["container"],
                    "event": ["die"],
                    "label": [f"bandmaster.project={project}"],
                },
                decode=True,
            )
        return cast("EventStream", stream)

    # Images.

    def find_image(self, name: str) -> Image | None:
        """Look an image up; None if it is not on this machine."""
        with self._asking(f"for the image {name}", missing=True) as api:
            return read(Image, api.inspect_image(name))
        return None

    def has_name(self, name: str) -> bool:
        """Tell whether any image of a name, whatever its tag or digest, is on this machine."""
        with self._asking("for images") as api:
            return bool(api.images(name))

    # Containers.

    def find(self, container: str) -> Found | None:
        """Look a container up by name or id; None if there is none."""
        with self._asking("for a container", missing=True) as api:
            return read(Found, api.inspect_container(container))
        return None

    def list(self, *labels: str) -> tuple[Listed, ...]:
        """List all containers that have these labels."""
        with self._asking("for containers") as api:
            filters: dict[str, Json] = {"label": [*labels]}
            return read_all(LISTED, api.containers(all=True, filters=filters))

    def create(self, name: str, config: JsonObject) -> str:
        """Make a container; tell its id.

        Raises:
            ContainerError: The engine refuses.
        """
        with self._asking("to make a container", refusal=f"{name} cannot be made") as api:
            answer = cast("dict[str, str]", api.create_container_from_config(config, name))
            return answer["Id"]

    def start(self, container: str, name: str) -> None:
        """Start a container.

        Raises:
            ContainerError: The engine refuses, or what is in it cannot be executed.
        """
        with self._asking("to start a container", refusal=f"{name} cannot be started") as api:
            api.start(container)

    def kill(self, container: str, number: int) -> None:
        """Signal a container's first process; nothing happens if there is none."""
        with self._asking("to signal a container", missing=True) as api:
            api.kill(container, number)

    def remove(self, container: str) -> None:
        """Kill and remove a container, and the volumes that were made for it; it may be gone."""
        with self._asking("to remove a container", missing=True) as api:
            api.remove_container(container, v=True, force=True)

    def read_file(self, container: str, path: str, limit: int) -> bytes | None:
        """Read a small file of a container as an archive; None if there is no such file.

        Raises:
            ContainerError: The archive has more bytes than the limit.
        """
        with self._asking("for a file", missing=True) as api:
            stream, _ = api.get_archive(container, path, _PIECE_BYTES)
            content = bytearray()
            for piece in cast("_Chunks", stream):
                content += piece
                if len(content) > limit:
                    cast("_Chunks", stream).close()
                    raise ContainerError(
                        f"{path} of the image is larger than {limit} bytes",
                        hint="Take an image whose file is an ordinary one.",
                    )
            return bytes(content)
        return None

    def has_file(self, container: str, path: str) -> bool:
        """Tell whether a container has a file."""
        with self._asking("for a file", missing=True) as api:
            stream, _ = api.get_archive(container, path)
            cast("_Chunks", stream).close()
            return True
        return False

    # Networks.

    def networks(self, *labels: str, name: str = "") -> tuple[NetworkFound, ...]:
        """List networks that have these labels, or exactly this name."""
        with self._asking("for networks") as api:
            filters: dict[str, Json] = {"label": [*labels]} if labels else {}
            if name:
                filters["name"] = [name]
            found = read_all(NETWORKS, api.networks(filters=filters))
        return tuple(each for each in found if not name or each.name == name)

    def create_network(
        self, name: str, *, bridge: str, labels: Mapping[str, str], internal: bool
    ) -> None:
        """Make a bridge network.

        Raises:
            ContainerError: The engine refuses.
        """
        with self._asking("to make a network", refusal=f"the network {name} cannot be made") as api:
            _ = api.create_network(
                name,
                driver="bridge",
                internal=internal,
                labels=dict(labels),
                check_duplicate=True,
                options={
                    "com.docker.network.bridge.name": bridge,
                    "com.docker.network.bridge.enable_icc": "true",
                },
            )

    def connect(self, container: str, network: str) -> None:
        """Put a container into a second network."""
        with self._asking("to connect a container", refusal="it cannot be connected") as api:
            api.connect_container_to_network(container, network)

    def remove_network(self, name: str) -> None:
        """Remove a network; it may be gone, or in use."""
        with self._asking("to remove a network", missing=True, refusal="it is in use") as api:
            api.remove_network(name)

    # How it is asked.

    def _connect(self) -> _Api:
        # The library leaves a socket behind that does not connect, and hides why it does not.
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
            knock.settimeout(_SECONDS)
            knock.connect(self.socket)
        if self._api is None:
            import docker  # noqa: PLC0415 - a third of a second, and only projects with containers

            made: object = docker.APIClient(
                base_url=f"unix://{self.socket}", version="auto", timeout=_SECONDS
            )
            self._api = cast("_Api", made)
        return self._api

    @contextmanager
    def _asking(self, what: str, *, missing: bool = False, refusal: str = "") -> Generator[_Api]:
        """Ask the engine something.

        Args:
            what: For messages.
            missing: Whether it is no error that what is meant is not there, or does not run.
            refusal: What could not be done when the engine refuses; empty where it cannot refuse.
        """
        try:
            import docker.errors  # noqa: PLC0415 - as above
        except ImportError as error:  # pragma: no cover - it is among the requirements
            raise ContainerEngineError("Docker's library is not installed") from error
        try:
            yield self._connect()
        except OSError as error:
            # requests' and the library's own errors are OSErrors, too.
            if isinstance(error, docker.errors.APIError):
                status = cast("int", error.status_code)
                if missing and status in {_NOT_FOUND, _CONFLICT}:
                    return
                said = str(cast("object", error.explanation) or error.__class__.__name__)
                if refusal:
                    raise ContainerError(f"{refusal}: {short(said)}", hint=cure_of(said)) from None
                raise ContainerEngineError(
                    f"asked {what}, the container engine said: {short(said)}"
                ) from None
            self._let_go()
            raise unreachable(self.socket, error) from None
        except docker.errors.DockerException as error:
            self._let_go()
            raise unreachable(self.socket, error) from None

    def _let_go(self) -> None:
        self._version = None
        api, self._api = self._api, None
        if api is not None:
            api.close()
