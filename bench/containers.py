"""What containers cost: the time until one is back after `docker kill`, and the time of a call.

    python -m bench.containers [--runs 9] [--calls 4000]

`back` is the time from the kill to the next successful call through the gateway; `own start` is
what the same container needs by itself: made, started, launched, and its first call answered. A
call is one line over the FIFOs and one back, of the same server as a process and in a container,
in turn.
It needs an engine for containers and scripts/base-image.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

import anyio
import httpx2
import orjson

from bench.rig import agents
from orchestrator.control.desired import SYSTEM_PATH
from orchestrator.model.base import Json
from orchestrator.model.workload import WorkloadSpec
from orchestrator.runtimes.base import Process, Runtime
from orchestrator.runtimes.channel import Channel
from orchestrator.runtimes.docker_client import DockerClient
from orchestrator.runtimes.docker_container import container_name
from orchestrator.runtimes.docker_runtime import DockerRuntime
from orchestrator.runtimes.engine import Engine, EngineFiles
from orchestrator.runtimes.probe import Dialogue
from orchestrator.runtimes.supervisord import SupervisordRuntime
from orchestrator.runtimes.wire import open_wire

ROOT: Final = Path(__file__).resolve().parents[1]
SERVER: Final = str(ROOT / "tests" / "servers" / "scripted.py")
SOCKET: Final = "/var/run/docker.sock"
ALLOWED_SECONDS: Final = 0.2
ALLOWED_RATIO: Final = 1.2
FILES: Final = {
    "agents.yaml": "listen: 127.0.0.1:0\n",
    "roles/boxed.yaml": "role: boxed\njustification: Is measured.\nowner: bench\nserver: scripted\n"
    "bands: [look]\nruntime: container\nrestart: {backoff: 1ms, backoff_max: 1ms}\n",
    "roles/servers/scripted.yaml": f"""\
server: scripted
description: A scripted server.
owner: bench
source: tests
container:
  image: IMAGE
  command: [python3, -I, -S, {SERVER}, --era, both]
  cpus: 2
bands: {{names: [look]}}
tools: {{echo: {{band: look, class: READ}}}}
""",
}


def tell(name: str, figures: Sequence[float], scale: float, unit: str) -> float:
    """Print minimum, median and maximum of one figure; return the median."""
    low, middle, high = min(figures), statistics.median(figures), max(figures)
    shown = "".join(f"{each * scale:9.1f}" for each in (low, middle, high))
    print(f"{name:28}{shown} {unit}   n={len(figures)}")
    return middle


def a_spec(image: str, role: str, root: Path) -> WorkloadSpec:
    """Describe the server, as a process without an image."""
    said: dict[str, object] = {
        "role": role,
        "server": "scripted",
        "bands": ("look",),
        "mode": "agent",
        "argv": (sys.executable, "-I", "-S", SERVER),
        "directory": "" if image else str(root),
        "env": {} if image else {"PATH": SYSTEM_PATH},
        "secrets": {},
        "tools": {"echo": "READ"},
        "known": frozenset({"echo"}),
        "cut": False,
        "era": "legacy",
        "restart": {},
        "probe": {},
        "stop": {"drain": "1s", "grace": "2s"},
    }
    if image:
        said["container"] = {
            "image": image, "user": "mcp", "keep": {}, "memory": "256MiB", "cpus": 2, "pids": 64,
            "tmp": "16MiB", "engine": SOCKET,
        }  # fmt: skip
    return WorkloadSpec.model_validate(said)


async def first_call(process: Process) -> None:
    """Open a server and call it once."""
    async with open_wire(process, resume=False) as wire:
        dialogue = await Dialogue.open(wire, "legacy", prefix="bench-")
        _ = await dialogue.call_tool("echo", {"a": 1})


async def own_start(runtime: Runtime, spec: WorkloadSpec) -> float:
    """Tell how long a container needs by itself."""
    begun = time.perf_counter()
    await runtime.start(spec)
    await first_call(await runtime.launch(spec, {}))
    took = time.perf_counter() - begun
    await runtime.stop(spec.name, spec.stop.grace)
    return took


async def call_times(process: Process, calls: int) -> list[float]:
    """Tell how long each of many calls takes, one after the other."""
    params = {"name": "echo", "arguments": {"a": 1}}
    line = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
    found: list[float] = []
    with Channel(process.directory, resume=True) as channel:
        for _ in range(calls):
            begun = time.perf_counter()
            await channel.send(line)
            _ = await channel.receive()
            found.append(time.perf_counter() - begun)
    return found


async def of_runtimes(root: Path, image: str, runs: int, calls: int) -> tuple[float, float]:
    """Measure a container by itself, and calls over both runtimes; return start and ratio."""
    files = EngineFiles(run=root / "run", logs=root / "logs")
    boxes, engine = DockerRuntime(files), Engine(files)
    _ = await engine.start(None, {})
    plain = SupervisordRuntime(files)
    alone = a_spec(image, "alone", root)
    _ = await own_start(boxes, alone)  # the image is looked into once
    starts = [await own_start(boxes, alone) for _ in range(runs)]
    own = tell("own start", starts, 1e3, "ms")
    times: dict[str, list[float]] = {"process": [], "container": []}
    try:
        running: dict[str, Process] = {}
        for kind, runtime, its in (("process", plain, ""), ("container", boxes, image)):
            spec = a_spec(its, kind, root)
            await runtime.start(spec)
            running[kind] = await runtime.launch(spec, {})
            await first_call(running[kind])
        for _ in range(4):
            for kind, process in running.items():
                times[kind] += await call_times(process, calls // 4)
    finally:
        _ = await boxes.end_all()
        await engine.shutdown(a_spec("", "x", root).stop.grace)
    medians = {kind: tell(f"a call, {kind}", found, 1e6, "us") for kind, found in times.items()}
    return own, medians["container"] / medians["process"]


def role_of(root: Path) -> dict[str, object]:
    """Tell the role's status."""
    found = cast("dict[str, list[dict[str, object]]]", json.loads(agents(root, "status", "--json")))
    return found["roles"][0]


def back_times(root: Path, image: str, runs: int) -> list[float]:
    """Tell how long it takes from `docker kill` to the next successful call."""
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        _ = (root / name).write_text(text.replace("IMAGE", image))
    _ = agents(root, "up", "-d")
    client, found = DockerClient(SOCKET), list[float]()
    name = container_name(str(root / ".agents" / "run"), "boxed.scripted.g1")
    token = (root / ".agents" / "tokens" / "boxed").read_text().strip()
    body: Json = {
        "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {
            "name": "echo", "arguments": {"a": 1},
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {},
            },
        },
    }  # fmt: skip
    headers = {
        "Authorization": f"Bearer {token}",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call",
        "Mcp-Name": "echo",
    }
    try:
        with httpx2.Client(timeout=30, headers=headers) as http:
            url = str(role_of(root)["url"])

            def is_answered() -> bool:
                reply = http.post(url, json=body)
                return reply.is_success and b'"result"' in reply.content

            while not is_answered():
                pass
            for _ in range(runs):
                begun = time.perf_counter()
                client.kill(name, 9)
                while not is_answered():
                    pass
                found.append(time.perf_counter() - begun)
                time.sleep(1.0)  # it is not measured what one kill does to the next
    finally:
        _ = agents(root, "down")
    return found


def main() -> int:
    """Measure; return 1 if something takes longer than it may."""
    parser = argparse.ArgumentParser(description="What containers cost.")
    _ = parser.add_argument("--runs", type=int, default=9)
    _ = parser.add_argument("--calls", type=int, default=4000)
    options = parser.parse_args()
    runs, calls = cast("int", options.runs), cast("int", options.calls)
    made = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "servers" / "box.py")],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    image = made.stdout.strip()
    root = Path(tempfile.mkdtemp(prefix="bm-", dir="/var/tmp"))
    try:
        own, ratio = anyio.run(of_runtimes, root / "a", image, runs, calls)
        back = tell("back after docker kill", back_times(root, image, runs), 1e3, "ms")
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print(f"{'back, less own start':28}{'':9}{(back - own) * 1e3:9.1f}{'':9} ms   at most 200")
    print(f"{'a call, to that of a process':28}{'':9}{ratio:9.2f}{'':9}      at most 1.2")
    return int(back - own > ALLOWED_SECONDS or ratio > ALLOWED_RATIO)


_ = os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
sys.exit(main())
