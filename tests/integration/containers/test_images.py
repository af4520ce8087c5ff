"""Our images, as they are built and started: what they may do, and what they give away."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast

import pytest

from orchestrator.config.stock import stock_files

if TYPE_CHECKING:
    from tests.integration.containers.conftest import Engine

ROOT: Final = Path(__file__).resolve().parents[3]
NAMES: Final = ("bandmaster", "bandmaster-wallet")
HTTP: Final = ("--env=MCP_TRANSPORT=http", "--env=MCP_BANDS=read")
OWNER: Final = 10001

# What a program finds out about itself.
ABOUT: Final = """
import json, os
lines = open("/proc/self/status").read().splitlines()
status = dict(line.split(":\\t", 1) for line in lines if ":\\t" in line)
try:
    open("/usr/made", "w")
    writes = "yes"
except OSError as error:
    writes = error.strerror
print(json.dumps({
    "ids": [os.getuid(), os.getgid(), *os.getgroups()],
    "capabilities": int(status["CapBnd"], 16) | int(status["CapEff"], 16),
    "gains": status["NoNewPrivs"],
    "writes": writes,
}))
"""


class Secrets(Protocol):
    """Makes a directory of secrets for a container."""

    def __call__(self, mode: int = 0o440, **contents: str) -> str:
        """Write files, and return the words that mount them."""
        ...


@pytest.fixture
def secret_files(tmp_path: Path) -> Secrets:
    """Write files as an engine mounts secrets: readable for the user inside."""

    def make(mode: int = 0o440, **contents: str) -> str:
        place = tmp_path / secrets.token_hex(4)
        place.mkdir()
        for name, content in contents.items():
            path = place / name
            _ = path.write_text(content)
            path.chmod(mode)
            shutil.chown(path, group=OWNER)
        return f"--volume={place}:/run/secrets:ro"

    return make


@pytest.mark.parametrize("name", NAMES)
def test_runs_with_next_to_nothing(
    engine: Engine, images: dict[str, str], hardened: tuple[str, ...], name: str
) -> None:
    """Without root, capabilities, network and a writable disk, an image's Python still runs."""
    said = engine.run(
        "run", "--rm", "--network=none", *hardened, images[name], "python3", "-c", ABOUT
    )
    assert json.loads(said) == {
        "ids": [OWNER, OWNER, OWNER],
        "capabilities": 0,
        "gains": "1",
        "writes": "Read-only file system",
    }


@pytest.mark.parametrize("name", NAMES)
def test_says_what_it_is(engine: Engine, images: dict[str, str], name: str) -> None:
    """An image names itself, its version and its source, its user, and how it is found well."""
    config = cast("dict[str, object]", engine.inspect(images[name])["Config"])
    labels = cast("dict[str, str]", config["Labels"])
    for key in ("title", "description", "version", "revision"):
        assert labels[f"org.opencontainers.image.{key}"] not in {"", "0", "unknown"}
    assert config["User"] == "mcp"
    assert config["Entrypoint"] == ["with-secrets"]
    assert config["Healthcheck"]
    # Nothing of it is open or kept unless whoever starts it says so.
    assert not config.get("ExposedPorts")
    assert not config.get("Volumes")


@pytest.mark.parametrize("name", NAMES)
def test_holds_no_tools(
    engine: Engine, images: dict[str, str], hardened: tuple[str, ...], name: str
) -> None:
    """What installs packages is not in an image, and neither is what only the other one needs."""
    absent = {"pip", "ensurepip", "uv"}
    absent |= {"eth_keys"} if name == "bandmaster" else {"orchestrator", "docker", "supervisor"}
    program = f"import importlib.util as u; print([n for n in {sorted(absent)} if u.find_spec(n)])"
    said = engine.run(
        "run", "--rm", "--network=none", *hardened, images[name], "python3", "-c", program
    )
    assert said == "[]"


def test_wallet_server_serves_stdio(
    engine: Engine, images: dict[str, str], hardened: tuple[str, ...]
) -> None:
    """Started without arguments, the wallet server answers on its standard input and output."""
    asked = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    }
    words = ["--rm", "--interactive", "--network=none", "--tmpfs=/var/lib/wallet:uid=10001"]
    said = engine.run(
        "run", *words, *hardened, images["bandmaster-wallet"], text=json.dumps(asked) + "\n"
    )
    assert json.loads(said)["result"]["serverInfo"]["name"] == "walletserver"


def test_secrets_reach_the_program_alone(
    engine: Engine,
    images: dict[str, str],
    hardened: tuple[str, ...],
    prefix: str,
    secret_files: Secrets,
) -> None:
    """A healthy server has the secret of a file, and the engine can tell neither it nor its use."""
    canary = f"canary-{secrets.token_hex(8)} '\"$(x)\\ ünd"
    _ = engine.run(
        "run", "--detach", "--name", prefix, "--network=none", *hardened, *HTTP,
        "--tmpfs=/var/lib/wallet:uid=10001",
        secret_files(passphrase=f"{canary}\n"),
        "--env=WALLETSUITE_PASSPHRASE_FILE=/run/secrets/passphrase",
        images["bandmaster-wallet"],
    )  # fmt: skip
    engine.wait_healthy(prefix)
    program = "import sys; sys.stdout.write(open('/proc/1/environ').read())"
    held = engine.run("exec", prefix, "python3", "-c", program).split("\0")
    assert f"WALLETSUITE_PASSPHRASE={canary}" in held
    assert not [line for line in held if line.startswith("WALLETSUITE_PASSPHRASE_FILE")]
    logs = engine.try_("logs", prefix)
    told = json.dumps(engine.inspect(prefix), ensure_ascii=False) + logs.stdout + logs.stderr
    assert canary.split(maxsplit=1)[0] not in told


def test_server_that_stops_answering_is_unhealthy(engine: Engine, images: dict[str, str]) -> None:
    """The check asks the server itself: an address that nobody serves, or a 404, is no health."""
    for address, said in (
        ("http://127.0.0.1:9/health", "does not answer"),
        ("https://127.0.0.1/", "is no http://HOST:PORT/PATH"),
    ):
        done = engine.try_(
            "run", "--rm", "--network=none", images["bandmaster-wallet"], "answers", address
        )
        assert done.returncode == 1
        assert said in done.stderr


def test_gateway_is_healthy_once_its_role_is_ready(
    engine: Engine,
    images: dict[str, str],
    hardened: tuple[str, ...],
    prefix: str,
    tmp_path: Path,
) -> None:
    """The gateway's image, over a wallet server in another container, finds itself well."""
    for name, content in stock_files().items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _ = path.write_bytes(content)
    _ = (tmp_path / "agents.yaml").write_text(
        f"state: /var/lib/bandmaster/state\nattach: {{monitoring: http://{prefix}-w:8080/mcp}}\n"
    )
    tmp_path.chmod(0o755)
    _ = engine.run("network", "create", "--internal", prefix)
    common = ("run", "--detach", f"--network={prefix}", *hardened)
    _ = engine.run(
        *common, *HTTP, f"--name={prefix}-w", "--tmpfs=/var/lib/wallet:uid=10001",
        images["bandmaster-wallet"],
    )  # fmt: skip
    _ = engine.run(
        *common, f"--name={prefix}-g", f"--volume={tmp_path}:/project:ro",
        "--tmpfs=/var/lib/bandmaster:uid=10001,mode=0700",
        images["bandmaster"], "agents", "gateway", "monitoring",
    )  # fmt: skip
    engine.wait_healthy(f"{prefix}-w")
    engine.wait_healthy(f"{prefix}-g")
    engine.run("exec", f"{prefix}-g", "answers", "http://127.0.0.1:8700/ready")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--env=KEY_FILE=/run/secrets/gone"], "KEY_FILE names /run/secrets/gone, which is not"),
        (["--env=KEY_FILE=/run/secrets/empty"], "KEY_FILE names /run/secrets/empty, which is emp"),
        (["--env=KEY_FILE=/run/secrets"], None),
        (["--env=KEY_FILE=/run/secrets/"], "KEY_FILE names /run/secrets/, which is not there"),
        (
            ["--env=KEY_FILE=/run/secrets/good", "--env=KEY=canary-other"],
            "KEY and KEY_FILE are both set",
        ),
        (["--env=CERT_FILE=/elsewhere"], None),
    ],
)
def test_refusals_of_secrets(
    engine: Engine,
    images: dict[str, str],
    secret_files: Secrets,
    words: list[str],
    said: str | None,
) -> None:
    """A secret that is missing, empty or told twice ends it with a sentence; no value is shown."""
    mounted = secret_files(good="canary-good", empty="\n")
    done = engine.try_(
        "run", "--rm", "--network=none", mounted, *words, images["bandmaster-wallet"],
        "python3", "-c", "print('started')",
    )  # fmt: skip
    assert "canary" not in done.stdout + done.stderr
    if said is None:
        assert (done.returncode, done.stdout) == (0, "started\n")
    else:
        assert (done.returncode, done.stdout) == (78, "")
        assert done.stderr.startswith(f"with-secrets: {said}")


def test_secret_of_somebody_else(
    engine: Engine, images: dict[str, str], secret_files: Secrets
) -> None:
    """A secret that the user inside may not read is refused by its name, with the cure."""
    mounted = secret_files(0o400, key="canary-key")
    done = engine.try_(
        "run", "--rm", "--network=none", mounted, "--env=KEY_FILE=/run/secrets/key",
        images["bandmaster-wallet"],
    )  # fmt: skip
    assert done.returncode == 78
    assert "may not read; let its user or group be 10001" in done.stderr


def test_lines_of_a_secret(engine: Engine, images: dict[str, str], secret_files: Secrets) -> None:
    """A secret of several lines arrives whole; a variable's value cannot pose as another one."""
    key = "-----BEGIN KEY-----\n\n  a\\b\n-----END KEY-----"
    program = "import os; print(repr((os.environ['KEY'], os.environ.get('OTHER'))))"
    said = engine.run(
        "run", "--rm", "--network=none", secret_files(key=f"{key}\n", other="canary"),
        "--env=KEY_FILE=/run/secrets/key",
        "--env=TEXT=x\nexport OTHER_FILE='/run/secrets/other'",
        images["bandmaster-wallet"], "python3", "-c", program,
    )  # fmt: skip
    assert said == repr((key, None))


def test_program_that_is_not_there(engine: Engine, images: dict[str, str]) -> None:
    """A misspelt program is told by its name."""
    done = engine.try_("run", "--rm", "--network=none", images["bandmaster"], "agent")
    assert done.returncode == 78
    assert done.stderr == "with-secrets: there is no program agent here\n"


def test_what_a_build_can_see(engine: Engine, tmp_path: Path) -> None:
    """No .env, repository, state or compiled module of a checkout gets into a build."""
    context, out = tmp_path / "context", tmp_path / "out.tar"
    wanted = {"pyproject.toml", "orchestrator/a.py", "roles/a.yaml", "docker/a", ".env.example"}
    hidden = {
        ".env", ".git/config", ".agents/state", ".dev-services/a", ".venv/a", "compose/secret",
        "orchestrator/.env", "orchestrator/__pycache__/a.pyc", "roles/.env", "roles/.agents/key",
        "walletserver/sub/.env", "docker/.git/a", "tests/a.py", "notes.txt",
    }  # fmt: skip
    for name in wanted | hidden:
        path = context / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    _ = shutil.copy(ROOT / ".dockerignore", context)
    _ = engine.run(
        "buildx", "build", "--quiet", "--output", f"type=tar,dest={out}", "--file", "-",
        str(context), text="FROM scratch\nCOPY . /\n",
    )  # fmt: skip
    with tarfile.open(out) as archive:
        assert {each.name for each in archive if each.isfile()} == wanted


def test_base_image_is_made_once(engine: Engine, prefix: str) -> None:
    """A machine's own Python becomes a base without a registry, and once for the same files."""
    made = [
        subprocess.run(
            [sys.executable, str(ROOT / "scripts" / "base-image"), f"{prefix}:base"],
            check=True, capture_output=True, text=True, timeout=60,
        ).stdout.split()[1]
        for _ in range(2)
    ]  # fmt: skip
    assert made[0] == made[1]
    program = (
        "import ctypes, sqlite3, ssl; print(bool(ssl.create_default_context().get_ca_certs()))"
    )
    words = ("run", "--rm", "--network=none", "--user=mcp", f"{prefix}:base")
    assert engine.run(*words, "python3", "-c", program) == "True"


def test_leftovers_of_a_killed_run(engine: Engine, images: dict[str, str], prefix: str) -> None:
    """What a run left that was killed is removed by the next one; what somebody uses is not."""
    with subprocess.Popen(["true"]) as ended:
        gone = f"bmt-{ended.pid}-{prefix}"
    for name in (gone, prefix):
        _ = engine.run("create", "--name", name, images["bandmaster"])
    engine.sweep()
    names = engine.run("ps", "-a", "--format", "{{.Names}}").split()
    assert gone not in names
    assert prefix in names


@pytest.mark.parametrize("name", NAMES)
def test_bill_of_materials(engine: Engine, images: dict[str, str], name: str) -> None:
    """What is installed in an image is what the lock names, version by version."""
    del engine
    locked, installed = (
        {
            (each["name"], each["version"])
            for each in cast("list[dict[str, str]]", json.loads(text)["components"])
            if each["type"] == "library"
        }
        for text in (_sbom(), _sbom(images[name]))
    )
    assert len(installed) > 20
    assert installed - locked <= {("bandmaster", "0.1.0")}


def _sbom(*words: str) -> str:
    return subprocess.run(
        [str(ROOT / "scripts" / "sbom"), *words],
        check=True, capture_output=True, text=True, timeout=60,
    ).stdout  # fmt: skip
