"""JSON values as bytes: equal values give equal bytes, different ones different bytes.

Source: RFC 8785 (JCS). One difference: an integer keeps all its digits, as an amount in a
blockchain's smallest unit is beyond what a double can tell apart. A number that came with a
fraction or an exponent is what a double makes of it, as it is there.
"""

import json
import re
from typing import Final

import orjson

from orchestrator.model.base import Json

# Bytes of characters beyond U+FFFF, whose order in UTF-16 is another than in UTF-8.
_ASTRAL: Final = re.compile(rb"[\xf0-\xff]")
# Is in whatever orjson writes of a number that is no integer, of infinities too; or in a text.
_FRACTION: Final = re.compile(rb"[0-9][.e]|null")
# Integers that orjson writes.
_WIDE: Final = 2**63
# Up to here a double holds every integer.
_WHOLE: Final = 2.0**53


def canonical(value: Json) -> bytes:
    """Write a value.

    Raises:
        ValueError: There is no JSON for it: NaN or an infinity.
    """
    # orjson writes the same in a tenth of the time, but for some numbers and some keys.
    try:
        data = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        pass  # an integer beyond 64 bits, or nesting beyond orjson's limit
    else:
        is_plain = data.isascii() or _ASTRAL.search(data) is None
        if is_plain and (_FRACTION.search(data) is None or not _holds_odd_number(value)):
            return data
    return orjson.dumps(_prepare(value))


def _holds_odd_number(value: Json) -> bool:
    """Tell whether there is a number that orjson may write with an exponent, or as `1.0`."""
    kind = type(value)
    if kind is str:
        return False
    if isinstance(value, dict):
        return any(map(_holds_odd_number, value.values()))
    if isinstance(value, list):
        return any(map(_holds_odd_number, value))
    if kind is float and isinstance(value, float):
        return value.is_integer() or not 1e-3 < abs(value) < 1e15  # noqa: PLR2004 - well inside
    return False


def _prepare(value: Json) -> object:
    """Sort keys, and write numbers, so that orjson does the rest right."""
    if value is None or type(value) in {str, bool}:
        return value
    if isinstance(value, dict):
        keys = sorted(value) if all(map(str.isascii, value)) else sorted(value, key=_in_utf16)
        return {key: _prepare(value[key]) for key in keys}
    if isinstance(value, list):
        return [_prepare(each) for each in value]
    return _prepare_number(value)


def _prepare_number(value: str | float) -> object:
    if isinstance(value, str):
        return value  # no number at all
    if isinstance(value, int):
        return value if -_WIDE < value < _WIDE else orjson.Fragment(json.dumps(value))
    if value.is_integer() and -_WHOLE < value < _WHOLE:
        return int(value)
    is_plain = 1e-3 < abs(value) < 1e15  # noqa: PLR2004 - well inside
    return value if is_plain else orjson.Fragment(_write_number(value))


def _in_utf16(key: str) -> bytes:
    return key.encode("utf-16-be", "surrogatepass")


def _write_number(value: float) -> str:
    """Write a number as ECMAScript does. Source: ECMA-262, Number::toString."""
    if value != value or value in {float("inf"), float("-inf")}:  # noqa: PLR0124 - NaN is not itself
        raise ValueError("there is no JSON for this number")
    if value == 0:
        return "0"
    # Python's digits are the same, the shortest that read back; only their layout differs.
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    every = whole + fraction
    digits = every.lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(every) - len(digits))
    digits = digits.rstrip("0")
    sign = "-" if value < 0 else ""
    if len(digits) <= point <= 21:  # noqa: PLR2004 - ECMAScript's own figure
        return sign + digits.ljust(point, "0")
    if 0 < point <= 21:  # noqa: PLR2004 - the same
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:  # noqa: PLR2004 - the same
        return f"{sign}0.{'0' * -point}{digits}"
    tail = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{tail}e{point - 1:+d}"
