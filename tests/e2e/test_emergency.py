"""Roles that are closed in an emergency, by a real project, on a disk that is really full."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import httpx2
import pytest

if TYPE_CHECKING:
    from orchestrator.model.base import JsonObject
    from tests.e2e.conftest import Object, Project

AGENTS: Final = str(Path(sys.executable).with_name("agents"))
SERVERS: Final = Path(__file__).parents[1] / "servers"
SERVER: Final = """
server: scripted
description: A server for tests.
owner: tests
source: tests/servers/scripted.py
launch:
  command: ["{python}", -I, SERVERS/scripted.py]
bands: {names: [read]}
tools:
  echo: {band: read, class: READ}
"""
ROLE: Final = """
role: NAME
justification: It is closed in an emergency.
owner: tests
server: scripted
bands: [read]
"""
BODY: Final[JsonObject] = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/list",
    "params": {
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        }
    },
}
HEADERS: Final = {
    "accept": "application/json, text/event-stream",
    "mcp-protocol-version": "2026-07-28",
    "mcp-method": "tools/list",
}


def knock(url: str, token: str) -> int:
    """List a role's tools with a token; 0 where nobody listens."""
    headers = {**HEADERS, "authorization": f"Bearer {token}"}
    try:
        return httpx2.post(url, json=BODY, headers=headers, timeout=30).status_code
    except httpx2.TransportError:
        return 0


def fill(project: Project) -> None:
    """Write the project's files: two roles."""
    _ = project.write("roles/servers/scripted.yaml", SERVER.replace("SERVERS", str(SERVERS)))
    for name in ("low", "high"):
        _ = project.write(f"roles/{name}.yaml", ROLE.replace("NAME", name))


class SmallDisk:
    """A disk of a few megabytes that holds the state of a project."""

    def __init__(self, place: Path) -> None:
        """Keep the place."""
        self._filler = place / "filler"

    def fill(self) -> None:
        """Take every byte that is left."""
        with self._filler.open("wb", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                while True:
                    try:
                        _ = file.write(b"x" * size)
                    except OSError as error:
                        if error.errno != errno.ENOSPC:
                            raise
                        break

    def free(self) -> None:
        """Give it back."""
        self._filler.unlink()


@pytest.fixture
def disk(bare: Project) -> Generator[SmallDisk]:
    """Put the project's state on a small disk of its own, with two roles ready."""
    place = Path(tempfile.mkdtemp(prefix="bm-", dir="/tmp"))
    options = "size=24m,mode=0700"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        place.rmdir()
        if os.environ.get("BANDMASTER_TEST_ALL"):
            pytest.fail("no disk can be mounted here; run as root")
        pytest.skip("only root may mount a disk")
    try:
        fill(bare)
        _ = bare.write("agents.yaml", f"listen: 127.0.0.1:0\nstate: {place}/state\n")
        bare.state = place / "state"
        _ = bare.agents("up", "-d")
        yield SmallDisk(place)
        _ = bare.agents("down", check=None)
    finally:
        for pid in bare.processes():
            os.kill(pid, signal.SIGKILL)
        _ = subprocess.run(["umount", "-l", str(place)], check=True)
        place.rmdir()


def notes(project: Project) -> str:
    """Tell what the status says of an order that is not on disk, or not to its end."""
    told = project.agents("status", "--json", check=None).stdout
    return told if "NOT on disk" in told or "not carried out" in told else ""


def restart(project: Project) -> None:
    """Kill the daemon, and wait until another one serves."""
    before = project.daemon_pid()
    os.kill(before, signal.SIGKILL)

    def is_back() -> bool:
        status = project.agents("status", "--json", check=None).stdout
        return f'"pid": {before},' not in status and '"ready": true' in status.split("roles")[0]

    project.wait(is_back)


def test_a_role_is_closed_on_a_full_disk(bare: Project, disk: SmallDisk) -> None:
    """All ends at once, loudly not durable; it is on disk as soon as there is room."""
    issued = str(bare.json("token", "issue", "high", "--agent", "alice")["token"])
    url, own = bare.url("high"), bare.token("high")
    assert [knock(url, one) for one in (issued, own)] == [200, 200]
    disk.fill()
    done = bare.agents("revoke-all", "high", "--reason", "leak", "--yes", check=10)
    assert "NOT DURABLE" in done.stderr
    assert "Free space on the disk and repeat" in done.stderr
    assert "durable: False" in done.stdout
    assert "high: all ended, no call was cut" in done.stdout
    assert [knock(url, one) for one in (issued, own)] == [401, 401]
    assert bare.role("high")["pid"] is None
    assert notes(bare)
    text = bare.agents("status", check=6).stdout
    assert "NOT on disk" in text or "not carried out" in text
    assert bare.role("low")["state"] == "ready"
    disk.free()
    bare.wait(lambda: not notes(bare))
    restart(bare)
    assert [knock(url, one) for one in (issued, own)] == [401, 401]
    assert bare.role("high")["detail"] == "closed: leak"
    states = cast("list[Object]", bare.json("token", "list"))
    assert {one["state"] for one in states if one["role"] == "high"} == {"revoked"}
    _ = bare.agents("revoke-all", "high", "--reason", "leak", "--yes")
    _ = bare.agents("reopen", "high")
    bare.wait(lambda: bare.role("high")["state"] == "ready")
    assert knock(bare.url("high"), bare.token("high")) == 200
    assert [knock(url, one) for one in (issued, own)] == [401, 401]


def test_a_token_is_revoked_on_a_full_disk(bare: Project, disk: SmallDisk) -> None:
    """It is refused, loudly not durable, and stays so once there was room."""
    told = bare.json("token", "issue", "high", "--agent", "alice")
    url, issued = bare.url("high"), str(told["token"])
    assert knock(url, issued) == 200
    disk.fill()
    done = bare.agents("token", "revoke", str(told["id"]), check=10)
    assert "NOT DURABLE" in done.stderr
    assert knock(url, issued) == 401
    assert "NOT on disk" in notes(bare)
    disk.free()
    bare.wait(lambda: not notes(bare))
    restart(bare)
    assert knock(url, issued) == 401
    assert knock(bare.url("high"), bare.token("high")) == 200


def test_reads_go_on_where_the_files_say_so(bare: Project, disk: SmallDisk) -> None:
    """On a full disk READ calls are made, loudly, if that was asked for; all others are not."""
    settings = (bare.root / "agents.yaml").read_text()
    server = bare.root / "roles/servers/scripted.yaml"
    text = (
        server.read_text()
        .replace("  command: [", "  command: [\n    ")
        .replace("scripted.py]", "scripted.py, --tools, 'echo,change']")
    )
    _ = server.write_text(text + "  change: {band: read, class: WRITE}\n")

    def is_refused(tool: str) -> bool:
        told = bare.agents("call", "low", tool, "--yes", "--json", check=None).stdout
        return "cannot be recorded" in told or "audit.unavailable" in told

    for when, reads in (("refuse", False), ("read-on", True)):
        _ = bare.write("agents.yaml", f"{settings}audit: {{when_full: {when}}}\n")
        _ = bare.agents("up", "-d")
        assert not is_refused("change")
        disk.fill()
        bare.wait(lambda: is_refused("change"))
        # What is kept in reserve takes the lines of some reads first.
        told = [is_refused("echo") for _ in range(4)]
        assert told[-1] is not reads
        bare.wait(lambda: "CANNOT BE RECORDED" in bare.agents("status", check=None).stdout)
        disk.free()
        bare.wait(lambda: not is_refused("change"))


def test_a_daemon_that_starts_on_a_full_disk_serves_nobody(bare: Project, disk: SmallDisk) -> None:
    """What was revoked without room cannot be known then: no token opens anything before there is.

    When there is room, what is on disk counts.
    """
    url, own = bare.url("high"), bare.token("high")
    before = bare.daemon_pid()
    disk.fill()
    os.kill(before, signal.SIGKILL)
    bare.wait(lambda: "nothing is served" in bare.agents("status", check=None).stdout)
    assert knock(url, own) == 0
    disk.free()
    bare.wait(lambda: knock(url, own) == 200)


@pytest.mark.parametrize("moment", range(6))
def test_a_daemon_that_is_killed_in_it_finishes_it(bare: Project, moment: int) -> None:
    """Whenever it is killed after the order is on disk, the next one carries it out, once."""
    fill(bare)
    _ = bare.agents("up", "-d")
    tokens = [
        str(bare.json("token", "issue", "high", "--agent", f"a{number}")["token"])
        for number in range(5)
    ]
    url, daemon = bare.url("high"), bare.daemon_pid()
    control = bare.state / "control.json"
    command = subprocess.Popen(
        [AGENTS, "revoke-all", "high", "--reason", "leak", "--yes"],
        cwd=bare.root,
        env=bare.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while b'"requested_by"' not in control.read_bytes() and command.poll() is None:
            pass
        for _ in range(moment * 2000):
            pass
        os.kill(daemon, signal.SIGKILL)
    finally:
        _ = command.wait(60)
    bare.wait(lambda: bare.json("status", check=None)["pid"] not in (None, daemon))
    bare.wait(lambda: '"closures": []' in _spaced(control))
    bare.wait(lambda: knock(url, tokens[0]) != 0)
    assert {knock(url, one) for one in tokens} == {401}
    states = cast("list[Object]", bare.json("token", "list"))
    assert {one["state"] for one in states if one["role"] == "high"} == {"revoked"}
    assert bare.role("high")["detail"] == "closed: leak"
    done = bare.agents("token", "issue", "high", "--agent", "bob", check=9)
    assert "agents reopen high" in done.stderr


def test_a_closed_role_gets_no_token(bare: Project) -> None:
    """Neither by `up`, nor by `token issue`, nor by `rotate`, until it is reopened."""
    fill(bare)
    _ = bare.agents("up", "-d")
    assert "was not closed" in bare.agents("reopen", "low").stdout
    own = bare.token("high")
    _ = bare.agents("revoke-all", "high", "--reason", "leak", "--yes")
    _ = bare.agents("up", "-d", check=None)
    assert bare.token("high") == own
    for words in (
        ("token", "issue", "high", "--agent", "alice"),
        ("rotate", "high", "--agent", "workstation"),
    ):
        done = bare.agents(*words, check=None)
        assert done.returncode in {9, 10}
        assert re.search(
            "reopen high|no credential|there is no token", done.stderr + done.stdout
        ), done
    _ = bare.agents("down")
    done = bare.agents("token", "issue", "high", "--agent", "alice", check=9)
    assert "agents reopen high" in done.stderr
    _ = bare.agents("up", "-d", check=None)
    assert bare.token("high") == own
    states = cast("list[Object]", bare.json("token", "list"))
    assert {one["state"] for one in states if one["role"] == "high"} == {"revoked"}
    _ = bare.agents("reopen", "high")
    assert bare.token("high") != own


def _spaced(path: Path) -> str:
    return path.read_text().replace('":[', '": [')
