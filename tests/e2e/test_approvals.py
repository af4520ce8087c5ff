"""The stock executor broadcasts what a person approved, once, and nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

import anyio

if TYPE_CHECKING:
    from mcp import Client

    from tests.e2e.conftest import Object, Project

RECIPIENT = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"


async def call(client: Client, tool: str, **arguments: object) -> Object:
    """Call a tool and read its JSON answer."""
    with anyio.fail_after(30):
        result = await client.call_tool(tool, arguments)
    return cast("Object", json.loads(str(getattr(result.content[0], "text", ""))))


async def prepare(client: Client, amount: str) -> Object:
    """Tell the arguments of a broadcast that has to be approved."""
    wallet = await call(client, "get_wallet_address", walletName="treasury", chain="ethereum")
    transfer = {"chain": "ethereum", "from": wallet["address"], "to": RECIPIENT, "amount": amount}
    prepared = await call(client, "prepare_serialized_unsigned_tx", **transfer)
    return {
        "walletName": "treasury",
        "chain": "ethereum",
        "unsignedTx": prepared["unsignedTx"],
        "confirmBroadcast": True,
    }


async def test_an_approved_call_is_made_once(running: Project) -> None:
    """The executor's broadcast waits for a person, is made by the same call, and not again."""
    async with running.client("executor") as executor:
        arguments = await prepare(executor, "0.25")
        asked = await call(executor, "send_transaction", **arguments)
        assert (asked["category"], asked["code"]) == ("flow", "approval.required")
        name = str(asked["approvalId"])
        assert name in str(asked["requiredAction"])
        # Repeating it asks nobody again.
        assert (await call(executor, "send_transaction", **arguments))["approvalId"] == name

        shown = running.json("approvals", "show", name)
        assert "0.25 ETH" in str(shown["receipt"])
        assert RECIPIENT.lower() in str(shown["receipt"])
        assert running.agents("approvals", "approve", name, "--yes").returncode == 0

        sent = await call(executor, "send_transaction", **arguments)
        assert sent["status"] == "SUCCEEDED"
        again = await call(executor, "send_transaction", **arguments)
        assert again["code"] == "approval.required"
        assert again["approvalId"] != name
        assert name in str(again["message"])
    assert running.json("approvals", "show", name)["state"] == "used"


TALKER = Path(__file__).parents[1] / "servers" / "talker.py"
SERVER = """
server: talker
description: Notes what it is sent.
owner: tests
source: a program of the tests
launch:
  command: ["{python}", PROGRAM, NOTES]
bands: {names: [all]}
tools:
  look: {band: all, class: READ}
  change: {band: all, class: WRITE}
  destroy: {band: all, class: DESTRUCTIVE, receipt: "Destroys {arguments.what}."}
  echo: {band: all, class: READ}
  slow: {band: all, class: READ}
  hold: {band: all, class: READ}
  hidden: {band: all, class: READ}
"""
ROLE = """
role: wrecker
server: talker
bands: [all]
justification: Destroys what a person lets it.
owner: tests
approval: APPROVAL
"""


def wreck(project: Project, approval: str = "[destructive]") -> Path:
    """Make a project with a role that has to ask, and tell where its server notes what it hears."""
    notes = project.root / "notes"
    notes.mkdir(exist_ok=True)
    server = SERVER.replace("PROGRAM", str(TALKER)).replace("NOTES", str(notes))
    _ = project.write("roles/servers/talker.yaml", server)
    _ = project.write("roles/wrecker.yaml", ROLE.replace("APPROVAL", approval))
    return notes / "received"


def heard(notes: Path) -> int:
    """Tell how many calls the server heard of."""
    lines = [line for line in notes.read_text().splitlines() if line]
    return sum('"tools/call"' in line for line in lines)


async def destroy(project: Project, what: str) -> Object:
    """Call the tool on a connection of its own; tell what a refusal says, nothing for a result."""
    async with project.client("wrecker") as client:
        with anyio.fail_after(60):
            result = await client.call_tool("destroy", {"what": what})
    return cast("Object", result.structured_content) if result.is_error else {}


def kill_daemon(project: Project) -> None:
    """End the daemon without a word, and wait for its successor."""
    daemon = project.daemon_pid()
    os.kill(daemon, 9)
    project.wait(lambda: project.is_ready() and project.daemon_pid() != daemon, 60)


async def test_approvals_outlive_the_daemon(bare: Project) -> None:
    """Killed before and after the decision and after the call, the daemon forgets none of it."""
    notes = wreck(bare)
    _ = bare.agents("up", "-d")
    asked = await destroy(bare, "it")
    name = str(asked["approvalId"])

    kill_daemon(bare)
    assert (await destroy(bare, "it"))["approvalId"] == name
    assert bare.json("approvals", "approve", name, "--yes")["state"] == "approved"
    kill_daemon(bare)
    assert heard(notes) == 0
    assert await destroy(bare, "it") == {}
    kill_daemon(bare)
    again = await destroy(bare, "it")

    assert again["code"] == "approval.required"
    assert again["approvalId"] != name
    assert heard(notes) == 1


async def test_other_policies_digests_and_seconds_are_refused(bare: Project) -> None:
    """What was asked for under other files, shown otherwise, or is over is not decided."""
    notes = wreck(bare)
    _ = bare.agents("up", "-d")
    name = str((await destroy(bare, "it"))["approvalId"])

    shown = bare.json("approvals", "show", name)
    assert shown["receipt"] == "Destroys it."
    wrong = bare.json("approvals", "approve", name, "--digest", "0" * 64, check=14)
    assert cast("Object", wrong["error"])["code"] == "approval.changed"
    denied = bare.json("approvals", "deny", name, "--digest", str(shown["digest"]))
    assert denied["state"] == "denied"
    late = bare.json("approvals", "approve", name, "--yes", check=14)
    assert cast("Object", late["error"])["code"] == "approval.closed"
    assert (await destroy(bare, "it"))["code"] == "approval.denied"

    other = str((await destroy(bare, "more"))["approvalId"])
    _ = wreck(bare, "[destructive, write]")
    _ = bare.agents("up", "-d")
    older = bare.json("approvals", "approve", other, "--yes", check=14)
    assert "another policy" in str(cast("Object", older["error"])["message"])
    assert heard(notes) == 0


async def test_approvers_decide_and_nobody_else(bare: Project) -> None:
    """Once approvers are named nobody else decides, and a quorum is of different people."""
    notes = wreck(bare, "[{class: destructive, quorum: 2, expires: 15m}]")
    _ = bare.agents("up", "-d")
    assert "and 1 may" in bare.agents("status", check=None).stdout
    name = str((await destroy(bare, "it"))["approvalId"])
    words: dict[str, str] = {}
    file = bare.write("words", "")
    file.chmod(0o600)
    for person in ("alice", "bob"):
        by = ("--as", "alice", "--passphrase-file", str(file)) if words else ()
        added = bare.json("approvers", "add", person, "--generate", *by)
        words[person] = str(added["passphrase"])
        _ = file.write_text(words[person] + "\n")
        _ = file.write_text(words["alice"] + "\n")

    refused = bare.json("approvals", "approve", name, "--yes", check=14)
    assert cast("Object", refused["error"])["code"] == "approval.approver"
    by = ("--as", "alice", "--passphrase-file", str(file))
    assert bare.json("approvals", "approve", name, "--yes", *by)["missing"] == 1
    twice = bare.json("approvals", "approve", name, "--yes", *by, check=14)
    assert "already" in str(cast("Object", twice["error"])["message"])
    assert (await destroy(bare, "it"))["code"] == "approval.required"
    wrong = ("--as", "bob", "--passphrase-file", str(file))
    assert bare.json("approvals", "approve", name, "--yes", *wrong, check=14)
    _ = file.write_text(words["bob"] + "\n")
    done = bare.json("approvals", "approve", name, "--yes", "--reason", "invoice 17", *wrong)
    assert done["state"] == "approved"
    assert await destroy(bare, "it") == {}
    assert heard(notes) == 1

    record = (bare.state / "audit").glob("*.jsonl")
    text = "".join(path.read_text() for path in record)
    for word in words.values():
        assert word not in text
        assert word.encode() not in (bare.state / "agents.db").read_bytes()
    events = [cast("Object", json.loads(line)) for line in text.splitlines()]
    told = [one["event"] for one in events if str(one["event"]).startswith("appro")]
    assert told.count("approval.approved") == 2
    assert told.count("approval.refused") == 2
    assert "approver.refused" in told


async def test_a_grant_lets_so_many_calls_through(bare: Project) -> None:
    """Calls are made without asking as long as the grant lasts, and not after its end."""
    notes = wreck(bare)
    _ = bare.agents("up", "-d")
    about = ("wrecker", "destroy", "--for", "1h", "--reason", "spring cleaning")
    first = bare.json("grants", "give", *about, "--calls", "2")
    assert [await destroy(bare, what) for what in "ab"] == [{}, {}]
    assert (await destroy(bare, "c"))["code"] == "approval.required"
    second = bare.json("grants", "give", *about)
    assert await destroy(bare, "d") == {}
    # A call that waits already goes by the grant, too.
    assert await destroy(bare, "c") == {}
    ended = bare.json("grants", "end", str(second["id"]))
    assert (await destroy(bare, "e"))["code"] == "approval.required"

    assert (first["state"], ended["state"]) == ("active", "ended")
    assert heard(notes) == 4
    states = [one["state"] for one in cast("list[Object]", bare.json("grants", "list"))]
    assert states == ["ended", "used up"]
