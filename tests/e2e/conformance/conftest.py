"""A server with everything in it, reached directly, and one project whose roles stand before it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import httpx2
import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Object, OpenProject, Project

TESTS: Final = Path(__file__).parents[2]
FIXTURE: Final = TESTS / "servers" / "conformance"

SERVER: Final = """
server: {name}
description: Has every part of the protocol.
owner: tests
source: tests/servers/conformance
era: {era}
asks: [elicitation, sampling, roots]
launch:
  command: {command}
bands: {{names: [all]}}
tools:
"""
ROLE: Final = """
role: {name}
server: {name}
bands: full
resources: all
prompts: all
justification: The proof that nothing is lost on the way.
owner: tests
"""
PYTHON: Final = f'["{sys.executable}", "{FIXTURE}"]'
SOCKET: Final = f'["{sys.executable}", "{FIXTURE}", --socket, "{{socket}}"]\n  transport: http'
# Role, era of its server, and how it is launched.
ROLES: Final = (
    ("stdio", "auto", PYTHON),
    ("http", "auto", SOCKET),
    ("older", "legacy", PYTHON),
    ("newer", "modern", PYTHON),
)


@dataclass(frozen=True, slots=True)
class Direct:
    """The server without anything before it.

    Attributes:
        url: Where it is.
        tools: Its tools, as it lists them.
    """

    url: str
    tools: tuple[Object, ...]


@pytest.fixture(scope="session")
def direct() -> Generator[Direct]:
    """Run the server over HTTP."""
    process = subprocess.Popen(
        [sys.executable, str(FIXTURE), "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{cast('str', process.stdout.readline()).strip()}/mcp"
        yield Direct(url, list_tools(url))
        process.stdout.close()
    finally:
        process.kill()
        _ = process.wait(30)


def list_tools(url: str) -> tuple[Object, ...]:
    """Ask a server of the newer era for its tools."""
    about: Object = {"protocolVersion": "2026-07-28", "clientCapabilities": {}}
    meta = {f"io.modelcontextprotocol/{key}": value for key, value in about.items()}
    headers = {
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/list",
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}}
    answer = cast("Object", httpx2.post(url, headers=headers, json=body, timeout=30).json())
    result = cast("Object", answer["result"])
    return tuple(cast("list[Object]", result["tools"]))


@pytest.fixture(scope="session")
def project(direct: Direct, open_project: OpenProject) -> Generator[Project]:
    """Run one role before each kind of process that the server can be."""
    tools = "".join(f"  {tool['name']}: {{band: all, class: READ}}\n" for tool in direct.tools)
    with open_project() as made:
        for name, era, command in ROLES:
            server = SERVER.format(name=name, era=era, command=command) + tools
            _ = made.write(f"roles/servers/{name}.yaml", server)
            _ = made.write(f"roles/{name}.yaml", ROLE.format(name=name))
        _ = made.agents("up", "-d")
        yield made
