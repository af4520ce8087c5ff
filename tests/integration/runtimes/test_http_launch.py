"""How servers that speak HTTP are launched: real engine, real programs."""

# ruff: noqa: ASYNC110, ASYNC240 - what is watched here is /proc and small files, and nothing
# else runs in this loop

import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

import anyio
import pytest

from orchestrator.model.workload import HttpServing, WorkloadSpec
from orchestrator.runtimes.address import Address
from orchestrator.runtimes.identity import command_line

if TYPE_CHECKING:
    from tests.integration.runtimes.conftest import Project


def serving(spec: WorkloadSpec, listen: str) -> WorkloadSpec:
    """Have a server told where to listen, by its arguments and its environment."""
    http = HttpServing.model_validate({"listen": listen, "path": "/x"})
    env = {**spec.env, "PLACE": f"at {{{listen}}}"}
    argv = (spec.argv[0], "-X", f"place={{{listen}}}", *spec.argv[1:])
    return spec.model_copy(update={"http": http, "env": env, "argv": argv})


async def report(path: Path) -> dict[str, object]:
    """Wait for what a program found."""
    with anyio.fail_after(30):
        while not path.exists():
            await anyio.sleep(0.005)
    return cast("dict[str, object]", json.loads(path.read_text()))


@pytest.mark.parametrize("listen", ["socket", "port"])
async def test_a_server_is_told_where_to_listen(running: "Project", listen: str) -> None:
    """The place is filled in; stdin is empty, stdout is the log, and there are no FIFOs."""
    path = running.root / "report.json"
    spec = serving(running.spec("program.py", "report", str(path)), listen)
    with anyio.fail_after(30):
        await running.runtime.start(spec)
        process = await running.runtime.launch(spec, {})
        address = Address.parse(process.address)
        place = address.socket if listen == "socket" else str(address.port)
        assert address.path == "/x"
        found = await report(path)
        assert command_line(process.pid)[2] == f"place={place}"
    assert cast("dict[str, str]", found["env"])["PLACE"] == f"at {place}"
    descriptors = cast("dict[str, str]", found["descriptors"])
    log = str(running.files.logs / "reader.log")
    assert {name: descriptors[name] for name in "012"} == {"0": "/dev/null", "1": log, "2": log}
    assert list(Path(process.directory).iterdir()) == []


async def test_a_socket_of_the_last_process_is_gone(running: "Project") -> None:
    """A server finds no socket of its predecessor, on which it could not listen."""
    spec = serving(running.spec("program.py", "silent"), "socket")
    with anyio.fail_after(30):
        await running.runtime.start(spec)
        first = await running.runtime.launch(spec, {})
        left = Path(first.directory) / "http.sock"
        left.touch()
        await running.runtime.signal(spec.name, 9)
        while (await running.runtime.observe())[spec.name].pid in {0, first.pid}:
            await anyio.sleep(0.005)
        second = await running.runtime.launch(spec, {})
    assert (second.address, left.exists()) == (first.address, False)
    await running.runtime.stop(spec.name, spec.stop.grace)
    assert list((running.files.run / "at").iterdir()) == []


async def test_each_launch_has_a_port_of_its_own(running: "Project") -> None:
    """A port is chosen anew, as somebody else may have taken the last one."""
    spec = serving(running.spec("program.py", "silent"), "port")
    ports: set[int] = set()
    with anyio.fail_after(30):
        await running.runtime.start(spec)
        for _ in range(3):
            process = await running.runtime.launch(spec, {})
            ports.add(Address.parse(process.address).port)
            await running.runtime.signal(spec.name, 9)
            while (await running.runtime.observe())[spec.name].pid in {0, process.pid}:
                await anyio.sleep(0.005)
    assert len(ports) > 1
