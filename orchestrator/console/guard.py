"""What every request to the console has to get past, and what every reply carries."""

from collections.abc import Iterable
from typing import Final, cast, final

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES: Final = 64 * 1024
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


@final
class Guard:
    """Refuses requests that were not meant for this console, whoever sends them.

    A name that somebody else makes point here (DNS rebinding) is refused by the `Host` header, and
    what another page sends by `Origin` and `Sec-Fetch-Site`.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: Iterable[str], public_host: str, public_paths: tuple[str, ...]
    ) -> None:
        """Prepare.

        Args:
            app: What stands behind it.
            hosts: Values of `Host` under which all of it is reached.
            public_host: The value under which only `public_paths` are; empty for none.
            public_paths: Beginnings of paths.
        """
        self._app = app
        self._hosts = frozenset(hosts)
        self._public_host = public_host
        self._public_paths = public_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, method = cast("str", scope["path"]), cast("str", scope["method"])
        refusal = self._refuse(Headers(scope=scope), path, method)
        if refusal is not None:
            await refusal(scope, receive, _dressing(send))
            return
        await self._app(scope, _Bounded(receive), _dressing(send))

    def _refuse(self, headers: Headers, path: str, method: str) -> PlainTextResponse | None:
        host = headers.get("host", "")
        is_public = bool(self._public_host) and host == self._public_host
        if host not in self._hosts and not is_public:
            return PlainTextResponse("This is not the console of that name.\n", 421)
        if is_public and not path.startswith(self._public_paths):
            return PlainTextResponse("Only links are opened here.\n", 404)
        if method not in {"GET", "HEAD"}:
            origin = headers.get("origin")
            site = headers.get("sec-fetch-site", "same-origin")
            if site != "same-origin" or origin is None or origin.partition("://")[2] != host:
                return PlainTextResponse("This came from another page.\n", 403)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            return PlainTextResponse("This is too long.\n", 413)
        return None


@final
class _Bounded:
    """Gives a request's body up to the limit; one that is longer is refused."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._left = MAX_BODY_BYTES

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(cast("bytes", message.get("body", b"")))
            if self._left < 0:
                raise HTTPException(413)
        return message


def _dressing(send: Send) -> Send:
    async def dress(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            if "cache-control" not in headers:
                headers["cache-control"] = "no-store"
        await send(message)

    return dress
