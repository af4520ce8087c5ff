"""Other gateways that are written in Python, each in an environment of its own, for one run.

    python -m bench.peers DIRECTORY      (installs them)

They are set up as their documents say, with what slows them down without need switched off: logs,
and limits that a benchmark would meet. All are called in sessions: those that also speak the newer
revision are slower in it.
"""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Final, TypeAlias, cast

from bench import rig
from orchestrator.model.base import Json, JsonObject

_FASTMCP: Final = """\
import asyncio, sys
from fastmcp import Client
from fastmcp.server import create_proxy

async def main(url, port, shared):
    how = {"transport": "http", "host": "127.0.0.1", "port": port, "show_banner": False}
    if not shared:
        await create_proxy(url).run_async(**how, log_level="error")
    async with Client(url) as client:
        await create_proxy(client).run_async(**how, log_level="error")

asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "shared"))
"""
_LITELLM: Final = """\
model_list: []
general_settings: {{master_key: {key}}}
mcp_servers:
  bench: {{url: "{url}", transport: http, allow_all_keys: true}}
"""
_TOKEN: Final = ("-m", "mcpgateway.utils.create_jwt_token", "-e", "1000", "--admin", "-u")


@dataclass(frozen=True, slots=True)
class Site:
    """What a gateway is started with.

    Attributes:
        programs: The programs of its environment.
        root: A directory of its own.
        url: The server over HTTP.
        stdio: The server over standard input.
    """

    programs: Path
    root: Path
    url: str
    stdio: Path


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway that runs.

    Attributes:
        pid: Its first process.
        url: Where it speaks MCP.
        token: What it wants to be shown, empty for nothing.
        tool: What it calls the tool.
    """

    pid: int
    url: str
    token: str = ""
    tool: str = "echo"


Start: TypeAlias = Callable[[Site], AbstractContextManager[Running]]


@dataclass(frozen=True, slots=True)
class Peer:
    """One gateway.

    Attributes:
        environment: Name of its environment.
        package: What is installed there.
        start: Starts it.
    """

    environment: str
    package: str
    start: Start


@contextmanager
def _serve(
    site: Site, *words: str | Path, env: dict[str, str] | None = None
) -> Generator[tuple[int, int]]:
    """Run a program at a port, which stands for `PORT`; tell its process and the port."""
    port = rig.free_port()
    given = [str(port) if word == "PORT" else word for word in words]
    with rig.process(*given, cwd=site.root, env=env, log=site.root / "log") as child:
        rig.await_port(port, seconds=180)
        yield child.pid, port


def _fastmcp(kind: str) -> Start:
    @contextmanager
    def start(site: Site) -> Generator[Running]:
        script = site.root / "proxy.py"
        _ = script.write_text(_FASTMCP)
        words = (site.programs / "python", script, site.url, "PORT", kind)
        with _serve(site, *words) as (pid, port):
            yield Running(pid, f"http://127.0.0.1:{port}/mcp")

    return start


@contextmanager
def _mcp_proxy(site: Site) -> Generator[Running]:
    program = site.programs / "mcp-proxy"
    with _serve(site, program, "--port", "PORT", "--log-level", "ERROR", "--", site.stdio) as it:
        yield Running(it[0], f"http://127.0.0.1:{it[1]}/mcp")


@contextmanager
def _litellm(site: Site) -> Generator[Running]:
    key = "sk-" + secrets.token_hex(16)
    _ = (site.root / "config.yaml").write_text(_LITELLM.format(key=key, url=site.url))
    env = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    words = ("--config", "config.yaml", "--host", "127.0.0.1", "--port", "PORT")
    with _serve(site, site.programs / "litellm", *words, env=env) as (pid, port):
        yield Running(pid, f"http://127.0.0.1:{port}/bench/mcp", key, "bench-echo")


@contextmanager
def _contextforge(site: Site) -> Generator[Running]:
    env = {
        "DATABASE_URL": f"sqlite:///{site.root}/mcp.db",
        "CACHE_TYPE": "memory",
        "LOG_LEVEL": "ERROR",
        "MCPGATEWAY_UI_ENABLED": "false",
        "PLATFORM_ADMIN_EMAIL": "bench@example.com",
        "RATE_LIMITING_ENABLED": "false",
        "SSRF_ALLOW_LOCALHOST": "true",
        "SSRF_ALLOW_PRIVATE_NETWORKS": "true",
        "TOOL_CONCURRENT_LIMIT": "1000",
        "TOOL_RATE_LIMIT": "1000000000",
    }
    for name in (
        "AUTH_ENCRYPTION_SECRET",
        "BASIC_AUTH_PASSWORD",
        "DEFAULT_USER_PASSWORD",
        "JWT_SECRET_KEY",
        "PLATFORM_ADMIN_PASSWORD",
    ):
        env[name] = "Aa1-" + secrets.token_urlsafe(48)
    words = (site.programs / "mcpgateway", "--host", "127.0.0.1", "--port", "PORT")
    with _serve(site, *words, env=env) as (pid, port):
        told = subprocess.run(
            [site.programs / "python", *_TOKEN, "bench@example.com"],
            cwd=site.root,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            check=True,
        )
        token = told.stdout.split()[-1]
        backend: JsonObject = {"name": "bench", "url": site.url, "transport": "STREAMABLEHTTP"}
        _ = _ask(port, token, "POST", "/gateways", backend)
        tools = cast("list[JsonObject]", _ask(port, token, "GET", "/tools"))
        server: JsonObject = {"name": "bench", "associated_tools": [tools[0]["id"]]}
        made = cast("JsonObject", _ask(port, token, "POST", "/servers", {"server": server}))
        url = f"http://127.0.0.1:{port}/servers/{made['id']}/mcp"
        yield Running(pid, url, token, "bench-echo")


def _ask(port: int, token: str, method: str, path: str, message: JsonObject | None = None) -> Json:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        head = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        body = None if message is None else json.dumps(message)
        connection.request(method, path, body, head)
        response = connection.getresponse()
        said = response.read()
    finally:
        connection.close()
    if response.status not in {200, 201}:
        raise SystemExit(f"{method} {path}: {response.status} {said[:1000]!r}")
    return cast("Json", json.loads(said))


PEERS: Final = {
    "FastMCP proxy, one client": Peer("fastmcp", "fastmcp==4.1.2", _fastmcp("shared")),
    "FastMCP proxy, as it is": Peer("fastmcp", "fastmcp==4.1.2", _fastmcp("own")),
    "mcp-proxy, stdio": Peer("mcp-proxy", "mcp-proxy==0.13.0", _mcp_proxy),
    "LiteLLM": Peer("litellm", "litellm[proxy]==1.106.2", _litellm),
    "ContextForge": Peer(
        "contextforge", "mcp-contextforge-gateway==1.0.7.post20260921", _contextforge
    ),
}


def programs(directory: Path, peer: Peer) -> Path | None:
    """Tell where a gateway's programs are; None if it is not installed."""
    found = directory / peer.environment / "bin"
    return found if (found / "python").exists() else None


def main() -> None:
    """Install all."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    directory = Path(sys.argv[1]).resolve()
    for peer in PEERS.values():
        if programs(directory, peer) is None:
            environment = directory / peer.environment
            _ = subprocess.run([sys.executable, "-m", "venv", environment], check=True)
            pip = [environment / "bin" / "python", "-m", "pip", "install", "--quiet", peer.package]
            _ = subprocess.run(pip, check=True)


if __name__ == "__main__":
    main()
