"""The tools that a role was promised against those that its live server shows; pure."""

from dataclasses import dataclass
from typing import Final

from orchestrator.errors import AttestationError
from orchestrator.model.base import JsonObject
from orchestrator.model.names import ToolName
from orchestrator.model.workload import WorkloadSpec

_NAMED: Final = 10
_SHOWN: Final = 40


@dataclass(frozen=True, slots=True)
class Attestation:
    """A live list that is no wider than the promise.

    Attributes:
        tools: Tools that the role gets, as the server described them, in its order.
        missing: Promised tools that the server does not show, sorted.
    """

    tools: tuple[JsonObject, ...]
    missing: tuple[ToolName, ...]


def attest(spec: WorkloadSpec, listed: tuple[JsonObject, ...]) -> Attestation:
    """Check a live tool list.

    Args:
        spec: The workload, with what it was promised.
        listed: Tools as the server listed them; names are unique texts.

    Returns:
        What the role gets of them.

    Raises:
        AttestationError: The server shows a tool that its file does not name, or one that is
            outside the role's bands and mode although the server itself should have left it out.
    """
    names = [ToolName(str(tool["name"])) for tool in listed]
    unknown = sorted(name for name in names if name not in spec.known)
    outside = sorted(name for name in names if name in spec.known and name not in spec.tools)
    excess = unknown if spec.cut else [*unknown, *outside]
    if excess:
        shown = ", ".join(map(_show, excess[:_NAMED])) + (" ..." if len(excess) > _NAMED else "")
        kind = "that its server file does not name" if excess == unknown else "it must not have"
        bands = ", ".join(spec.bands)
        raise AttestationError(
            f"{spec.role} shows tools {kind}: {shown} (bands: {bands}; mode: {spec.mode})",
            tools=tuple(excess),
        )
    kept = tuple(tool for tool in listed if tool["name"] in spec.tools)
    return Attestation(kept, tuple(sorted(spec.tools.keys() - set(names))))


def _show(name: str) -> str:
    """Shorten a name that a server may have chosen to trouble whoever reads it on a terminal."""
    cut = name if len(name) <= _SHOWN else name[:_SHOWN] + "..."
    return "".join(letter if letter.isprintable() else "?" for letter in cut)
