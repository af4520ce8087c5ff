"""What every page shows beside its own: where one can go, and what waits."""

from collections.abc import Mapping
from typing import Final

from starlette.responses import Response
from starlette.routing import Route

from orchestrator.console.asking import listed
from orchestrator.console.render import Live
from orchestrator.console.site import Site, Visit
from orchestrator.errors import AgentsError
from orchestrator.model.base import Json, JsonObject

PLACES: Final = (
    ("/", "Overview"),
    ("/approvals", "Approvals"),
    ("/calls", "Calls"),
    ("/runs", "Runs"),
    ("/rotations", "Rotations"),
    ("/guards", "Guards"),
    ("/shadow", "Shadow"),
    ("/incidents", "Incidents"),
)


def routes(site: Site) -> list[Route]:
    """Add the part."""

    async def show(visit: Visit) -> Response:
        return visit.show_live(await pulse(visit, visit.query("here")))

    return [site.page("/live/pulse", show, is_live=True)]


async def pulse(visit: Visit, here: str) -> Live:
    """Tell what waits, and whether anything runs."""
    status = await maybe(visit, "status")
    waiting = await maybe(visit, "approvals", {"state": "pending"})
    fields = {
        "places": PLACES,
        "here": here if here in dict(PLACES) else "/",
        "status": status,
        "waiting": len(listed(waiting)),
    }
    return visit.live("pulse", fields, {"here": here})


async def show(visit: Visit, template: str, here: str, fields: Mapping[str, object]) -> Response:
    """Answer with a page that has all that every page has."""
    return visit.show(template, {"pulse": (await pulse(visit, here)).html, "here": here, **fields})


async def maybe(visit: Visit, op: str, fields: Mapping[str, object] | None = None) -> Json:
    """Ask for what a page can be without; None where it is not to be had."""
    try:
        return await visit.daemon.ask(op, fields)
    except AgentsError:
        return None


def by_role(status: Json) -> list[JsonObject]:
    """Give the roles of a status."""
    return listed(status, "roles")
