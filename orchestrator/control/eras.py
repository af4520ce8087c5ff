"""Eras for which a role's server can be had in a process of its own; pure."""

from collections.abc import Collection, Mapping
from typing import Final

from orchestrator.model.names import ServerName
from orchestrator.model.snapshot import Era
from orchestrator.model.workload import WorkloadSpec

_BOTH: Final[frozenset[Era]] = frozenset({"legacy", "modern"})
_LEGACY: Final[frozenset[Era]] = frozenset({"legacy"})


def mirrors(
    spec: WorkloadSpec,
    spoken: Mapping[ServerName, Era],
    unspoken: Mapping[ServerName, Collection[Era]],
) -> frozenset[Era]:
    """Tell the eras in which it makes sense to open the server.

    Args:
        spec: The workload.
        spoken: The era that each server turned out to speak when it was asked for the newer one.
        unspoken: Eras in which a server refused to be opened.
    """
    if spec.era != "auto":
        return frozenset({spec.era})
    known = spoken.get(spec.server)
    if known == "legacy":  # it was asked for the newer one first, and did not speak it
        return _LEGACY
    refused = unspoken.get(spec.server, ())
    return frozenset(era for era in _BOTH if era == known or era not in refused)
