"""Serves Streamable HTTP at `/mcp` and a health check at `/health`.

There is no inbound authentication: the default is loopback, where the SDK also checks `Host` and
`Origin`, as it does wherever `MCP_ALLOWED_HOSTS` says what to expect. On any other `HOST` put an
authenticating TLS proxy in front.
"""

import socket
from typing import Final, cast

import anyio
import uvicorn
from mcp.server.transport_security import TransportSecuritySettings
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from walletserver.about import VERSION
from walletserver.logs import log_event
from walletserver.server import WalletMcpServer
from walletserver.settings import HttpMode, Settings

HEALTH_PATH: Final = "/health"


def serve_http(server: WalletMcpServer, settings: Settings) -> None:
    """Serve until the process is told to stop.

    Raises:
        OSError: The address cannot be bound.
    """
    http = settings.http
    family = socket.AF_INET6 if ":" in http.host else socket.AF_INET
    listener = socket.create_server((http.host, http.port), family=family)
    _add_health(server, settings)
    app = server.streamable_http_app(
        host=http.host,
        stateless_http=http.mode is HttpMode.STATELESS,
        session_idle_timeout=http.session_ttl_seconds,
        max_sessions=http.max_sessions,
        transport_security=_security(http.allowed_hosts),
    )
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.shutdown_seconds),
    )
    # Connections wait in the backlog from here on, so the port may be announced now.
    port = cast("int", listener.getsockname()[1])
    log_event("http_listening", port=port, mode=http.mode.value)
    with listener:
        anyio.run(lambda: uvicorn.Server(config).serve(sockets=[listener]))


def _security(hosts: tuple[str, ...]) -> TransportSecuritySettings | None:
    """Return what the SDK is to check; None leaves it to what it does on the loopback."""
    if not hosts:
        return None
    return TransportSecuritySettings(
        allowed_hosts=list(hosts), allowed_origins=[f"http://{host}" for host in hosts]
    )


def _add_health(server: WalletMcpServer, settings: Settings) -> None:
    body = {
        "status": "ok",
        "version": VERSION,
        "transport": settings.transport.value,
        "mode": settings.http.mode.value,
        "authMode": settings.auth_mode.value,
        "bands": [band.value for band in settings.bands],
    }

    @server.custom_route(HEALTH_PATH, methods=["GET"])
    async def health(_request: Request) -> Response:
        return JSONResponse(body)
