"""Where the console may be reached, as its command is told."""

from __future__ import annotations

import pytest

from orchestrator.cli.console import check_public_url
from orchestrator.errors import SettingsError


def test_a_public_address_is_written_as_browsers_write_it() -> None:
    """Otherwise links would be made, and every one of them refused."""
    assert check_public_url("https://Approve.Example.COM/") == "https://approve.example.com"
    assert check_public_url("https://a.example:8443") == "https://a.example:8443"
    assert not check_public_url(None)


@pytest.mark.parametrize(
    "text",
    [
        "http://a.example",
        "https://",
        "https://user:pass@a.example",
        "https://a.example/path",
        "https://a.example#x",
        "https://a.example?x",
        "https://a.example\\@b.example",
        "https://a.example\n",
    ],
)
def test_another_address_is_refused(text: str) -> None:
    """At once, and not by messages without links."""
    with pytest.raises(SettingsError, match="--public-url"):
        _ = check_public_url(text)
