"""What every request to the console has to get past, and what every reply carries."""

import hmac
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Literal, TypeAlias, cast, final

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES: Final = 64 * 1024
BODY_SECONDS: Final = 10.0
# Nothing inline, nothing from elsewhere, no frame around it.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # `no-referrer` would make browsers send `Origin: null` with our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=()",
}
Note: TypeAlias = Callable[[str], Awaitable[None]]
_Refusal: TypeAlias = Literal["elsewhere", "foreign", "lost", "long"]
_REFUSALS: Final[dict[_Refusal, tuple[str, int]]] = {
    "elsewhere": ("This is not the console of that name.", 421),
    "foreign": ("This came from another page.", 403),
    "lost": ("Nothing is here. Open the link that `agents console` printed.", 404),
    "long": ("This is too long.", 413),
}
_LEADING: Final = ("location", "hx-redirect")


@final
class Guard:
    """Refuses requests that were not meant for this console, whoever sends them.

    A name that somebody else makes point here (DNS rebinding) is refused by the `Host` header, and
    what another page sends by `Origin` and `Sec-Fetch-Site`. Pages are found by those alone who
    know what their addresses begin with: other ports of this machine share its cookies, and other
    users may connect.
    """

    def __init__(  # noqa: PLR0913  what makes a request ours
        self,
        app: ASGIApp,
        *,
        hosts: Iterable[str],
        public_host: str,
        public_paths: tuple[str, ...],
        home: str,
        note: Note,
    ) -> None:
        """Prepare.

        Args:
            app: What stands behind it; it sees paths without `home`.
            hosts: Values of `Host` under which all of it is reached.
            public_host: The value under which only `public_paths` are; empty for none.
            public_paths: Beginnings of paths that do not begin with `home`.
            home: What all other paths begin with.
            note: Records what was refused.
        """
        self._app = app
        self._hosts = frozenset(hosts)
        self._public_host = public_host
        self._public_paths = public_paths
        self._home = home
        self._note = note

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, method = cast("str", scope["path"]), cast("str", scope["method"])
        refusal = self._refuse(Headers(scope=scope), path, method)
        if refusal is not None:
            if refusal in {"elsewhere", "foreign"}:
                await self._note("console.request_refused")
            words, status = _REFUSALS[refusal]
            await PlainTextResponse(f"{words}\n", status)(scope, receive, _dressing(send, ""))
            return
        if path.startswith(self._public_paths):
            await self._app(scope, _Bounded(receive), _dressing(send, ""))
            return
        inner = {**scope, "path": path.removeprefix(self._home) or "/"}
        await self._app(inner, _Bounded(receive), _dressing(send, self._home))

    def _refuse(self, headers: Headers, path: str, method: str) -> _Refusal | None:
        host = headers.get("host", "")
        is_public = bool(self._public_host) and host == self._public_host
        if host not in self._hosts and not is_public:
            return "elsewhere"
        if not path.startswith(self._public_paths) and (is_public or not self._is_ours(path)):
            return "lost"
        if _is_foreign(headers, host, method):
            return "foreign"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            return "long"
        return None

    def _is_ours(self, path: str) -> bool:
        head, slash, _ = path[1:].partition("/")
        shown = f"{path[:1]}{head}".encode()
        return bool(slash) and hmac.compare_digest(shown, self._home.encode())


def _is_foreign(headers: Headers, host: str, method: str) -> bool:
    """Tell whether another page is behind a request."""
    site = headers.get("sec-fetch-site", "same-origin")
    if method in {"GET", "HEAD"}:
        # Others may lead a person here, and put nothing of ours into a page of theirs.
        is_led = headers.get("sec-fetch-mode") == "navigate"
        return site not in {"same-origin", "none"} and not is_led
    origin = headers.get("origin")
    return site != "same-origin" or origin is None or origin.partition("://")[2] != host


@final
class _Bounded:
    """Gives a request's body up to the limit, in time; one that is longer or slower is refused."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._left = MAX_BODY_BYTES
        self._is_whole = False

    async def __call__(self) -> Message:
        if self._is_whole:
            return await self._receive()
        with anyio.move_on_after(BODY_SECONDS):
            message = await self._receive()
            self._left -= len(cast("bytes", message.get("body", b"")))
            self._is_whole = not message.get("more_body", False)
            if self._left < 0:
                raise HTTPException(413)
            return message
        raise HTTPException(408)


def _dressing(send: Send, home: str) -> Send:
    async def dress(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            if "cache-control" not in headers:
                headers["cache-control"] = "no-store"
            for name in _LEADING:
                if name in headers:
                    headers[name] = f"{home}{headers[name]}"
        await send(message)

    return dress
