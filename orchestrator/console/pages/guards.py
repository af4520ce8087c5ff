"""What is held back, and everything that a person can have done: asked first, then done."""

from collections.abc import Mapping
from typing import Final

from starlette.responses import Response
from starlette.routing import Route

from orchestrator.console.acts import ACTS, about
from orchestrator.console.asking import listed
from orchestrator.console.pages import pulse
from orchestrator.console.render import Live
from orchestrator.console.site import Form, Site, Visit
from orchestrator.errors import AgentsError

SPANS: Final = ("1h", "8h", "24h", "7d")
PAGES: Final = ("/", "/guards", "/shadow", "/incidents", "/rotations", "/roles/")


def routes(site: Site) -> list[Route]:
    """Add the pages."""

    async def look(visit: Visit) -> Response:
        return visit.show_live(await _guards(visit))

    return [
        site.page("/guards", _show_guards),
        site.page("/live/guards", look, is_live=True),
        site.page("/shadow", _show_shadow),
        site.page("/roles/{role}", _show_role),
        site.page("/act/{act}", _ask),
        site.action("/act/{act}", _do),
    ]


async def _guards(visit: Visit) -> Live:
    report = await visit.daemon.tell("guards")
    roles = pulse.by_role(await visit.daemon.ask("status"))
    return visit.live("guards", {"report": report, "roles": roles})


async def _show_guards(visit: Visit) -> Response:
    fields = {"guards": (await _guards(visit)).html}
    return await pulse.show(visit, "guards.html", "/guards", fields)


async def _show_shadow(visit: Visit) -> Response:
    report = await visit.daemon.tell("shadow.report")
    fields = {"report": report, "roles": pulse.by_role(await visit.daemon.ask("status"))}
    return await pulse.show(visit, "shadow.html", "/shadow", fields)


async def _show_role(visit: Visit) -> Response:
    name = visit.part("role")
    status = await visit.daemon.tell("status")
    role = next((one for one in pulse.by_role(status) if one.get("role") == name), None)
    if role is None:
        return await visit.fail(f"There is no role {name} here.")
    holds = listed(await pulse.maybe(visit, "guards"), "holds")
    mine = [one for one in holds if one.get("role") in {None, name}]
    return await pulse.show(visit, "role.html", "/", {"role": role, "holds": mine})


async def _ask(visit: Visit) -> Response:
    name = visit.part("act")
    act = ACTS.get(name)
    values = _values(visit.part("act"), visit.request.query_params)
    if act is None or values is None:
        return await visit.fail("There is no such thing to do.")
    what = about(values)
    fields = {
        "act": act,
        "name": name,
        "values": values,
        "title": act.title.format(what=what),
        "consequence": act.consequence.format(what=what),
        "spans": SPANS,
        "back": back_to(visit.query("back")),
    }
    return await pulse.show(visit, "act.html", back_to(visit.query("back")), fields)


async def _do(visit: Visit, form: Form) -> Response:
    name = visit.part("act")
    act, values = ACTS.get(name), _values(name, form)
    if act is None or values is None:
        return await visit.fail("There is no such thing to do.")
    back = back_to(form.get("back", ""))
    fields: dict[str, object] = {key: value for key, value in values.items() if value}
    op, _, choice = name.partition(".")
    if op == "rotation":
        op, fields["act"] = "rotation.act", choice
    else:
        op, fields["reason"] = name, form.get("reason", "").strip()
    if "read_only" in act.asks:
        fields["read_only"] = form.get("read_only") == "yes"
    if "lasts" in act.asks:
        fields["lasts"] = form.get("lasts", SPANS[0])
    try:
        _ = await visit.daemon.ask(op, fields)
    except AgentsError as error:
        return visit.refused(error, back)
    done = act.done.format(what=about(values))
    if name == "incident.start":
        back = "/incidents"
    return visit.done(done[0].upper() + done[1:], back)


def _values(name: str, given: Mapping[str, str]) -> dict[str, str] | None:
    """Take what an act is about; None where something is missing."""
    act = ACTS.get(name)
    if act is None:
        return None
    values: dict[str, str] = {}
    for field in act.takes:
        key = field.removesuffix("?")
        values[key] = given.get(key, "").strip()
        if not values[key] and key == field:
            return None
    return values


def back_to(address: str) -> str:
    """Take an address of ours to go to next, nobody else's."""
    fits = address in PAGES or (address.startswith("/roles/") and address.count("/") == 2)  # noqa: PLR2004  its two
    return address if fits and "\\" not in address else "/"
