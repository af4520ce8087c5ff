"""Names of workloads."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import SettingsError
from orchestrator.model.names import (
    AGENT_PATTERN,
    PART_PATTERN,
    SECOND,
    RoleName,
    ServerName,
    check_agent_name,
    check_role_name,
    lane_part,
    workload_name,
)

READER, SHOP = RoleName("reader"), ServerName("shop")
OWNERS = st.from_regex(AGENT_PATTERN, fullmatch=True) | st.from_regex(
    "[0-9a-f]{16}", fullmatch=True
)


@given(st.lists(st.tuples(st.sampled_from(["legacy", "modern"]), OWNERS), unique=True, max_size=50))
def test_every_lane_has_a_name_of_its_own(keys: list[tuple[str, str]]) -> None:
    """Names are short, fit for a file and for the engine, and differ where lanes do."""
    parts = [lane_part(*key) for key in (*keys, ("legacy", ""), ("modern", ""))]
    assert len({SECOND, "", *parts}) == len(parts) + 2
    for part in parts:
        assert re.fullmatch(PART_PATTERN, part)
        assert len(part) <= 12
        assert re.fullmatch(r"[a-z0-9.-]+", workload_name(READER, SHOP, 7, part))


def test_names_read_from_left_to_right() -> None:
    """Role, server, generation, and which of its processes."""
    assert workload_name(READER, SHOP, 3) == "reader.shop.g3"
    assert workload_name(READER, SHOP, 3, SECOND) == "reader.shop.g3.2"
    assert workload_name(READER, SHOP, 3, lane_part("modern", "")) == "reader.shop.g3.m"
    assert lane_part("legacy", "alice") == "l-2bd806c97f"


def test_names_of_the_command_line() -> None:
    """What cannot be a name is refused with the letters that it may have."""
    assert check_role_name("reader-2") == "reader-2"
    assert check_agent_name("alice@example.com") == "alice@example.com"
    with pytest.raises(SettingsError, match="no name of a role"):
        _ = check_role_name("Reader")
    with pytest.raises(SettingsError, match="no name of an agent"):
        _ = check_agent_name("-alice")
