"""What a person is told of a call: from its own arguments, and never guessed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.approvals.diff import differences
from orchestrator.approvals.draft import draft
from orchestrator.approvals.evm import read_transaction
from orchestrator.approvals.receipt import write_receipt
from orchestrator.model.receipt import problems
from walletserver.errors import InvalidInputError
from walletserver.evm.address import Address
from walletserver.evm.transaction import (
    Eip1559Fee,
    LegacyFee,
    UnsignedTransaction,
    decode_unsigned,
)
from walletserver.evm.transfer import encode_token_transfer

if TYPE_CHECKING:
    from orchestrator.model.base import Json, JsonObject
    from tests.unit.approvals.conftest import World

TO = Address("0x" + "ab" * 20)
TOKEN = Address("0x" + "cd" * 20)
ETH = UnsignedTransaction(1, 7, 21_000, TO, 25 * 10**16, b"", Eip1559Fee(10**9, 30 * 10**9))
ERC20 = UnsignedTransaction(
    56, 0, 60_000, TOKEN, 0, encode_token_transfer(TO, 5_000_000), LegacyFee(5 * 10**9)
)
NUMBERS = st.integers(0, 2**256 - 1)
SMALL = st.integers(0, 2**53 - 1)


def test_a_native_transfer() -> None:
    """Recipient, amount, most fee, chain and nonce are told, in units that people know."""
    assert read_transaction(ETH.unsigned_hex).splitlines() == [
        "Chain: 1, Ethereum",
        f"Recipient: {TO}",
        "Amount: 0.25 ETH (250000000000000000 wei)",
        "Fee: at most 0.00063 ETH (630000000000000 wei)",
        "  21000 gas at most, each at most 30 gwei, of which tip at most 1 gwei",
        "Nonce: 7, type EIP-1559",
    ]


def test_a_token_transfer() -> None:
    """The recipient is the one in the calldata, and the amount is in the token's own units."""
    assert read_transaction(ERC20.unsigned_hex).splitlines() == [
        "Chain: 56, BNB Smart Chain",
        f"Contract: {TOKEN}",
        f"Calls: transfer({TO}, 5000000)",
        f"Recipient: {TO}",
        "Amount: 5000000 of the token's smallest units",
        "Fee: at most 0.0003 BNB (300000000000000 wei)",
        "  60000 gas at most, each at most 5 gwei",
        "Nonce: 0, type legacy",
    ]


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (
            "095ea7b3" + "00" * 12 + "ab" * 20 + "ff" * 32,
            [f"Lets {TO} take ANY AMOUNT of the token's smallest units"],
        ),
        (
            "23b872dd" + "00" * 12 + "ab" * 20 + "00" * 12 + "cd" * 20 + "00" * 31 + "07",
            [f"From: {TO}", f"Recipient: {TOKEN}", "Amount: 7 of the token's smallest units"],
        ),
        (
            "deadbeef" + "00" * 32,
            ["Calls: function 0xdeadbeef, which is NOT DECODED; 32 bytes follow"],
        ),
        ("a9059cbb", ["Calls: transfer, with arguments that are NOT DECODED; 0 bytes follow"]),
        (
            "a9059cbb" + "01" * 64,
            ["Calls: transfer, with arguments that are NOT DECODED; 64 bytes follow"],
        ),
        ("00", ["Calls: function 0x00, which is NOT DECODED; 0 bytes follow"]),
    ],
)
def test_other_calls(data: str, lines: list[str]) -> None:
    """Known functions are told; what is not known, or does not fit, is said to be so."""
    sent = UnsignedTransaction(1, 0, 1, TOKEN, 5, bytes.fromhex(data), LegacyFee(1))
    told = read_transaction(sent.unsigned_hex).splitlines()
    assert [line for line in told if line in lines] == lines
    assert any(line.startswith("Sends along: 0.000000000000000005 ETH") for line in told)


@given(
    chain=st.integers(1, 2**53),
    nonce=SMALL,
    gas=SMALL,
    value=NUMBERS,
    fee=NUMBERS,
    tip=NUMBERS,
    data=st.binary(max_size=100),
    is_legacy=st.booleans(),
)
def test_every_transaction_that_the_wallet_writes_is_read(  # noqa: PLR0917 - its fields
    chain: int,
    nonce: int,
    gas: int,
    value: int,
    fee: int,
    tip: int,
    data: bytes,
    is_legacy: bool,
) -> None:
    """What is told are the numbers that the wallet's own encoder put in."""
    offer = LegacyFee(fee) if is_legacy else Eip1559Fee(min(fee, tip), fee)
    sent = UnsignedTransaction(chain, nonce, gas, TO, value, data, offer)
    told = read_transaction(sent.unsigned_hex)
    assert f"Chain: {chain}," in told
    assert f"Nonce: {nonce}," in told
    assert f"({gas * fee} wei)" in told
    values = [line for line in told.splitlines() if line.startswith(("Amount: ", "Sends along: "))]
    assert any(line.endswith(f"({value} wei)") for line in values) == (not data or value > 0)
    assert TO in told


@given(st.binary(max_size=200))
def test_what_is_no_transaction_is_refused(data: bytes) -> None:
    """Any bytes are read as the wallet reads them, or refused; nothing else ever happens."""
    text = f"0x{data.hex()}"
    try:
        told = read_transaction(text)
    except ValueError:
        with pytest.raises(InvalidInputError):
            _ = decode_unsigned(text)
    else:
        assert told


@given(st.integers(0, 109), st.integers(0, 255))
def test_one_changed_byte_is_told(place: int, byte: int) -> None:
    """No two transactions are told alike, but for what is said not to be decoded."""
    data = bytearray(ERC20.encode())
    before = bytes(data)
    data[place % len(data)] = byte
    if bytes(data) == before:
        return
    try:
        told = read_transaction(f"0x{data.hex()}")
    except ValueError:
        return
    assert told != read_transaction(ERC20.unsigned_hex)


def test_the_example_of_the_standard() -> None:
    """What EIP-155 gives as its example is read as it says. Source: EIP-155, example."""
    told = read_transaction(
        "0xec098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a764000080018080"
    ).splitlines()
    assert told == [
        "Chain: 1, Ethereum",
        f"Recipient: 0x{'35' * 20}",
        "Amount: 1 ETH (1000000000000000000 wei)",
        "Fee: at most 0.00042 ETH (420000000000000 wei)",
        "  21000 gas at most, each at most 20 gwei",
        "Nonce: 9, type legacy",
    ]


@pytest.mark.parametrize(
    "text",
    ["", "0x", "02c0", "0x0", "0xzz", "0x01c0", "0x02", "0x02c0", "0x" + "ff" * 200_000, "0xc0"],
)
def test_texts_that_are_no_transactions(text: str) -> None:
    """Each is refused with a reason."""
    with pytest.raises(ValueError, match=r"^it (is|ends) "):
        _ = read_transaction(text)


def test_a_template_is_filled_in() -> None:
    """Places are arguments as they are; what the text does not name follows it."""
    arguments: JsonObject = {"to": {"name": "bob"}, "amount": 5, "note": "hi", "list": [1]}
    receipt = write_receipt("Pay {arguments.amount} to {arguments.to.name}.\n", arguments)
    assert receipt.text == 'Pay 5 to bob.\n\nFurther arguments:\nnote: "hi"\nlist: [1]'
    assert receipt.warnings == ()


def test_without_a_template_all_arguments_are_told() -> None:
    """Nothing is left out, and none is said to be none."""
    assert write_receipt("", {"a": 1, "b": "x"}).text == 'a: 1\nb: "x"'
    assert write_receipt("", {}).text == "(no arguments)"


def test_what_cannot_be_told_is_said() -> None:
    """A missing argument and a payload that is none come with all arguments as they are."""
    receipt = write_receipt(
        "{arguments.to}: {arguments.tx|evm} {arguments.n|evm}", {"tx": "0x00", "n": 1}
    )
    assert receipt.text.startswith("(not given): (cannot be read) (cannot be read)")
    assert 'tx: "0x00"' in receipt.text
    assert len(receipt.warnings) == 3
    assert receipt.warnings[0] == "the call has no argument to"


@pytest.mark.parametrize("value", ["x\nRecipient: me", "a\u202eb", "\x1b[2K", {"k\n": "\r"}])
def test_no_argument_writes_lines_of_its_own(value: Json) -> None:
    """Line ends, escapes and marks that turn a text round are shown as what they are."""
    for template in ("To {arguments.to}.", ""):
        text = write_receipt(template, {"to": value}).text
        assert len(text.splitlines()) == 1
        assert text.isprintable()


def test_long_values_are_cut_aloud() -> None:
    """What is left out is counted."""
    text = write_receipt("{arguments.a}", {"a": "x" * 3_000}).text
    assert text.endswith("... (1000 more characters are not shown)")


@pytest.mark.parametrize(
    ("template", "count"),
    [
        ("Pay {arguments.to} {arguments.tx|evm} {arguments.a.b|json}", 0),
        ("", 0),
        ("{to}", 1),
        ("{arguments.to|wei}", 1),
        ("a } b", 1),
        ("{arguments.}", 1),
    ],
)
def test_mistakes_in_templates(template: str, count: int) -> None:
    """A text that could not be filled in is found when files are checked."""
    assert len(problems(template)) == count


def test_what_is_beside_a_named_field_is_told() -> None:
    """A text that names one field of an object does not hide the others."""
    arguments: JsonObject = {"tx": {"to": {"name": "bob", "tag": 1}, "amount": 9}}
    receipt = write_receipt("Pay {arguments.tx.to.name}.", arguments)
    assert receipt.text == ('Pay bob.\n\nFurther arguments:\ntx: {"amount": 9, "to": {"tag": 1}}')


def test_what_is_not_shown_whole_is_a_warning() -> None:
    """Nobody pushes an argument out of sight without a word."""
    arguments: JsonObject = {f"a{number}": "x" * 2_000 for number in range(9)}
    arguments["danger"] = True
    receipt = write_receipt("Look at {arguments.a0}.", arguments)
    assert "danger" not in receipt.text
    assert receipt.warnings == ("it is too long to be shown whole",)


def test_many_lines_that_are_alike_are_compared_line_by_line(world: World) -> None:
    """An agent cannot make whoever looks at its next call wait: no line is looked into."""
    texts = [
        write_receipt("", {f"k{number:04}": number + more for number in range(1_000)}).text
        for more in (0, 7_777)
    ]
    before, after = (
        replace(draft(world.wish(), world.clock.now()), receipt=text) for text in texts
    )
    lines = differences(before, after)["receipt"]
    assert isinstance(lines, list)
    assert lines[0] == "- k0000: 0"
    # Lines that are alike are not paired, which would take half a minute.
    assert lines[:1_000] == [f"- k{number:04}: {number}" for number in range(1_000)]
    assert lines[-1] == "+ k0999: 8776"
