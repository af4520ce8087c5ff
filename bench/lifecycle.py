"""How long a project takes to start, to tell its status, and to be back after a crash.

    python bench/lifecycle.py [--runs 9]

Each figure is printed as minimum, median and maximum. `recovery` is the time from kill -9 of a
server to the first successful call through the gateway; `own start` is what the same server needs
by itself, from spawn to its first answered call, measured in turn with it.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import httpx2

from orchestrator.model.base import Json

ROLES = ("monitoring", "treasury")
MOST_KILLS = 8  # four of each role
AGENTS = str(Path(sys.executable).with_name("agents"))
CALL: Json = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {
        "name": "get_price",
        "arguments": {"symbol": "ETH"},
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        },
    },
}


def run(root: Path, *words: str) -> str:
    """Run `agents` in a project."""
    done = subprocess.run([AGENTS, *words], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout


def timed(work: Callable[[], object]) -> float:
    """Tell how long something takes, in seconds."""
    begin = time.perf_counter()
    _ = work()
    return time.perf_counter() - begin


def tell(name: str, figures: Sequence[float]) -> None:
    """Print one figure."""
    low, middle, high = min(figures), statistics.median(figures), max(figures)
    print(f"{name:34} {low:8.3f} {middle:8.3f} {high:8.3f} s   n={len(figures)}")


def client_of(root: Path, role: str) -> httpx2.Client:
    """Make an agent's client; it is there before anything crashes."""
    token = (root / ".agents" / "tokens" / role).read_text().strip()
    return httpx2.Client(
        timeout=30,
        headers={
            "Authorization": f"Bearer {token}",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": "2026-07-28",
            "Mcp-Method": "tools/call",
            "Mcp-Name": "get_price",
        },
    )


def call(client: httpx2.Client, url: str) -> None:
    """Call through the gateway until a call succeeds.

    One that was sent before the death is noticed is told as lost; later ones wait at the gateway.
    """
    said = ""
    for _ in range(1000):
        answer = client.post(url, json=CALL)
        body = cast("dict[str, dict[str, object]]", answer.json())
        if answer.status_code == 200 and not body["result"].get("isError"):
            return
        said = f"{answer.status_code} {answer.text[:300]}"
    raise SystemExit(f"no call succeeds: {said}")


def own_start(root: Path) -> None:
    """Start the same server by itself and wait for its first answered call."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(root),
        "MCP_BANDS": "read",
        "WALLETSERVER_LEDGER": str(root / ".agents" / "wallet" / "ledger.sqlite3"),
    }
    with subprocess.Popen(
        [sys.executable, "-I", "-m", "walletserver"],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise SystemExit("no pipes")
        _ = process.stdin.write(json.dumps(CALL).encode() + b"\n")
        process.stdin.flush()
        answer = cast("bytes", process.stdout.readline())
        process.kill()
    if b'"result"' not in answer:
        raise SystemExit(f"the server did not answer: {answer[:300]!r}")


def role_of(root: Path, name: str) -> dict[str, object]:
    """Tell one role's status."""
    body = cast("dict[str, list[dict[str, object]]]", json.loads(run(root, "status", "--json")))
    return next(role for role in body["roles"] if role["role"] == name)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    _ = parser.add_argument("--runs", type=int, default=9)
    runs = int(cast("dict[str, int]", vars(parser.parse_args()))["runs"])
    root = Path(tempfile.mkdtemp(prefix="bm-bench-", dir="/tmp"))
    try:
        _ = run(root, "init")
        _ = (root / "agents.yaml").write_text("listen: 127.0.0.1:0\n")
        # A second kill in a row would be answered with a delay, a fifth in a minute as a crash
        # loop: the roles take turns, and count as stable soon.
        for name in ROLES:
            role = root / "roles" / f"{name}.yaml"
            _ = role.write_text(role.read_text() + "\nrestart: {stable_after: 1s}\n")
        first: list[float] = []
        cold: list[float] = []
        for _ in range(runs):
            shutil.rmtree(root / ".agents", ignore_errors=True)
            first.append(timed(lambda: run(root, "up", "-d")))
            _ = run(root, "down")
            cold.append(timed(lambda: run(root, "up", "-d")))
            _ = run(root, "down")
        tell("up -d, first ever (bootstrap)", first)
        tell("up -d, cold", cold)
        _ = run(root, "up", "-d")
        tell("up -d, joining", [timed(lambda: run(root, "up", "-d")) for _ in range(runs)])
        tell("status", [timed(lambda: run(root, "status")) for _ in range(runs)])
        tell("--help", [timed(lambda: run(root, "--help")) for _ in range(runs)])
        own: list[float] = []
        recovery: list[float] = []
        clients = {name: client_of(root, name) for name in ROLES}
        urls = {name: str(role_of(root, name)["url"]) for name in ROLES}
        for number in range(min(runs, MOST_KILLS)):
            name = ROLES[number % len(ROLES)]
            client, url = clients[name], urls[name]
            own.append(timed(lambda: own_start(root)))
            time.sleep(max(0.0, 1.2 - own[-1]))
            os.kill(cast("int", role_of(root, name)["pid"]), signal.SIGKILL)
            recovery.append(timed(partial(call, client, url)))
        tell("own start of the server", own)
        tell("recovery after kill -9", recovery)
        extra = [after - alone for after, alone in zip(recovery, own, strict=True)]
        tell("recovery beyond its own start", extra)
    finally:
        _ = run(root, "down")
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
