"""What every page shows beside its own: where one can go, and what waits."""

from collections.abc import Mapping
from typing import Final, NamedTuple

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


class News(NamedTuple):
    """What every page shows.

    Attributes:
        status: What runs; None where nothing answers.
        waiting: Calls that wait for a person.
    """

    status: Json
    waiting: list[JsonObject]


def routes(site: Site) -> list[Route]:
    """Add the part."""

    async def show(visit: Visit) -> Response:
        return visit.show_live(_pulse(visit, visit.query("here"), await ask(visit)))

    return [site.page("/live/pulse", show, is_live=True)]


async def ask(visit: Visit) -> News:
    """Ask for what every page shows."""
    status = await maybe(visit, "status")
    return News(status, listed(await maybe(visit, "approvals", {"state": "pending"})))


async def show(
    visit: Visit,
    template: str,
    here: str,
    fields: Mapping[str, object],
    news: News | None = None,
) -> Response:
    """Answer with a page that has all that every page has.

    Args:
        visit: Who asks.
        template: The page.
        here: Which of the places it belongs to.
        fields: What it needs.
        news: What every page shows, where it was asked for already.
    """
    known = await ask(visit) if news is None else news
    return visit.show(template, {"pulse": _pulse(visit, here, known).html, **fields})


def _pulse(visit: Visit, here: str, news: News) -> Live:
    place = here if here in dict(PLACES) else "/"
    fields = {
        "places": PLACES,
        "here": place,
        "status": news.status,
        "waiting": len(news.waiting),
    }
    return visit.live("pulse", fields, {"here": place})


async def maybe(visit: Visit, op: str, fields: Mapping[str, object] | None = None) -> Json:
    """Ask for what a page can be without; None where it is not to be had."""
    try:
        return await visit.daemon.ask(op, fields)
    except AgentsError:
        return None


def by_role(status: Json) -> list[JsonObject]:
    """Give the roles of a status."""
    return listed(status, "roles")
