"""Clients that are programs: the TypeScript inspector, and the older official Python client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import pytest

if TYPE_CHECKING:
    from tests.e2e.conformance.conftest import Direct
    from tests.e2e.conftest import Object, Project

pytestmark = pytest.mark.node

AGENTS: Final = str(Path(sys.executable).with_name("agents"))
ERAS: Final = ("legacy", "auto", "modern")
LONGEST: Final = 240
ROOT: Final = Path(__file__).parents[3]
OLD_PYTHON: Final = ROOT / ".dev-services" / "old-client" / "bin" / "python"
OLD_CLIENT: Final = ROOT / "tests" / "clients" / "old_client.py"
# The inspector's own exit statuses.
REFUSED, TOLD = 3, 5


def run(command: list[str], project: Project, **more: str) -> tuple[int, Object, Object]:
    """Run a program to its end: its status, and what it printed to stdout and stderr as JSON."""
    done = subprocess.run(
        command,
        env={**project.env, **more},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )
    return done.returncode, read(done.stdout), read(done.stderr)


def read(text: str) -> Object:
    """Read JSON, if it is any."""
    return cast("Object", json.loads(text)) if text.startswith("{") else {"text": text}


def over_http(project: Project, token: str) -> list[str]:
    """Point the inspector at a role's URL."""
    url, header = project.url("stdio"), f"Authorization: Bearer {token}"
    return [url, "--transport", "http", "--stored-auth-only", "--header", header]


def over_the_shim(project: Project) -> list[str]:
    """Point the inspector at our shim."""
    return ["--", AGENTS, "connect", "stdio", "-C", str(project.root)]


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("way", ["http", "shim"])
def test_the_inspector_lists_and_calls(
    project: Project, direct: Direct, node: Mapping[str, str], way: str, era: str
) -> None:
    """In each of its ways to choose an era it lists, calls, and tells errors from missing tools."""
    before = [node["node"], node["inspector"], "--cli", "--protocol-era", era]
    after: list[str] = []
    if way == "http":
        before += over_http(project, project.token("stdio"))
    else:
        after = over_the_shim(project)

    def inspect(*words: str) -> tuple[int, Object, Object]:
        return run([*before, "--format", "json", "-q", *words, *after], project)

    def call(tool: str) -> tuple[int, Object, Object]:
        return inspect("--method", "tools/call", "--tool-name", tool, "--tool-args-json", "{}")

    # Most of its time it waits for itself.
    with ThreadPoolExecutor() as pool:
        listed = pool.submit(inspect, "--method", "tools/list")
        tools_called = ("test_simple_text", "test_error_handling", "no_such")
        called, failed, missing = [pool.submit(call, tool) for tool in tools_called]

    status, told, errors = listed.result()
    assert status == 0, errors
    tools = cast("list[Object]", cast("Object", told["result"])["tools"])
    expected = {str(tool["name"]) for tool in direct.tools}
    assert {str(tool["name"]) for tool in tools} >= expected - {"test_dynamic_tool"}

    status, told, errors = called.result()
    assert status == 0, errors
    assert "This is a simple text response" in str(cast("Object", told["result"])["content"])

    for done, code in ((failed, "tool_is_error"), (missing, "tool_not_found")):
        status, _, errors = done.result()
        assert status == TOLD
        assert cast("Object", errors["error"])["code"] == code


@pytest.mark.parametrize("era", ERAS)
def test_the_inspector_is_refused(project: Project, node: Mapping[str, str], era: str) -> None:
    """With another role's token it learns that it has to authenticate."""
    before = [node["node"], node["inspector"], "--cli", "--protocol-era", era]
    way = over_http(project, project.token("newer"))
    words = ("--method", "tools/list", "--format", "json", "-q")
    status, _, errors = run([*before, *way, *words], project)
    assert status == REFUSED
    assert cast("Object", errors["error"])["code"] == "auth_required"


@pytest.mark.parametrize("role", ["stdio", "http", "newer"])
def test_the_older_client_loses_nothing(project: Project, direct: Direct, role: str) -> None:
    """The client that most installed agents have does all it can, in front of either era."""
    if not OLD_PYTHON.exists():
        if os.environ.get("BANDMASTER_TEST_ALL"):
            pytest.fail("scripts/dev-services has not installed the older client")
        pytest.skip("the older client is not installed (scripts/dev-services)")
    status, seen, errors = run(
        [str(OLD_PYTHON), str(OLD_CLIENT), project.url(role)], project, TOKEN=project.token(role)
    )
    assert status == 0, errors

    assert seen["version"] == "2025-11-25"
    tools = {str(tool["name"]) for tool in direct.tools}
    assert {*cast("list[str]", seen["tools"])} >= tools - {"test_dynamic_tool"}
    assert seen["text"] == "This is a simple text response for testing."
    assert seen["error"] is True
    assert seen["unknown"] == [-32602, "Unknown tool: no_such_tool"]
    assert seen["progress"] == [[n, 100, f"Completed step {n} of 100"] for n in (0, 50, 100)]
    parts = ["Tool execution started", "Tool processing data", "Tool execution completed"]
    assert seen["logs"] == parts
    assert (seen["elicitation"], seen["sampling"]) == (
        "Who are you?",
        "What is the capital of France?",
    )
    asked = cast("Object", seen["asked"])
    assert "ann@example.com" in str(asked["elicitation"])
    assert asked["sampling"] == "LLM response: Paris"
    assert asked["roots"] == "client_roots: file:///old/root"
    assert len(cast("list[str]", seen["resources"])) == 3
    assert seen["resource"] == "This is the content of the static text resource."
    assert "test_prompt_with_arguments" in cast("list[str]", seen["prompts"])
    assert seen["prompt"] == "Prompt with arguments: arg1='one', arg2='two'"
    assert seen["completion"] == ["paris", "park", "party"]
    assert "notifications/prompts/list_changed" in cast("list[str]", seen["notes"])
