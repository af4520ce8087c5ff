"""Wallet keys, agent tokens, private files and the audit trail."""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from walletserver.codes import Code
from walletserver.custody import signer
from walletserver.custody.audit import AuditTrail
from walletserver.custody.desk import Request
from walletserver.custody.receipts import Draft, chain_line, find_break
from walletserver.custody.vault import Vault
from walletserver.errors import AuthError, FlowError, InvalidInputError, WalletError
from walletserver.evm.transaction import LegacyFee, UnsignedTransaction
from walletserver.ledger.catalogue import ETHEREUM
from walletserver.private_files import open_private, replace_private

if TYPE_CHECKING:
    from tests.walletserver.conftest import Bench

SECP256K1_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
DAY = 86_400


def _issue(bench: "Bench", wallet: str = "w", ttl_days: int = 90) -> str:
    delivered: list[str] = []
    bench.custody.tokens.issue(wallet, label=None, ttl_days=ttl_days, deliver=delivered.append)
    return delivered[0]


def test_key_opens_only_with_its_passphrase_and_row(bench: "Bench") -> None:
    """A sealed key opens with the right passphrase for its own wallet, and not otherwise."""
    wallet = bench.custody.wallets.create("w")
    assert len(bench.custody.wallets.open_key(wallet)) == 32
    with pytest.raises(FlowError) as caught:
        Vault("another").open(wallet.sealed, wallet.salt, "")
    assert caught.value.code == "PASSPHRASE_REJECTED"
    with pytest.raises(FlowError) as caught:
        Vault(None).unlock(wallet.salt)
    assert "WALLETSUITE_PASSPHRASE" in (caught.value.required_action or "")


def test_key_is_not_in_the_file(bench: "Bench") -> None:
    """The ledger's bytes hold neither the private key nor the passphrase."""
    key = bench.custody.wallets.open_key(bench.custody.wallets.create("w"))
    bench.store.close()
    content = b"".join(path.read_bytes() for path in bench.directory.iterdir())
    assert key not in content
    assert key.hex().encode() not in content
    assert b"canary" not in content


@pytest.mark.parametrize("is_legacy", [True, False])
def test_signature(
    bench: "Bench", transfer_of: Callable[..., UnsignedTransaction], *, is_legacy: bool
) -> None:
    """A signature is deterministic, has a low s, and recovers to the wallet."""
    wallet = bench.custody.wallets.create("w")
    key = bench.custody.wallets.open_key(wallet)
    transaction = transfer_of()
    if is_legacy:
        transaction = UnsignedTransaction(
            56, 0, 21_000, transaction.to, 1, b"", LegacyFee(5_000_000_000)
        )
    first, second = (signer.sign(transaction, key, wallet.address) for _ in range(2))
    assert first == second
    assert first.s <= SECP256K1_ORDER // 2
    assert first.sender == wallet.address


def test_signing_leaves_the_limit_of_recursion_alone() -> None:
    """A nested text is refused by whoever reads it, also after the library was loaded."""
    program = (
        "import sys; from walletserver.custody import signer; limit = sys.getrecursionlimit(); "
        "signer.warm_up(); assert 'eth_account' in sys.modules; "
        "sys.exit(sys.getrecursionlimit() != limit)"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)
    assert done.returncode == 0


def test_tokens_overlap_and_end(bench: "Bench") -> None:
    """Two tokens of a wallet live side by side; each ends by expiry or revocation alone."""
    bench.custody.wallets.create("w")
    tokens = bench.custody.tokens
    old, new = _issue(bench, ttl_days=1), _issue(bench, ttl_days=2)
    old_id = tokens.verify(old, "w").token_id
    assert old_id != tokens.verify(new, "w").token_id
    assert len(tokens.of_wallet("w")) == 2
    bench.clock.now += DAY
    with pytest.raises(AuthError) as caught:
        tokens.verify(old, "w")
    assert caught.value.code == "AGENT_TOKEN_EXPIRED"
    assert tokens.revoke(tokens.verify(new, "w").token_id)
    with pytest.raises(AuthError) as caught:
        tokens.verify(new, "w")
    assert caught.value.code == "AGENT_TOKEN_REVOKED"
    assert not tokens.revoke("tok_unknown")


def test_token_refusals(bench: "Bench") -> None:
    """A missing token is a missing step; an unknown one or another wallet's is not allowed."""
    for name in ("w", "v"):
        bench.custody.wallets.create(name)
    tokens = bench.custody.tokens
    with pytest.raises(FlowError):
        tokens.verify(None, "w")
    for bad in ("", "mpc_key_", "mpc_key_" + "0" * 64):
        with pytest.raises(AuthError):
            tokens.verify(bad, "w")
    with pytest.raises(AuthError) as caught:
        tokens.verify(_issue(bench, "v"), "w")
    assert caught.value.code == "WALLET_NOT_ALLOWED"


def test_undelivered_token_is_not_issued(bench: "Bench") -> None:
    """When the token cannot be handed over, nothing is left behind in the ledger."""
    bench.custody.wallets.create("w")

    def broken(_token: str) -> None:
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        bench.custody.tokens.issue("w", label=None, ttl_days=1, deliver=broken)
    assert bench.custody.tokens.of_wallet("w") == []


def test_private_file(tmp_path: Path) -> None:
    """A replaced file is private from the start, in a private directory, with no rest beside it."""
    path = tmp_path / "new" / "token"
    for content in (b"one", b"two"):
        replace_private(path, content)
        assert path.read_bytes() == content
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert list(path.parent.iterdir()) == [path]


def test_links_are_refused(tmp_path: Path) -> None:
    """A symbolic link in the place of a private file is neither followed nor replaced."""
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("keep")
    link.symlink_to(target)
    for attempt in (
        lambda: replace_private(link, b"x"),
        lambda: open_private(link, os.O_WRONLY),
    ):
        with pytest.raises(OSError, match="symbolic link") as caught:
            attempt()
        assert caught.value.errno == errno.ELOOP
    assert target.read_text() == "keep"
    assert link.is_symlink()


def _trail(path: Path, count: int) -> list[bytes]:
    trail = AuditTrail(path)
    for _ in range(count):
        trail.append(Draft("sign_transaction", wallet="w"), 1)
    return path.read_bytes().splitlines()


def test_chain_holds_and_breaks(tmp_path: Path) -> None:
    """The chain holds as written; a changed, missing or reordered line is found."""
    one, two, three = _trail(tmp_path / "audit.jsonl", 3)
    assert find_break([one, two, three]) is None
    assert find_break([one, two.replace(b'"w"', b'"x"'), three]) == 2
    assert find_break([one, three]) == 2
    assert find_break([two, three]) == 1
    assert find_break([two, one, three]) == 1
    assert find_break([one, b"{}"]) == 2
    assert find_break([one, b"[]"]) == 2
    assert find_break([one, b"{"]) == 2


def test_torn_line_is_cut(tmp_path: Path) -> None:
    """After a writer died in mid-line, the next receipt follows from the last whole one."""
    path = tmp_path / "audit.jsonl"
    _trail(path, 2)
    with path.open("ab") as file:
        file.write(chain_line({"tool": "x"}, None)[:40])
    assert find_break(_trail(path, 1)) is None
    assert len(path.read_bytes().splitlines()) == 3


def test_concurrent_writers(tmp_path: Path) -> None:
    """Several writers of one file keep one unbroken chain."""
    path = tmp_path / "audit.jsonl"
    threads = [threading.Thread(target=_trail, args=(path, 10)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    lines = path.read_bytes().splitlines()
    assert len(lines) == 30
    assert find_break(lines) is None


def _refused(call: Callable[[], object]) -> WalletError:
    with pytest.raises(WalletError) as caught:
        call()
    return caught.value


def test_no_audit_no_signature(
    bench: "Bench", transfer_of: Callable[..., UnsignedTransaction]
) -> None:
    """When the audit file cannot be written, nothing is signed, counted or sent."""
    wallet = bench.custody.wallets.create("w")
    (bench.directory / "audit.jsonl").mkdir()
    request = Request("w", "ethereum", transfer_of().unsigned_hex)
    assert _refused(lambda: bench.owner.sign(request)).code == "AUDIT_UNAVAILABLE"
    sent = _refused(lambda: bench.owner.send(request, is_confirmed=True))
    assert (sent.category, sent.code) == ("flow", "AUDIT_UNAVAILABLE")
    assert bench.store.rows("SELECT * FROM signatures") == []
    assert bench.backend.balance(ETHEREUM, wallet.address) == 10**19


def test_damaged_audit_takes_the_send_back(
    bench: "Bench", transfer_of: Callable[..., UnsignedTransaction]
) -> None:
    """A trail that opens but cannot be continued undoes the transfer it should tell of."""
    wallet = bench.custody.wallets.create("w")
    (bench.directory / "audit.jsonl").write_text("not a receipt\n")
    request = Request("w", "ethereum", transfer_of().unsigned_hex)
    sent = _refused(lambda: bench.owner.send(request, is_confirmed=True))
    assert sent.code == "AUDIT_UNAVAILABLE"
    assert bench.backend.balance(ETHEREUM, wallet.address) == 10**19
    assert bench.backend.next_nonce(ETHEREUM, wallet.address) == 0


def test_every_call_has_a_receipt(
    bench: "Bench", transfer_of: Callable[..., UnsignedTransaction]
) -> None:
    """Success, denial, missing confirmation and refused input each leave one chained receipt."""
    bench.custody.wallets.create("w")
    request = Request("w", "ethereum", transfer_of().unsigned_hex)
    bench.owner.sign(request)
    done = bench.owner.send(request, is_confirmed=True)
    _refused(lambda: bench.owner.send(request, is_confirmed=False))
    _refused(lambda: bench.agent(None).sign(request))
    bench.owner.record_refusal("send_transaction", InvalidInputError(Code.INVALID_ARGUMENT, "No."))
    receipts = bench.receipts()
    told = [(item["outcome"], item["approvalStatus"], item.get("txHash")) for item in receipts]
    assert told == [
        ("success", "not_required", None),
        ("success", "confirmed", done.tx_hash),
        ("error", "missing", None),
        ("error", "not_required", None),
        ("error", "missing", None),
    ]
    assert receipts[0]["txDigest"] == f"{request.payload[:8]}…{request.payload[-8:]}"
    lines = (bench.directory / "audit.jsonl").read_bytes().splitlines()
    assert find_break(lines) is None


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"chain": "bnb"}, "CHAIN_MISMATCH"),
        ({"chain": "tron"}, "CHAIN_NOT_AVAILABLE"),
        ({"wallet": "nobody"}, "WALLET_NOT_FOUND"),
        ({"payload": "0x01"}, "UNSUPPORTED_TX_TYPE"),
    ],
)
def test_orders_not_understood(
    bench: "Bench",
    transfer_of: Callable[..., UnsignedTransaction],
    change: dict[str, str],
    code: str,
) -> None:
    """A call for another chain, an absent wallet or an unknown payload signs nothing."""
    bench.custody.wallets.create("w")
    base = {"wallet": "w", "chain": "ethereum", "payload": transfer_of().unsigned_hex}
    assert _refused(lambda: bench.owner.sign(Request(**(base | change)))).code == code
