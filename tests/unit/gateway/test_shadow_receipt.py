"""What the record tells of a call that a shadow kept from being made."""

from orchestrator.gateway.filters.shadow import _receipt
from orchestrator.model.base import JsonObject


def test_nothing_but_what_the_server_file_names_is_told() -> None:
    """Fields beside the one that a text names may be private, and stay out of the record."""
    arguments: JsonObject = {"tx": {"to": "bob", "note": "private"}, "more": "private"}
    assert _receipt("Pay {arguments.tx.to}.", arguments, 100) == "Pay bob."


def test_megabytes_are_not_written_out() -> None:
    """They would hold everybody up for seconds."""
    arguments: JsonObject = {"to": "\u4e00" * 100_000}
    assert _receipt("Pay {arguments.to}.", arguments, 300_000) == ""
