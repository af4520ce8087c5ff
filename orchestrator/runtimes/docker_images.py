"""Images: whether one is here, can run here, and has a shell and the user that is wanted."""

from functools import partial
from typing import Final, final

from orchestrator.errors import ContainerError
from orchestrator.model.base import JsonObject
from orchestrator.model.container import ContainerSpec
from orchestrator.runtimes.docker_answers import Image
from orchestrator.runtimes.docker_client import DockerClient
from orchestrator.runtimes.docker_container import SHELL
from orchestrator.runtimes.docker_engine import Engine
from orchestrator.runtimes.docker_files import InsideUser, user_in

# Of its archive; thousands of users have room in it.
_PASSWD_BYTES: Final = 2**20


@final
class Images:
    """What is known of images of one engine."""

    def __init__(self, engine: Engine) -> None:
        """Know nothing yet."""
        self._engine = engine
        self._users: dict[tuple[str, str], InsideUser] = {}

    async def find(self, container: ContainerSpec) -> Image:
        """Find a container's image, and make sure that it can run here.

        Raises:
            ContainerError: It is not here, or of another machine.
        """
        name = container.image
        image = await self._engine.ask(lambda client: client.find_image(name))
        if image is None:
            raise await self._missing(name)
        version = await self._engine.ask(lambda client: client.version())
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

    async def user(
        self, container: ContainerSpec, image: Image, name: str, labels: dict[str, str]
    ) -> InsideUser:
        """Find the user that a container runs as, in an image that has a shell.

        Args:
            container: The container.
            image: Its image.
            name: What it will be called.
            labels: How it is known to be ours.

        Raises:
            ContainerError: There is no such user, or no shell.
        """
        known = self._users.get((image.id, container.user))
        if known is None:
            known = await self._engine.ask(partial(_look_inside, image, container, name, labels))
            self._users[image.id, container.user] = known
        return known

    async def _missing(self, name: str) -> ContainerError:
        bare, _, digest = name.partition("@")
        if digest and await self._engine.ask(lambda client: client.has_name(bare)):
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


def _look_inside(
    image: Image, container: ContainerSpec, name: str, labels: dict[str, str], client: DockerClient
) -> InsideUser:
    """Look into an image, through a container that is never started."""
    labelled: JsonObject = {**labels}
    made = client.create(name, {"Image": image.id, "Entrypoint": [SHELL], "Labels": labelled})
    try:
        if not client.has_file(made, SHELL):
            raise ContainerError(
                f"the image {container.image} has no {SHELL}",
                hint="A shell in it reads its environment, so that no secret is told to the "
                "engine. Take an image that has one.",
            )
        found = client.read_file(made, "/etc/passwd", _PASSWD_BYTES)
        return user_in(found, container.user, container.image)
    finally:
        client.remove(made)
