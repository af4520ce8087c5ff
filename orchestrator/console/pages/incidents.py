"""Incidents: what was done when a role went wrong, step by step."""

from starlette.responses import Response
from starlette.routing import Route

from orchestrator.console.asking import listed
from orchestrator.console.pages import pulse
from orchestrator.console.render import Live
from orchestrator.console.site import Site, Visit


def routes(site: Site) -> list[Route]:
    """Add the page."""

    async def show(visit: Visit) -> Response:
        roles = pulse.by_role(await visit.daemon.ask("status"))
        fields = {"incidents": (await _incidents(visit)).html, "roles": roles}
        return await pulse.show(visit, "incidents.html", "/incidents", fields)

    async def look(visit: Visit) -> Response:
        return visit.show_live(await _incidents(visit))

    return [
        site.page("/incidents", show),
        site.page("/live/incidents", look, is_live=True),
    ]


async def _incidents(visit: Visit) -> Live:
    every = listed(await visit.daemon.ask("incidents"))
    return visit.live("incidents", {"incidents": every})
