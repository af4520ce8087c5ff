"""Networks of containers: closed against this machine and each other, with a proxy or without."""

from __future__ import annotations

import os
import socket
import subprocess
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, cast

import anyio
import pytest

from orchestrator.errors import ContainerError
from orchestrator.runtimes.docker_network import PROXY_PORT
from orchestrator.runtimes.docker_runtime import DockerRuntime

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.model.base import JsonObject
    from orchestrator.runtimes.base import Process
    from tests.integration.containers.runtime.conftest import Boxes, Elsewhere

SECONDS = 120.0
ON_PORT = {"listen": "port", "path": "/mcp"}


@pytest.fixture(autouse=True)
def need_root(rules: None) -> None:
    """Skip without the power to set rules."""
    assert rules is None
    if os.geteuid():
        pytest.skip("only root closes networks")


async def test_a_server_on_a_port_reaches_nothing(
    boxes: Boxes, outside: int, own_addresses: list[str]
) -> None:
    """A server on a network of its own is called there, and reaches neither us nor anybody."""
    spec = boxes.spec("boxed_http.py", "--port", "{port}", http=ON_PORT)
    process = await boxes.run(spec)
    assert process.address.endswith(":8080/mcp")
    assert await boxes.call(process, "echo", {"a": 1}) == '{"a": 1}'
    network = cast("dict[str, dict[str, object]]", boxes.inspect(spec.name)["NetworkSettings"])
    ((name, place),) = cast("dict[str, dict[str, str]]", network["Networks"]).items()
    assert not network["Ports"]
    assert name == boxes.name("net-reader")
    addresses = [*own_addresses, place["Gateway"] or _bridge_address(place["IPAddress"])]
    for address in addresses:
        # From here it is open, so that the refusal means something.
        socket.create_connection((address, outside), 2).close()
        said = await boxes.call(process, "reach", {"host": address, "port": outside})
        assert said.startswith("refused"), address
    for address in ("1.1.1.1", "192.0.2.1"):
        said = await boxes.call(process, "reach", {"host": address, "port": 80})
        assert said.startswith("refused")
    with anyio.fail_after(SECONDS):
        await boxes.runtime.stop(spec.name, spec.stop.grace)
    assert boxes.everything() == []


def _bridge_address(address: str) -> str:
    """Guess what an engine calls its own end of a network that has no gateway."""
    return address.rpartition(".")[0] + ".1"


async def test_roles_do_not_reach_each_other(boxes: Boxes) -> None:
    """Each role has a network of its own; one goes with the last container of its role."""
    one = await boxes.run(boxes.spec("boxed_http.py", "--port", "{port}", http=ON_PORT))
    two = await boxes.run(boxes.spec("boxed_http.py", "--port", "{port}", http=ON_PORT, role="w"))
    host = two.address.removeprefix("elsewhere:http://").partition(":")[0]
    said = await boxes.call(one, "reach", {"host": host, "port": 8080})
    assert said.startswith("refused")
    second = boxes.spec("boxed_http.py", "--port", "{port}", http=ON_PORT, generation=2)
    other = await boxes.run(second)
    with anyio.fail_after(SECONDS):
        await boxes.runtime.stop(one.workload, second.stop.grace)
    assert await boxes.call(other, "echo", {"b": 2}) == '{"b": 2}'
    with anyio.fail_after(SECONDS):
        assert await DockerRuntime(boxes.files).end_all()
    assert boxes.everything() == []


async def test_a_network_that_somebody_else_has(boxes: Boxes, client: Callable[..., str]) -> None:
    """A network of the name that is needed is never used or touched if it is not ours."""
    spec = boxes.spec("boxed_http.py", "--port", "{port}", http=ON_PORT)
    name = boxes.name("net-reader")
    stranger = client("network", "create", name)
    try:
        with anyio.fail_after(SECONDS):
            with pytest.raises(
                ContainerError, match=f"a network of somebody else is called {name}"
            ):
                await boxes.runtime.start(spec)
            _ = await boxes.runtime.end_all()
        assert client("network", "inspect", "-f", "{{.Id}}", name) == stranger
    finally:
        _ = client("network", "rm", stranger)
    assert boxes.everything() == []


async def test_what_is_listed_and_nothing_else(
    boxes: Boxes,
    outside: int,
    own_addresses: list[str],
    elsewhere: Elsewhere,
    images: dict[str, str],
) -> None:
    """Through its proxy a server reaches what its role lists; the proxy comes back when it ends."""
    image = images["bandmaster"]
    allowed = f"{elsewhere.address}:{elsewhere.port}"
    spec = boxes.spec(
        "boxed_http.py", "--socket", "{socket}", http={"listen": "socket", "path": "/mcp"},
        container={"egress": [allowed], "proxy": image},
    )  # fmt: skip
    process = await boxes.run(spec)
    here: JsonObject = {"host": elsewhere.address, "port": elsewhere.port}
    with anyio.fail_after(SECONDS):
        await _until_through(boxes, process, here)
    said = await boxes.call(process, "reach", here)
    assert said.startswith("refused")
    for host, port in ((own_addresses[0], 1), ("127.0.0.1", outside), ("example.com", 443)):
        said = await boxes.call(process, "through", {"host": host, "port": port})
        assert said.split()[1] == "403", said
    proxy = boxes.name("egress-reader")
    edge = boxes.inspect_network(boxes.name("edge"))["Gateway"]
    for address in (*own_addresses, edge):
        # From here it is open, so that the refusal means something.
        socket.create_connection((address, outside), 2).close()
        assert _from_inside(proxy, f"s.create_connection(({address!r}, {outside}), 5)") == "refused"
    there = f"s.create_connection(({elsewhere.address!r}, {elsewhere.port}), 5)"
    assert _from_inside(proxy, there) == "done"
    # The engine's own resolver, which is inside.
    assert _from_inside(proxy, f"s.getaddrinfo({proxy!r}, 80)") == "done"
    resolver = "'nameserver 127.0.0.11' in open('/etc/resolv.conf').read() or s.nothing"
    assert _from_inside(proxy, resolver) == "done"
    with anyio.fail_after(SECONDS):
        await _open_many(boxes.address(proxy, boxes.name("net-reader")), elsewhere)
        async with anyio.create_task_group() as group:
            seen = anyio.Event()
            group.start_soon(_follow, boxes.runtime, seen)
            await seen.wait()
            _ = await anyio.run_process(["docker", "kill", proxy])
            await _until_through(boxes, process, here)
            group.cancel_scope.cancel()
        await boxes.runtime.stop(spec.name, spec.stop.grace)
    assert boxes.everything() == []


async def test_this_machine_is_nobody_s_destination(
    boxes: Boxes, outside: int, own_addresses: list[str]
) -> None:
    """A role that lists an address of this machine is told that no container gets there."""
    spec = boxes.spec(
        "boxed_http.py", "--socket", "{socket}", http={"listen": "socket", "path": "/mcp"},
        container={"egress": [f"{own_addresses[0]}:{outside}"], "proxy": boxes.image},
    )  # fmt: skip
    with anyio.fail_after(SECONDS), pytest.raises(ContainerError, match="is this machine itself"):
        await boxes.runtime.start(spec)
    assert boxes.everything() == []


def _from_inside(container: str, expression: str) -> str:
    """Evaluate something about sockets in a container."""
    lines = ("import socket as s", "try:", f" {expression}", " print('done')", "except OSError:")
    script = "\n".join((*lines, " print('refused')"))
    return subprocess.run(
        ["docker", "exec", container, "python3", "-I", "-S", "-c", script],
        check=True, capture_output=True, text=True, timeout=SECONDS,
    ).stdout.strip()  # fmt: skip


async def _open_many(proxy: str, there: Elsewhere) -> None:
    """Have a proxy carry as many connections as it takes, all at once."""
    whole = f"CONNECT {there.address}:{there.port} HTTP/1.1\r\n\r\n".encode()
    async with AsyncExitStack() as stack:
        ways = [
            await stack.enter_async_context(await anyio.connect_tcp(proxy, PROXY_PORT))
            for _ in range(200)
        ]
        for way in ways:
            await way.send(whole)
        for way in ways:
            assert (await way.receive()).startswith(b"HTTP/1.1 200")


async def _until_through(boxes: Boxes, process: Process, here: JsonObject) -> None:
    while True:
        try:
            said = await boxes.call(process, "through", here)
        except Exception:  # noqa: BLE001 - the proxy is on its way
            said = ""
        if said.startswith("HTTP/1.1 200"):
            return
        await anyio.sleep(0.05)


async def _follow(runtime: DockerRuntime, seen: anyio.Event) -> None:
    async for _ in runtime.exits():
        seen.set()
