"""Calls that wait for a person: the list, and the page where one is decided."""

from typing import Final

from pydantic import SecretStr
from starlette.responses import Response
from starlette.routing import Route

from orchestrator.console.asking import listed
from orchestrator.console.pages import pulse
from orchestrator.console.render import Live
from orchestrator.console.site import Form, Site, Visit
from orchestrator.control.admin_client import RemoteError
from orchestrator.errors import AgentsError
from orchestrator.model.base import Json, JsonObject

MOST: Final = 50
MOST_WAITING: Final = 1000
DECISIONS: Final = {"approve": "approved", "deny": "denied"}


def routes(site: Site) -> list[Route]:
    """Add the pages."""

    async def show_all(visit: Visit) -> Response:
        fields = {"approvals": (await approvals(visit)).html}
        return await pulse.show(visit, "approvals.html", "/approvals", fields)

    async def look(visit: Visit) -> Response:
        return visit.show_live(await approvals(visit))

    return [
        site.page("/approvals", show_all),
        site.page("/live/approvals", look, is_live=True),
        site.page("/approvals/{id}", _show_one),
        site.page("/live/decided", _look_at_one, is_live=True),
        site.action("/approvals/{id}", _decide),
        site.action("/approver", _log_in),
        site.action("/approver/leave", _log_out),
    ]


async def approvals(visit: Visit) -> Live:
    """Tell those that wait, and the last that were decided."""
    # Asked for by themselves: no number of later ones takes their place.
    pending = {"state": "pending", "limit": MOST_WAITING}
    waiting = listed(await visit.daemon.ask("approvals", pending))
    every = listed(await visit.daemon.ask("approvals", {"limit": MOST}))
    over = [one for one in every if one.get("state") != "pending"]
    return visit.live("approvals", {"waiting": waiting, "over": over})


async def _show_one(visit: Visit) -> Response:
    one = await visit.daemon.tell("approval", {"id": visit.part("id")})
    confirm = visit.query("confirm") if one.get("state") == "pending" else ""
    return await pulse.show(
        visit,
        "approval.html",
        "/approvals",
        {
            "one": one,
            "progress": _progress(visit, one).html,
            "confirm": confirm if confirm in DECISIONS else "",
            "approvers": await visit.approvers(),
            "link": "",
        },
    )


async def _look_at_one(visit: Visit) -> Response:
    one = await visit.daemon.tell("approval", {"id": visit.query("id")})
    live = _progress(visit, one)
    answer = visit.show_live(live)
    if one.get("state") != "pending" and visit.query("pending"):
        # What can be done has changed with it.
        answer.headers["hx-refresh"] = "true"
    return answer


def _progress(visit: Visit, one: JsonObject) -> Live:
    query = {"id": str(one.get("id"))}
    if one.get("state") == "pending":
        query["pending"] = "1"
    return visit.live("decided", {"one": one}, query)


async def _decide(visit: Visit, form: Form) -> Response:
    name, decision = visit.part("id"), form.get("decision", "")
    if decision not in DECISIONS:
        return await visit.fail("This form is not whole. Open the page again.")
    try:
        one = await visit.daemon.tell(
            "approval.decide",
            {
                "id": name,
                "decision": decision,
                "digest": form.get("digest", ""),
                "reason": form.get("reason", "").strip(),
                "ticket": visit.session.ticket.get_secret_value(),
            },
        )
    except RemoteError as error:
        # Whoever is known no longer is asked again, on the same page.
        visit.session.forget_approver_if(error.remote_code)
        return visit.refused(error, f"/approvals/{name}?confirm={decision}")
    except AgentsError as error:
        return visit.refused(error, f"/approvals/{name}?confirm={decision}")
    return visit.done(tell_decided(one, decision), f"/approvals/{name}")


def tell_decided(one: JsonObject, decision: str) -> str:
    """Say what a person's word did."""
    missing: Json = one.get("missing")
    if decision == "approve" and one.get("state") == "pending" and isinstance(missing, int):
        people = "person has" if missing == 1 else "people have"
        return f"You approved it. {missing} more {people} to."
    if decision == "approve":
        return "Approved. The agent may now make exactly this call, once."
    return "Denied. The call is not made."


async def _log_in(visit: Visit, form: Form) -> Response:
    back = form.get("back", "")
    address = back if back.startswith("/approvals/") and "\\" not in back else "/approvals"
    name = form.get("name", "").strip()
    try:
        answer = await visit.daemon.tell(
            "approver.login", {"name": name, "passphrase": form.get("passphrase", "")}
        )
    except AgentsError as error:
        return visit.refused(error, address)
    visit.session.approver = str(answer.get("name", name))
    visit.session.ticket = SecretStr(str(answer.get("ticket", "")))
    return visit.done(f"You decide as {visit.session.approver}.", address)


async def _log_out(visit: Visit, _form: Form) -> Response:
    visit.session.forget_approver()
    return visit.done("You are no approver here any more.", "/approvals")
