"""Recursive length prefix coding; decoding takes the one canonical form only.

A lenient decoder would let two different byte strings mean the same transaction, and so let a
caller sign one and show another. Only what a transaction needs is here: flat lists whose items
are byte strings or the empty list.

Source: Ethereum Yellow Paper, appendix B.
"""

from collections.abc import Sequence
from typing import Final

_SHORT: Final = 55
_STRING: Final = 0x80
_LIST: Final = 0xC0
EMPTY_LIST: Final = b"\xc0"
"""The coding of a list without items, such as an empty access list."""


class RlpError(ValueError):
    """The bytes are not one canonical list."""


def encode_bytes(data: bytes) -> bytes:
    """Encode one byte string."""
    if len(data) == 1 and data[0] < _STRING:
        return data
    return _prefix(len(data), _STRING) + data


def encode_int(number: int) -> bytes:
    """Encode one number, big-endian and without leading zeros."""
    return encode_bytes(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def encode_list(encoded_items: Sequence[bytes]) -> bytes:
    """Wrap items that are encoded already into one list."""
    body = b"".join(encoded_items)
    return _prefix(len(body), _LIST) + body


def decode_list(data: bytes) -> list[bytes | None]:
    """Decode one list that fills `data` exactly.

    Returns:
        The items in order; None stands for the empty list.

    Raises:
        RlpError: Not canonical, not exactly one list, or a list inside it has items.
    """
    items: list[bytes | None] = []
    for encoded in split_list(data):
        first, after = _span(encoded, 0, len(encoded))
        if encoded[0] >= _LIST and first != after:
            raise RlpError
        items.append(None if encoded[0] >= _LIST else encoded[first:after])
    return items


def split_list(data: bytes) -> list[bytes]:
    """Cut one list that fills `data` exactly into its items, each still encoded.

    Raises:
        RlpError: Not canonical, or not exactly one list.
    """
    if not data or data[0] < _LIST:
        raise RlpError
    at, end = _span(data, 0, len(data))
    if end != len(data):
        raise RlpError
    items: list[bytes] = []
    while at < end:
        _, after = _span(data, at, end)
        items.append(data[at:after])
        at = after
    return items


def decode_int(data: bytes, *, bits: int) -> int:
    """Read a number without leading zeros.

    Raises:
        RlpError: It has a leading zero, or more than `bits` bits.
    """
    if data[:1] == b"\x00":
        raise RlpError
    number = int.from_bytes(data, "big")
    if number.bit_length() > bits:
        raise RlpError
    return number


def _prefix(length: int, base: int) -> bytes:
    if length <= _SHORT:
        return bytes([base + length])
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([base + _SHORT + len(size)]) + size


def _span(data: bytes, at: int, limit: int) -> tuple[int, int]:
    """Return where the content of the item at `at` begins and ends."""
    head = data[at]
    if head < _STRING:
        return at, at + 1
    base = _LIST if head >= _LIST else _STRING
    length = head - base
    start = at + 1
    if length > _SHORT:
        size = length - _SHORT
        digits = data[start : start + size]
        length = int.from_bytes(digits, "big")
        # The long form is canonical only where the short one cannot say it.
        if start + size > limit or digits[0] == 0 or length <= _SHORT:
            raise RlpError
        start += size
    end = start + length
    if end > limit:
        raise RlpError
    if base == _STRING and length == 1 and data[start] < _STRING:
        raise RlpError
    return start, end
