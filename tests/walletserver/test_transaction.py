"""The payload codec."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walletserver.errors import InvalidInputError
from walletserver.evm import rlp
from walletserver.evm.address import Address
from walletserver.evm.transaction import (
    MAX_NONCE,
    Eip1559Fee,
    LegacyFee,
    UnsignedTransaction,
    decode_unsigned,
)
from walletserver.evm.transfer import encode_token_transfer, read_transfer

ONE = Address("0x" + "00" * 19 + "01")
USDT = Address("0xdac17f958d2ee523a2206206994597c13d831ec7")
FEE = Eip1559Fee(1_000_000_000, 1_214_529_816)

NATIVE = UnsignedTransaction(1, 1649, 24_338, ONE, 10**18, b"", FEE)
TOKEN = UnsignedTransaction(1, 1649, 46_251, USDT, 0, encode_token_transfer(ONE, 10**6), FEE)
LEGACY = UnsignedTransaction(
    56,
    42,
    21_000,
    Address("0x70997970c51812dc3a010c7d01b50e0d17dc79c8"),
    5 * 10**17,
    b"",
    LegacyFee(5_000_000_000),
)

VECTORS = [
    (
        NATIVE,
        (
            "0x02f101820671843b9aca008448644118825f12940000000000000000000000000000000000000001880d"
            "e0b6b3a764000080c0"
        ),
        "0x2936ef2583b732e5c049d4094df3a25b4da9985d1cf6314bb663422561c98b35",
    ),
    (
        TOKEN,
        (
            "0x02f86e01820671843b9aca00844864411882b4ab94dac17f958d2ee523a2206206994597c13d831ec780b8"
            "44a9059cbb000000000000000000000000000000000000000000000000000000000000000100000000000000"
            "000000000000000000000000000000000000000000000f4240c0"
        ),
        "0xe0624fce8a337daffecef8ab0bff31390befe64702a81f858595eece73250caa",
    ),
    (
        LEGACY,
        (
            "0xec2a85012a05f2008252089470997970c51812dc3a010c7d01b50e0d17dc79c88806f05b59d3b200008038"
            "8080"
        ),
        "0x9f33b4ca2b7b0de2571993ee2a4aa1896f6987ba9929b81ea97cd94a4cb9ba78",
    ),
]

WORDS = st.integers(0, 2**256 - 1)
FEES = st.one_of(
    st.tuples(WORDS, WORDS).map(lambda pair: Eip1559Fee(min(pair), max(pair))),
    WORDS.map(LegacyFee),
)
TRANSACTIONS = st.builds(
    UnsignedTransaction,
    chain_id=st.integers(1, 2**64 - 1),
    nonce=st.integers(0, MAX_NONCE),
    gas_limit=st.integers(0, 2**64 - 1),
    to=st.binary(min_size=20, max_size=20).map(lambda raw: Address("0x" + raw.hex())),
    value=WORDS,
    data=st.binary(max_size=300),
    fee=FEES,
)


@pytest.mark.parametrize(("transaction", "unsigned", "digest"), VECTORS)
def test_vector(transaction: UnsignedTransaction, unsigned: str, digest: str) -> None:
    """Each published vector is met in both directions, byte for byte."""
    assert transaction.unsigned_hex == unsigned
    assert transaction.signing_hash == digest
    assert decode_unsigned(unsigned) == transaction


def test_vector_cost() -> None:
    """The maximum cost is the gas limit times the fee cap."""
    assert NATIVE.max_cost == 29_559_226_661_808


def test_token_transfer_is_read() -> None:
    """The true recipient and amount come from the calldata."""
    transfer = read_transfer(TOKEN)
    assert (transfer.recipient, transfer.amount, transfer.token_contract) == (ONE, 10**6, USDT)


@given(TRANSACTIONS)
def test_round_trip(transaction: UnsignedTransaction) -> None:
    """Whatever is encoded is decoded to the same transaction."""
    assert decode_unsigned(transaction.unsigned_hex) == transaction


@given(st.binary(min_size=1, max_size=200))
def test_any_bytes(data: bytes) -> None:
    """Bytes are refused, or are the one encoding of what they decode to."""
    try:
        transaction = decode_unsigned("0x" + data.hex())
    except InvalidInputError:
        return
    assert transaction.encode() == data


@given(TRANSACTIONS, st.data())
def test_damaged_bytes(transaction: UnsignedTransaction, data: st.DataObject) -> None:
    """A changed, cut or lengthened encoding never decodes to the same transaction."""
    whole = transaction.encode()
    at = data.draw(st.integers(0, len(whole) - 1))
    piece = data.draw(st.binary(max_size=3))
    damaged = whole[:at] + piece + whole[at + data.draw(st.integers(0, 2)) :]
    if damaged in {whole, b""}:
        return
    try:
        decoded = decode_unsigned("0x" + damaged.hex())
    except InvalidInputError:
        return
    assert decoded != transaction


def _legacy(items: list[bytes]) -> str:
    return "0x" + rlp.encode_list(items).hex()


GOOD = [bytes([1])] * 3 + [b"\x94" + bytes(20), b"\x01", b"\x80", b"\x01", b"\x80", b"\x80"]

MALFORMED = {
    "no bytes": "0x",
    "odd digits": "0x0",
    "no prefix": "ec2a",
    "not hex": "0xzz",
    "unknown type": "0x01c0",
    "type 3": "0x03c0",
    "type alone": "0x02",
    "string": "0x8401020304",
    "trailing byte": LEGACY.unsigned_hex + "00",
    "cut": LEGACY.unsigned_hex[:-2],
    "few items": _legacy(GOOD[:-1]),
    "many items": _legacy([*GOOD, b"\x01"]),
    "zero as byte": _legacy([b"\x00", *GOOD[1:]]),
    "leading zero": _legacy([b"\x82\x00\x01", *GOOD[1:]]),
    "wrapped byte": _legacy([b"\x81\x01", *GOOD[1:]]),
    "long form for short": _legacy([b"\xb8\x02\x01\x01", *GOOD[1:]]),
    "long form with zero": _legacy([b"\xb9\x00\x40" + bytes([1]) * 64, *GOOD[1:]]),
    "too long": _legacy([b"\xbf" + b"\xff" * 8, *GOOD[1:]]),
    "list item": _legacy([b"\xc0", *GOOD[1:]]),
    "filled list item": _legacy([b"\xc1\x01", *GOOD[1:]]),
    "short address": _legacy([*GOOD[:3], b"\x93" + bytes(19), *GOOD[4:]]),
    "contract creation": _legacy([*GOOD[:3], b"\x80", *GOOD[4:]]),
    "signed": _legacy([*GOOD[:7], b"\x01", b"\x01"]),
    "chain 0": _legacy([*GOOD[:6], b"\x80", b"\x80", b"\x80"]),
    "huge nonce": _legacy([b"\x87\x20" + bytes(6), *GOOD[1:]]),
    "access list": "0x02"
    + rlp.encode_list([b"\x01"] * 5 + [GOOD[3], *GOOD[4:6], b"\xc1\xc0"]).hex(),
    "priority above cap": UnsignedTransaction(
        1, 0, 21_000, ONE, 1, b"", Eip1559Fee(2, 1)
    ).unsigned_hex,
    "over long": "0x" + "00" * 3000,
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed(text: str) -> None:
    """A payload that is not one canonical, plain transaction is refused as invalid input."""
    with pytest.raises(InvalidInputError):
        decode_unsigned(text)


def test_malformed_cases_differ_from_a_good_one() -> None:
    """The items the malformed cases are made from are themselves accepted."""
    assert decode_unsigned(_legacy(GOOD)).gas_limit == 1


@pytest.mark.parametrize(
    "data",
    [
        b"\x01",
        encode_token_transfer(ONE, 1)[:-1],
        encode_token_transfer(ONE, 1) + b"\0",
        b"\xa9\x05\x9c\xbb" + b"\x01" + bytes(63),
        b"\x09\x5e\xa7\xb3" + bytes(64),
    ],
)
def test_other_calldata(transfer_of: Callable[..., UnsignedTransaction], data: bytes) -> None:
    """Calldata that is not exactly a token transfer is refused."""
    with pytest.raises(InvalidInputError) as caught:
        read_transfer(transfer_of(value=0, data=data))
    assert caught.value.code == "INVALID_CALLDATA"


def test_token_transfer_with_value(transfer_of: Callable[..., UnsignedTransaction]) -> None:
    """Native value beside a token transfer is refused, as a review would not show it."""
    with pytest.raises(InvalidInputError):
        read_transfer(transfer_of(value=1, data=encode_token_transfer(ONE, 1)))
