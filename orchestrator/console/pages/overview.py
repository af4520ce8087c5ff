"""The first page: what runs, what waits, what was called last."""

from typing import Final

from anyio import to_thread
from starlette.responses import Response
from starlette.routing import Route

from orchestrator.console.pages import pulse
from orchestrator.console.record import last_calls
from orchestrator.console.render import Live
from orchestrator.console.site import Site, Visit

LAST_CALLS: Final = 12
TOOLS: Final = {"what": "tools"}


def routes(site: Site) -> list[Route]:
    """Add the page."""

    async def show(visit: Visit) -> Response:
        news = await pulse.ask(visit)
        fields = {"overview": (await _overview(visit, news)).html}
        return await pulse.show(visit, "overview.html", "/", fields, news)

    async def look(visit: Visit) -> Response:
        return visit.show_live(await _overview(visit, await pulse.ask(visit)))

    return [site.page("/", show), site.page("/live/overview", look, is_live=True)]


async def _overview(visit: Visit, news: pulse.News) -> Live:
    status = news.status if isinstance(news.status, dict) else await visit.daemon.tell("status")
    calls = await to_thread.run_sync(last_calls, visit.site.paths.audit, TOOLS, LAST_CALLS)
    fields = {
        "status": status,
        "roles": pulse.by_role(status),
        "guards": await pulse.maybe(visit, "guards") or {},
        "waiting": news.waiting,
        "calls": calls,
    }
    return visit.live("overview", fields)
