"""Makes the actual signatures: secp256k1, deterministic (RFC 6979), low s."""

import importlib
import sys
from threading import Lock
from typing import Final, Protocol, cast

from walletserver.codes import Code
from walletserver.errors import UpstreamError
from walletserver.evm import rlp
from walletserver.evm.address import Address, checksum
from walletserver.evm.signed import SignedTransaction
from walletserver.evm.transaction import Eip1559Fee, UnsignedTransaction

_LOADING: Final = Lock()


class _Signed(Protocol):
    """What the library returns, as far as it is used."""

    raw_transaction: bytes
    hash: bytes
    r: int
    s: int
    v: int


def warm_up() -> None:
    """Load the signing library ahead of a moment that should be short."""
    # It takes about 0.6 s, which neither the start nor a held ledger should pay.
    with _LOADING:
        if "eth_account" in sys.modules:
            return
        limit = sys.getrecursionlimit()
        try:
            _ = importlib.import_module("eth_account")
        finally:
            # A part of it, which is not used here, raises the limit so far that a deeply nested
            # text would end the process.
            sys.setrecursionlimit(limit)


def sign(transaction: UnsignedTransaction, key: bytes, owner: Address) -> SignedTransaction:
    """Sign, and check the result as a chain would.

    Args:
        transaction: What to sign.
        key: The private key.
        owner: The address the signature must recover to.

    Raises:
        UpstreamError: The signature does not belong to the owner, or covers other bytes.
    """
    warm_up()
    from eth_account import Account  # noqa: PLC0415

    # The library types both results as Any.
    made = cast("_Signed", Account.sign_transaction(_fields(transaction), key))
    raw = bytes(made.raw_transaction)
    y_parity = made.v if isinstance(transaction.fee, Eip1559Fee) else (made.v - 35) % 2
    # The library encodes for itself; equal bytes prove that it signed what was shown.
    is_same = raw == _encode_signed(transaction, made.v, made.r, made.s)
    recovered = cast("str", Account.recover_transaction(raw))
    sender = Address(recovered.lower())
    if not is_same or sender != owner:
        raise UpstreamError(Code.SIGNATURE_CHECK_FAILED, "The signature did not pass its check.")
    return SignedTransaction(
        transaction=transaction,
        raw=raw,
        tx_hash="0x" + bytes(made.hash).hex(),
        r=made.r,
        s=made.s,
        y_parity=y_parity,
        sender=sender,
    )


def _fields(transaction: UnsignedTransaction) -> dict[str, str | int | bytes]:
    fields: dict[str, str | int | bytes] = {
        "chainId": transaction.chain_id,
        "nonce": transaction.nonce,
        "gas": transaction.gas_limit,
        "to": checksum(transaction.to),
        "value": transaction.value,
        "data": transaction.data,
    }
    if isinstance(transaction.fee, Eip1559Fee):
        return fields | {
            "type": 2,
            "maxPriorityFeePerGas": transaction.fee.max_priority_fee,
            "maxFeePerGas": transaction.fee.max_fee,
        }
    return fields | {"gasPrice": transaction.fee.gas_price}


def _encode_signed(transaction: UnsignedTransaction, v: int, r: int, s: int) -> bytes:
    unsigned = transaction.encode()
    signature = [rlp.encode_int(part) for part in (v, r, s)]
    if isinstance(transaction.fee, Eip1559Fee):
        items = rlp.split_list(unsigned[1:])
        return unsigned[:1] + rlp.encode_list([*items, *signature])
    # The three placeholders of EIP-155 give way to the signature.
    return rlp.encode_list([*rlp.split_list(unsigned)[:-3], *signature])
