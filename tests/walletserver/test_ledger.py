"""The embedded ledger: exactness, atomicity, and life after a crash."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from walletserver.custody.desk import Request
from walletserver.errors import UpstreamError, WalletError
from walletserver.evm.transaction import Eip1559Fee, UnsignedTransaction
from walletserver.evm.transfer import encode_token_transfer
from walletserver.ledger.catalogue import ETHEREUM
from walletserver.ledger.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from tests.walletserver.conftest import Bench
    from walletserver.evm.address import Address

USDC = ETHEREUM.assets[1]


def _send(bench: "Bench", transaction: UnsignedTransaction) -> str | None:
    """Send, and return the error's code if there is one."""
    request = Request("w", "ethereum", transaction.unsigned_hex)
    try:
        bench.owner.send(request, is_confirmed=True)
    except WalletError as error:
        return error.code
    return None


def _total(bench: "Bench", asset: str) -> int:
    rows = bench.store.rows("SELECT units FROM balances WHERE chain='ethereum' AND asset=?", asset)
    fees = bench.store.row("SELECT fees FROM chains WHERE chain='ethereum'")
    burnt = int(str(fees[0])) if fees and asset == "native" else 0
    return burnt + sum(int(str(units)) for (units,) in rows)


def test_transfer_moves_value_and_fee(
    bench: "Bench", transfer_of: Callable[..., UnsignedTransaction], shop: "Address"
) -> None:
    """A transfer takes value and effective fee, gives the value, and lands in a new block."""
    wallet = bench.custody.wallets.create("w")
    request = Request("w", "ethereum", transfer_of(value=7).unsigned_hex)
    done = bench.owner.send(request, is_confirmed=True)
    assert done.fee == 21_000 * (10**9 + 10**8)
    assert bench.backend.balance(ETHEREUM, wallet.address) == 10**19 - 7 - done.fee
    assert bench.backend.balance(ETHEREUM, shop) == 7
    assert done.block == ETHEREUM.first_block + 1
    assert bench.backend.transaction(ETHEREUM, done.tx_hash) == done


def test_token_transfer(
    bench: "Bench", transfer_of: Callable[..., UnsignedTransaction], shop: "Address"
) -> None:
    """A token transfer moves the token to the recipient in the calldata."""
    bench.custody.wallets.create("w")
    data = encode_token_transfer(shop, 5)
    assert _send(bench, transfer_of(value=0, to=USDC.contract, data=data)) is None
    assert bench.backend.balance(ETHEREUM, shop, USDC.contract) == 5


def test_refused_transfers_change_nothing(
    bench: "Bench", transfer_of: Callable[..., UnsignedTransaction], shop: "Address"
) -> None:
    """Each transfer the chain would not take is refused and leaves no trace in the ledger."""
    bench.custody.wallets.create("w")
    before = list(bench.store.rows("SELECT * FROM balances"))
    good = transfer_of()
    too_many = encode_token_transfer(shop, 10**30)
    cases = [
        (replace(good, nonce=1), "NONCE_GAP"),
        (replace(good, value=10**19), "INSUFFICIENT_FUNDS"),
        (replace(good, gas_limit=20_999), "GAS_LIMIT_TOO_LOW"),
        (replace(good, fee=Eip1559Fee(0, 1)), "FEE_TOO_LOW"),
        (replace(good, fee=Eip1559Fee(0, 10**15)), "FEE_TOO_HIGH"),
        (replace(good, value=0, data=encode_token_transfer(shop, 1)), "UNKNOWN_TOKEN"),
        (transfer_of(value=0, to=USDC.contract, data=too_many), "INSUFFICIENT_FUNDS"),
    ]
    for transaction, code in cases:
        assert _send(bench, transaction) == code
    assert bench.store.rows("SELECT * FROM balances") == before
    assert bench.store.rows("SELECT * FROM signatures") == []


def test_replay(bench: "Bench", transfer_of: Callable[..., UnsignedTransaction]) -> None:
    """The same transaction, or another with its nonce, is not applied a second time."""
    bench.custody.wallets.create("w")
    assert _send(bench, transfer_of()) is None
    assert _send(bench, transfer_of()) == "TRANSACTION_ALREADY_BROADCAST"
    assert _send(bench, transfer_of(value=1)) == "NONCE_ALREADY_USED"


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2 * 10**19)), max_size=4))
def test_nothing_is_made_or_lost(
    bench: "Bench",
    transfer_of: Callable[..., UnsignedTransaction],
    shop: "Address",
    moves: list[tuple[bool, int]],
) -> None:
    """Whatever is sent, balances and burnt fees add up to what was granted."""
    if not bench.store.rows("SELECT 1 FROM wallets"):
        bench.custody.wallets.create("w")
    wallet = bench.custody.wallets.find("w")
    for is_token, units in moves:
        nonce = bench.backend.next_nonce(ETHEREUM, wallet.address)
        transaction = transfer_of(value=units, nonce=nonce)
        if is_token:
            data = encode_token_transfer(shop, units)
            transaction = transfer_of(value=0, nonce=nonce, to=USDC.contract, data=data)
        _send(bench, transaction)
    assert _total(bench, "native") == 10**19
    assert _total(bench, str(USDC.contract)) == USDC.demo_units


def test_failed_block_is_undone(bench: "Bench") -> None:
    """An exception undoes the whole outer transaction, nested blocks included."""

    def create_and_fail() -> None:
        with bench.store.write():
            bench.custody.wallets.create("w")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        create_and_fail()
    assert bench.store.rows("SELECT * FROM wallets") == []
    assert bench.store.rows("SELECT * FROM balances") == []


def test_history_pages(
    bench: "Bench", transfer_of: Callable[..., UnsignedTransaction], shop: "Address"
) -> None:
    """History is newest first for both sides, and continues below a block."""
    bench.custody.wallets.create("w")
    for nonce in range(3):
        _send(bench, transfer_of(nonce=nonce))
    newest = bench.backend.history(ETHEREUM, shop, before=None, limit=2)
    rest = bench.backend.history(ETHEREUM, shop, before=newest[-1].block, limit=2)
    assert [item.nonce for item in [*newest, *rest]] == [2, 1, 0]


def test_unusable_file(tmp_path: "Path") -> None:
    """A ledger that cannot be opened, or is something else, answers an upstream error."""
    path = tmp_path / "ledger.sqlite3"
    path.write_bytes(b"something else " * 100)
    for broken in (path, path / "below"):
        with pytest.raises(UpstreamError) as caught:
            Store(broken).rows("SELECT 1")
        assert caught.value.code == "LEDGER_UNAVAILABLE"


def test_ledger_file_is_private(bench: "Bench") -> None:
    """The ledger and its side files can be read by their user alone."""
    bench.custody.wallets.create("w")
    modes = {path.stat().st_mode & 0o777 for path in bench.directory.glob("ledger*")}
    assert modes == {0o600}
