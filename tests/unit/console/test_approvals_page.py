"""What the page of approvals asks for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast, final

from starlette.requests import Request

from orchestrator.console.pages.approvals import approvals
from orchestrator.console.render import Pages
from orchestrator.console.sessions import Session, Sessions
from orchestrator.console.site import Site, Visit
from orchestrator.paths import Paths

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.console.asking import Daemon
    from orchestrator.model.base import Json, JsonObject


@final
class Busy:
    """A daemon with one old call that waits, and a thousand later ones that are over."""

    def __init__(self) -> None:
        """Have them."""
        old: JsonObject = {"id": "ap-old", "state": "pending", "receipt": "Pays 1", "quorum": 1}
        self._old = old
        self._over: list[JsonObject] = [
            {"id": f"ap-{number}", "state": "denied", "receipt": "x", "votes": []}
            for number in range(1000)
        ]

    async def ask(self, op: str, fields: Mapping[str, object]) -> Json:
        """Tell approvals, the newest first."""
        assert op == "approvals"
        every = [*self._over, self._old]
        if "state" in fields:
            every = [one for one in every if one["state"] == fields["state"]]
        return [*every[: cast("int", fields["limit"])]]


async def test_a_call_that_waits_is_shown_whatever_came_after_it() -> None:
    """An agent that asks and asks pushes no other's call off the page."""
    site = Site(
        paths=Paths(Path("/x"), Path("/x"), Path("/x")),
        daemon=cast("Daemon", cast("object", Busy())),
        pages=Pages("/home"),
        sessions=Sessions(lambda: 0.0),
        cookie="cookie",
        home="/home",
    )
    visit = Visit(site, Request({"type": "http"}), Session("csrf", 0.0, 0.0))
    shown = (await approvals(visit)).html
    assert "/home/approvals/ap-old" in shown
    assert shown.count("ap-") < 200
