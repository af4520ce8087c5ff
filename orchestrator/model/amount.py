"""Decimals that every reader reads alike, and that add up exactly."""

import re
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow, Rounded
from math import isfinite
from typing import Final

_MOST_DIGITS: Final = 78  # of the largest number of 256 bits
# No sign, no exponent, no separators: `1e9`, `+1`, `.5` and `1_0` are read by some and not others.
PLAIN_DECIMAL: Final = rf"^[0-9]{{1,{_MOST_DIGITS}}}(\.[0-9]{{1,{_MOST_DIGITS}}})?$"
# Holds the sum of a thousand million of them, and raises rather than round.
EXACT: Final = Context(
    prec=2 * _MOST_DIGITS + 9, traps=[Inexact, Rounded, InvalidOperation, Overflow]
)

_PLAIN = re.compile(PLAIN_DECIMAL.replace("$", r"\Z"), re.ASCII)
_TOO_MUCH = 10**_MOST_DIGITS


def parse_amount(value: object) -> Decimal:
    """Read an amount: a number, or a plain decimal in a text.

    Raises:
        ValueError: It is none, is negative, or has too many digits.
    """
    match value:
        case bool():
            pass
        case Decimal() if value.is_finite() and abs(value.adjusted()) <= _MOST_DIGITS:
            return parse_amount(format(value, "f"))
        case int() if 0 <= value < _TOO_MUCH:
            return Decimal(value)
        case float() if isfinite(value):
            # Its shortest text is what was read, and what will be written.
            return parse_amount(format(Decimal(repr(value)), "f"))
        case str() if _PLAIN.match(value):
            return Decimal(value)
        case _:
            pass
    raise ValueError("an amount is a plain decimal, such as 5 or 0.25")


def format_amount(value: Decimal) -> str:
    """Write an amount so that `parse_amount` reads it back."""
    return format(value, "f")
