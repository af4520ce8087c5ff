"""JSON as bytes: equal for equal values, different for different ones."""

import json
import struct
from typing import cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.model.base import Json
from orchestrator.protocol.canonical import canonical

texts = st.text(st.characters(exclude_categories=("Cs",)))
# Beyond 2^53 a double stands for every integer near it.
floats = st.floats(-(2**53), 2**53)
values: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | floats | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        ("0000000000000000", "0"),
        ("8000000000000000", "0"),
        ("0000000000000001", "5e-324"),
        ("8000000000000001", "-5e-324"),
        ("7fefffffffffffff", "1.7976931348623157e+308"),
        ("ffefffffffffffff", "-1.7976931348623157e+308"),
        ("4340000000000000", "9007199254740992"),
        ("4430000000000000", "295147905179352830000"),
        ("44b52d02c7e14af5", "9.999999999999997e+22"),
        ("44b52d02c7e14af6", "1e+23"),
        ("444b1ae4d6e2ef4e", "999999999999999700000"),
        ("444b1ae4d6e2ef50", "1e+21"),
        ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
        ("3eb0c6f7a0b5ed8d", "0.000001"),
        ("41b3de4355555553", "333333333.3333332"),
        ("41b3de4355555557", "333333333.33333343"),
        ("becbf647612f3696", "-0.0000033333333333333333"),
        ("43143ff3c1cb0959", "1424953923781206.2"),
    ],
)
def test_numbers_are_written_as_the_rfc_writes_them(bits: str, text: str) -> None:
    """The samples of RFC 8785, appendix B."""
    (number,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical(number) == text.encode()


def test_keys_are_sorted_as_the_rfc_sorts_them() -> None:
    """The sample of RFC 8785, section 3.2.3: by UTF-16, not by code point."""
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    order = ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    written = cast("dict[str, int]", json.loads(canonical(dict.fromkeys(keys, 1))))
    assert list(written) == order


def test_an_integer_keeps_its_digits() -> None:
    """Two amounts that a double cannot tell apart stay apart."""
    assert canonical({"amount": 10**24 + 1}) == b'{"amount":1000000000000000000000001}'
    assert canonical({"amount": 2**53 + 1}) != canonical({"amount": 2**53})


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_json_is_refused(number: float) -> None:
    """There is no JSON for NaN and infinities."""
    with pytest.raises(ValueError, match="no JSON"):
        _ = canonical({"a": [number]})


@given(values)
def test_what_is_written_reads_back(value: Json) -> None:
    """Nothing is lost: equal bytes mean equal values."""
    assert json.loads(canonical(value)) == value


@given(st.dictionaries(texts, values, max_size=4))
def test_order_makes_no_difference(value: dict[str, Json]) -> None:
    """Equal values mean equal bytes, in whatever order they came."""
    turned = dict(reversed(value.items()))
    assert canonical(value) == canonical(turned)


@given(floats)
def test_the_short_way_writes_what_the_long_way_writes(number: float) -> None:
    """Whether orjson wrote it or not makes no difference: an emoji beside it decides that."""
    short = canonical([number])
    long = canonical([number, "\U0001f600"])
    assert long == short[:-1] + ',"\U0001f600"]'.encode()
    assert orjson.loads(short) == [number]
