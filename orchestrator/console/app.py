"""The console as an ASGI application: how one gets in, and all pages."""

from collections.abc import Awaitable, Callable
from itertools import chain
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from orchestrator.console.guard import Guard
from orchestrator.console.pages import (
    approvals,
    calls,
    guards,
    incidents,
    links,
    overview,
    pulse,
    rotations,
)
from orchestrator.console.render import HERE
from orchestrator.console.sessions import LONGEST_SECONDS, Refusal
from orchestrator.console.site import Form, Site, Visit, part_of, read_form

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]
_KINDS: Final = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "theme.js": "text/javascript; charset=utf-8",
    "htmx.min.js": "text/javascript; charset=utf-8",
    "mark.svg": "image/svg+xml",
}
_REFUSALS: Final[dict[Refusal, str]] = {
    "unknown": "This is no login link of this console.",
    "replayed": "This login link was used already. If that was not you, end the console now.",
    "expired": "The time of this login link is over.",
}


def make_app(site: Site, hosts: tuple[str, ...]) -> Starlette:
    """Make the application.

    Args:
        site: What pages share.
        hosts: Values of `Host` under which it is reached here.
    """
    parts = (
        pulse.routes,
        overview.routes,
        approvals.routes,
        calls.routes,
        rotations.routes,
        guards.routes,
        incidents.routes,
        links.routes,
    )
    app = Starlette(
        routes=[
            Route("/login", _show_login(site), methods=["GET"]),
            Route("/login", _log_in(site), methods=["POST"]),
            site.action("/logout", _log_out),
            Route("/static/{name}", _give_file, methods=["GET"]),
            *chain.from_iterable(routes(site) for routes in parts),
        ],
        middleware=[
            Middleware(
                Guard,
                hosts=hosts,
                public_host=urlsplit(site.public_url).netloc,
                public_paths=("/l/", "/static/"),
                home=site.home,
                note=site.note,
            )
        ],
    )
    # It would lead to an address without what ours begin with.
    app.router.redirect_slashes = False
    return app


def _show_login(site: Site) -> Endpoint:
    async def show(_request: Request) -> Response:
        return HTMLResponse(site.pages.render("login.html", {"problem": ""}))

    return show


def _log_in(site: Site) -> Endpoint:
    async def log_in(request: Request) -> Response:
        code = (await read_form(request)).get("code", "").strip()
        text, refusal = site.sessions.open(code)
        if refusal is not None:
            is_replayed = refusal == "replayed"
            await site.note("console.login_replayed" if is_replayed else "console.login_refused")
            page = site.pages.render("login.html", {"problem": _REFUSALS[refusal]})
            return HTMLResponse(page, 403)
        await site.note("console.login")
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            site.cookie,
            text,
            max_age=int(LONGEST_SECONDS),
            path=site.home,
            httponly=True,
            samesite="strict",
        )
        return answer

    return log_in


async def _log_out(visit: Visit, _form: Form) -> Response:
    visit.site.sessions.close(visit.site.shown(visit.request))
    answer = RedirectResponse("/login", 303)
    site = visit.site
    answer.delete_cookie(site.cookie, path=site.home, httponly=True, samesite="strict")
    return answer


async def _give_file(request: Request) -> Response:
    name = part_of(request, "name")
    if name not in _KINDS:
        return Response(status_code=404)
    headers = {"cache-control": "public, max-age=31536000, immutable"}
    return Response((HERE / "static" / name).read_bytes(), media_type=_KINDS[name], headers=headers)
