"""docs/how-to/tighten-a-role.md: its examples are right, and the real wallet is as it says."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from orchestrator.config.policies import policy_of
from orchestrator.config.project import load_project
from orchestrator.errors import ArgumentsRefusedError
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.names import RoleName, ServerName, ToolName
from orchestrator.model.rules import OPEN_TO_TOOLS
from orchestrator.policy.decide import CompiledPolicy

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/how-to/tighten-a-role.md").read_text()
EXAMPLES = [
    (match[1], match[2])
    for match in re.finditer(r"```yaml\n# (roles/[a-z]+\.yaml)\n(.*?)```", PAGE, re.DOTALL)
]
READER = """\
role: reader
justification: Reads the documents.
owner: me@example.com
server: docs
bands: [read]
"""
DOCS = """\
server: docs
description: Documents.
owner: me@example.com
source: package docs 1.0
launch: {command: ["{python}", -m, docs]}
bands: {names: [read]}
tools: {search: {band: read, class: READ}}
"""
ANN, BOB = (
    "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
    "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",
)
PREPARE = ToolName("prepare_transfer")
GOOD: JsonObject = {"chain": "ethereum", "from": BOB, "to": ANN, "amount": "1.5"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project with the stock roles and a server of documents."""
    _ = shutil.copytree(ROOT / "roles", tmp_path / "roles")
    _ = (tmp_path / "roles/reader.yaml").write_text(READER)
    _ = (tmp_path / "roles/servers/docs.yaml").write_text(DOCS)
    return tmp_path


def add(project: Path, number: int) -> RoleName:
    """Add an example to its role file."""
    name, text = EXAMPLES[number]
    path = project / name
    _ = path.write_text(path.read_text() + text)
    return RoleName(path.stem)


def listed(tmp_path: Path) -> tuple[JsonObject, ...]:
    """Ask the real wallet server for its tools."""
    hello: JsonObject = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    }
    messages: list[JsonObject] = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/list"},
    ]
    result = subprocess.run(
        [sys.executable, "-I", "-m", "walletserver"],
        input="".join(json.dumps(message) + "\n" for message in messages),
        env={"MCP_BANDS": "read,prepare", "WALLETSERVER_LEDGER": str(tmp_path / "ledger.sqlite3")},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    for line in result.stdout.splitlines():
        match cast("Json", json.loads(line)):
            case {"id": 2, "result": {"tools": list(tools)}}:
                return tuple(tool for tool in tools if isinstance(tool, dict))
            case _:
                pass
    pytest.fail("no list of tools")


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_examples_are_right(project: Path, number: int) -> None:
    """Each example is added to its role file as it stands, and nothing is wrong with it."""
    role = add(project, number)
    loaded = load_project(project)
    server = loaded.servers[loaded.roles[role].server]
    assert policy_of(loaded.roles[role], server) != OPEN_TO_TOOLS
    assert len(EXAMPLES) == 4


def test_the_narrowed_wallet(project: Path, tmp_path: Path) -> None:
    """The wallet's own schema and the example make one that a model can read, and that holds."""
    role = add(project, 0)
    loaded = load_project(project)
    policy = policy_of(loaded.roles[role], loaded.servers[ServerName("wallet")])
    tools = listed(tmp_path)
    compiled = CompiledPolicy(policy, tools, {})
    shown = next(tool for tool in compiled.shown if tool["name"] == PREPARE)["inputSchema"]
    match shown:
        case {
            "type": "object",
            "additionalProperties": False,
            "properties": {"chain": dict(chain), "to": dict(to), **others},
            "required": list(required),
        }:
            assert chain["enum"] == ["ethereum"]
            assert to["enum"] == [ANN, BOB]
            assert others.keys() == {"from", "amount", "nonce"}
            assert set(required) == {"chain", "from", "to", "amount"}
        case _:
            pytest.fail("another schema")
    compiled.check(PREPARE, GOOD, json.dumps(GOOD).encode())
    compiled.check(PREPARE, GOOD | {"nonce": "7"}, b"")
    changes: list[JsonObject] = [
        {"chain": "tron"},
        {"to": BOB.lower()},
        {"amount": "5"},
        {"amount": "4.9999999999999999999"},
        {"amountWei": "1"},
        {"tokenContract": ANN},
        {"nonce": "x"},
    ]
    for change in changes:
        with pytest.raises(ArgumentsRefusedError):
            compiled.check(PREPARE, GOOD | change, b"")
    for name in ("chain", "to", "amount"):
        with pytest.raises(ArgumentsRefusedError):
            compiled.check(PREPARE, {key: GOOD[key] for key in GOOD if key != name}, b"")


def test_the_refusal_that_is_shown(project: Path) -> None:
    """The words in the page are those that an agent gets."""
    role = add(project, 0)
    loaded = load_project(project)
    policy = policy_of(loaded.roles[role], loaded.servers[ServerName("wallet")])
    compiled = CompiledPolicy(policy, (), {})
    with pytest.raises(ArgumentsRefusedError) as caught:
        compiled.check(PREPARE, GOOD | {"chain": "tron"}, b"")
    told = re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert told is not None
    assert cast("dict[str, str]", json.loads(told[1]))["message"] == str(caught.value)
