"""`agents rotate` and its relatives, with the real daemon."""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import httpx2

if TYPE_CHECKING:
    from tests.e2e.conftest import Project

Object = dict[str, object]
SCRIPT: Final = Path(__file__).parents[2] / "scripts" / "rotate-tokens"
HEADERS: Final = {
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": "2026-07-28",
    "Mcp-Method": "tools/list",
}
META: Final[Object] = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


def knock(project: Project, token: str) -> int:
    """Show a token at treasury's door; tell the HTTP status."""
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}}
    headers = {**HEADERS, "Authorization": f"Bearer {token}"}
    answer = httpx2.post(project.url("treasury"), json=request, headers=headers, timeout=60)
    return answer.status_code


def rotations(project: Project, *names: str) -> list[Object]:
    """Tell rotations, the newest first."""
    return cast("list[Object]", project.json("rotate", "status", *names)["rotations"])


def picture(root: Path) -> dict[str, tuple[object, ...]]:
    """Tell every file of the state; logs go on, and `-shm` is shared memory, no content."""
    found: dict[str, tuple[object, ...]] = {}
    for path in root.rglob("*"):
        if path.is_file() and "logs" not in path.parts and not path.name.endswith("-shm"):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path)] = (path.stat().st_mtime_ns, path.stat().st_size, content)
    return found


def test_a_token_is_replaced_and_the_old_one_goes(running: Project) -> None:
    """The workstation finds the new one in its file; once it used it and is quiet, the old ends."""
    _ = running.write(
        "roles/treasury.yaml",
        (running.root / "roles/treasury.yaml").read_text()
        + "\nrotation: {agent: {quiet: 100ms}}\n",
    )
    _ = running.agents("up", "-d")
    before = running.token("treasury")
    body = running.json("rotate", "treasury")
    (begun,) = cast("list[Object]", body["rotations"])
    after = running.token("treasury")
    assert before != after
    assert (knock(running, before), knock(running, after)) == (200, 200)
    name = str(begun["id"])
    running.wait(lambda: rotations(running, name)[0]["state"] == "done")
    assert (knock(running, before), knock(running, after)) == (401, 200)
    assert "refused after ms" in running.agents("rotate", "status", name).stdout


def test_a_token_by_hand(running: Project) -> None:
    """It is printed to who named the agent, and to nobody else."""
    old = running.agents("token", "issue", "treasury", "--agent", "alice").stdout.strip()
    plain = running.agents("rotate", "treasury", "--dry-run")
    assert "by hand: `agents rotate treasury --agent alice`" in plain.stdout
    done = running.agents("rotate", "treasury", "--agent", "alice")
    new = done.stdout.strip()
    assert new.startswith("mga_")
    assert new not in done.stderr
    assert (knock(running, old), knock(running, new)) == (200, 200)
    for path in running.state.rglob("*"):
        assert not path.is_file() or new.encode() not in path.read_bytes()


def test_a_day_on_which_nothing_is_due(running: Project) -> None:
    """The job says nothing, writes nothing and costs little."""
    _ = running.agents("rotate", "--due")
    tries: list[tuple[bool, float]] = []
    # The daemon writes something of its own now and then, and a busy processor is a slower one.
    while (True, True) not in [(same, cost < 0.5) for same, cost in tries]:
        assert len(tries) < 4, tries
        before, used = picture(running.state), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = running.agents("rotate", "--due")
        assert (done.stdout, done.stderr) == ("", "")
        now = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Time on the processor: other tests may be on the machine, too.
        cost = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
        tries.append((picture(running.state) == before, cost))
    script = subprocess.run([SCRIPT, running.root], capture_output=True, check=True)
    assert (script.stdout, script.stderr) == (b"", b"")


def test_a_job_of_a_project_that_does_not_run(project: Project) -> None:
    """It fails where somebody looks."""
    done = project.agents("rotate", "--due", check=10)
    assert "agents up" in done.stderr
    script = subprocess.run([SCRIPT, project.root], capture_output=True, check=False)
    assert script.returncode == 10


def test_an_emergency(running: Project) -> None:
    """Everything of a role ends at once, with times; the others go on; it comes back on a word."""
    token, other = running.token("treasury"), running.pid("monitoring")
    receipt = running.json("revoke-all", "treasury", "--reason", "drill", "--yes")
    (ended,) = cast("list[Object]", receipt["tokens"])
    assert cast("float", ended["refused_after_ms"]) > 0
    assert knock(running, token) == 401
    assert running.role("treasury")["state"] != "ready"
    assert running.pid("monitoring") == other
    _ = running.agents("reopen", "treasury")
    running.wait(lambda: running.role("treasury")["state"] == "ready")
    assert knock(running, running.token("treasury")) == 200
    assert knock(running, token) == 401


def test_a_revoked_token_has_a_receipt(running: Project) -> None:
    """After how long it was seen refused, for people and programs."""
    issued = running.json("token", "issue", "treasury", "--agent", "alice")
    told = running.json("token", "revoke", str(issued["id"]))
    receipt = cast("Object", told["receipt"])
    assert cast("float", receipt["refused_after_ms"]) > 0
    assert knock(running, str(issued["token"])) == 401
    again = running.json("token", "issue", "treasury", "--agent", "alice")
    assert "Seen refused after" in running.agents("token", "revoke", str(again["id"])).stdout


def test_ages_are_in_the_status(running: Project) -> None:
    """Each role tells its credentials, when they were made and when they are due."""
    running.wait(lambda: bool(running.role("treasury")["credentials"]))
    (one,) = cast("list[Object]", running.role("treasury")["credentials"])
    assert (one["purpose"], one["agent"]) == ("agent", "workstation")
    assert str(one["issued_at"]) < str(one["due_at"]) < str(one["expires_at"])
    assert json.dumps(one).count("mga_") == 0
