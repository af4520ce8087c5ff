"""The rules that close containers' networks: what they let through, and that they stay."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, cast, final

import anyio
import pytest
from structlog.testing import capture_logs

from orchestrator.errors import ContainerError
from orchestrator.runtimes.attached import AttachedRuntime
from orchestrator.runtimes.both import BothRuntimes

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.integration.containers.runtime.conftest import Boxes

SECONDS: Final = 60.0
ON_PORT: Final = {"listen": "port", "path": "/mcp"}
PORT: Final = 9000
# Accepts on all addresses, and says so first; ends with whoever started it.
LISTEN: Final = f"""
import socket
with socket.create_server(("", {PORT}), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
    print(flush=True)
    while True:
        listener.accept()[0].close()
"""
TRY: Final = f"""
import socket, sys, threading
def knock(host):
    try:
        socket.create_connection((host, {PORT}), 10).close()
    except OSError:
        return
    sys.stdout.write(host + chr(10))
tries = [threading.Thread(target=knock, args=(host,)) for host in sys.argv[1:]]
for each in tries:
    each.start()
for each in tries:
    each.join()
"""
KEEP: Final = """
from orchestrator.runtimes.docker_firewall import Firewall
wall = Firewall()
wall.keep(lambda: print("forgot"))
print(wall.trouble)
"""


@pytest.fixture(autouse=True)
def need_root() -> None:
    """Skip without the power to set rules."""
    if os.geteuid():
        pytest.skip("only root closes networks")


def run(*words: str) -> str:
    """Run a program; it has to succeed."""
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=SECONDS)
    assert not done.returncode, f"{words}: {done.stderr}"
    return done.stdout


@final
class Lab:
    """A machine of its own, with bridges as the engine makes them, and what hangs on them.

    `machine` forwards for `a`, `b` (on one role's bridge), `c` (on another's), `proxy` (on an edge)
    and `net` (whatever is out there). Each listens on a port of all its addresses.
    """

    NUMBERS: Final = {"a": (1, 2), "b": (1, 3), "c": (2, 2), "proxy": (3, 2), "net": (4, 2)}
    LINKS: Final = {1: "mcpr-one", 2: "mcpr-two", 3: "mcpe-one", 4: "out"}

    def __init__(self, stack: ExitStack) -> None:
        """Build it; it goes with its processes."""
        self.pids = {name: self._listen(stack) for name in ("machine", *self.NUMBERS)}
        self.on("machine", "ip", "link", "set", "lo", "up")
        for number, link in self.LINKS.items():
            self.on("machine", "ip", "link", "add", link, "type", "bridge")
            self._address("machine", link, (number, 1))
        for name, (net, host) in self.NUMBERS.items():
            end = f"to-{name}"
            self.on(name, "ip", "link", "set", "lo", "up")
            self.on(
                "machine", "ip", "link", "add", end, "type", "veth",
                "peer", "name", "eth0", "netns", str(self.pids[name]),
            )  # fmt: skip
            self.on("machine", "ip", "link", "set", end, "master", self.LINKS[net], "up")
            self._address(name, "eth0", (net, host))
            for address in self.addresses("machine", net):
                self.on(name, "ip", "route", "add", "default", "via", address)
        for family in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            self.on("machine", "sh", "-c", f"echo 1 >/proc/sys/net/{family}")

    def on(self, name: str, *words: str) -> str:
        """Run a program in somebody's network."""
        return run("nsenter", f"--net=/proc/{self.pids[name]}/ns/net", *words)

    def addresses(self, name: str, net: int = 4) -> tuple[str, str]:
        """Tell both addresses of somebody; of the machine, those in a network."""
        net, host = self.NUMBERS.get(name, (net, 1))
        return f"10.9.{net}.{host}", f"fd09:{net}::{host}"

    def reached(self, name: str, *others: str) -> set[str]:
        """Tell whom somebody reaches, over either version; over one only is told as it is."""
        places = {place: each for each in others for place in self.addresses(each)}
        said = self.on(name, sys.executable, "-I", "-S", "-c", TRY, *places).split()
        found = {each: {ip_address(place).version for place in said if places[place] == each}
                 for each in others}  # fmt: skip
        return {
            each if len(all_) == 2 else f"{each} {all_}" for each, all_ in found.items() if all_
        }

    def keep(self) -> list[str]:
        """Have the machine look after its rules."""
        return self.python(KEEP).split("\n")

    def python(self, script: str, *before: str) -> str:
        """Run a script on the machine, which sees its own bridges."""
        mount = 'mount -t sysfs none /sys && exec "$@"'
        words = ("unshare", "-m", "sh", "-c", mount, "sh", *before, sys.executable, "-c", script)
        return self.on("machine", *words)

    def _address(self, name: str, link: str, place: tuple[int, int]) -> None:
        net, host = place
        self.on(name, "ip", "address", "add", f"10.9.{net}.{host}/24", "dev", link)
        self.on(name, "ip", "address", "add", f"fd09:{net}::{host}/64", "dev", link, "nodad")
        self.on(name, "ip", "link", "set", link, "up")

    @staticmethod
    def _listen(stack: ExitStack) -> int:
        words = ["setpriv", "--pdeathsig", "KILL", "unshare", "-n",
                 sys.executable, "-I", "-S", "-c", LISTEN]  # fmt: skip
        process = stack.enter_context(subprocess.Popen(words, stdout=subprocess.PIPE))
        _ = stack.callback(process.kill)
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        return process.pid


@pytest.fixture
def lab() -> Generator[Lab]:
    """Give a machine of its own."""
    with ExitStack() as stack:
        yield Lab(stack)


def test_what_the_rules_let_through(lab: Lab) -> None:
    """Roles reach their own network only, proxies all but this machine, roles and each other."""
    everybody = {"machine", *lab.NUMBERS}
    for each in ("a", "c", "proxy", "net"):
        assert lab.reached(each, *everybody - {each}) == everybody - {each}  # all is open
    assert lab.keep() == ["", ""]
    assert lab.reached("a", *everybody - {"a"}) == {"b"}
    assert lab.reached("c", *everybody - {"c"}) == set()
    assert lab.reached("proxy", *everybody - {"proxy"}) == {"net"}
    assert lab.reached("net", *everybody - {"net"}) == {"machine", "proxy"}
    assert lab.reached("machine", *everybody) == everybody


@pytest.mark.parametrize(
    "words",
    [
        ("flush", "ruleset"),
        ("insert", "rule", "inet", "bandmaster", "input", "accept"),
        ("flush", "chain", "inet", "bandmaster", "forward"),
    ],
)
def test_rules_come_back(lab: Lab, words: tuple[str, ...]) -> None:
    """Whatever is done to the rules, they are what they have to be after the next look."""
    script = f"""
import subprocess
from orchestrator.runtimes.docker_firewall import Firewall
wall = Firewall()
print(wall.close(), wall.close())
subprocess.run(["nft", *{words!r}], check=True)
wall.keep(lambda: print("forgot"))
wall.keep(lambda: print("forgot again"))
print(wall.close())
"""
    said = lab.python(script)
    lines = [line for line in said.splitlines() if "were put back" not in line]
    assert lines == ["False True", "forgot", "True"]
    assert said.count("were put back") == 1
    assert lab.reached("a", "machine", "b", "c", "net") == {"b"}


def test_rules_that_cannot_be_had(lab: Lab) -> None:
    """Without the power to set rules that is told in words, and what was proven is forgotten."""
    said = lab.python(KEEP, "setpriv", "--bounding-set", "-net_admin")
    assert "forgot" in said
    assert "containers may reach this machine: the container's network cannot be closed" in said


async def test_a_container_while_rules_are_gone(
    boxes: Boxes, outside: int, own_addresses: list[str], rules_alone: None
) -> None:
    """What a container reaches when somebody flushed the rules, it reaches until the next look."""
    assert rules_alone is None
    process = await boxes.run(boxes.spec("boxed_http.py", "--port", "{port}", http=ON_PORT))
    gateway = process.address.removeprefix("elsewhere:http://").rpartition(".")[0] + ".1"

    async def reached() -> str:
        return await boxes.call(process, "reach", {"host": gateway, "port": outside})

    assert own_addresses
    assert (await reached()).startswith("refused")
    for again in (boxes.runtime.guard, boxes.runtime.guard):
        _ = run("nft", "delete", "table", "inet", "bandmaster")
        assert await reached() == "connected"
        with capture_logs() as logs:
            await again()
        assert [each["event"] for each in logs] == ["containers could reach this machine"]
        assert (await reached()).startswith("refused")
        assert boxes.runtime.notes() == ()


async def test_rules_are_looked_at_all_the_time(
    boxes: Boxes, outside: int, rules_alone: None
) -> None:
    """Whoever follows the ends of containers has the rules looked at, with an engine or without."""
    assert rules_alone is None
    process = await boxes.run(boxes.spec("boxed_http.py", "--port", "{port}", http=ON_PORT))
    gateway = process.address.removeprefix("elsewhere:http://").rpartition(".")[0] + ".1"
    both = BothRuntimes(AttachedRuntime(lambda _: None), boxes.runtime)

    async def follow() -> None:
        async for _ in both.exits():
            pass

    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(follow)
            _ = run("nft", "delete", "table", "inet", "bandmaster")
            said = ""
            while not said.startswith("refused"):
                said = await boxes.call(process, "reach", {"host": gateway, "port": outside})
            group.cancel_scope.cancel()


async def test_the_proof_tries_version_6(boxes: Boxes, rules_alone: None) -> None:
    """Rules that forget IPv6 do not pass: a container that has it reaches this machine by it."""
    assert rules_alone is None
    spec = boxes.spec("boxed_http.py", "--port", "{port}", http=ON_PORT)
    first = await boxes.run(spec)
    (network,) = cast("dict[str, dict[str, dict[str, str]]]", boxes.inspect(spec.name))[
        "NetworkSettings"
    ]["Networks"]
    pid, link = str(first.pid), boxes.bridge(network)
    run("ip", "address", "add", "fd09:6::1/64", "dev", link, "nodad")
    inside = ("nsenter", f"--net=/proc/{pid}/ns/net")
    run(*inside, "sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6")
    run(*inside, "ip", "address", "add", "fd09:6::2/64", "dev", "eth0", "nodad")

    networks = boxes.runtime._networks
    networks._proven.clear()
    networks.prove(spec.role, first.pid)
    _ = run("nft", "add", "rule", "inet", "bandmaster", "input", "accept")
    _ = run(
        "nft", "insert", "rule", "inet", "bandmaster", "input", "meta", "nfproto", "ipv6", "accept"
    )
    try:
        networks._proven.clear()
        with pytest.raises(ContainerError, match="the container reaches this machine"):
            networks.prove(spec.role, first.pid)
    finally:
        await boxes.runtime.guard()
    networks.prove(spec.role, first.pid)
