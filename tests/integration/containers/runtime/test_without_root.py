"""Containers of somebody who may use the engine and is not root."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from tests.integration.containers.runtime.conftest import Boxes

SECONDS: Final = 60.0
NOBODY: Final = 65_534
SCRIPT: Final = """
import json, os, sys
from pathlib import Path
import anyio
import docker
from orchestrator.model.workload import WorkloadSpec
from orchestrator.runtimes.docker_runtime import DockerRuntime
from orchestrator.runtimes.engine import EngineFiles
from orchestrator.runtimes.probe import Dialogue
from orchestrator.runtimes.wire import open_wire

async def main(root, text):
    files = EngineFiles(run=root / "run", logs=root / "logs")
    runtime, spec = DockerRuntime(files), WorkloadSpec.model_validate_json(text, strict=False)
    try:
        await runtime.start(spec)
        process = await runtime.launch(spec, {})
        async with open_wire(process, resume=False) as wire:
            dialogue = await Dialogue.open(wire, "legacy", prefix="test-")
            wanted = {"path": "/var/lib/kept/x", "bytes": 3}
            result = await dialogue.call_tool("write", wanted)
        facts = files.http_socket(spec.name).stat()
        print(json.dumps([result["content"][0]["text"], facts.st_mode & 0o777, facts.st_gid]))
    finally:
        await runtime.end_all()

async def become(root, text, user, group):
    # Only now, with all imported: another user may not be able to read the interpreter's files.
    import anyio._backends._asyncio, encodings.ascii, encodings.idna, encodings.latin_1
    os.setgroups([group])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    await main(root, text)

anyio.run(become, Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_what_a_server_makes_is_not_everybody_s(boxes: Boxes) -> None:
    """Its socket is reached by our group alone, and no file that it keeps is open to others."""
    kept, own = boxes.root / "kept", boxes.root / "own"
    for path, owner in ((kept, 10_001), (own, NOBODY)):
        path.mkdir(mode=0o700)
        os.chown(path, owner, owner)
    boxes.root.chmod(0o755)
    spec = boxes.spec(
        "boxed_http.py", "--socket", "{socket}", http={"listen": "socket", "path": "/mcp"},
        container={"keep": {str(kept): "/var/lib/kept"}},
    )  # fmt: skip
    assert spec.container is not None
    group = str(Path(spec.container.engine).stat().st_gid)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(own), spec.model_dump_json(), str(NOBODY), group],
        check=False, capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    assert json.loads(done.stdout) == ["written", 0o770, NOBODY]
    assert (kept / "x").stat().st_mode & 0o777 == 0o660
