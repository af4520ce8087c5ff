"""The signing desk: the one way to a signature.

Each call is one ledger transaction: token, policy and rate, signature, effect, receipt. The
receipt is on disk before the commit and the commit before the answer, so that a crash can leave a
receipt of something that did not happen, and never the reverse.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from walletserver.bands import AuthMode
from walletserver.codes import Code
from walletserver.custody import signer
from walletserver.custody.agent_tokens import AgentTokens
from walletserver.custody.audit import AuditTrail
from walletserver.custody.policies import Policies
from walletserver.custody.policy import DenyReason, Verdict
from walletserver.custody.receipts import Draft
from walletserver.custody.wallets import Wallet, Wallets
from walletserver.errors import FlowError, InvalidInputError, UpstreamError, WalletError
from walletserver.evm.signed import SignedTransaction
from walletserver.evm.transaction import UnsignedTransaction, decode_unsigned
from walletserver.evm.transfer import Transfer, read_transfer
from walletserver.ledger.backend import Backend, ChainTransaction
from walletserver.ledger.catalogue import Chain, caip2_of, chain_named
from walletserver.ledger.store import Store

SIGN_TOOL: Final = "sign_transaction"
SEND_TOOL: Final = "send_transaction"

# No policy bounds the fee, so a payload that could burn more than one coin is refused.
MAX_FEE_WEI: Final = 10**18

_ResultT = TypeVar("_ResultT")

_DENIALS: Final = {
    DenyReason.DESTINATION: (
        "A policy does not list the destination.",
        "Ask the wallet's owner; an agent cannot widen a policy.",
    ),
    DenyReason.VALUE: (
        "The value is above a policy's cap for one transaction.",
        "Lower the value or ask the wallet's owner; an agent cannot widen a policy.",
    ),
    DenyReason.RATE: (
        "A policy's signatures for the rolling hour are used up.",
        "Wait for the rolling hour to pass, then try again.",
    ),
}


@dataclass(frozen=True, slots=True)
class Credentials:
    """In whose name this process signs."""

    mode: AuthMode
    agent_token: str | None


@dataclass(frozen=True, slots=True)
class Custody:
    """The services the desk draws on."""

    store: Store
    backend: Backend
    wallets: Wallets
    policies: Policies
    tokens: AgentTokens
    audit: AuditTrail


@dataclass(frozen=True, slots=True)
class Request:
    """One call as it came in."""

    wallet: str
    chain: str
    payload: str


@dataclass(frozen=True, slots=True)
class _Order:
    """A call that was understood."""

    wallet: Wallet
    chain: Chain
    transaction: UnsignedTransaction
    transfer: Transfer


class SigningDesk:
    """Signs, and signs and sends, within policy and on record."""

    def __init__(self, custody: Custody, credentials: Credentials) -> None:
        """Keep the parts.

        Args:
            custody: The services to draw on.
            credentials: Owner, or agent with its token.
        """
        self._custody = custody
        self._credentials = credentials

    def sign(self, request: Request) -> SignedTransaction:
        """Sign a payload; the same payload always gives the same bytes.

        Raises:
            WalletError: Nothing was signed; the error says why.
        """
        draft = Draft(SIGN_TOOL, wallet=request.wallet, payload=request.payload.lower())

        def effect(_chain: Chain, signed: SignedTransaction) -> SignedTransaction:
            return signed

        return self._serve(request, draft, effect)

    def send(self, request: Request, *, is_confirmed: bool) -> ChainTransaction:
        """Sign a payload and broadcast it in one step.

        Raises:
            WalletError: Nothing was signed or sent; the error says why.
        """
        draft = Draft(SEND_TOOL, wallet=request.wallet, payload=request.payload.lower())
        draft.approval = "confirmed" if is_confirmed else "missing"

        def effect(chain: Chain, signed: SignedTransaction) -> ChainTransaction:
            done = self._custody.backend.submit(chain, signed)
            draft.tx_hash = done.tx_hash
            return done

        return self._serve(request, draft, effect)

    def record_refusal(self, tool: str, error: InvalidInputError) -> None:
        """Put a call on record that was refused before it could be understood."""
        approval = "missing" if tool == SEND_TOOL else "not_required"
        self._custody.audit.append(Draft(tool, approval=approval, error=error), 0)

    def _serve(
        self,
        request: Request,
        draft: Draft,
        effect: Callable[[Chain, SignedTransaction], _ResultT],
    ) -> _ResultT:
        started = time.monotonic()
        audit = self._custody.audit
        audit.check()
        try:
            order = self._understand(request, draft)
            with self._custody.store.write():
                result = effect(order.chain, self._sign(order, draft))
                audit.append(draft, _elapsed_ms(started))
        except Exception as error:
            is_expected = isinstance(error, WalletError)
            draft.error = error if is_expected else UpstreamError(Code.INTERNAL_ERROR, "Failed.")
            draft.tx_hash = None
            # Also after a receipt of success whose commit then failed: the later one corrects it.
            audit.append(draft, _elapsed_ms(started))
            raise
        return result

    def _understand(self, request: Request, draft: Draft) -> _Order:
        """Do all that needs no hold on the ledger, the slow parts above all."""
        draft.chain = caip2_of(request.chain)
        chain = chain_named(request.chain)
        if draft.approval == "missing":
            raise FlowError(
                Code.BROADCAST_NOT_CONFIRMED,
                "A broadcast cannot be undone, and this one was not confirmed.",
                "Review the transaction, then call again with confirmBroadcast set to true.",
            )
        self._authorize(request.wallet)
        transaction = decode_unsigned(request.payload)
        if transaction.chain_id != chain.chain_id:
            raise InvalidInputError(
                Code.CHAIN_MISMATCH, "The transaction is for another chain than the argument says."
            )
        if transaction.max_cost > MAX_FEE_WEI:
            raise InvalidInputError(
                Code.FEE_TOO_HIGH, "The fee offer could cost more than one native coin."
            )
        wallet = self._custody.wallets.find(request.wallet)
        self._custody.wallets.unlock(wallet)
        signer.warm_up()
        return _Order(wallet, chain, transaction, read_transfer(transaction))

    def _authorize(self, wallet: str) -> None:
        if self._credentials.mode is AuthMode.AGENT:
            self._custody.tokens.verify(self._credentials.agent_token, wallet)

    def _sign(self, order: _Order, draft: Draft) -> SignedTransaction:
        # Asked again under the ledger's lock, so that a revocation counts from its commit on.
        self._authorize(order.wallet.name)
        verdict = self._custody.policies.admit(order.wallet.name, order.transaction, order.transfer)
        draft.verdict = verdict
        _enforce(verdict)
        key = self._custody.wallets.open_key(order.wallet)
        return signer.sign(order.transaction, key, order.wallet.address)


def _enforce(verdict: Verdict) -> None:
    if verdict.deny_reason is None:
        return
    message, action = _DENIALS[verdict.deny_reason]
    wait = verdict.retry_after_seconds
    raise FlowError(
        Code.POLICY_DENIED,
        f"{verdict.deny_reason.value}: {message}",
        action,
        retry_after_ms=None if wait is None else int(wait * 1000) + 1,
    )


def _elapsed_ms(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
