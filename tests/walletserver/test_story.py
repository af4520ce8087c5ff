"""From a new wallet to a confirmed transfer, and what stops it on the way."""

import sys
from typing import TYPE_CHECKING, cast

import anyio
import pytest

if TYPE_CHECKING:
    from mcp import Client

    from tests.walletserver.conftest import Harness
    from walletserver.evm.address import Address

ERAS = ["legacy", "2026-07-28"]


@pytest.mark.parametrize("era", ERAS)
async def test_story(harness: "Harness", shop: "Address", era: str) -> None:
    """Owner creates wallet, policy and key; the agent then prepares, signs, sends and looks up."""
    async with harness.client(harness.owner(), era) as owner:
        address = await harness.bootstrap(owner, maxValueEth="1.0", rateLimitPerHour=10)
        again = await harness.fail(owner, "create_wallet", walletName="treasury")
        assert (again["category"], again["code"]) == ("flow", "WALLET_EXISTS")
    async with harness.client(harness.agent(harness.token), era) as agent:
        payload = await harness.prepare(agent, address)
        order = {"walletName": "treasury", "chain": "ethereum", "unsignedTx": payload}
        first = await harness.ask(agent, "sign_transaction", **order)
        assert first == await harness.ask(agent, "sign_transaction", **order)
        unsure = await harness.fail(agent, "send_transaction", **order)
        assert (unsure["category"], unsure["code"]) == ("flow", "BROADCAST_NOT_CONFIRMED")
        sent = await harness.ask(agent, "send_transaction", **order, confirmBroadcast=True)
        assert sent["txHash"] == first["txHash"]
        replay = await harness.fail(agent, "send_transaction", **order, confirmBroadcast=True)
        assert replay["code"] == "TRANSACTION_ALREADY_BROADCAST"
        status = await harness.ask(agent, "get_tx_status", txHash=sent["txHash"], chain="ethereum")
        assert (status["status"], status["displayValue"]) == ("SUCCEEDED", "0.1 ETH")
        history = await harness.ask(agent, "get_tx_history", address=shop, chain="ethereum")
        (received,) = cast("list[dict[str, object]]", history["transactions"])
        assert (received["txHash"], received["direction"]) == (sent["txHash"], "in")


async def test_prerequisites(harness: "Harness") -> None:
    """Without passphrase, policy, token or wallet a flow error says what to do first."""
    bare = harness.environment(MCP_BANDS="full", MPC_AUTH_MODE="owner")
    async with harness.client(bare) as client:
        error = await harness.fail(client, "create_wallet", walletName="treasury")
        assert "WALLETSUITE_PASSPHRASE" in str(error["requiredAction"])
    async with harness.client(harness.owner()) as client:
        missing = await harness.fail(client, "get_wallet_address", walletName="x", chain="bnb")
        assert "create_wallet" in str(missing["requiredAction"])
        await harness.ask(client, "create_wallet", walletName="treasury")
        error = await harness.fail(client, "create_agent_api_key", walletName="treasury")
        assert "create_custom_policy" in str(error["requiredAction"])
        error = await harness.fail(client, "create_custom_policy", walletName="treasury")
        assert error["code"] == "MISSING_POLICY_GUARDRAIL"
        found = await harness.ask(client, "get_wallet_address", walletName="treasury", chain="bnb")
        payload = await harness.prepare(client, str(found["address"]))
    order = {"walletName": "treasury", "chain": "ethereum", "unsignedTx": payload}
    for token, category in (("", "flow"), ("mpc_key_" + "0" * 64, "auth")):
        async with harness.client(harness.agent(token)) as client:
            for tool in ("sign_transaction", "send_transaction"):
                extra = {"confirmBroadcast": True} if tool == "send_transaction" else {}
                error = await harness.fail(client, tool, **order, **extra)
                assert error["category"] == category


async def test_denials(harness: "Harness", shop: "Address") -> None:
    """Destination, value and rate are each denied with their reason, in sign and in send."""
    async with harness.client(harness.owner()) as owner:
        address = await harness.bootstrap(
            owner, allowlist=[shop], maxValueEth="0.5", rateLimitPerHour=2
        )
    async with harness.client(harness.agent(harness.token)) as agent:

        async def denial(payload: str) -> str:
            order = {"walletName": "treasury", "chain": "ethereum", "unsignedTx": payload}
            signing = await harness.fail(agent, "sign_transaction", **order)
            sending = await harness.fail(agent, "send_transaction", **order, confirmBroadcast=True)
            for error in (signing, sending):
                assert (error["category"], error["code"]) == ("flow", "POLICY_DENIED")
                assert error["requiredAction"]
            assert signing["message"] == sending["message"]
            return str(signing["message"]).partition(":")[0]

        elsewhere = await harness.prepare(agent, address, to="0x" + "22" * 20)
        assert await denial(elsewhere) == "DESTINATION_NOT_ALLOWED"
        much = await harness.prepare(agent, address, amount="0.500000000000000001")
        assert await denial(much) == "VALUE_CAP_EXCEEDED"
        for _ in range(2):
            payload = await harness.prepare(agent, address)
            order = {"walletName": "treasury", "chain": "ethereum", "unsignedTx": payload}
            await harness.ask(agent, "send_transaction", **order, confirmBroadcast=True)
        assert await denial(await harness.prepare(agent, address)) == "RATE_LIMIT_EXCEEDED"


async def test_race_for_one_nonce(harness: "Harness") -> None:
    """Of two processes that send different payloads with one nonce, exactly one wins."""
    async with harness.client(harness.owner()) as owner:
        address = await harness.bootstrap(owner, rateLimitPerHour=1000)
        token = harness.token
        async with harness.client(harness.agent(token)) as left:
            for _ in range(4):
                payloads = [
                    await harness.prepare(owner, address, amount=amount) for amount in ("1", "0.5")
                ]
                wins = await _send_together(harness, {0: left, 1: owner}, payloads)
                assert sorted(wins) == [False, True]
        history = await harness.ask(owner, "get_tx_history", address=address, chain="ethereum")
        assert len(cast("list[object]", history["transactions"])) == 4


async def _send_together(
    harness: "Harness", clients: "dict[int, Client]", payloads: list[str]
) -> list[bool]:
    wins: list[bool] = []

    async def send(client: "Client", payload: str) -> None:
        order = {"walletName": "treasury", "chain": "ethereum", "unsignedTx": payload}
        result = await client.call_tool("send_transaction", {**order, "confirmBroadcast": True})
        wins.append(not result.is_error)
        if result.is_error:
            error = cast("dict[str, object]", result.structured_content)
            assert error["code"] == "NONCE_ALREADY_USED"

    async with anyio.create_task_group() as group:
        for client, payload in zip(clients.values(), payloads, strict=True):
            group.start_soon(send, client, payload)
    assert harness.home.exists()
    return wins


async def test_rate_is_shared(harness: "Harness") -> None:
    """Two processes together get no more signatures than the policy allows."""
    async with harness.client(harness.owner()) as owner:
        address = await harness.bootstrap(owner, rateLimitPerHour=3)
        payloads = [await harness.prepare(owner, address, nonce=str(nonce)) for nonce in range(8)]
        granted: list[bool] = []

        async def sign(client: "Client", payload: str) -> None:
            order = {"walletName": "treasury", "chain": "ethereum", "unsignedTx": payload}
            result = await client.call_tool("sign_transaction", order)
            granted.append(not result.is_error)

        async with (
            harness.client(harness.agent(harness.token)) as agent,
            anyio.create_task_group() as group,
        ):
            for position, payload in enumerate(payloads):
                group.start_soon(sign, (agent, owner)[position % 2], payload)
    assert granted.count(True) == 3


async def test_revoked_token(harness: "Harness") -> None:
    """A revoked token is refused by a server that is running already; a newer one goes on."""
    async with harness.client(harness.owner()) as owner:
        address = await harness.bootstrap(owner, rateLimitPerHour=100)
        old = harness.token
        key = await harness.ask(owner, "create_agent_api_key", walletName="treasury")
        assert len(cast("list[object]", key["activeTokens"])) == 2
    async with harness.client(harness.agent(old)) as agent:
        payload = await harness.prepare(agent, address)
        order = {"walletName": "treasury", "chain": "ethereum", "unsignedTx": payload}
        await harness.ask(agent, "sign_transaction", **order)
        first = cast("list[dict[str, str]]", key["activeTokens"])[0]["tokenId"]
        done = await anyio.run_process(
            [sys.executable, "-m", "walletserver", "revoke-token", first],
            env=harness.environment(),
        )
        assert done.returncode == 0
        error = await harness.fail(agent, "sign_transaction", **order)
        assert (error["category"], error["code"]) == ("auth", "AGENT_TOKEN_REVOKED")
    async with harness.client(harness.agent(harness.token)) as agent:
        await harness.ask(agent, "sign_transaction", **order)
