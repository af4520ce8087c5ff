"""Credentials: what is current, what is being replaced, what waits for a person."""

from starlette.responses import Response
from starlette.routing import Route

from orchestrator.console.asking import listed
from orchestrator.console.pages import pulse
from orchestrator.console.render import Live
from orchestrator.console.site import Site, Visit


def routes(site: Site) -> list[Route]:
    """Add the page."""

    async def show(visit: Visit) -> Response:
        fields = {"rotations": (await _rotations(visit)).html}
        return await pulse.show(visit, "rotations.html", "/rotations", fields)

    async def look(visit: Visit) -> Response:
        return visit.show_live(await _rotations(visit))

    return [
        site.page("/rotations", show),
        site.page("/live/rotations", look, is_live=True),
    ]


async def _rotations(visit: Visit) -> Live:
    report = await visit.daemon.tell("rotations")
    every = listed(report, "rotations")
    over = {"done", "failed"}
    fields = {
        "under_way": [one for one in every if one.get("state") not in over],
        "over": [one for one in every if one.get("state") in over],
        "credentials": listed(report, "credentials"),
        "notes": report.get("notes"),
    }
    return visit.live("rotations", fields)
