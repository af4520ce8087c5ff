"""What a format is, and what all of them need to know of a line."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from orchestrator.model.base import JsonObject

PRODUCT: Final = "Bandmaster"
_ANSWERED: Final = frozenset({"tool_error", "rpc_error"})


@dataclass(frozen=True, slots=True)
class Format:
    """One format.

    Attributes:
        name: What it is called.
        media_type: What it is called on the network.
        render: Makes a text of a line, as bytes of the record and as what they tell; no line end.
        head: What stands before the first one.
        end: What stands behind each.
    """

    name: str
    media_type: str
    render: "Callable[[bytes, JsonObject], bytes]"
    head: bytes = b""
    end: bytes = b"\n"


@cache
def product_version() -> str:
    """Tell the version of this program."""
    return version("bandmaster")


def text_of(told: "JsonObject", name: str) -> str:
    """Tell a field as text; empty if it is not there."""
    value = told.get(name)
    return "" if value is None else str(value)


def number_of(told: "JsonObject", name: str) -> int:
    """Tell a field as a number; 0 if it is none."""
    value = told.get(name)
    return value if isinstance(value, int) else 0


def milliseconds_of(told: "JsonObject") -> int:
    """Tell when a line was written, in milliseconds since 1970; 0 if it does not say."""
    try:
        return int(datetime.fromisoformat(text_of(told, "time")).timestamp() * 1000)
    except ValueError:
        return 0


def is_failure(told: "JsonObject") -> bool:
    """Whether a line tells that something was refused or went wrong."""
    event, outcome = told.get("event"), told.get("outcome")
    if event in {"decision", "omitted", "gap"} or outcome not in {None, "ok"}:
        return True
    return str(event).endswith((".denied", ".refused", "_refused", ".expired", ".replayed"))


def weight_of(told: "JsonObject") -> int:
    """Tell how much a line matters, from 0 to 10, as CEF counts."""
    event = str(told.get("event"))
    if event.startswith("incident."):
        return 9
    if event in {"gap", "tombstone"} or event.startswith(("guard.", "role.frozen")):
        return 7
    if is_failure(told):
        return 4 if told.get("outcome") in _ANSWERED else 6
    return {"WRITE": 3, "DESTRUCTIVE": 5}.get(str(told.get("class")), 1)
