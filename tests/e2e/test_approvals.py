"""The stock executor broadcasts what a person approved, once, and nothing else."""

from __future__ import annotations

import json
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
