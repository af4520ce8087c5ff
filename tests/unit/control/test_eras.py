"""Eras for which a server can be had."""

from collections.abc import Callable

import pytest

from orchestrator.control.eras import mirrors
from orchestrator.model.names import ServerName
from orchestrator.model.server import EraChoice
from orchestrator.model.snapshot import Era
from orchestrator.model.workload import WorkloadSpec

SHOP = ServerName("shop")


@pytest.mark.parametrize(
    ("chosen", "spoken", "unspoken", "found"),
    [
        ("auto", None, (), {"legacy", "modern"}),
        ("auto", "modern", (), {"legacy", "modern"}),
        ("auto", "modern", ("legacy",), {"modern"}),
        ("auto", "modern", ("legacy", "modern"), {"modern"}),  # it speaks what it speaks
        ("auto", "legacy", (), {"legacy"}),
        ("auto", "legacy", ("legacy",), {"legacy"}),
        ("auto", None, ("modern",), {"legacy"}),
        ("legacy", "modern", (), {"legacy"}),
        ("modern", "legacy", ("modern",), {"modern"}),
    ],
)
def test_eras(
    make_spec: Callable[..., WorkloadSpec],
    chosen: EraChoice,
    spoken: Era | None,
    unspoken: tuple[Era, ...],
    found: set[Era],
) -> None:
    """A file's choice stands; else every era that was not found to be refused."""
    known: dict[ServerName, Era] = {ServerName("bank"): "legacy"}
    if spoken is not None:
        known[SHOP] = spoken
    assert mirrors(make_spec(era=chosen), known, {SHOP: unspoken}) == found
