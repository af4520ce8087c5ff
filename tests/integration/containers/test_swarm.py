"""A rendered stack, for real: two engines in two network namespaces, and calls throughout."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Final, cast, final

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

ROOT: Final = Path(__file__).parents[3]
LAB: Final = ROOT / "scripts" / "lab-engines"
# Short, and the same for all runs: only one lab fits a machine.
PLACE: Final = Path("/tmp/bmlab")  # noqa: S108
HOST: Final = "10.123.0.1"
GATEWAY: Final = ("10.123.0.11", 8700)
IMAGES: Final = ("bandmaster", "bandmaster-wallet")
CANARY: Final = "canary-passphrase-of-the-swarm"
STACK: Final = "bmswarm"
LONGEST: Final = 240
Object = dict[str, object]


def run(*words: str | Path, text: str = "", env: dict[str, str] | None = None) -> str:
    """Run a program that has to succeed."""
    done = subprocess.run(
        [str(word) for word in words],
        input=text,
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
        env=env,
    )
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def agents(*words: str | Path) -> str:
    """Run the command."""
    return run(sys.executable, "-m", "orchestrator.cli.main", *words)


def wait(question: Callable[[], bool], seconds: float = LONGEST) -> None:
    """Wait until something outside of this process is so."""
    end = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < end, question
        time.sleep(0.1)


@final
class Swarm:
    """Two nodes, a project, and what is deployed of it."""

    def __init__(self, folder: Path, registry: int) -> None:
        """Keep where things are."""
        self.folder = folder
        self.registry = registry
        self.images = {name: self._push(name) for name in IMAGES}

    def docker(self, *words: str | Path, node: str = "a", text: str = "") -> str:
        """Ask an engine of the lab."""
        return run("docker", "-H", f"unix://{PLACE}/{node}/sock", *words, text=text)

    def _push(self, name: str) -> str:
        """Put an image into the registry; give its name there, by digest."""
        here = f"127.0.0.1:{self.registry}/{name}"
        _ = run("docker", "tag", f"{name}:test", f"{here}:test")
        _ = run("docker", "push", "-q", f"{here}:test")
        digests = run("docker", "inspect", "-f", '{{join .RepoDigests " "}}', f"{here}:test")
        digest = next(each for each in digests.split() if each.startswith(f"{here}@"))
        _ = subprocess.run(["docker", "rmi", f"{here}:test"], capture_output=True, check=False)
        return digest.replace("127.0.0.1", HOST)

    def write_project(self) -> None:
        """Write two roles of the wallet, one with a secret, that keep nothing, and one as it is."""
        servers = self.folder / "roles" / "servers"
        servers.mkdir(parents=True)
        text = (ROOT / "roles/servers/wallet.yaml").read_text()
        whole = cast("Object", yaml.safe_load(text)) | {"server": "signer"}
        cast("Object", whole["container"])["image"] = self.images["bandmaster-wallet"]
        _ = (servers / "signer.yaml").write_text(yaml.safe_dump(whole))
        signs = cast("Object", yaml.safe_load((ROOT / "roles/executor.yaml").read_text()))
        _ = (self.folder / "roles/executor.yaml").write_text(
            yaml.safe_dump({**signs, "server": "signer"})
        )
        stock = cast("Object", yaml.safe_load(text))
        cast("Object", stock["launch"])["env"] = {"WALLETSERVER_LEDGER": "/tmp/ledger.sqlite3"}  # noqa: S108  inside
        stock["container"] = {
            "image": self.images["bandmaster-wallet"],
            "http": cast("Object", stock["container"])["http"],
        }
        del stock["bootstrap"]
        _ = (servers / "wallet.yaml").write_text(yaml.safe_dump(stock))
        for role in ("monitoring", "treasury"):
            wanted = cast("Object", yaml.safe_load((ROOT / f"roles/{role}.yaml").read_text()))
            if role == "treasury":
                wanted["secrets"] = {"WALLETSUITE_PASSPHRASE": "env:NOT_READ_HERE"}
            _ = (self.folder / "roles" / f"{role}.yaml").write_text(yaml.safe_dump(wanted))

    def give_secret(self, generation: int) -> str:
        """Make the secret of a generation, as a person does."""
        name = f"treasury-wallet-g{generation}-WALLETSUITE_PASSPHRASE"
        _ = self.docker("secret", "create", name, "-", text=CANARY)
        return name

    def render(self, *words: str) -> Path:
        """Render the stack; many a machine for tests has no IPsec. Give the directory."""
        out = self.folder / "swarm"
        image = ("--name", "lab", "--image", self.images["bandmaster"])
        opened = ("--publish", str(GATEWAY[1]), "--unencrypted")
        words = (*image, *opened, *words)
        _ = agents("render", "swarm", "--project", self.folder, "--out", out, *words)
        return out

    def do_once(self) -> None:
        """Hand the swarm what has to be made once."""
        script = self.render() / "once" / "signer.sh"
        place = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        host = {"DOCKER_HOST": f"unix://{PLACE}/a/sock", "HOME": str(self.folder)}
        _ = run("sh", script, self.folder, STACK, env={**place, **host})

    def deploy(self, *words: str) -> None:
        """Render the stack and deploy it; returns when every service is as it says."""
        _ = self.docker(
            *("stack", "deploy", "--detach=false", "--resolve-image", "never"),
            *("-c", self.render(*words) / "stack.yaml", STACK),
        )

    def container(self, service: str, node: str = "a") -> str:
        """Tell the container of a service on a node; empty if none runs there."""
        return self.docker("ps", "-q", "-f", f"name={STACK}_{service}", node=node).split("\n")[0]

    def token(self, role: str) -> str:
        """Issue a token."""
        words = ("agents", "token", "issue", role, "--agent", "tester", "--json")
        written = self.docker("exec", self.container("agents-gateway"), *words)
        return cast("str", cast("Object", json.loads(written))["token"])

    def where(self, service: str) -> str:
        """Tell the node on which a service runs."""
        words = ("--filter", "desired-state=running", "--format", "{{.Node}} {{.CurrentState}}")
        found = self.docker("service", "ps", f"{STACK}_{service}", *words).split()
        return found[0] if found[1:2] == ["Running"] else ""

    def move(self, service: str, node: str) -> None:
        """Have a service run on a node, from which it may go again."""
        other = "bmlab-b" if node == "bmlab-a" else "bmlab-a"
        _ = self.docker("node", "update", "--availability", "pause", other)
        _ = self.docker("service", "update", "-q", "--force", f"{STACK}_{service}")
        wait(lambda: self.where(service) == node)
        _ = self.docker("node", "update", "--availability", "active", other)


@final
class Calls:
    """A caller who calls again and again, and keeps what went wrong."""

    def __init__(self, role: str, token: str, tool: str = "get_price", **said: str) -> None:
        """Prepare; the price of something is asked for unless it is said otherwise."""
        self.tool = tool
        self.said = said or {"symbol": "ETH"}
        self.role = role
        self.token = token
        self.answered = 0
        self.failed: list[str] = []
        self.slowest = 0.0
        self._ending = threading.Event()

    def call(self) -> str:
        """Call once; give what went wrong, or nothing."""
        meta = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "tests", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        params = {"name": self.tool, "arguments": self.said, "_meta": meta}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        connection = http.client.HTTPConnection(*GATEWAY, timeout=LONGEST)
        try:
            connection.request(
                "POST",
                f"/{self.role}/mcp",
                json.dumps(body),
                {
                    "host": "agents-gateway:8700",
                    "authorization": f"Bearer {self.token}",
                    "content-type": "application/json",
                    "accept": "application/json, text/event-stream",
                    "mcp-protocol-version": "2026-07-28",
                    "mcp-method": "tools/call",
                    "mcp-name": self.tool,
                },
            )
            answer = connection.getresponse()
            text = answer.read().decode()
        except OSError as error:
            return repr(error)
        finally:
            connection.close()
        is_good = answer.status == http.HTTPStatus.OK and '"structuredContent"' in text
        is_good = is_good and '"isError":true' not in text
        return "" if is_good else f"{answer.status} {text}"

    def run(self) -> None:
        """Call until told to end."""
        while not self._ending.wait(0.02):
            begun = time.monotonic()
            if wrong := self.call():
                self.failed.append(wrong)
            else:
                self.answered += 1
            self.slowest = max(self.slowest, time.monotonic() - begun)

    def end(self) -> None:
        """Let the one under way be the last."""
        self._ending.set()


@contextmanager
def calling(swarm: Swarm, role: str, allowed: str = "") -> Generator[Calls]:
    """Call a role while the block runs; every answer was a good one, or told what is allowed."""
    calls = Calls(role, swarm.token(role))
    thread = threading.Thread(target=calls.run)
    thread.start()
    try:
        wait(lambda: calls.answered > 0 or bool(calls.failed))
        yield calls
    finally:
        calls.end()
        thread.join(LONGEST)
    wrong = [each for each in calls.failed if not allowed or allowed not in each]
    assert not wrong, wrong[:3]


def missing() -> str:
    """Tell what this machine lacks for the lab; nothing if it lacks nothing."""
    if os.geteuid() != 0:
        return "two engines need root"
    for program in ("docker", "dockerd", "docker-registry", "ip", "iptables", "nsenter"):
        if shutil.which(program) is None:
            return f"there is no {program}; scripts/dev-services installs it"
    return ""


@contextmanager
def registry(folder: Path) -> Generator[int]:
    """Run a registry; gives its port."""
    with socket.socket() as place:
        place.bind(("", 0))  # the nodes reach it, too
        port = cast("int", place.getsockname()[1])
    config = folder / "registry.yaml"
    storage: Object = {"filesystem": {"rootdirectory": str(folder / "registry")}}
    settings: Object = {"version": 0.1, "storage": storage, "http": {"addr": f":{port}"}}
    _ = config.write_text(yaml.safe_dump(settings))

    def answers() -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    with (folder / "registry.log").open("w") as log:
        started = subprocess.Popen(["docker-registry", "serve", config], stdout=log, stderr=log)
    try:
        wait(answers)
        yield port
    finally:
        started.kill()
        _ = started.wait(LONGEST)


@pytest.fixture(scope="module")
def swarm(images: dict[str, str]) -> Generator[Swarm]:
    """Deploy three roles on two nodes."""
    assert images.keys() >= set(IMAGES)
    if reason := missing():
        if os.environ.get("BANDMASTER_TEST_ALL"):
            pytest.fail(reason)
        pytest.skip(reason)
    folder = Path(mkdtemp(prefix="bm-", dir="/tmp"))
    with (PLACE.with_suffix(".lock")).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            with registry(folder) as port:
                _ = run(LAB, "up", PLACE)
                made = Swarm(folder, port)
                made.write_project()
                address = GATEWAY[0]
                words = ("--advertise-addr", address, "--listen-addr", f"{address}:2377")
                # A node that is gone is seen after three of them.
                _ = made.docker("swarm", "init", *words, "--dispatcher-heartbeat", "2s")
                ticket = made.docker("swarm", "join-token", "-q", "worker")
                _ = made.docker("swarm", "join", "--token", ticket, f"{address}:2377", node="b")
                for label in ("gateway", "kept-wallet"):
                    words = ("--label-add", f"agents.{label}=true", "bmlab-a")
                    _ = made.docker("node", "update", *words)
                _ = made.give_secret(1)
                made.do_once()
                made.deploy()
                yield made
        finally:
            _ = run(LAB, "down", PLACE)
            shutil.rmtree(folder, ignore_errors=True)


def told(swarm: Swarm, kinds: Sequence[tuple[str, ...]]) -> str:
    """Read all that both engines tell of what they run."""
    found: list[str] = []
    for node in ("a", "b"):
        for kind in kinds if node == "a" else [("ps", "-aq")]:
            ids = swarm.docker(*kind, node=node).split()
            found.append(swarm.docker("inspect", *ids, node=node) if ids else "")
    return "".join(found)


def test_a_rendered_stack_serves(swarm: Swarm) -> None:
    """Both roles answer through the gateway, and no engine tells the secret of one."""
    for role in ("monitoring", "treasury"):
        with calling(swarm, role) as calls:
            wait(lambda calls=calls: calls.answered > 10)
    kinds = [("ps", "-aq"), ("service", "ls", "-q"), ("secret", "ls", "-q"), ("config", "ls", "-q")]
    text = told(swarm, kinds)
    assert "treasury-wallet-g1-WALLETSUITE_PASSPHRASE" in text
    assert CANARY not in text


def test_a_neighbour_in_the_gateways_network_reaches_it(swarm: Swarm) -> None:
    """No port is needed: a service of another stack asks it by its name, from the other node."""
    image = swarm.images["bandmaster-wallet"]
    words = ("--detach", "--restart-condition", "none", "--constraint", "node.hostname==bmlab-b")
    asks = ("answers", "http://agents-gateway:8700/health")
    network = ("--network", f"{STACK}_edge", "--no-resolve-image")
    name = swarm.docker(
        "service", "create", "-q", *words, *network, "--no-healthcheck", image, *asks
    )
    try:

        def state() -> str:
            return swarm.docker("service", "ps", name, "--format", "{{.CurrentState}}")

        wait(lambda: state().startswith(("Complete", "Failed", "Rejected")))
        assert state().startswith("Complete"), swarm.docker("service", "ps", "--no-trunc", name)
    finally:
        _ = swarm.docker("service", "rm", name)


def test_what_was_made_once_is_handed_to_the_swarm(swarm: Swarm) -> None:
    """The wallet that `agents up` made on this machine signs in the swarm, with its own token."""
    wanted = {"walletName": "treasury", "chain": "ethereum"}
    calls = Calls("executor", swarm.token("executor"), "get_wallet_address", **wanted)
    assert not calls.call()
    (made,) = (swarm.folder / ".agents").rglob("executor.token")
    assert made.read_text().strip() not in told(swarm, [("ps", "-aq"), ("service", "ls", "-q")])


def test_another_generation_begins_before_the_old_one_ends(swarm: Swarm) -> None:
    """A rotation is another secret and a deployment; calls go on, and the old secret can go."""
    with calling(swarm, "treasury") as calls:
        _ = swarm.give_secret(2)
        swarm.deploy("--generation", "treasury=2")
        before = calls.answered
        wait(lambda: calls.answered > before + 10)
    assert calls.slowest < 60, calls.slowest
    _ = swarm.docker("secret", "rm", "treasury-wallet-g1-WALLETSUITE_PASSPHRASE")


def test_what_ran_on_a_node_that_is_cut_off_goes_on_elsewhere(swarm: Swarm) -> None:
    """Calls that only read wait for it, as long as calls wait; nothing is done at two places."""
    swarm.move("monitoring-wallet", "bmlab-b")
    try:
        # How soon a swarm notices is its own affair, and a busy machine's.
        with calling(swarm, "monitoring", "upstream.unavailable") as calls:
            _ = run(LAB, "cut", "b")
            wait(lambda: swarm.where("monitoring-wallet") == "bmlab-a")
            before = calls.answered
            wait(lambda: calls.answered > before + 10)
        assert calls.slowest < 120, calls.slowest
    finally:
        _ = run(LAB, "mend", "b")
