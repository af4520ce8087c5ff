"""What agents called, their runs, and the story of one of them."""

from functools import partial
from typing import Final

from anyio import to_thread
from starlette.responses import Response
from starlette.routing import Route

from orchestrator.audit.story import runs, story
from orchestrator.console.pages import pulse
from orchestrator.console.record import last_calls
from orchestrator.console.render import Live
from orchestrator.console.site import Site, Visit

MOST: Final = 100
MOST_OF_A_RUN: Final = 500
FILTERS: Final = ("role", "outcome", "what", "text")
OUTCOMES: Final = ("ok", "failed", "refused")


def routes(site: Site) -> list[Route]:
    """Add the pages."""

    async def look(visit: Visit) -> Response:
        return visit.show_live(await _calls(visit))

    async def look_at_runs(visit: Visit) -> Response:
        return visit.show_live(await _runs(visit))

    return [
        site.page("/calls", _show),
        site.page("/live/calls", look, is_live=True),
        site.page("/runs", _show_runs),
        site.page("/live/runs", look_at_runs, is_live=True),
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
    steps = await to_thread.run_sync(story, visit.site.paths.audit, run)
    omitted = max(0, len(steps) - MOST_OF_A_RUN)
    fields = {"run": run, "steps": steps[omitted:], "omitted": omitted}
    return await pulse.show(visit, "run.html", "/runs", fields)


async def _runs(visit: Visit) -> Live:
    role = visit.query("role")[:200]
    find = partial(runs, visit.site.paths.audit, role=role or None, limit=MOST)
    return visit.live("runs", {"runs": await to_thread.run_sync(find)}, {"role": role})


async def _show_runs(visit: Visit) -> Response:
    return await pulse.show(visit, "runs.html", "/runs", {"runs": (await _runs(visit)).html})
