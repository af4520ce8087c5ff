"""Real server processes over stdio, spoken to by the official client."""

import json
import signal
import sys
from typing import TYPE_CHECKING, cast

import anyio
import pytest

from walletserver.bands import HINTS, OWNER_ONLY, TOOL_BANDS, Band

if TYPE_CHECKING:
    from tests.walletserver.conftest import Harness
    from walletserver.evm.address import Address

ERAS = ["legacy", "2026-07-28"]
COUNTS = {
    ("read", "agent"): 7,
    ("read", "owner"): 7,
    ("read,prepare", "agent"): 10,
    ("read,prepare", "owner"): 10,
    ("read,prepare,sign", "agent"): 12,
    ("read,prepare,sign", "owner"): 15,
    ("full", "agent"): 13,
    ("full", "owner"): 16,
}


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(("bands", "mode"), COUNTS)
async def test_listing(harness: "Harness", bands: str, mode: str, era: str) -> None:
    """Each band set and mode lists its tools, closed schemas and band annotations included."""
    environment = harness.environment(MCP_BANDS=bands, MPC_AUTH_MODE=mode)
    async with harness.client(environment, era) as client:
        tools = (await client.list_tools()).tools
    assert len(tools) == COUNTS[bands, mode]
    for tool in tools:
        band = TOOL_BANDS[tool.name]
        assert mode == "owner" or tool.name not in OWNER_ONLY
        assert tool.title
        assert tool.description
        assert tool.input_schema["additionalProperties"] is False
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint is (band is Band.READ)
        assert tool.annotations.destructive_hint is (band is Band.BROADCAST)
        assert tool.annotations.idempotent_hint is HINTS[band].idempotent
        assert tool.annotations.open_world_hint is (band is not Band.SIGN)


@pytest.mark.parametrize("era", ERAS)
async def test_unregistered_tool(
    harness: "Harness", era: str, unknown_tool: type[Exception]
) -> None:
    """A tool outside the bands has no handler: it is a protocol error like any unknown name."""
    async with harness.client(harness.environment(), era) as client:
        for name in ("send_transaction", "no_such_tool"):
            with pytest.raises(unknown_tool) as caught:
                await client.call_tool(name, {})
            assert getattr(caught.value, "code", None) == -32602


async def test_every_string_is_bounded(harness: "Harness") -> None:
    """Every string argument has a longest length or a fixed set of words."""
    async with harness.client(harness.owner()) as client:
        tools = (await client.list_tools()).tools

    def check(schema: dict[str, object]) -> None:
        if schema.get("type") == "string":
            assert "maxLength" in schema or "enum" in schema
        if schema.get("type") == "array":
            assert "maxItems" in schema
            check(cast("dict[str, object]", schema["items"]))
        properties = cast("dict[str, dict[str, object]]", schema.get("properties", {}))
        choices = cast("list[dict[str, object]]", schema.get("anyOf", []))
        for below in [*properties.values(), *choices]:
            check(below)

    for tool in tools:
        check(tool.input_schema)


BAD_INPUT = [
    ("get_balance", {"address": "0x12", "chain": "ethereum"}, "INVALID_ADDRESS"),
    ("get_balance", {"address": "0x" + "1" * 40}, "MISSING_ARGUMENT"),
    ("get_balance", {"address": "0x" + "1" * 40, "chain": "doge"}, "UNSUPPORTED_CHAIN"),
    ("get_balance", {"address": "0x" + "1" * 40, "chain": "bnb", "x": 1}, "UNKNOWN_ARGUMENT"),
    ("get_balance", {"address": 5, "chain": "bnb"}, "INVALID_ADDRESS"),
    ("get_price", {"symbol": "ETH", "chain": "bnb"}, "INVALID_ARGUMENT"),
    ("get_price", {"symbol": "NOPE"}, "UNKNOWN_ASSET"),
    ("resolve_asset", {"chain": "bnb"}, "INVALID_ARGUMENT"),
    ("resolve_asset", {"chain": "bnb", "symbol": "BNB", "limit": 11}, "INVALID_ARGUMENT"),
    ("get_tx_history", {"address": "0x" + "1" * 40, "chain": "bnb", "limit": "5"}, None),
]


@pytest.mark.parametrize("era", ERAS)
async def test_validation_errors(harness: "Harness", era: str) -> None:
    """Every kind of bad input is a structured validation error that does not repeat the input."""
    async with harness.client(harness.environment(), era) as client:
        for tool, arguments, code in BAD_INPUT:
            error = await harness.fail(client, tool, **arguments)
            assert error["category"] == "validation"
            assert code is None or error["code"] == code
        canary = {"canary_name": "canary_value", "chain": "canary_chain"}
        error = await harness.fail(client, "get_balance", **canary)
        assert "canary" not in json.dumps(error)


async def test_reads(harness: "Harness", shop: "Address") -> None:
    """A read instance needs no secret, and answers with decimal strings."""
    async with harness.client(harness.environment()) as client:
        balance = await harness.ask(client, "get_balance", address=shop, chain="ethereum")
        assert (balance["amount"], balance["smallestUnit"]) == ("0", "0")
        price = await harness.ask(client, "get_price", symbol="eth", base="EUR")
        assert price["price"] == "2700"
        found = await harness.ask(client, "resolve_asset", chain="ethereum", name="usd")
        assert found["status"] == "ambiguous"
        found = await harness.ask(client, "resolve_asset", chain="ethereum", symbol="usdt")
        assert found["status"] == "unique"
        status = await harness.ask(client, "get_tx_status", chain="bnb", txHash="0x" + "0" * 64)
        assert (status["status"], status["success"]) == ("UNKNOWN", False)
        quote = await harness.ask(
            client, "get_fee_quote", chain="ethereum", to=shop, amountWei="1", **{"from": shop}
        )
        assert quote["estimatedMaxCost"] == str(21_000 * 2_100_000_000)
        error = await harness.fail(client, "get_balance", address=shop, chain="tron")
        assert error["category"] == "not_available"


async def test_prepare(harness: "Harness", shop: "Address") -> None:
    """A treasury instance prepares native and token payloads, and links, without any secret."""
    environment = harness.environment(MCP_BANDS="read,prepare")
    async with harness.client(environment) as client:
        usdt = "0xdAC17F958D2ee523a2206206994597C13D831ec7"
        base: dict[str, object] = {"chain": "ethereum", "from": shop, "to": shop}
        token = base | {"amount": "2.5", "tokenContract": usdt}
        prepared = await harness.ask(client, "prepare_transfer", **token)
        assert (prepared["to"], prepared["valueWei"]) == (usdt, "0")
        assert str(prepared["data"]).startswith("0xa9059cbb")
        compiled = await harness.ask(client, "prepare_serialized_unsigned_tx", **token)
        review = cast("dict[str, object]", compiled["review"])
        assert (review["amount"], review["recipient"]) == ("2500000", shop)
        legacy = base | {"chain": "bnb", "amountWei": "1"}
        compiled = await harness.ask(client, "prepare_serialized_unsigned_tx", **legacy)
        assert cast("dict[str, object]", compiled["metadata"])["feeMode"] == "LEGACY"
        both = base | {"amount": "1", "amountWei": "1"}
        for wrong in (base, both, base | {"amount": "1", "tokenContract": shop}):
            error = await harness.fail(client, "prepare_transfer", **wrong)
            assert error["category"] == "validation"
        link = await harness.ask(
            client, "prepare_onramp", address=shop, chain="ethereum", fiatAmount="50"
        )
        assert str(link["url"]).startswith("https://buy.moonpay.com/?currencyCode=eth&")


async def test_audit_command(harness: "Harness") -> None:
    """The verify-audit command tells a whole trail from a changed one."""
    async with harness.client(harness.owner()) as owner:
        address = await harness.bootstrap(owner, maxValueEth="1")
        order = {"walletName": "treasury", "chain": "ethereum"}
        order["unsignedTx"] = await harness.prepare(owner, address)
        await harness.ask(owner, "sign_transaction", **order)
    trail = harness.home / ".walletsuite/audit-trail.jsonl"
    command = [sys.executable, "-m", "walletserver", "verify-audit"]
    for text, status in (("holds", 0), ("broken", 1)):
        done = await anyio.run_process(command, env=harness.environment(), check=False)
        assert done.returncode == status
        assert text.encode() in done.stdout
        trail.write_bytes(trail.read_bytes().replace(b"success", b"succeed"))


@pytest.mark.parametrize("bands", ["", "admin", "read;prepare"])
async def test_refuses_to_start(harness: "Harness", bands: str) -> None:
    """Bad bands end the process with status 78 and one line of JSON that names the variable."""
    with anyio.fail_after(60):
        done = await anyio.run_process(
            [sys.executable, "-m", "walletserver"],
            env=harness.environment(MCP_BANDS=bands),
            check=False,
        )
    assert done.returncode == 78
    assert done.stdout == b""
    (line,) = done.stderr.splitlines()
    assert cast("dict[str, object]", json.loads(line))["variable"] == "MCP_BANDS"


async def test_early_stop(harness: "Harness") -> None:
    """SIGTERM while the server is still loading ends it with status 0 as well."""
    with anyio.fail_after(60):
        async with await anyio.open_process(
            [sys.executable, "-v", "-m", "walletserver"], env=harness.environment()
        ) as process:
            assert process.stderr is not None
            seen = b""
            # The interpreter's own trace tells when the SDK begins to load.
            while b"import 'mcp'" not in seen and b"mcp_types" not in seen:
                seen = seen[-200:] + await process.stderr.receive()
            process.send_signal(signal.SIGTERM)
            while True:
                try:
                    await process.stderr.receive()
                except anyio.EndOfStream:
                    break
            assert await process.wait() == 0


@pytest.mark.parametrize("is_signal", [True, False])
async def test_ends_quietly(harness: "Harness", *, is_signal: bool) -> None:
    """SIGTERM, and the end of stdin, each end the process with status 0 in good time."""
    with anyio.fail_after(60):
        async with await anyio.open_process(
            [sys.executable, "-m", "walletserver"], env=harness.environment()
        ) as process:
            assert process.stdin is not None
            assert process.stderr is not None
            await process.stdin.send(_request(1, "tools/list", {}))
            assert process.stdout is not None
            assert b'"tools"' in await process.stdout.receive()
            with anyio.fail_after(30):
                if is_signal:
                    process.send_signal(signal.SIGTERM)
                else:
                    await process.stdin.aclose()
                assert await process.wait() == 0


async def test_reply_before_end(harness: "Harness") -> None:
    """A client that writes its call and closes stdin at once still gets the reply."""
    balance = {"address": "0x" + "1" * 40, "chain": "ethereum"}
    call = _request(1, "tools/call", {"name": "get_balance", "arguments": balance})
    with anyio.fail_after(60):
        done = await anyio.run_process(
            [sys.executable, "-m", "walletserver"], input=call, env=harness.environment()
        )
    assert b'"smallestUnit"' in done.stdout


def _request(number: int, method: str, params: dict[str, object]) -> bytes:
    meta: dict[str, object] = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    message: dict[str, object] = {
        "jsonrpc": "2.0",
        "id": number,
        "method": method,
        "params": {**params, "_meta": meta},
    }
    return json.dumps(message).encode() + b"\n"
