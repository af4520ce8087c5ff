"""The stacks of `compose/`, run by the real Docker Compose, seen by real agents."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast, final

import httpx2
import pytest
import yaml
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from orchestrator.runtimes.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

from contextlib import asynccontextmanager, contextmanager

Object = dict[str, object]
ROOT: Final = Path(__file__).resolve().parents[3]
AGENTS: Final = str(Path(sys.executable).with_name("agents"))
LONGEST: Final = 300
TOOLS: Final = {"monitoring": 7, "treasury": 10, "executor": 13}


@final
class Stack:
    """One stack in a project directory of its own."""

    def __init__(self, name: str, file: str, gateway: str) -> None:
        """Copy what is committed."""
        self.root = Path(tempfile.mkdtemp(prefix="bm-", dir="/tmp"))
        for folder in ("roles", "compose"):
            left_out = shutil.ignore_patterns("secrets", ".env")
            _ = shutil.copytree(ROOT / folder, self.root / folder, ignore=left_out)
        self.name = name
        self.file = self.root / "compose" / file
        self.gateway = gateway
        self.port = free_port()
        word = "BANDMASTER" if file == "compose.yaml" else Path(file).stem.upper()
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/root"),
            "COMPOSE_PROJECT_NAME": name,
            "BANDMASTER_IMAGE": "bandmaster:test",
            "WALLET_IMAGE": "bandmaster-wallet:test",
            f"{word}_PORT": str(self.port),
        }

    def try_(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the project, whatever comes of it."""
        return subprocess.run(
            words,
            cwd=self.root,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=LONGEST,
        )

    def run(self, *words: str) -> str:
        """Run a command in the project that has to succeed."""
        done = self.try_(*words)
        assert done.returncode == 0, f"{words}: {done.stdout}\n{done.stderr}\n{self.logs()}"
        return done.stdout

    def compose(self, *words: str) -> str:
        """Run a command of Compose."""
        return self.run("docker", "compose", "-f", str(self.file), *words)

    def logs(self) -> str:
        """Tell the last that the containers said."""
        return self.try_("docker", "compose", "-f", str(self.file), "logs", "--tail=20").stdout

    def agents(self, *words: str) -> str:
        """Run `agents` inside the gateway."""
        return self.compose("exec", "-T", self.gateway, "agents", *words)

    def prepare(self) -> None:
        """Write the secrets."""
        _ = self.run(AGENTS, "rotate", "--compose", str(self.file))

    def up(self) -> None:
        """Write the secrets and start everything."""
        self.prepare()
        _ = self.compose("up", "-d", "--wait")

    def token(self, role: str, agent: str) -> str:
        """Have a token made."""
        made = cast(
            "Object", json.loads(self.agents("token", "issue", role, "--agent", agent, "--json"))
        )
        return str(made["token"])

    def url(self, role: str) -> str:
        """Tell where a role is reached from this machine."""
        return f"http://127.0.0.1:{self.port}/{role}/mcp"

    def container(self, service: str) -> str:
        """Tell the id of a service's container."""
        return self.compose("ps", "-q", service).strip()

    def process(self, service: str) -> int:
        """Tell the process of a service, below the first one of its container."""
        words = ("docker", "inspect", "-f", "{{.State.Pid}}", self.container(service))
        init = self.run(*words).strip()
        return int(Path(f"/proc/{init}/task/{init}/children").read_text())

    @asynccontextmanager
    async def client(self, role: str, token: str) -> AsyncGenerator[Client]:
        """Connect the official client."""
        headers = {"Authorization": f"Bearer {token}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=LONGEST) as http,
            Client(streamable_http_client(self.url(role), http_client=http)) as client,
        ):
            yield client

    def remove(self) -> None:
        """Tear it down, and all that it kept."""
        words = ("--profile", "*", "down", "-v", "--remove-orphans", "-t", "3")
        _ = self.try_("docker", "compose", "-f", str(self.file), *words)
        shutil.rmtree(self.root, ignore_errors=True)

    def left(self) -> list[str]:
        """Tell what is there of it in the engine."""
        found: list[str] = []
        for kind in (("ps", "-a", "--format={{.Names}}"), ("network", "ls", "--format={{.Name}}"),
                     ("volume", "ls", "--format={{.Name}}")):  # fmt: skip
            names = self.run("docker", *kind).split()
            found += [name for name in names if name.startswith(self.name)]
        return found


@contextmanager
def made(engine: object, images: object, file: str, gateway: str) -> Generator[Stack]:
    """Make a stack with a name of its own."""
    assert engine
    assert images
    found = Stack(f"bmt-{os.getpid()}-{secrets.token_hex(3)}", file, gateway)
    if found.try_("docker", "compose", "version").returncode:
        if os.environ.get("BANDMASTER_TEST_ALL"):
            pytest.fail("scripts/dev-services has not installed Docker Compose")
        pytest.skip("Docker Compose is not installed (scripts/dev-services)")
    try:
        yield found
    finally:
        found.remove()


@pytest.fixture(scope="module")
def stack(engine: object, images: object) -> Generator[Stack]:
    """Run the whole stack for all tests of this file."""
    with made(engine, images, "compose.yaml", "gateway") as found:
        found.up()
        yield found


async def test_three_agents_see_what_their_roles_have(stack: Stack) -> None:
    """Each of three agents sees the tools of its role, and no token works at another role."""
    tokens = {role: stack.token(role, f"{role}-agent") for role in TOOLS}
    for role, count in TOOLS.items():
        async with stack.client(role, tokens[role]) as client:
            assert len((await client.list_tools()).tools) == count
    async with httpx2.AsyncClient(timeout=LONGEST) as http:
        for role in TOOLS:
            for other in TOOLS.keys() - {role}:
                reply = await http.post(
                    stack.url(other),
                    json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
                    headers={"Authorization": f"Bearer {tokens[role]}"},
                )
                assert reply.status_code in {401, 403}, reply.text


async def test_the_executor_signs_with_what_the_bootstrap_made(stack: Stack) -> None:
    """The wallet that was made once, in a container of its own, is the executor's."""
    async with stack.client("executor", stack.token("executor", "eve")) as client:
        arguments = {"walletName": "treasury", "chain": "ethereum"}
        result = await client.call_tool("get_wallet_address", arguments)
        assert not result.is_error, result.content


def test_no_secret_is_seen_from_outside(stack: Stack) -> None:
    """The engine shows no secret's value, and neither do the containers' logs or our files."""
    place = stack.root / "compose" / "secrets"
    values = {path.read_text().strip() for path in place.rglob("*") if path.is_file()} - {""}
    assert values
    ids = stack.compose("ps", "-aq").split()
    shown = [stack.run("docker", "inspect", *ids), stack.compose("config"), stack.logs()]
    shown += [path.read_text() for path in (stack.root / "compose").glob("*.yaml")]
    assert not [value for value in values if any(value in text for text in shown)]
    assert place.stat().st_mode & 0o077 == 0


def test_servers_reach_nothing_but_the_gateway(stack: Stack) -> None:
    """A server reaches no other role's server, no host outside, and not this machine."""
    probe = (
        "import socket, sys\n"
        "for place in sys.argv[1:]:\n"
        "    host, _, port = place.rpartition(':')\n"
        "    try: socket.create_connection((host, int(port)), 2); sys.exit(f'{host} was reached')\n"
        "    except OSError: pass\n"
    )
    found = stack.run("docker", "network", "inspect", f"{stack.name}_role-monitoring")
    network = cast("list[dict[str, dict[str, list[dict[str, str]]]]]", json.loads(found))[0]
    subnet = network["IPAM"]["Config"][0]["Subnet"]
    with socket.create_server(("0.0.0.0", 0)) as listener:  # noqa: S104 - it has to be reachable
        _, port = cast("tuple[str, int]", listener.getsockname())
        places = ("executor-wallet:8080", "1.1.1.1:443", f"{subnet.rpartition('.')[0]}.1:{port}")
        _ = stack.compose("exec", "-T", "monitoring-wallet", "python3", "-I", "-c", probe, *places)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root ends a process of a container")
async def test_a_server_that_is_killed_comes_back(stack: Stack) -> None:
    """After a server's process is killed, the next call is answered by the one that follows."""
    token = stack.token("monitoring", "watcher")
    child = stack.process("monitoring-wallet")
    async with stack.client("monitoring", token) as client:
        os.kill(child, signal.SIGKILL)
        result = await client.call_tool("get_price", {"symbol": "ETH"})
    if result.is_error:  # it was on its way when the process ended
        async with stack.client("monitoring", token) as client:
            result = await client.call_tool("get_price", {"symbol": "ETH"})
    assert not result.is_error, result.content


async def test_a_secret_is_replaced_without_a_failed_call(stack: Stack) -> None:
    """Another token of the wallet is brought in beside the old one, while calls go on."""
    before = stack.container("executor-wallet")
    files = stack.root / "compose" / "secrets" / stack.name
    old = max(int(path.suffix[2:]) for path in (files / "executor-wallet").iterdir())
    (files / "state" / "wallet-owner" / "executor.token").unlink()
    done = threading.Event()
    outcome: list[subprocess.CompletedProcess[str]] = []

    def rotate() -> None:
        words = (AGENTS, "rotate", "executor", "--compose", str(stack.file), "--json")
        outcome.append(stack.try_(*words))
        done.set()

    calls = 0
    token = stack.token("executor", "signer")
    async with stack.client("executor", token) as client:
        worker = threading.Thread(target=rotate)
        worker.start()
        while not done.is_set():
            result = await client.call_tool("get_price", {"symbol": "ETH"})
            assert not result.is_error, result.content
            calls += 1
        worker.join()
        result = await client.call_tool("get_price", {"symbol": "ETH"})
        assert not result.is_error
    assert outcome[0].returncode == 0, outcome[0].stderr
    assert calls
    body = cast("Object", json.loads(outcome[0].stdout))
    assert body["roles"] == {"executor": {"generation": old + 1, "changed": True}}
    assert stack.container("executor-wallet") not in {"", before}
    names = {path.name for path in (files / "executor-wallet").iterdir()}
    assert names == {f"MPC_AGENT_TOKEN.g{old + 1}", f"WALLETSUITE_PASSPHRASE.g{old + 1}"}
    words = (AGENTS, "rotate", "executor", "--compose", str(stack.file), "--json")
    again = cast("Object", json.loads(stack.run(*words)))
    assert again["roles"] == {"executor": {"generation": old + 1, "changed": False}}
    container = stack.container("executor-wallet")
    _ = stack.compose("up", "-d", "--wait")
    assert stack.container("executor-wallet") == container


def test_a_server_that_does_not_start_with_its_new_secrets_changes_nothing(stack: Stack) -> None:
    """It is taken away again, with its files; the one before stays."""
    before, variable = stack.container("executor-wallet"), stack.root / "compose" / ".env"
    known = variable.read_text() if variable.exists() else ""
    files = stack.root / "compose" / "secrets" / stack.name
    kept = {path.name for path in (files / "executor-wallet").iterdir()}
    (files / "state" / "wallet-owner" / "executor.token").unlink()
    good = stack.file.read_text()
    body = cast("dict[str, dict[str, Object]]", yaml.safe_load(good))
    body["services"]["executor-wallet"]["command"] = ["sh", "-c", "exit 3"]
    try:
        _ = stack.file.write_text(yaml.safe_dump(body))
        done = stack.try_(AGENTS, "rotate", "executor", "--compose", str(stack.file))
    finally:
        _ = stack.file.write_text(good)
    assert done.returncode == 2
    assert "The server before serves on" in done.stderr
    assert stack.container("executor-wallet") == before
    assert {path.name for path in (files / "executor-wallet").iterdir()} == kept
    generation = [line for line in known.splitlines() if "EXECUTOR" in line] or [
        "BANDMASTER_EXECUTOR_GENERATION=1"
    ]
    assert variable.read_text().splitlines() == generation


def test_a_rotation_that_was_killed_is_finished_by_the_next(stack: Stack) -> None:
    """Wherever it was cut off: what serves has the new secrets, and nothing of the old is left."""
    words = (AGENTS, "rotate", "executor", "--compose", str(stack.file), "--json")
    _ = stack.run(*words)
    before, place = stack.container("executor-wallet"), stack.root / "compose" / ".env"
    files = stack.root / "compose" / "secrets" / stack.name / "executor-wallet"
    name = "BANDMASTER_EXECUTOR_GENERATION"
    known = place.read_text() if place.exists() else ""
    pairs = dict(line.split("=") for line in known.splitlines())
    old = int(pairs.get(name, "1"))
    # As it is after the new generation was written down, and before anything was started.
    for path in list(files.glob(f"*.g{old}")):
        _ = shutil.copy(path, path.with_suffix(f".g{old + 1}"))
    _ = place.write_text(f"{name}={old + 1}\n")

    told = cast("Object", json.loads(stack.run(*words)))

    assert told["roles"] == {"executor": {"generation": old + 1, "changed": True}}
    after = stack.container("executor-wallet")
    assert after.split() == [after]
    assert after != before
    assert {path.suffix for path in files.iterdir()} == {f".g{old + 1}"}
    # As it is when the gateway was sent to another server, and the one before was not ended.
    for path in list(files.iterdir()):
        _ = shutil.copy(path, path.with_suffix(f".g{old + 6}"))
    stack.env[name] = f"{old + 6}"
    try:
        _ = stack.compose("up", "-d", "--no-deps", "--no-recreate", "--scale", "executor-wallet=2",
                          "--wait", "executor-wallet")  # fmt: skip
    finally:
        del stack.env[name]
    assert len(stack.container("executor-wallet").split()) == 2
    _ = stack.run(*words)
    assert stack.container("executor-wallet") == after
    told = cast("Object", json.loads(stack.run(*words)))
    assert told["roles"] == {"executor": {"generation": old + 1, "changed": False}}
    shown = cast("Object", json.loads(stack.agents("status", "--json")))
    roles = {one["role"]: one["state"] for one in cast("list[Object]", shown["roles"])}
    assert roles["executor"] == "ready"


def test_a_generation_that_compose_would_not_see_is_refused(stack: Stack) -> None:
    """Where the variable is set around the command, the servers would get the old files again."""
    before, files = stack.container("executor-wallet"), stack.root / "compose" / "secrets"
    kept = {path: path.read_bytes() for path in files.rglob("*.g*")}
    current = max(
        int(path.suffix[2:]) for path in (files / stack.name / "executor-wallet").iterdir()
    )
    token = files / stack.name / "state" / "wallet-owner" / "executor.token"
    token.unlink()
    stack.env["BANDMASTER_EXECUTOR_GENERATION"] = str(current)
    try:
        done = stack.try_(AGENTS, "rotate", "executor", "--compose", str(stack.file))
    finally:
        del stack.env["BANDMASTER_EXECUTOR_GENERATION"]
    assert done.returncode == 2
    assert "BANDMASTER_EXECUTOR_GENERATION" in done.stderr
    assert stack.container("executor-wallet") == before
    assert {path: path.read_bytes() for path in files.rglob("*.g*")} == kept


def test_what_a_bootstrap_says_is_in_no_log_of_the_engine(stack: Stack) -> None:
    """The token that it makes is read from its output, which the engine must not write down."""
    found = cast("Object", yaml.safe_load(stack.compose("--profile", "*", "config")))
    services = cast("dict[str, dict[str, Object]]", found["services"])
    assert services["bootstrap-wallet"]["logging"] == {"driver": "none"}


def test_the_token_of_an_agent_is_replaced(stack: Stack) -> None:
    """`agents rotate --compose --agent` has the gateway of the stack make the next token."""
    first = stack.token("treasury", "tess")
    words = ("rotate", "treasury", "--agent", "tess", "--compose", str(stack.file))
    second = stack.run(AGENTS, *words).split()[0]
    assert second.startswith("mga_")
    assert second != first


def test_one_role_alone_and_nothing_left(engine: object, images: object) -> None:
    """A role's own stack is up with its own gateway, and `down` leaves nothing of it."""
    with made(engine, images, "treasury.yaml", "gateway-treasury") as alone:
        alone.prepare()
        if os.geteuid() == 0:  # as most checkouts are: of a user whom the gateway does not know
            _ = alone.run("chown", "-R", "4711:4711", "roles", "compose/gateway")
        _ = alone.compose("up", "-d", "--wait")
        shown = cast("Object", json.loads(alone.agents("status", "--json")))
        [role] = cast("list[Object]", shown["roles"])
        assert (role["role"], role["state"]) == ("treasury", "ready")
        assert len(cast("list[str]", role["tools"])) == TOOLS["treasury"]
        assert alone.left()
        _ = alone.compose("down", "-v")
        assert alone.left() == []


# Asks the proxy for the way to each place; tells its answer, and what came through the tunnel.
THROUGH: Final = """
import os, socket, sys
from urllib.parse import urlsplit
proxy = urlsplit(os.environ["HTTPS_PROXY"])
for place in sys.argv[1:]:
    with socket.create_connection((proxy.hostname, proxy.port), 30) as way:
        way.sendall(f"CONNECT {place} HTTP/1.1\\r\\nHost: {place}\\r\\n\\r\\n".encode())
        reply = way.makefile("rb")
        status = reply.readline().split()[1].decode()
        while reply.readline().strip():
            pass
        came = ""
        if status == "200":
            way.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            came = reply.readline().decode().strip()
        print(place, status, came)
"""


def test_a_role_with_a_way_out_reaches_what_it_lists_and_nothing_else(
    engine: object, images: object
) -> None:
    """Through its proxy a server gets to a listed host; not to others, not inside, not directly."""
    listed = "egress: [api.example.com:8443, inside.example.com:8080]\n"
    with made(engine, images, "monitoring.yaml", "gateway-monitoring") as alone:
        ours = alone.run("docker", "inspect", "-f", "{{.Id}}", "bandmaster:test").strip()
        _ = (alone.root / "agents.yaml").write_text(f"docker: {{image: '{ours}'}}\n")
        for role in TOOLS:  # they share files, so all of them run in the same way
            path, more = alone.root / "roles" / f"{role}.yaml", "runtime: container\n"
            more += listed if role == "monitoring" else ""
            _ = path.write_text(path.read_text() + more)
        _ = alone.run(AGENTS, "render", "compose", "monitoring")
        body = cast("dict[str, dict[str, Object]]", yaml.safe_load(alone.file.read_text()))
        # The internet: one machine with two names, at an address that is nobody's private one.
        net = f"11.{secrets.randbelow(250)}.{secrets.randbelow(250)}"
        body["networks"]["outside"] = {"ipam": {"config": [{"subnet": f"{net}.0/24"}]}}
        body["services"]["internet"] = {
            "image": "bandmaster-wallet:test",
            "entrypoint": ["python3", "-m", "http.server", "8443", "--directory", "/tmp"],  # noqa: S108
            "networks": {"outside": {"aliases": ["api.example.com", "other.example.com"]}},
            "stop_grace_period": "0s",
        }
        # A listed name that leads to something private: the server itself.
        name = {"role-monitoring": {"aliases": ["inside.example.com"]}}
        body["services"]["monitoring-wallet"]["networks"] = name
        _ = alone.file.write_text(yaml.safe_dump(body))
        alone.up()
        places = ("api.example.com:8443", "other.example.com:8443", "api.example.com:443",
                  "inside.example.com:8080", f"{net}.2:8443")  # fmt: skip
        words = ("exec", "-T", "monitoring-wallet", "python3", "-I", "-c")
        told = alone.compose(*words, THROUGH, *places)
        assert told.splitlines() == [
            "api.example.com:8443 200 HTTP/1.0 200 OK",
            *(f"{place} 403 " for place in places[1:]),
        ]
        asks = "import socket; print(socket.gethostbyname(socket.gethostname()))"
        internet = alone.compose("exec", "-T", "internet", "python3", "-c", asks).strip()
        direct = f"import socket; socket.create_connection(({internet!r}, 8443), 2)"
        done = alone.try_("docker", "compose", "-f", str(alone.file), *words, direct)
        assert done.returncode != 0
        assert "Error" in done.stderr


def test_a_port_that_is_taken_is_named(engine: object, images: object) -> None:
    """It is told before anything starts, with the cure; who has it keeps it."""
    with made(engine, images, "monitoring.yaml", "gateway-monitoring") as alone:
        words = (AGENTS, "rotate", "--compose", str(alone.file))
        with socket.create_server(("127.0.0.1", alone.port)):
            told = alone.try_(*words)
            done = alone.try_("docker", "compose", "-f", str(alone.file), "up", "-d", "--wait")
        assert told.returncode == 0
        assert f"Another program has 127.0.0.1:{alone.port}" in told.stderr
        assert "MONITORING_PORT=PORT" in told.stderr
        assert done.returncode != 0
        assert str(alone.port) in done.stderr
        assert "Another program" not in alone.try_(*words).stderr
