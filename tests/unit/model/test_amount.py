"""Amounts: what is one, and that none changes on its way."""

import json
from decimal import Decimal
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.model.amount import EXACT, format_amount, parse_amount
from orchestrator.model.rules import RolePolicy

AMOUNTS = st.from_regex(r"[0-9]{1,78}(\.[0-9]{1,78})?", fullmatch=True)


@given(AMOUNTS)
def test_texts_keep_their_value(text: str) -> None:
    """A plain decimal is read exactly, and written so that it is read back."""
    amount = parse_amount(text)
    assert amount == Decimal(text)
    assert parse_amount(format_amount(amount)) == amount


@given(st.lists(AMOUNTS, max_size=20))
def test_sums_are_exact(texts: list[str]) -> None:
    """However different in size they are, nothing is rounded away."""
    total = Decimal(0)
    for text in texts:
        total = EXACT.add(total, parse_amount(text))
    assert sum(int(Decimal(text).scaleb(78, EXACT)) for text in texts) == int(
        total.scaleb(78, EXACT)
    )


@given(st.floats(min_value=0, max_value=1e70) | st.integers(0, 10**77))
def test_numbers_are_what_json_says(number: float) -> None:
    """A number is read as the text that stands for it in JSON."""
    text = json.dumps(number)
    if "e-" in text and int(text.partition("e-")[2]) > 60:
        return  # more digits than an amount has
    if text != "-0.0":
        assert parse_amount(number) == Decimal(text)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        -7,
        -0.0,
        -0.5,
        float("nan"),
        float("inf"),
        1e300,
        10**78,
        "",
        " 1",
        "1\n",
        "-1",
        "+1",
        "1e3",
        "1E3",
        ".5",
        "5.",
        "1,000",
        "1_000",
        "0x10",
        "٣",
        "NaN",
        "Infinity",
        "9" * 79,
        "0." + "1" * 79,
        [1],
        {"amount": 1},
        Decimal("NaN"),
        Decimal("1E+999999999"),
    ],
)
def test_what_is_no_amount(value: object) -> None:
    """What readers read in different ways, or would never end to compute, is refused."""
    with pytest.raises(ValueError, match="plain decimal"):
        _ = parse_amount(value)


def test_a_policy_survives_being_written() -> None:
    """A role's policy is the same after it was written as JSON and read again."""
    told: dict[str, object] = {
        "limits": {"calls_per_minute": 5, "agent": {"concurrency": 2}, "tools": {"x": {}}},
        "tools": {"x": {"arguments": {"properties": {"a": {"enum": [1]}}}, "optional": ["a"]}},
        "sums": [
            {"tool": "a", "argument": "b", "window": "90m", "max": 0.000001},
            {"tool": "a", "argument": "b", "window": "24h", "max": "1" * 78},
        ],
        "resources": ["docs://{name}"],
        "prompts": "all",
        "asks": ["roots"],
    }
    policy = RolePolicy.model_validate(told)
    again = RolePolicy.model_validate_json(json.dumps(policy.model_dump(mode="json")))
    assert again == policy
    sums = cast("list[dict[str, str]]", policy.model_dump(mode="json")["sums"])
    assert [one["max"] for one in sums] == ["0.000001", "1" * 78]
