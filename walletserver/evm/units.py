"""Amounts: decimal strings outside, whole smallest units inside, never a float."""

import re
from typing import Final

from walletserver.codes import Code
from walletserver.errors import InvalidInputError

UINT256_MAX: Final = 2**256 - 1

AMOUNT_PATTERN: Final = r"^(0|[1-9][0-9]{0,39})(\.[0-9]{1,18})?$"
WHOLE_PATTERN: Final = r"^(0|[1-9][0-9]{0,77})$"
_AMOUNT: Final = re.compile(AMOUNT_PATTERN)
_WHOLE: Final = re.compile(WHOLE_PATTERN)


def parse_units(text: str, decimals: int) -> int:
    """Turn a positive human amount into smallest units.

    Raises:
        InvalidInputError: Not a positive plain decimal, or finer than the asset can hold.
    """
    if _AMOUNT.fullmatch(text) is None:
        raise InvalidInputError(
            Code.INVALID_AMOUNT, "An amount is a positive plain decimal string."
        )
    whole, _, fraction = text.partition(".")
    fraction = fraction.rstrip("0")
    if len(fraction) > decimals:
        raise InvalidInputError(
            Code.INVALID_AMOUNT, f"The amount has more than the {decimals} decimals of the asset."
        )
    units = int(whole + fraction.ljust(decimals, "0"))
    if not 0 < units <= UINT256_MAX:
        raise InvalidInputError(
            Code.INVALID_AMOUNT, "The amount must be positive and fit 256 bits."
        )
    return units


def parse_smallest(text: str) -> int:
    """Turn a positive whole amount of smallest units into a number.

    Raises:
        InvalidInputError: Not a positive whole number of at most 256 bits.
    """
    if _WHOLE.fullmatch(text) is None or not 0 < int(text) <= UINT256_MAX:
        raise InvalidInputError(
            Code.INVALID_AMOUNT_WEI, "A smallest-unit amount is a positive whole number string."
        )
    return int(text)


def format_units(units: int, decimals: int) -> str:
    """Write smallest units as a human amount without trailing zeros."""
    digits = str(units).rjust(decimals + 1, "0")
    split = len(digits) - decimals
    whole, fraction = digits[:split], digits[split:].rstrip("0")
    return f"{whole}.{fraction}" if fraction else whole
