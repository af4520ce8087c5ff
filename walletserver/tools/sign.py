"""The sign and broadcast bands, the owner's tools included."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from walletserver.codes import Code
from walletserver.custody.desk import SEND_TOOL, SIGN_TOOL, Custody, Request, SigningDesk
from walletserver.custody.policies import Constraints
from walletserver.errors import FlowError
from walletserver.evm.address import checksum, parse_address
from walletserver.evm.units import parse_units
from walletserver.ledger.catalogue import CHAINS, chain_named
from walletserver.logs import log_event, where
from walletserver.private_files import replace_private
from walletserver.tools.bound import BoundTool, Listing, Result, ToolInput, bind
from walletserver.tools.fields import AddressText, Amount, ChainName, UnsignedHex, WalletName

_ETH_DECIMALS: Final = 18


class NamedWallet(ToolInput):
    """Input of `create_wallet`."""

    wallet_name: WalletName


class GetWalletAddress(NamedWallet):
    """Input of `get_wallet_address`."""

    chain: ChainName


class SignTransaction(GetWalletAddress):
    """Input of `sign_transaction`."""

    unsigned_tx: UnsignedHex


class SendTransaction(SignTransaction):
    """Input of `send_transaction`."""

    confirm_broadcast: Annotated[
        bool, Field(description="Must be true: a broadcast cannot be undone.")
    ] = False


class CreateAgentApiKey(NamedWallet):
    """Input of `create_agent_api_key`."""

    label: Annotated[
        str | None,
        Field(
            max_length=64,
            pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$",
            description="A name for people.",
        ),
    ] = None
    ttl_days: Annotated[int, Field(ge=1, le=365, description="Days until the key expires.")] = 90


class CreateCustomPolicy(NamedWallet):
    """Input of `create_custom_policy`."""

    allowlist: Annotated[
        list[AddressText] | None,
        Field(
            min_length=1,
            max_length=256,
            description="Destinations that may be paid; for tokens list the contract as well.",
        ),
    ] = None
    max_value_eth: Annotated[
        Amount | None, Field(description="Most native value of one transaction.")
    ] = None
    rate_limit_per_hour: Annotated[
        int | None, Field(ge=1, le=1000, description="Most signatures in a rolling hour.")
    ] = None


@dataclass(frozen=True, slots=True)
class SignTools:
    """Handlers of the sign and broadcast bands."""

    custody: Custody
    desk: SigningDesk
    token_file: Path
    """Where `create_agent_api_key` puts the token."""

    def bound(self) -> tuple[BoundTool, ...]:
        """Return the bands' six tools; the caller drops those its mode must not see."""
        refused = self.desk.record_refusal
        return (
            bind(_ADDRESS, GetWalletAddress, self.get_wallet_address),
            bind(_SIGN, SignTransaction, self.sign_transaction, refused),
            bind(_CREATE_WALLET, NamedWallet, self.create_wallet),
            bind(_CREATE_KEY, CreateAgentApiKey, self.create_agent_api_key),
            bind(_CREATE_POLICY, CreateCustomPolicy, self.create_custom_policy),
            bind(_SEND, SendTransaction, self.send_transaction, refused),
        )

    def get_wallet_address(self, asked: GetWalletAddress) -> Result:
        """Answer with the address of a wallet on one chain."""
        chain = chain_named(asked.chain)
        wallet = self.custody.wallets.find(asked.wallet_name)
        return {
            "walletName": wallet.name,
            "chain": chain.name,
            "address": checksum(wallet.address),
        }

    def sign_transaction(self, asked: SignTransaction) -> Result:
        """Answer with a signature, nothing being sent."""
        signed = self.desk.sign(Request(asked.wallet_name, asked.chain, asked.unsigned_tx))
        return {
            "walletName": asked.wallet_name,
            "chain": asked.chain,
            "from": checksum(signed.sender),
            "signature": signed.signature_hex,
            "recoveryId": signed.y_parity,
            "signedTx": "0x" + signed.raw.hex(),
            "txHash": signed.tx_hash,
        }

    def send_transaction(self, asked: SendTransaction) -> Result:
        """Answer with the on-chain hash of a transaction that was signed and sent."""
        request = Request(asked.wallet_name, asked.chain, asked.unsigned_tx)
        done = self.desk.send(request, is_confirmed=asked.confirm_broadcast)
        return {
            "walletName": asked.wallet_name,
            "chain": asked.chain,
            "from": checksum(done.sender),
            "txHash": done.tx_hash,
            "status": "SUCCEEDED",
            "blockNumber": done.block,
            "nonce": str(done.nonce),
            "fee": str(done.fee),
        }

    def create_wallet(self, asked: NamedWallet) -> Result:
        """Answer with a new wallet's addresses."""
        wallet = self.custody.wallets.create(asked.wallet_name)
        return {
            "walletName": wallet.name,
            "createdAt": _iso(wallet.created_at),
            "addresses": {name: checksum(wallet.address) for name in CHAINS},
            "custody": "development signer, not MPC",
        }

    def create_custom_policy(self, asked: CreateCustomPolicy) -> Result:
        """Answer with a policy's id, a new one or that of an equal policy."""
        wallet = self.custody.wallets.find(asked.wallet_name)
        listed, value = asked.allowlist, asked.max_value_eth
        constraints = Constraints(
            allowlist=None if listed is None else frozenset(map(parse_address, listed)),
            max_value_wei=None if value is None else parse_units(value, _ETH_DECIMALS),
            rate_per_hour=asked.rate_limit_per_hour,
        )
        policy_id, applied_at = self.custody.policies.register(wallet.name, constraints)
        return {
            "policyId": policy_id,
            "walletName": wallet.name,
            "appliedAt": _iso(applied_at),
        }

    def create_agent_api_key(self, asked: CreateAgentApiKey) -> Result:
        """Answer with where the new token was written, and what it is good for."""
        wallet = self.custody.wallets.find(asked.wallet_name)
        policies = self.custody.policies.of_wallet(wallet.name)
        if not policies:
            raise FlowError(
                Code.POLICY_REQUIRED,
                "The wallet has no policy, so an agent would be unbounded.",
                "Run create_custom_policy for this walletName first.",
            )
        issued = self.custody.tokens.issue(
            wallet.name,
            label=asked.label,
            ttl_days=asked.ttl_days,
            deliver=_deliver_to(self.token_file),
        )
        return {
            "tokenFile": os.fspath(self.token_file),
            "tokenId": issued.token_id,
            "walletName": wallet.name,
            "label": issued.label,
            "createdAt": _iso(issued.created_at),
            "expiresAt": _iso(issued.expires_at),
            "policyIds": [policy.policy_id for policy in policies],
            "activeTokens": [
                {
                    "tokenId": token.token_id,
                    "label": token.label,
                    "expiresAt": _iso(token.expires_at),
                }
                for token in self.custody.tokens.of_wallet(wallet.name)
            ],
        }


def _deliver_to(path: Path) -> Callable[[str], None]:
    def deliver(token: str) -> None:
        try:
            replace_private(path, token.encode() + b"\n")
        except OSError as error:
            log_event("token_file_failed", error=where(error))
            raise FlowError(
                Code.TOKEN_FILE_UNAVAILABLE,
                "The token file cannot be written, so no key was issued.",
                "Make WALLETSERVER_TOKEN_FILE name a plain file in a directory the server can"
                " write; a symbolic link is refused.",
            ) from error

    return deliver


def _iso(moment: float) -> str:
    text = datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


_ADDRESS = Listing(
    "get_wallet_address", "Get wallet address", "Address of a named wallet on one chain."
)
_SIGN = Listing(
    SIGN_TOOL,
    "Sign transaction",
    "Sign an unsigned transaction within the wallet's policies, without sending it."
    " The same payload gives the same signature.",
)
_CREATE_WALLET = Listing(
    "create_wallet",
    "Create wallet",
    "Create a wallet with demo funds on the development ledger. Owner only."
    " Answers WALLET_EXISTS when the name is taken.",
)
_CREATE_KEY = Listing(
    "create_agent_api_key",
    "Create agent key",
    "Issue a token that lets an agent act for one wallet within its policies. Owner only."
    " The token is written to a private file and never returned.",
)
_CREATE_POLICY = Listing(
    "create_custom_policy",
    "Create policy",
    "Add a policy to a wallet; all its policies hold together. Owner only."
    " Give at least one of allowlist, maxValueEth and rateLimitPerHour.",
)
_SEND = Listing(
    SEND_TOOL,
    "Send transaction",
    "Sign an unsigned transaction within the wallet's policies and broadcast it."
    " Cannot be undone; needs confirmBroadcast true.",
)
