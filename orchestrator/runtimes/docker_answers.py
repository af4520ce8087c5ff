"""What the engine for containers answers: the few fields that are read of it.

Source: Docker Engine API v1.41.
"""

from collections.abc import Mapping
from typing import Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from orchestrator.errors import ContainerEngineError
from orchestrator.model.base import JsonObject

_ModelT = TypeVar("_ModelT", bound=BaseModel)


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


class Mount(_Answer):
    """A place inside a container that is somewhere on this machine."""

    outside: str = Field("", alias="Source")
    inside: str = Field("", alias="Destination")


class Found(_Answer):
    """A container."""

    id: str = Field(alias="Id")
    state: State = Field(alias="State")
    config: Labels = Field(alias="Config")
    settings: Networks = Field(alias="NetworkSettings")
    mounts: tuple[Mount, ...] = Field((), alias="Mounts")

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


LISTED: Final = TypeAdapter(tuple[Listed, ...], config=ConfigDict(hide_input_in_errors=True))
NETWORKS: Final = TypeAdapter(
    tuple[NetworkFound, ...], config=ConfigDict(hide_input_in_errors=True)
)


def read(model: type[_ModelT], answer: object) -> _ModelT:
    """Read one thing.

    Raises:
        ContainerEngineError: It has another shape.
    """
    try:
        return model.model_validate(answer)
    except ValidationError:
        raise ContainerEngineError("the container engine gave an answer of another shape") from None


def read_all(adapter: TypeAdapter[tuple[_ModelT, ...]], answer: object) -> tuple[_ModelT, ...]:
    """Read a list.

    Raises:
        ContainerEngineError: It has another shape.
    """
    try:
        return adapter.validate_python(answer)
    except ValidationError:
        raise ContainerEngineError("the container engine gave an answer of another shape") from None


def read_event(item: object) -> Event:
    """Read one item of a stream of events.

    Raises:
        ContainerEngineError: It is none.
    """
    return read(Event, item)
