"""Signed links: whoever follows one sees one call, and decides it; nothing else is open to them.

There is no session: the link itself says that its holder may be here. It is sent with each form,
and the daemon looks at it again before anything happens.
"""

from typing import Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from orchestrator.console.pages.approvals import DECISIONS, tell_decided
from orchestrator.console.site import Site, part_of, read_form
from orchestrator.errors import AgentsError
from orchestrator.model.base import JsonObject

_LONGEST: Final = 600


def routes(site: Site) -> list[Route]:
    """Add the page."""

    async def show(request: Request) -> Response:
        link = part_of(request, "link")[:_LONGEST]
        try:
            one = await site.daemon.tell("approval.link", {"link": link})
        except AgentsError as error:
            return _refuse(site, error)
        confirm = request.query_params.get("confirm", "") if one.get("state") == "pending" else ""
        return _show(site, link, one, confirm=confirm if confirm in DECISIONS else "")

    async def decide(request: Request) -> Response:
        link = part_of(request, "link")[:_LONGEST]
        form = await read_form(request)
        decision = form.get("decision", "")
        try:
            one = await site.daemon.tell("approval.link", {"link": link})
            if decision not in DECISIONS:
                return _show(site, link, one)
            ticket = ""
            if not one.get("approver"):
                login = {"name": form.get("name", ""), "passphrase": form.get("passphrase", "")}
                ticket = str((await site.daemon.tell("approver.login", login)).get("ticket", ""))
            word = {
                "id": one.get("id"),
                "decision": decision,
                "digest": form.get("digest", ""),
                "reason": form.get("reason", "").strip(),
                "ticket": ticket,
                "link": link,
            }
            decided = await site.daemon.tell("approval.decide", word)
        except AgentsError as error:
            return _refuse(site, error)
        return _show(site, link, decided, said=[(True, tell_decided(decided, decision))])

    return [
        Route("/l/{link}", show, methods=["GET"]),
        Route("/l/{link}", decide, methods=["POST"]),
    ]


def _show(
    site: Site,
    link: str,
    one: JsonObject,
    *,
    confirm: str = "",
    said: list[tuple[bool, str]] | None = None,
) -> Response:
    # Where the console itself is, is not for whoever follows a link.
    fields = {"one": one, "link": link, "confirm": confirm, "said": said or [], "home": ""}
    return HTMLResponse(site.pages.render("link.html", fields))


def _refuse(site: Site, error: AgentsError) -> Response:
    fields = {"sentence": str(error), "hint": error.hint or "", "home": ""}
    return HTMLResponse(site.pages.render("link_refused.html", fields), 403)
