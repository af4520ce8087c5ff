"""Servers in containers that try to be what they are not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from orchestrator.errors import TargetUnavailableError
from orchestrator.runtimes.docker_runtime import DockerRuntime

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.containers.runtime.conftest import Boxes

SOCKET = "/var/run/docker.sock"
_SLEEP = "import time; time.sleep(60)"


async def test_a_link_leads_to_no_other_server(boxes: Boxes, client: Callable[..., str]) -> None:
    """What a server puts in the place of its socket sends nothing to another role's server."""
    http = {"listen": "socket", "path": "/mcp"}
    other = boxes.spec("boxed_http.py", "--socket", "{socket}", role="other", http=http)
    mine = boxes.spec("boxed_http.py", "--socket", "{socket}", http=http)
    _ = await boxes.run(other)
    process = await boxes.run(mine)
    assert await boxes.call(process, "echo", {"text": "hello"})

    target = f"../{boxes.files.http_seat(other.name).name}/http.sock"
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
    await boxes.runtime.choose(SOCKET)

    assert await boxes.runtime.observe() == {}
    process = await boxes.run(spec)
    status = (await boxes.runtime.observe())[spec.name]

    assert status.pid == process.pid
    assert await boxes.runtime.sweep(()) == (spec.name,)
    assert client("inspect", "-f", "{{.State.Running}}", copy) == "true"
