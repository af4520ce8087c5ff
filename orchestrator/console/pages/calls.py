"""What agents called, and the story of one of their runs."""

from functools import partial
from typing import Final

from anyio import to_thread
from starlette.responses import Response
from starlette.routing import Route

from orchestrator.console.pages import pulse
from orchestrator.console.record import last_calls, story
from orchestrator.console.render import Live
from orchestrator.console.site import Site, Visit

MOST: Final = 100
MOST_OF_A_RUN: Final = 500
FILTERS: Final = ("role", "outcome", "text")
OUTCOMES: Final = ("ok", "failed", "refused")


def routes(site: Site) -> list[Route]:
    """Add the pages."""

    async def look(visit: Visit) -> Response:
        return visit.show_live(await _calls(visit))

    return [
        site.page("/calls", _show),
        site.page("/live/calls", look, is_live=True),
        site.page("/runs/{run}", _show_run),
    ]


async def _calls(visit: Visit) -> Live:
    wanted = {name: visit.query(name)[:200] for name in FILTERS}
    find = partial(last_calls, visit.site.paths.audit, wanted, MOST)
    found = await to_thread.run_sync(find)
    return visit.live("calls", {"calls": found, "most": MOST}, wanted)


async def _show(visit: Visit) -> Response:
    live = await _calls(visit)
    if visit.request.headers.get("hx-target") == "live-calls":
        # The filter asks for the part alone.
        return visit.show_live(live)
    fields = {
        "calls": live.html,
        "roles": pulse.by_role(await pulse.maybe(visit, "status")),
        "wanted": {name: visit.query(name)[:200] for name in FILTERS},
        "outcomes": OUTCOMES,
    }
    return await pulse.show(visit, "calls.html", "/calls", fields)


async def _show_run(visit: Visit) -> Response:
    run = visit.part("run")
    find = partial(story, visit.site.paths.audit, run, MOST_OF_A_RUN)
    lines = await to_thread.run_sync(find)
    fields = {"run": run, "lines": lines, "most": MOST_OF_A_RUN}
    return await pulse.show(visit, "run.html", "/calls", fields)
