"""Policies: the pure decision, and the record the rate limit counts."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walletserver.custody.policies import Constraints
from walletserver.custody.policy import DenyReason, Intent, Policy, evaluate
from walletserver.errors import InvalidInputError
from walletserver.evm.address import Address
from walletserver.evm.transaction import UnsignedTransaction
from walletserver.evm.transfer import encode_token_transfer, read_transfer

if TYPE_CHECKING:
    from tests.walletserver.conftest import Bench

A, B = Address("0x" + "aa" * 20), Address("0x" + "bb" * 20)

DESTINATIONS = st.frozensets(st.sampled_from([A, B]), min_size=1)
POLICIES = st.builds(
    Policy,
    policy_id=st.just("pol"),
    allowlist=st.none() | DESTINATIONS,
    max_value_wei=st.none() | st.integers(0, 5),
    rate_per_hour=st.none() | st.integers(1, 3),
)
INTENTS = st.builds(
    Intent,
    destinations=DESTINATIONS,
    value_wei=st.integers(0, 6),
    signed_at=st.lists(st.floats(9000, 10_000), max_size=4).map(lambda at: tuple(sorted(at))),
    is_repeat=st.booleans(),
    now=st.just(10_000.0),
)


@given(st.lists(POLICIES, max_size=4), POLICIES, INTENTS)
def test_more_policies_never_allow_more(
    policies: list[Policy], extra: Policy, intent: Intent
) -> None:
    """Adding a policy anywhere never turns a denial into an allowance."""
    before = evaluate(tuple(policies), intent)
    for at in range(len(policies) + 1):
        after = evaluate((*policies[:at], extra, *policies[at:]), intent)
        assert before.deny_reason is None or after.deny_reason is not None


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (Policy("p", frozenset({A}), None, None), DenyReason.DESTINATION),
        (Policy("p", None, 4, None), DenyReason.VALUE),
        (Policy("p", None, None, 2), DenyReason.RATE),
        (Policy("p", frozenset({A, B}), 5, 3), None),
    ],
)
def test_each_constraint(policy: Policy, reason: DenyReason | None) -> None:
    """Each constraint denies for its own reason, and bounds are inclusive."""
    intent = Intent(frozenset({A, B}), 5, (9000.0, 9500.0), is_repeat=False, now=10_000.0)
    verdict = evaluate((policy,), intent)
    assert verdict.deny_reason is reason
    assert verdict.policy_ids == ("p",)


def test_rate_denial_tells_when_to_return() -> None:
    """A rate denial names the time until the oldest counted signature leaves the window."""
    policy = Policy("p", None, None, 2)
    intent = Intent(frozenset({A}), 1, (8000.0, 9000.0, 9500.0), is_repeat=False, now=10_000.0)
    assert evaluate((policy,), intent).retry_after_seconds == 9000.0 + 3600 - 10_000


@pytest.mark.parametrize("is_listed", [True, False])
def test_token_recipient_is_checked(
    bench: "Bench", transfer_of: Callable[..., UnsignedTransaction], *, is_listed: bool
) -> None:
    """A token transfer needs both its contract and its recipient on the allowlist."""
    bench.custody.wallets.create("w")
    listed = frozenset({A, B} if is_listed else {A})
    bench.custody.policies.register("w", Constraints(listed, None, None))
    transaction = transfer_of(value=0, to=A, data=encode_token_transfer(B, 1))
    with bench.store.write():
        verdict = bench.custody.policies.admit("w", transaction, read_transfer(transaction))
    assert (verdict.deny_reason is None) == is_listed


def test_rate_window_rolls(bench: "Bench", transfer_of: Callable[..., UnsignedTransaction]) -> None:
    """Distinct payloads use the rate up, a repeat is free, and an hour later there is room."""
    bench.custody.wallets.create("w")
    bench.custody.policies.register("w", Constraints(None, None, 2))

    def admit(nonce: int) -> DenyReason | None:
        transaction = transfer_of(nonce=nonce)
        with bench.store.write():
            transfer = read_transfer(transaction)
            return bench.custody.policies.admit("w", transaction, transfer).deny_reason

    assert [admit(0), admit(1), admit(1), admit(2)] == [None, None, None, DenyReason.RATE]
    bench.clock.now += 3601
    assert [admit(2), admit(3), admit(4)] == [None, None, DenyReason.RATE]


def test_equal_constraints_are_one_policy(bench: "Bench") -> None:
    """Registering the same constraints again returns the policy that is there."""
    bench.custody.wallets.create("w")
    policies = bench.custody.policies
    first = policies.register("w", Constraints(frozenset({A, B}), 10**18, 5))
    bench.clock.now += 60
    assert policies.register("w", Constraints(frozenset({B, A}), 10**18, 5)) == first
    assert policies.register("w", Constraints(None, 10**18, 5)) != first
    assert len(policies.of_wallet("w")) == 2


def test_empty_policy(bench: "Bench") -> None:
    """A policy without a constraint is refused."""
    with pytest.raises(InvalidInputError) as caught:
        bench.custody.policies.register("w", Constraints(None, None, None))
    assert caught.value.code == "MISSING_POLICY_GUARDRAIL"
