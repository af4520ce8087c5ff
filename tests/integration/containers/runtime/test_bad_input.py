"""Containers that cannot be: each is told with its cause and a cure, and nothing is left of it."""

from __future__ import annotations

import hashlib
import json
import socket
import tarfile
from typing import TYPE_CHECKING

import anyio
import pytest

from orchestrator.errors import ContainerEngineError, ContainerError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from tests.integration.containers.runtime.conftest import Boxes

SECONDS = 120.0
NOBODYS = "sha256:" + 64 * "0"
DIGEST = f"bandmaster-base@{NOBODYS}"


async def refused(boxes: Boxes, **container: object) -> ContainerError:
    """Start what cannot be started, and make sure that nothing is left."""
    with anyio.fail_after(SECONDS), pytest.raises(ContainerError) as caught:
        await boxes.runtime.start(boxes.spec("scripted.py", container=container))
    assert boxes.everything() == []
    assert not boxes.runtime.knows(boxes.spec().name)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("image", [NOBODYS, f"nobody.example/x@{NOBODYS}", "nobody.example/x:1"])
async def test_an_image_that_is_not_here(boxes: Boxes, image: str) -> None:
    """An image that is not on this machine is named, and never fetched by itself."""
    error = await refused(boxes, image=image)
    assert f"the image {image} is not on this machine" in str(error)


async def test_another_digest(boxes: Boxes) -> None:
    """An image that is here under another digest is told apart from one that is not here."""
    error = await refused(boxes, image=DIGEST)
    assert "is on this machine with another digest" in str(error)


async def test_an_image_of_another_machine(boxes: Boxes, client: Callable[..., str]) -> None:
    """An image for another processor is refused before it is tried."""
    layer = boxes.root / "layer.tar"
    tarfile.open(layer, "w").close()
    # Made by hand: not every engine makes one of another processor.
    made: dict[str, object] = {
        "architecture": "s390x",
        "os": "linux",
        "config": {},
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(layer.read_bytes()).hexdigest()}"],
        },
    }
    listed = [{"Config": "config.json", "RepoTags": None, "Layers": ["layer.tar"]}]
    for name, content in (("config.json", made), ("manifest.json", listed)):
        _ = (boxes.root / name).write_text(json.dumps(content))
    archive = boxes.root / "a.tar"
    with tarfile.open(archive, "w") as tar:
        for name in ("layer.tar", "config.json", "manifest.json"):
            tar.add(boxes.root / name, name)
    image = client("load", "-i", str(archive)).split("Loaded image ID: ")[1]
    try:
        error = await refused(boxes, image=image)
    finally:
        _ = client("rmi", "-f", image)
    assert "is for linux/s390x, and this machine is linux/" in str(error)


async def test_an_image_without_a_shell(boxes: Boxes, build: Callable[[str], str]) -> None:
    """Without a shell nothing could read the environment: the image is refused with that reason."""
    image = build('FROM scratch\nLABEL a=b\nCMD ["/x"]\n')
    error = await refused(boxes, image=image)
    assert "has no /bin/sh" in str(error)


@pytest.mark.parametrize("user", ["nobodyhere", "root"])
async def test_a_user_that_is_not_to_be(boxes: Boxes, user: str) -> None:
    """A user that the image does not have, and root, are refused."""
    error = await refused(boxes, user=user)
    assert f"user {user}" in str(error)


async def test_a_kept_directory_of_somebody_else(boxes: Boxes) -> None:
    """A directory that the container's user could not write is refused, and left as it is."""
    place = boxes.root / "others"
    place.mkdir(mode=0o700)
    (place / "file").touch()
    error = await refused(boxes, keep={str(place): "/var/lib/x"})
    assert f"{place} is not writable for the container's user mcp, number 10001" in str(error)
    assert place.stat().st_uid == 0
    link = boxes.root / "link"
    link.symlink_to("/etc")
    assert "is a link" in str(await refused(boxes, keep={str(link): "/var/lib/x"}))


async def test_a_name_that_somebody_else_has(boxes: Boxes, client: Callable[..., str]) -> None:
    """Somebody else's container of the same name is never touched, and is named."""
    spec = boxes.spec("scripted.py")
    name = boxes.name(spec.name)
    image = boxes.image
    stranger = client("create", "--name", name, "--network", "none", image, "true")
    try:
        with anyio.fail_after(SECONDS):
            with pytest.raises(ContainerError, match=f"somebody else is called {name}"):
                await boxes.runtime.start(spec)
            await boxes.runtime.stop(spec.name, spec.stop.grace)
            await boxes.runtime.signal(spec.name, 9)
            _ = await boxes.runtime.end_all()
        assert client("inspect", "-f", "{{.Id}}", name) == stranger
    finally:
        _ = client("rm", "-f", stranger)


async def test_a_program_that_is_not_in_the_image(
    boxes: Boxes, build: Callable[[str], str]
) -> None:
    """An image that says nothing of what to start needs a command."""
    image = build("FROM bandmaster-base:test\nCMD []\nENTRYPOINT []\n")
    spec = boxes.spec(container={"image": image})
    with anyio.fail_after(SECONDS), pytest.raises(ContainerError, match="names no program"):
        await boxes.runtime.start(spec)
    assert boxes.everything() == []


@pytest.fixture
def dead_socket(boxes: Boxes) -> Generator[str]:
    """Give a socket that nobody listens on."""
    place = boxes.root / "dead.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
    yield str(place)
    place.unlink()


async def test_no_engine(boxes: Boxes, dead_socket: str) -> None:
    """Without an engine, or with one that does not run, that is said, and what to do."""
    for place, words in (("/nowhere.sock", "there is no container engine"),
                         (dead_socket, "does not run: nobody listens")):  # fmt: skip
        with anyio.fail_after(SECONDS), pytest.raises(ContainerEngineError, match=words) as caught:
            await boxes.runtime.start(boxes.spec("scripted.py", container={"engine": place}))
        assert caught.value.hint
    boxes.runtime._files.forget_all()


async def test_another_engine_while_containers_run(boxes: Boxes) -> None:
    """Another socket in agents.yaml is refused while the first engine has containers of ours."""
    process = await boxes.run(boxes.spec("scripted.py"))
    with (
        anyio.fail_after(SECONDS),
        pytest.raises(ContainerError, match="has containers on the engine at"),
    ):
        await boxes.runtime.start(
            boxes.spec("scripted.py", role="other", container={"engine": "/other.sock"})
        )
    assert (await boxes.runtime.observe())[process.workload].pid == process.pid
