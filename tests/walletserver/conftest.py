"""What the wallet server's tests share: a ledger in this process, and servers as processes."""

import json
import os
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.shared.exceptions import MCPError

import walletserver
from walletserver.bands import AuthMode
from walletserver.custody.agent_tokens import AgentTokens
from walletserver.custody.audit import AuditTrail
from walletserver.custody.desk import Credentials, Custody, SigningDesk
from walletserver.custody.policies import Policies
from walletserver.custody.vault import Vault
from walletserver.custody.wallets import Wallets
from walletserver.evm.address import Address
from walletserver.evm.transaction import Eip1559Fee, UnsignedTransaction
from walletserver.ledger.embedded import EmbeddedLedger
from walletserver.ledger.store import Store

PASSPHRASE = "canary-passphrase-5e1f"
# Whatever is under test here, checkout or wheel, the processes run the same.
INSTALLED = Path(walletserver.__file__).parents[1]
SHOP = Address("0x" + "11" * 20)
MODERN = "2026-07-28"

Answer = dict[str, object]


@dataclass
class Clock:
    """A wall clock that stands until it is moved."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        """Return the time it is set to."""
        return self.now


@dataclass
class Bench:
    """All services in this process, on one ledger file."""

    directory: Path
    clock: Clock = field(default_factory=Clock)
    passphrase: str | None = PASSPHRASE

    def __post_init__(self) -> None:
        """Open the services."""
        self.store = Store(self.directory / "ledger.sqlite3")
        self.backend = EmbeddedLedger(self.store, self.clock)
        vault = Vault(self.passphrase)
        self.custody = Custody(
            store=self.store,
            backend=self.backend,
            wallets=Wallets(self.store, vault, self.backend, self.clock),
            policies=Policies(self.store, self.clock),
            tokens=AgentTokens(self.store, self.clock),
            audit=AuditTrail(self.directory / "audit.jsonl", self.clock),
        )
        self.owner = SigningDesk(self.custody, Credentials(AuthMode.OWNER, None))

    def agent(self, token: str | None) -> SigningDesk:
        """Return the desk of an agent."""
        return SigningDesk(self.custody, Credentials(AuthMode.AGENT, token))

    def receipts(self) -> list[Answer]:
        """Read the audit file."""
        path = self.directory / "audit.jsonl"
        lines = path.read_bytes().splitlines() if path.exists() else []
        return [cast("Answer", json.loads(line)) for line in lines]


@dataclass
class Harness:
    """Starts real servers that share one home directory."""

    home: Path

    def environment(self, **extra: str) -> dict[str, str]:
        """Return the whole environment of a server; only `PATH` is inherited."""
        return {
            "PATH": os.environ["PATH"],
            # Lets a coverage run follow the processes.
            **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")},
            "HOME": os.fspath(self.home),
            "PYTHONPATH": os.fspath(INSTALLED),
            "PYTHONDONTWRITEBYTECODE": "1",
            **extra,
        }

    def owner(self, **extra: str) -> dict[str, str]:
        """Return the environment of an owner instance with all bands."""
        return self.environment(
            MCP_BANDS="full", MPC_AUTH_MODE="owner", WALLETSUITE_PASSPHRASE=PASSPHRASE, **extra
        )

    def agent(self, token: str, **extra: str) -> dict[str, str]:
        """Return the environment of an executor."""
        return self.environment(
            MCP_BANDS="full",
            MPC_AUTH_MODE="agent",
            MPC_AGENT_TOKEN=token,
            WALLETSUITE_PASSPHRASE=PASSPHRASE,
            WALLETSUITE_AUDIT_PATH=os.fspath(self.home / "executor.jsonl"),
            **extra,
        )

    @property
    def token(self) -> str:
        """The agent token last issued."""
        return (self.home / ".walletsuite/mpc-agent-token").read_text().strip()

    @property
    def errors(self) -> Path:
        """The stderr of all servers started by `client`."""
        return self.home / "stderr.log"

    @asynccontextmanager
    async def client(
        self, environment: dict[str, str], mode: str = MODERN
    ) -> AsyncGenerator[Client]:
        """Start a server and connect to it; everything inside is bounded."""
        parameters = StdioServerParameters(
            command=sys.executable,
            args=["-m", "walletserver"],
            env=environment,
            cwd=self.home,
        )
        with self.errors.open("a") as errors, anyio.fail_after(120):
            async with Client(stdio_client(parameters, errlog=errors), mode=mode) as client:
                yield client

    async def ask(self, client: Client, tool: str, **arguments: object) -> Answer:
        """Call a tool that must succeed, and return its structured answer."""
        result = await client.call_tool(tool, arguments)
        assert not result.is_error, result.content
        return cast("Answer", result.structured_content)

    async def fail(self, client: Client, tool: str, **arguments: object) -> Answer:
        """Call a tool that must fail, and return the structured error."""
        result = await client.call_tool(tool, arguments)
        assert result.is_error, result.content
        (item,) = result.content
        assert item.type == "text"
        error = cast("Answer", result.structured_content)
        assert json.loads(item.text) == error
        assert {"category", "code", "message"} <= error.keys()
        return error

    async def bootstrap(self, client: Client, **policy: object) -> str:
        """Create the wallet `treasury`, a policy and an agent key; return the address."""
        wallet = await self.ask(client, "create_wallet", walletName="treasury")
        await self.ask(client, "create_custom_policy", walletName="treasury", **policy)
        await self.ask(client, "create_agent_api_key", walletName="treasury")
        return str(cast("dict[str, str]", wallet["addresses"])["ethereum"])

    async def prepare(self, client: Client, sender: str, **transfer: object) -> str:
        """Prepare a transfer of 0.1 ETH unless told otherwise; return its unsigned hex."""
        arguments: dict[str, object] = {"chain": "ethereum", "to": SHOP}
        if "amountWei" not in transfer:
            arguments["amount"] = "0.1"
        prepared = await self.ask(
            client,
            "prepare_serialized_unsigned_tx",
            **(arguments | {"from": sender} | transfer),
        )
        return str(prepared["unsignedTx"])


@pytest.fixture
def bench(tmp_path: Path) -> Generator[Bench]:
    """Return the services in this process."""
    bench = Bench(tmp_path)
    yield bench
    bench.store.close()


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    """Return a harness with a home of its own."""
    return Harness(tmp_path)


@pytest.fixture
def transfer_of() -> Callable[..., UnsignedTransaction]:
    """Return a maker of native transfers on Ethereum."""

    def make(
        value: int = 10**17, nonce: int = 0, to: Address = SHOP, data: bytes = b""
    ) -> UnsignedTransaction:
        fee = Eip1559Fee(10**8, 2 * 10**9)
        return UnsignedTransaction(1, nonce, 65_000, to, value, data, fee)

    return make


@pytest.fixture
def shop() -> Address:
    """Return an address to pay to."""
    return SHOP


@pytest.fixture
def unknown_tool() -> type[Exception]:
    """Return what the client raises for a tool that does not exist."""
    return MCPError
