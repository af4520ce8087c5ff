"""The ASGI application: what is open to everyone, and the ring around the chain of filters.

Plain ASGI, as each layer of a framework costs more than all decisions together.
"""

import asyncio
import itertools
import math
import re
import secrets
from collections.abc import Awaitable
from typing import Final, final

from orchestrator.clock import Clock
from orchestrator.errors import AgentsError, TokenExpiredError
from orchestrator.gateway.asgi import Body, Direct, Receive, Scope, Send, Start
from orchestrator.gateway.context import Exchange, Handler, Reply
from orchestrator.gateway.discovery import Discovery
from orchestrator.gateway.head import Head
from orchestrator.gateway.settings import GatewaySettings
from orchestrator.gateway.table import Table
from orchestrator.model.base import Json
from orchestrator.model.names import RoleName, TokenId
from orchestrator.protocol import jsonrpc
from orchestrator.tokens.mint import PREFIX

_LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")
_MCP_PATH: Final = re.compile(r"/(?P<role>[^/]{1,64})/mcp")
_TEXT: Final = b"text/plain; charset=utf-8"
_JSON: Final = b"application/json"
_JSON_LINES: Final = b"content-length: %d\r\ncontent-type: application/json\r\nx-request-id: %b\r\n"
# How often open requests are looked after; streams alone have time.
_PATROL_SECONDS: Final = 0.02
_QUIET_PATROL_SECONDS: Final = 1.0
_TOKEN_IN_QUERY: Final = re.compile(
    rb"(?:^|[&;])(?:access_token|token|authorization)=|" + PREFIX.encode(), re.IGNORECASE
)


@final
class Application:
    """The gateway as an ASGI application.

    Attributes:
        hosts: Host headers that are served, in lower case.
        origins: Origins that browsers may come from.
    """

    def __init__(
        self, handler: Handler, table: Table, clock: Clock, discovery: Discovery | None = None
    ) -> None:
        """Serve with this chain; no host is allowed before `allow`."""
        self._discovery = discovery
        self.hosts: frozenset[str] = frozenset()
        self.origins: frozenset[str] = frozenset()
        self._handler = handler
        self._open: set[Exchange] = set()
        self._table = table
        self._clock = clock
        # Ids of requests are unique, and no secret.
        self._boot = secrets.token_hex(4)
        self._count = itertools.count(1)
        self._patrol_at = math.inf
        self._patrol_timer: asyncio.TimerHandle | None = None

    def allow(self, settings: GatewaySettings, ports: frozenset[int]) -> None:
        """Allow the configured names, and those of the loopback with the listening ports.

        Other names are refused, so that a web page cannot point a name of its own here.
        """
        local = {f"{host}:{port}" for host in _LOOPBACK for port in ports}
        self.hosts = frozenset({*local, *(host.lower() for host in settings.hosts)})
        self.origins = frozenset(
            {*(f"http://{host}" for host in local), *(name.lower() for name in settings.origins)}
        )

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer one HTTP request."""
        direct = scope.get("direct")
        if direct is not None:
            head = direct.head
            if head.role is not None and head.role in self._table.places():
                return self._exchange(head.role, head, receive, send, direct)
        return self._look(scope, receive, send, direct)

    async def _look(
        self, scope: Scope, receive: Receive, send: Send, direct: Direct | None
    ) -> None:
        """Answer a request with a head that nobody has looked at."""
        if scope["type"] != "http":
            return
        path = scope["path"]
        head = Head(scope["method"], scope["headers"]) if direct is None else direct.head
        role = path[1:-4]
        if path.endswith("/mcp") and role in self._table.places() and not scope["query_string"]:
            refusal = self._check_names(head)
            if refusal is None:
                head.role = RoleName(role)
                await self._exchange(head.role, head, receive, send, direct)
            else:
                await _send(send, refusal)
            return
        if path == "/health":
            await _send(send, Reply(200, b'{"status":"ok"}'))
            return
        refusal = self._check_names(head) or self._answer_openly(path)
        if refusal is not None:
            await _send(send, refusal)
            return
        match = _MCP_PATH.fullmatch(path)
        if match is None:
            await _send(send, Reply(404, b"Not Found", content_type=_TEXT))
            return
        if _TOKEN_IN_QUERY.search(scope["query_string"]):
            text = b"A token belongs into the Authorization header"
            await _send(send, Reply(400, text, content_type=_TEXT))
            return
        await self._exchange(RoleName(match["role"]), head, receive, send, direct)

    async def _exchange(
        self, role: RoleName, head: Head, receive: Receive, send: Send, direct: Direct | None
    ) -> None:
        """Take one request through the chain."""
        exchange = Exchange(
            f"{self._boot}{next(self._count):08x}",
            role,
            head,
            receive,
            send,
            self._clock.monotonic(),
            direct,
        )
        self._open.add(exchange)
        if self._patrol_at > exchange.started + _PATROL_SECONDS:
            self._go_on_patrol()
        try:
            reply = await self._handler(exchange)
            if reply.stream is not None:
                await exchange.outlet.finish(await reply.stream.run())
            elif exchange.is_streaming:
                await exchange.outlet.finish(reply.body)
            elif direct is None or not _reply(direct, reply, exchange.id):
                await _send(send, reply, exchange.id)
        finally:
            self._open.discard(exchange)
            exchange.finish()

    def _go_on_patrol(self) -> None:
        """Look after open requests, as long as there are any."""
        if not self._open:
            self._patrol_at = math.inf
            return
        are_calls = any(not exchange.is_stream for exchange in self._open)
        seconds = _PATROL_SECONDS if are_calls else _QUIET_PATROL_SECONDS
        self._patrol_at = self._clock.monotonic() + seconds
        if self._patrol_timer is not None:
            self._patrol_timer.cancel()
        self._patrol_timer = asyncio.get_running_loop().call_later(seconds, self._patrol)

    def _patrol(self) -> None:
        now, wall = asyncio.get_running_loop().time(), self._clock.now()
        for exchange in tuple(self._open):
            exchange.patrol(now)
            principal = exchange.principal
            if principal is None or wall < principal.expires_at:
                continue
            # The rotation that replaced the token waits for what changes something.
            if not (principal.is_replaced and _changes_something(exchange)):
                exchange.interrupt(TokenExpiredError("The token's time is over"))
        self._go_on_patrol()

    def open_of(self, token_id: TokenId) -> int:
        """Tell how many requests of a token are open, streams included."""
        return sum(
            1
            for exchange in self._open
            if exchange.principal is not None and exchange.principal.token_id == token_id
        )

    def changing(self, token_id: TokenId) -> int:
        """Tell how many calls of a token are at an instance and change something."""
        return sum(
            1
            for exchange in self._open
            if exchange.principal is not None
            and exchange.principal.token_id == token_id
            and _changes_something(exchange)
        )

    def cut_role(self, role: RoleName, sent: AgentsError, unsent: AgentsError) -> int:
        """End every request at a role, by whether it may have been sent.

        Returns:
            How many they were, streams left out.
        """
        cut = 0
        for exchange in tuple(self._open):
            if exchange.role == role:
                cut += not exchange.is_stream
                exchange.interrupt(unsent if exchange.target is None else sent)
        return cut

    def cut(self, error: AgentsError) -> None:
        """End every request that is still open."""
        for exchange in tuple(self._open):
            exchange.interrupt(error)

    def cut_streams(self, error: AgentsError) -> None:
        """End what would never end by itself."""
        for exchange in tuple(self._open):
            if exchange.is_stream:
                exchange.interrupt(error)

    def ping(self) -> None:
        """Show every caller whose reply is a stream that it lives."""
        for exchange in self._open:
            if exchange.is_streaming:
                exchange.outlet.ping()

    def _check_names(self, head: Head) -> Reply | None:
        """Refuse a Host or an Origin that is not ours.

        Source: MCP 2026-07-28, Streamable HTTP, security.
        """
        if b"host" in head.repeated:
            return Reply(400, b"More than one Host header", content_type=_TEXT)
        host = head.values.get(b"host", b"").decode("latin-1").lower()
        if host not in self.hosts:
            return Reply(421, b"Invalid Host header", content_type=_TEXT)
        origin = head.values.get(b"origin")
        if origin is None:
            return None
        if b"origin" in head.repeated or origin.decode("latin-1").lower() not in self.origins:
            return Reply(403, b"Invalid Origin header", content_type=_TEXT)
        return None

    def _answer_openly(self, path: str) -> Reply | None:
        if path == "/ready":
            return self._tell_readiness()
        if path.startswith("/.well-known/"):
            document = None if self._discovery is None else self._discovery.document(path)
            # A clear 404 or nothing else: clients take anything less for an OAuth server, and
            # then ignore the token that they were given.
            return document or Reply(404, b"Not Found", content_type=_TEXT)
        return None

    def _tell_readiness(self) -> Reply:
        roles: dict[str, Json] = {}
        for role, place in self._table.places().items():
            if place.is_ready:
                roles[role] = {"state": "ready"}
            else:
                reason = place.route.reason or "the instance is being replaced"
                roles[role] = {"state": "not ready", "reason": reason}
        is_ready = self._table.revision > 0 and all(
            place.is_ready for place in self._table.places().values()
        )
        return Reply(200 if is_ready else 503, jsonrpc.encode({"ready": is_ready, "roles": roles}))


def _changes_something(exchange: Exchange) -> bool:
    return exchange.target is not None and exchange.kind not in {None, "READ"}


def _reply(direct: Direct, reply: Reply, request_id: str) -> bool:
    """Send a reply as nearly all are, without waiting; False if it is another one."""
    if reply.headers or not reply.body or reply.content_type != _JSON:
        return False
    lines = _JSON_LINES % (len(reply.body), request_id.encode("ascii"))
    return direct.reply(reply.status, lines, reply.body)


async def _send(send: Send, reply: Reply, request_id: str | None = None) -> None:
    headers = [(b"content-length", b"%d" % len(reply.body)), *reply.headers]
    if reply.body:
        headers.append((b"content-type", reply.content_type))
    if request_id is not None:
        headers.append((b"x-request-id", request_id.encode("ascii")))
    await send(Start(type="http.response.start", status=reply.status, headers=headers))
    await send(Body(type="http.response.body", body=reply.body, more_body=False))
