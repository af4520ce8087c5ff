"""Being killed, being overheard, and being reached over HTTP."""

import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import anyio
import httpx2
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from mcp import Client

from walletserver.custody.receipts import find_break
from walletserver.evm.transaction import UnsignedTransaction, decode_unsigned
from walletserver.ledger.catalogue import ETHEREUM
from walletserver.ledger.embedded import EmbeddedLedger
from walletserver.ledger.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from tests.walletserver.conftest import Harness
    from walletserver.evm.address import Address

COMMAND = [sys.executable, "-m", "walletserver"]
META: dict[str, object] = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}
PENNY = 10**12


def _send_call(number: int, payload: str) -> bytes:
    arguments = {
        "walletName": "treasury",
        "chain": "ethereum",
        "unsignedTx": payload,
        "confirmBroadcast": True,
    }
    params: dict[str, object] = {"name": "send_transaction", "arguments": arguments, "_meta": META}
    message: dict[str, object] = {
        "jsonrpc": "2.0",
        "id": number,
        "method": "tools/call",
        "params": params,
    }
    return json.dumps(message).encode() + b"\n"


async def _kill_after(environment: dict[str, str], payloads: list[str], answers: int) -> int:
    """Ask for all sends at once, kill the server after some answers; return the successes seen."""
    successes = 0
    with anyio.fail_after(90):
        async with await anyio.open_process(COMMAND, env=environment) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            lines = BufferedByteReceiveStream(process.stdout)
            for number, payload in enumerate(payloads):
                await process.stdin.send(_send_call(number, payload))
            for _ in range(answers):
                line = await lines.receive_until(b"\n", 1 << 20)
                reply = cast("dict[str, dict[str, bool]]", json.loads(line))
                successes += not reply["result"]["isError"]
            process.kill()
            await process.wait()
    return successes


@pytest.mark.parametrize("answers", [0, 1, 2, 5])
async def test_killed(harness: "Harness", shop: "Address", answers: int) -> None:
    """After kill -9 amid sends nothing is lost, doubled or half applied, and work goes on."""
    async with harness.client(harness.owner()) as owner:
        address = await harness.bootstrap(owner, rateLimitPerHour=1000)
        payload = await harness.prepare(owner, address, amountWei=str(PENNY))
    # Calls are served side by side, so all ask for the same nonce and one can win at a time.
    first = decode_unsigned(payload)
    environment = harness.agent(harness.token)
    payloads = [_numbered(first, nonce) for nonce in range(8)]
    seen = await _kill_after(environment, payloads, answers)

    path = harness.home / ".walletsuite/ledger.sqlite3"
    count = _check_ledger(path, shop)
    assert count >= seen
    async with harness.client(environment) as agent:
        order = {"walletName": "treasury", "chain": "ethereum"}
        order["unsignedTx"] = await harness.prepare(agent, address, amountWei=str(PENNY))
        await harness.ask(agent, "send_transaction", **order, confirmBroadcast=True)
    assert _check_ledger(path, shop) == count + 1
    receipts = (harness.home / "executor.jsonl").read_bytes().splitlines()
    assert find_break(receipts) is None
    assert sum(b'"outcome":"success"' in line for line in receipts) >= count + 1


def _numbered(first: UnsignedTransaction, nonce: int) -> str:
    return replace(first, nonce=nonce).unsigned_hex


def _check_ledger(path: "Path", shop: "Address") -> int:
    """Check that all tables tell the same story, and return how many transfers it has."""
    store = Store(path)
    backend = EmbeddedLedger(store)
    rows = store.rows("SELECT nonce, fee FROM transactions ORDER BY block")
    count = len(rows)
    fees = sum(int(str(fee)) for _, fee in rows)
    assert [nonce for nonce, _ in rows] == list(range(count))
    (wallet,) = store.rows("SELECT address FROM wallets")
    address = cast("Address", wallet[0])
    assert backend.next_nonce(ETHEREUM, address) == count
    assert backend.balance(ETHEREUM, shop) == PENNY * count
    assert backend.balance(ETHEREUM, address) == 10**19 - PENNY * count - fees
    assert store.rows("PRAGMA integrity_check") == [("ok",)]
    store.close()
    return count


async def test_secrets_stay_inside(harness: "Harness") -> None:
    """Passphrase and token appear in no output, log, receipt or ledger byte."""
    async with harness.client(harness.owner()) as owner:
        address = await harness.bootstrap(owner, maxValueEth="1")
        payload = await harness.prepare(owner, address)
    token = harness.token
    broken = harness.agent(token) | {"WALLETSUITE_PASSPHRASE": "canary-wrong-77aa"}
    outputs = b""
    for environment in (harness.agent(token), broken):
        calls = _send_call(1, "0xcanary-payload") + _send_call(2, payload)
        with anyio.fail_after(90):
            done = await anyio.run_process(COMMAND, input=calls, env=environment)
        outputs += done.stdout + done.stderr
    assert b"PASSPHRASE_REJECTED" in outputs
    assert b"INVALID_PAYLOAD" in outputs
    (harness.home / ".walletsuite/mpc-agent-token").unlink()
    for path in harness.home.rglob("*"):
        if path.is_file():
            outputs += path.read_bytes()
    for secret in ("canary", token, token.removeprefix("mpc_key_")):
        assert secret.encode() not in outputs
    log = harness.errors.read_text()
    assert address.lower() not in log.lower()
    assert all(json.loads(line) for line in log.splitlines())


@asynccontextmanager
async def _http_server(harness: "Harness", **extra: str) -> AsyncGenerator[str]:
    """Serve on a free port, and yield the base address once it is announced."""
    environment = harness.environment(MCP_TRANSPORT="http", PORT="0", **extra)
    with anyio.fail_after(90):
        async with await anyio.open_process(COMMAND, env=environment) as process:
            assert process.stderr is not None
            lines = BufferedByteReceiveStream(process.stderr)
            event: dict[str, object] = {}
            while event.get("event") != "http_listening":
                line = await lines.receive_until(b"\n", 65_536)
                event = cast("dict[str, object]", json.loads(line))
            yield f"http://127.0.0.1:{event['port']}"
            process.terminate()
            assert await process.wait() == 0


@pytest.mark.parametrize("mode", ["stateless", "stateful"])
@pytest.mark.parametrize("era", ["legacy", "2026-07-28"])
async def test_http(harness: "Harness", mode: str, era: str) -> None:
    """HTTP mode answers /health without secrets and serves tools to clients of both eras."""
    extra = {"MCP_BANDS": "read,prepare", "MCP_HTTP_MODE": mode, "MPC_AGENT_TOKEN": "canary"}
    async with _http_server(harness, **extra) as base:
        async with httpx2.AsyncClient() as http:
            health = await http.get(f"{base}/health")
            foreign = await http.post(f"{base}/mcp", headers={"Host": "evil.example"}, json={})
        assert (health.status_code, foreign.status_code) == (200, 421)
        body = cast("dict[str, object]", health.json())
        assert (body["status"], body["transport"], body["mode"]) == ("ok", "http", mode)
        assert body["bands"] == ["read", "prepare"]
        assert "canary" not in health.text
        async with Client(f"{base}/mcp", mode=era) as client:
            assert len((await client.list_tools()).tools) == 10
            error = await harness.fail(client, "get_balance", address="x", chain="bnb")
            assert error["code"] == "INVALID_ADDRESS"


async def test_hosts_that_are_named(harness: "Harness") -> None:
    """Where the expected names are told, those are served and no others."""
    async with (
        _http_server(harness, MCP_ALLOWED_HOSTS="wallet:8080, wallet") as base,
        httpx2.AsyncClient() as http,
    ):
        asked = {
            host: (await http.post(f"{base}/mcp", headers={"Host": host}, json={})).status_code
            for host in ("wallet", "wallet:8080", "wallet:9", "127.0.0.1")
        }
    assert (asked.pop("wallet:9"), asked.pop("127.0.0.1")) == (421, 421)
    assert 421 not in asked.values()


async def test_three_fresh_processes(harness: "Harness", shop: "Address") -> None:
    """Several servers that create the ledger at the same moment all come up with it."""
    call: dict[str, object] = {
        "name": "get_balance",
        "arguments": {"address": shop, "chain": "bnb"},
        "_meta": META,
    }
    message: dict[str, object] = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    outputs: list[bytes] = []

    async def one() -> None:
        done = await anyio.run_process(
            COMMAND, input=json.dumps(message).encode() + b"\n", env=harness.environment()
        )
        outputs.append(done.stdout)

    with anyio.fail_after(90):
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(one)
    assert [b'"smallestUnit"' in output for output in outputs] == [True] * 3
    assert (harness.home / ".walletsuite").stat().st_mode & 0o777 == 0o700
