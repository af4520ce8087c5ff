"""The stock roles do what they are for, on the embedded ledger, through the gateway."""

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
    with anyio.fail_after(90):
        result = await client.call_tool(tool, arguments)
    return cast("Object", json.loads(str(getattr(result.content[0], "text", ""))))


async def send(project: Project, client: Client, **arguments: object) -> Object:
    """Broadcast what a person approves in between."""
    asked = await call(client, "send_transaction", **arguments)
    assert asked["code"] == "approval.required"
    _ = project.agents("approvals", "approve", str(asked["approvalId"]), "--yes")
    return await call(client, "send_transaction", **arguments)


async def test_a_transfer_is_prepared_signed_sent_and_seen(running: Project) -> None:
    """Treasury prepares, the executor signs and sends, monitoring sees the changed balance."""
    async with (
        running.client("executor") as executor,
        running.client("treasury") as treasury,
        running.client("monitoring") as monitoring,
    ):
        wallet = await call(executor, "get_wallet_address", walletName="treasury", chain="ethereum")
        sender = str(wallet["address"])
        before = await call(monitoring, "get_balance", address=RECIPIENT, chain="ethereum")
        transfer = {"chain": "ethereum", "from": sender, "to": RECIPIENT, "amount": "0.25"}
        prepared = await call(treasury, "prepare_serialized_unsigned_tx", **transfer)
        unsigned = {
            "walletName": "treasury",
            "chain": "ethereum",
            "unsignedTx": prepared["unsignedTx"],
        }
        first = await call(executor, "sign_transaction", **unsigned)
        assert first == await call(executor, "sign_transaction", **unsigned)

        refused = await send(running, executor, **unsigned)
        assert (refused["category"], refused["code"]) == ("flow", "BROADCAST_NOT_CONFIRMED")
        sent = await send(running, executor, **unsigned, confirmBroadcast=True)
        hash_ = next(str(value) for key, value in sent.items() if "hash" in key.lower())
        status = await call(monitoring, "get_tx_status", txHash=hash_, chain="ethereum")
        assert status["status"] == "SUCCEEDED"
        after = await call(monitoring, "get_balance", address=RECIPIENT, chain="ethereum")
        assert before != after

        again = await send(running, executor, **unsigned, confirmBroadcast=True)
        assert again["category"] != "upstream"
        assert "code" in again


async def test_the_executors_policy_holds_before_a_signature(running: Project) -> None:
    """A transfer above the demo policy's cap is denied with a `flow` error that says what to do."""
    async with running.client("executor") as executor:
        wallet = await call(executor, "get_wallet_address", walletName="treasury", chain="ethereum")
        prepared = await call(
            executor,
            "prepare_serialized_unsigned_tx",
            **{"chain": "ethereum", "from": wallet["address"], "to": RECIPIENT, "amount": "5"},
        )
        denied = await call(
            executor,
            "sign_transaction",
            walletName="treasury",
            chain="ethereum",
            unsignedTx=prepared["unsignedTx"],
        )

    assert (denied["category"], denied["code"]) == ("flow", "POLICY_DENIED")
    assert denied["requiredAction"]


async def test_the_bootstrap_is_done_once(running: Project) -> None:
    """A second start keeps the wallet and the executor's token of the first."""
    token = (running.state / "wallet-owner" / "executor.token").read_bytes()
    async with running.client("executor") as executor:
        first = await call(executor, "get_wallet_address", walletName="treasury", chain="ethereum")

    _ = running.agents("down")
    _ = running.agents("up", "-d")

    async with running.client("executor") as executor:
        second = await call(executor, "get_wallet_address", walletName="treasury", chain="ethereum")
    assert first == second
    assert (running.state / "wallet-owner" / "executor.token").read_bytes() == token
    assert (running.state / "wallet-owner" / "executor.token").stat().st_mode & 0o777 == 0o600
