"""The engine for containers, asked through Docker's own library; every call blocks.

Its errors become ours here, and so do the few fields that are read of its answers.
"""

import errno
import socket
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Final, Protocol, TypeVar, cast, final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from orchestrator.errors import ContainerEngineError, ContainerError
from orchestrator.model.base import Json, JsonObject

_ModelT = TypeVar("_ModelT", bound=BaseModel)

# Everything that is used here is in this version (Docker 20.10) and later ones.
OLDEST_API: Final = (1, 41)
_SECONDS: Final = 60
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409


class _Answer(BaseModel):
    """What the engine says; it says more than is read here."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class Version(_Answer):
    """The engine's version.

    Attributes:
        engine: Of the engine.
        api: Of the interface that is spoken.
        architecture: Of the machine, as images name it.
    """

    engine: str = Field(alias="Version")
    api: str = Field(alias="ApiVersion")
    architecture: str = Field(alias="Arch")


class ImageConfig(_Answer):
    """How an image wants to be started."""

    entrypoint: tuple[str, ...] | None = Field(None, alias="Entrypoint")
    command: tuple[str, ...] | None = Field(None, alias="Cmd")
    volumes: dict[str, JsonObject] | None = Field(None, alias="Volumes")


class Image(_Answer):
    """An image that is on this machine."""

    id: str = Field(alias="Id")
    architecture: str = Field("", alias="Architecture")
    system: str = Field("", alias="Os")
    config: ImageConfig | None = Field(None, alias="Config")

    @property
    def volumes(self) -> tuple[str, ...]:
        """Directories for which the engine would make volumes of their own."""
        return tuple(self.config.volumes or ()) if self.config is not None else ()

    @property
    def program(self) -> tuple[str, ...]:
        """What the image starts by itself; empty if it says nothing."""
        if self.config is None:
            return ()
        return (*(self.config.entrypoint or ()), *(self.config.command or ()))


class State(_Answer):
    """What a container does."""

    status: str = Field(alias="Status")
    running: bool = Field(alias="Running")
    pid: int = Field(0, alias="Pid")
    exit_code: int = Field(0, alias="ExitCode")
    out_of_memory: bool = Field(default=False, alias="OOMKilled")
    error: str = Field("", alias="Error")


class Labels(_Answer):
    """A container's labels, among what it was made with."""

    labels: dict[str, str] | None = Field(None, alias="Labels")


class Endpoint(_Answer):
    """A container's place in a network."""

    address: str = Field("", alias="IPAddress")


class Networks(_Answer):
    """The networks of a container."""

    networks: dict[str, Endpoint] = Field(default_factory=dict, alias="Networks")


class Found(_Answer):
    """A container."""

    id: str = Field(alias="Id")
    state: State = Field(alias="State")
    config: Labels = Field(alias="Config")
    settings: Networks = Field(alias="NetworkSettings")

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels."""
        return self.config.labels or {}


class Listed(_Answer):
    """A container in a list of them."""

    id: str = Field(alias="Id")
    names: tuple[str, ...] = Field((), alias="Names")
    labels: dict[str, str] = Field(default_factory=dict, alias="Labels")
    state: str = Field(alias="State")


class NetworkFound(_Answer):
    """A network."""

    id: str = Field(alias="Id")
    name: str = Field(alias="Name")
    labels: dict[str, str] | None = Field(None, alias="Labels")
    options: dict[str, str] | None = Field(None, alias="Options")
    internal: bool = Field(default=False, alias="Internal")


class _Actor(_Answer):
    id: str = Field(alias="ID")
    attributes: dict[str, str] = Field(default_factory=dict, alias="Attributes")


class Event(_Answer):
    """What happened to a container."""

    action: str = Field(alias="Action")
    actor: _Actor = Field(alias="Actor")


_LISTED: Final = TypeAdapter(tuple[Listed, ...], config=ConfigDict(hide_input_in_errors=True))
_NETWORKS: Final = TypeAdapter(
    tuple[NetworkFound, ...], config=ConfigDict(hide_input_in_errors=True)
)


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
    def get_archive(self, container: str, path: str) -> tuple[object, JsonObject]: ...
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
                found = _read(Version, api.version())
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
            return _read(Image, api.inspect_image(name))
        return None

    def has_name(self, name: str) -> bool:
        """Tell whether any image of a name, whatever its tag or digest, is on this machine."""
        with self._asking("for images") as api:
            return bool(api.images(name))

    # Containers.

    def find(self, container: str) -> Found | None:
        """Look a container up by name or id; None if there is none."""
        with self._asking("for a container", missing=True) as api:
            return _read(Found, api.inspect_container(container))
        return None

    def list(self, *labels: str) -> tuple[Listed, ...]:
        """List all containers that have these labels."""
        with self._asking("for containers") as api:
            filters: dict[str, Json] = {"label": [*labels]}
            return _read_all(_LISTED, api.containers(all=True, filters=filters))

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

    def read_file(self, container: str, path: str) -> bytes | None:
        """Read a small file of a container as an archive; None if there is no such file."""
        with self._asking("for a file", missing=True) as api:
            stream, _ = api.get_archive(container, path)
            return b"".join(cast("_Chunks", stream))
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
            found = _read_all(_NETWORKS, api.networks(filters=filters))
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
                    raise ContainerError(f"{refusal}: {_short(said)}", hint=cure_of(said)) from None
                raise ContainerEngineError(
                    f"asked {what}, the container engine said: {_short(said)}"
                ) from None
            raise self.unreachable(error) from None
        except docker.errors.DockerException as error:
            raise self.unreachable(error) from None

    def unreachable(self, error: BaseException) -> ContainerEngineError:
        """Say why the engine cannot be asked, and what to do about it."""
        self._version = None
        api, self._api = self._api, None
        if api is not None:
            api.close()
        cause = cause_of(error)
        match cause:
            case errno.ENOENT:
                return ContainerEngineError(
                    f"there is no container engine: {self.socket} does not exist",
                    hint="Install and start Docker, or name its socket in agents.yaml under "
                    "`docker: socket:`.",
                )
            case errno.ECONNREFUSED:
                return ContainerEngineError(
                    f"the container engine does not run: nobody listens on {self.socket}",
                    hint="Start Docker; containers come back by themselves.",
                )
            case errno.EACCES | errno.EPERM:
                return ContainerEngineError(
                    f"this user may not use the container engine: {self.socket}",
                    hint="Start Bandmaster as root, or as a member of the socket's group, who is "
                    "as good as root.",
                )
            case _:
                return ContainerEngineError(
                    "the container engine does not answer",
                    hint="Look into its log; containers come back by themselves.",
                )


def cause_of(error: BaseException) -> int | None:
    """Find the number of the system's error among what led to this one."""
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            return None
        if isinstance(seen, OSError) and seen.errno is not None:
            return seen.errno
        words = cast("tuple[object, ...]", seen.args)
        inner = next((each for each in words if isinstance(each, BaseException)), None)
        reason: object = getattr(seen, "reason", None)
        if isinstance(reason, BaseException):
            inner = reason
        seen = inner or seen.__cause__ or seen.__context__
    return None


def _short(text: str) -> str:
    line = " ".join(text.split())
    return "".join(letter if letter.isprintable() else " " for letter in line[:300])


def cure_of(said: str) -> str:
    """Tell what to do about some refusals."""
    text = said.lower()
    if "no space left" in text:
        return "The disk of the engine is full: free some space on it."
    if "is already in use" in text or "already exists" in text:
        return "Another container or network has this name. Nothing of it was touched."
    if "unable to find user" in text or "no matching entries in passwd" in text:
        return "Name a user of the image under `container: user:` of the server."
    if "executable file not found" in text or "no such file" in text:
        return "Correct `container: command:` of the server, or take an image that has it."
    return "See the engine's log."


def _read(model: type[_ModelT], answer: object) -> _ModelT:
    try:
        return model.model_validate(answer)
    except ValidationError:
        raise ContainerEngineError("the container engine gave an answer of another shape") from None


def _read_all(adapter: "TypeAdapter[tuple[_ModelT, ...]]", answer: object) -> tuple[_ModelT, ...]:
    try:
        return adapter.validate_python(answer)
    except ValidationError:
        raise ContainerEngineError("the container engine gave an answer of another shape") from None


def read_event(item: object) -> Event:
    """Read one item of a stream of events.

    Raises:
        ContainerEngineError: It is none.
    """
    return _read(Event, item)
