"""Decides whether a signature is allowed; pure.

All policies of a wallet hold together: each constraint of each policy must allow. The first that
does not ends the evaluation.

Source: fact sheet section 9.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from walletserver.evm.address import Address

WINDOW_SECONDS: Final = 3600.0


class Rule(StrEnum):
    """The constraints, by their argument names."""

    ALLOWLIST = "allowlist"
    MAX_VALUE = "maxValueEth"
    RATE = "rateLimitPerHour"


class DenyReason(StrEnum):
    """Why a signature was denied."""

    DESTINATION = "DESTINATION_NOT_ALLOWED"
    VALUE = "VALUE_CAP_EXCEEDED"
    RATE = "RATE_LIMIT_EXCEEDED"


@dataclass(frozen=True, slots=True)
class Policy:
    """One registered policy; a constraint that is None does not bind."""

    policy_id: str
    allowlist: frozenset[Address] | None
    max_value_wei: int | None
    rate_per_hour: int | None


@dataclass(frozen=True, slots=True)
class Intent:
    """What is about to be signed, and what was signed lately."""

    destinations: frozenset[Address]
    """The envelope's `to` and, of a token transfer, the recipient in its calldata."""

    value_wei: int
    signed_at: tuple[float, ...]
    """Times of the signatures inside the rolling hour, oldest first."""

    is_repeat: bool
    """Whether this very payload is among them: the same bytes again give away nothing new."""

    now: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome, in the terms of the audit receipt."""

    policy_ids: tuple[str, ...]
    matched_rules: tuple[Rule, ...]
    """The rules that allowed, or the one that denied."""

    deny_reason: DenyReason | None = None
    retry_after_seconds: float | None = None


def evaluate(policies: tuple[Policy, ...], intent: Intent) -> Verdict:
    """Put an intent to all policies of a wallet.

    Args:
        policies: All of them; with none everything is allowed.
        intent: What is about to be signed.
    """
    ids = tuple(policy.policy_id for policy in policies)
    matched: list[Rule] = []
    for policy in policies:
        if policy.allowlist is not None:
            if not intent.destinations <= policy.allowlist:
                return Verdict((policy.policy_id,), (Rule.ALLOWLIST,), DenyReason.DESTINATION)
            matched.append(Rule.ALLOWLIST)
        if policy.max_value_wei is not None:
            if intent.value_wei > policy.max_value_wei:
                return Verdict((policy.policy_id,), (Rule.MAX_VALUE,), DenyReason.VALUE)
            matched.append(Rule.MAX_VALUE)
        if policy.rate_per_hour is not None:
            if not intent.is_repeat and len(intent.signed_at) >= policy.rate_per_hour:
                # The limit has room again once this one has left the window.
                oldest = intent.signed_at[-policy.rate_per_hour]
                wait = max(0.0, oldest + WINDOW_SECONDS - intent.now)
                return Verdict((policy.policy_id,), (Rule.RATE,), DenyReason.RATE, wait)
            matched.append(Rule.RATE)
    return Verdict(ids, tuple(dict.fromkeys(matched)))
