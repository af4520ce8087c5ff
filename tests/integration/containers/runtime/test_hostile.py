"""Servers in containers that try to be what they are not."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, cast

import anyio
import anyio.to_thread
import pytest

from orchestrator.errors import ContainerError, TargetUnavailableError
from orchestrator.runtimes.docker_client import DockerClient
from orchestrator.runtimes.docker_events import Connected, EventReader
from orchestrator.runtimes.docker_runtime import DockerRuntime

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.containers.runtime.conftest import Boxes, Relay

SECONDS = 60.0
_SLEEP = "import time; time.sleep(60)"


async def test_a_link_leads_to_no_other_server(boxes: Boxes, client: Callable[..., str]) -> None:
    """What a server puts in the place of its socket sends nothing to another role's server."""
    http = {"listen": "socket", "path": "/mcp"}
    other = boxes.spec("boxed_http.py", "--socket", "{socket}", role="other", http=http)
    mine = boxes.spec("boxed_http.py", "--socket", "{socket}", http=http)
    _ = await boxes.run(other)
    process = await boxes.run(mine)
    assert await boxes.call(process, "echo", {"text": "hello"})

    target = boxes.files.http_socket(other.name).resolve()
    assert target.is_socket()
    script = (
        f"import os; p = '/run/bandmaster-http/http.sock'; os.unlink(p); os.symlink('{target}', p)"
    )
    _ = client("exec", boxes.name(mine.name), "python3", "-I", "-S", "-c", script)

    with pytest.raises(TargetUnavailableError):
        _ = await boxes.call(process, "echo", {"text": "hello"})


async def test_a_copy_with_our_labels_is_none_of_ours(
    boxes: Boxes, client: Callable[..., str]
) -> None:
    """A container that was made of one of ours bears its labels, and is not taken for it."""
    spec = boxes.spec("scripted.py")
    marks = {"project": str(boxes.files.run), "workload": spec.name, "role": spec.role}
    marked = [
        word for key, text in marks.items() for word in ("--label", f"bandmaster.{key}={text}")
    ]
    copy = client(
        "run", "-d", "--network=none", *marked, "--entrypoint=python3", boxes.image, "-c", _SLEEP
    )
    boxes.runtime = DockerRuntime(boxes.files)
    assert spec.container is not None
    await boxes.runtime.choose(spec.container.engine)

    assert await boxes.runtime.observe() == {}
    process = await boxes.run(spec)
    status = (await boxes.runtime.observe())[spec.name]

    assert status.pid == process.pid
    assert await boxes.runtime.sweep(()) == (spec.name,)
    assert client("inspect", "-f", "{{.State.Running}}", copy) == "true"


async def test_the_place_of_a_socket_has_an_end(boxes: Boxes, client: Callable[..., str]) -> None:
    """What a server writes beside its socket takes no room of this machine's, and little at all."""
    spec = boxes.spec(
        "boxed_http.py", "--socket", "{socket}", http={"listen": "socket", "path": "/mcp"}
    )
    process = await boxes.run(spec)
    place = "/run/bandmaster-http"
    full = await boxes.call(process, "write", {"path": f"{place}/x", "bytes": 1_000_000})
    assert "No space left" in full
    script = f"import itertools\nfor n in itertools.count(): open('{place}/%d' % n, 'x')"
    with pytest.raises(AssertionError, match="No space left"):
        _ = client("exec", boxes.name(spec.name), "python3", "-I", "-S", "-c", script)
    assert await boxes.call(process, "echo", {"a": 1}) == '{"a": 1}'
    mounts = cast("list[dict[str, str]]", boxes.inspect(spec.name)["Mounts"])
    (volume,) = (each["Name"] for each in mounts if each["Type"] == "volume")
    assert volume in client("volume", "ls", "-q").split()
    with anyio.fail_after(SECONDS):
        await boxes.runtime.stop(spec.name, spec.stop.grace)
    assert volume not in client("volume", "ls", "-q").split()
    assert not boxes.files.http_seat(spec.name).is_symlink()


async def test_a_file_has_a_largest_size(boxes: Boxes) -> None:
    """No file grows without end, neither what is kept nor a log, with holes or without."""
    kept = boxes.root / "kept"
    spec = boxes.spec(
        "boxed_http.py", "--socket", "{socket}", http={"listen": "socket", "path": "/mcp"},
        container={"keep": {str(kept): "/var/lib/kept"}, "file": "1MiB"},
    )  # fmt: skip
    process = await boxes.run(spec)
    for path in ("/var/lib/kept/x", "/run/bandmaster-log"):
        said = await boxes.call(process, "write", {"path": path, "bytes": 2_000_000})
        assert "File too large" in said
    assert (kept / "x").stat().st_size <= 2**20


async def test_users_of_an_image_without_an_end(boxes: Boxes, client: Callable[..., str]) -> None:
    """An image's list of users is read up to an ordinary size."""
    users = boxes.root / "passwd"
    _ = users.write_text("mcp:x:10001:10001::/:/bin/sh\n" * 2**17)
    source = client("create", "--network=none", boxes.image, "true")
    _ = client("cp", str(users), f"{source}:/etc/passwd")
    image = client("commit", source)
    _ = client("rm", source)
    try:
        spec = boxes.spec("scripted.py", container={"image": image})
        with (
            anyio.fail_after(SECONDS),
            pytest.raises(ContainerError, match=r"/etc/passwd .* is larger"),
        ):
            await boxes.runtime.start(spec)
        assert boxes.everything() == []
    finally:
        _ = client("rmi", image)


async def test_a_reader_that_is_closed_at_once(boxes: Boxes, relay: Relay) -> None:
    """Whoever wants no more news before there can be any leaves no thread and no connection."""
    assert boxes.image
    for steps in range(3):
        reader = EventReader(DockerClient(str(relay.place)), "nobody's")
        if steps:
            reader.begin()
        if steps > 1:
            with anyio.fail_after(SECONDS):
                assert isinstance(await reader.next(), Connected)
        reader.close()
        reader.close()
    for thread in threading.enumerate():
        if thread.name == "container-events":
            await anyio.to_thread.run_sync(thread.join, SECONDS)
            assert not thread.is_alive()
