"""The lines as they are, so that whoever has them can verify them."""

from typing import TYPE_CHECKING, Final

from orchestrator.audit.formats.base import Format

if TYPE_CHECKING:
    from orchestrator.model.base import JsonObject


def render(line: bytes, _: "JsonObject") -> bytes:
    """Give the line."""
    return line


JSONL: Final = Format("jsonl", "application/jsonl", render)
