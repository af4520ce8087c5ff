"""What all pages of the console share, and the only two ways to add one."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, cast
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from orchestrator.console.asking import Daemon, listed
from orchestrator.console.render import Live, Pages
from orchestrator.console.sessions import Session, Sessions, is_same
from orchestrator.control.admin_client import RemoteError
from orchestrator.errors import AgentsError
from orchestrator.model.base import JsonObject
from orchestrator.paths import Paths

MOST_FIELDS: Final = 50
Form: TypeAlias = Mapping[str, str]
Page: TypeAlias = Callable[["Visit"], Awaitable[Response]]
Action: TypeAlias = Callable[["Visit", Form], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Site:
    """The console.

    Attributes:
        paths: Where the project keeps what.
        daemon: Answers questions.
        pages: Renders templates.
        sessions: Who is logged in.
        cookie: Name of the cookie; it holds the port, as browsers share cookies among ports.
        home: What the address of every page begins with, and of nobody else's: for the same reason
            browsers are to show the cookie there alone.
        public_url: Where people elsewhere open signed links; empty for nowhere.
    """

    paths: Paths
    daemon: Daemon
    pages: Pages
    sessions: Sessions
    cookie: str
    home: str
    public_url: str = ""

    def page(self, path: str, show: Page, *, is_live: bool = False) -> Route:
        """Add a page for people who are logged in.

        Args:
            path: Its path.
            show: Makes it.
            is_live: Whether it is a part that a page asks for by itself.
        """

        async def serve(request: Request) -> Response:
            session = self.sessions.find(self.shown(request), is_person=not is_live)
            if session is None:
                if is_live:
                    return Response(status_code=401, headers={"hx-redirect": "/login"})
                return RedirectResponse("/login", 303)
            return await self._settle(Visit(self, request, session), show)

        return Route(path, serve, methods=["GET"])

    def action(self, path: str, act: Action) -> Route:
        """Add something that people who are logged in can do by a form of ours."""

        async def serve(request: Request) -> Response:
            session = self.sessions.find(self.shown(request), is_person=True)
            if session is None:
                return RedirectResponse("/login", 303)
            form = await read_form(request)
            visit = Visit(self, request, session)
            if not is_same(form.get("csrf", ""), session.csrf):
                await self.note("console.form_refused")
                return await visit.fail("This form is not from this session. Open the page again.")
            return await self._settle(visit, lambda one: act(one, form))

        return Route(path, serve, methods=["POST"])

    def shown(self, request: Request) -> str:
        """Give what the browser shows as its session."""
        return request.cookies.get(self.cookie, "")

    async def note(self, event: str) -> None:
        """Have something about the console itself recorded, if the daemon is there."""
        try:
            _ = await self.daemon.ask("console.note", {"event": event})
        except AgentsError:
            return

    async def _settle(self, visit: "Visit", work: Page) -> Response:
        try:
            return await work(visit)
        except RemoteError as error:
            return await visit.fail(str(error), error.hint, code=error.remote_code)
        except AgentsError as error:
            return await visit.fail(str(error), error.hint, code=error.code)


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of somebody who is logged in."""

    site: Site
    request: Request
    session: Session

    @property
    def daemon(self) -> Daemon:
        """The daemon."""
        return self.site.daemon

    def query(self, name: str) -> str:
        """Give a value of the address; empty if it is not there."""
        return self.request.query_params.get(name, "")

    def part(self, name: str) -> str:
        """Give a part of the path."""
        return part_of(self.request, name)

    def show(self, template: str, fields: Mapping[str, object], *, status: int = 200) -> Response:
        """Answer with a page."""
        said = list(self.session.said)
        self.session.said.clear()
        common = {
            "session": self.session,
            "said": said,
            "path": self.request.url.path,
            "project": self.site.paths.root.name,
            "confirm": "",
        }
        return HTMLResponse(self.site.pages.render(template, {**common, **fields}), status)

    def live(
        self, name: str, fields: Mapping[str, object], query: Mapping[str, str] | None = None
    ) -> Live:
        """Render a part that keeps itself up to date; it may have forms."""
        return self.site.pages.live(name, {"session": self.session, **fields}, query or {})

    def show_live(self, live: Live) -> Response:
        """Answer a part that asks whether it changed."""
        if self.query("seen") == live.seen:
            return Response(status_code=204)
        return HTMLResponse(live.html)

    def done(self, sentence: str, address: str) -> Response:
        """Say that something was done, on the page that comes next."""
        self.session.said.append((True, sentence))
        return RedirectResponse(address, 303)

    def refused(self, error: AgentsError, address: str) -> Response:
        """Say that something was not done, on the page that comes next."""
        hint = f" {error.hint}" if error.hint else ""
        self.session.said.append((False, f"{str(error).rstrip('.')}.{hint}"))
        return RedirectResponse(address, 303)

    async def fail(self, sentence: str, hint: str | None = None, *, code: str = "") -> Response:
        """Answer with what is wrong, and no more."""
        fields = {"sentence": sentence, "hint": hint or "", "code": code}
        if self.request.url.path.startswith("/live/"):
            return Response(status_code=503)
        return self.show("failure.html", fields, status=409 if code else 403)

    async def approvers(self) -> list[JsonObject]:
        """Tell the people who may approve; none means that the operator may."""
        return listed(await self.daemon.ask("approvers"), "approvers")


def part_of(request: Request, name: str) -> str:
    """Give a part of a request's path."""
    return cast("str", request.path_params[name])


async def read_form(request: Request) -> Form:
    """Read a form's fields; of several of one name the last counts."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind != "application/x-www-form-urlencoded":
        return {}
    body = await request.body()
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS))
    except ValueError:
        return {}
