"""One small JSON document from a web server: bounded in size and time, and never from elsewhere."""

import http.client
import json
import socket
import ssl
import threading
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from orchestrator.model.base import Json, JsonObject

SECONDS: Final = 5.0
LONGEST_BYTES: Final = 256 * 1024


class FetchError(Exception):
    """There is no such document; the text is a reason for a person, in our own words."""


def fetch_json(url: str) -> JsonObject:
    """Get a JSON object; blocks, for about ten seconds at most.

    No redirect is followed, no proxy is asked, no cookie or credential is sent.

    Args:
        url: Where it is, `http` or `https`.

    Raises:
        FetchError: There is none.
    """
    parts = urlsplit(url)
    connection = _connect(parts.scheme, parts.hostname or "", parts.port)
    target = parts.path or "/"
    if parts.query:
        target += f"?{parts.query}"
    try:
        connection.connect()
        # Its own timeout is for one read: a server that sends a byte now and then has no end.
        cut = threading.Timer(SECONDS, _cut, (connection.sock,))
        cut.daemon = True
        cut.start()
        try:
            connection.request("GET", target, headers={"Accept": "application/json"})
            response = connection.getresponse()
            status, body = response.status, response.read(LONGEST_BYTES + 1)
        finally:
            cut.cancel()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise FetchError(_reason(error, parts.hostname or "")) from None
    finally:
        connection.close()
    if status != http.client.OK:
        raise FetchError(f"the answer has the status {status}")
    if len(body) > LONGEST_BYTES:
        raise FetchError("the answer is too long")
    return _read(body)


def _reason(error: Exception, host: str) -> str:
    """Say why there was no answer; nothing of what was sent is repeated."""
    match error:
        case socket.gaierror():
            return f"no answer: the name {host} cannot be resolved; is it right, and is there DNS?"
        case ssl.SSLCertVerificationError():
            return f"no answer: the certificate of {host} is not accepted"
        case ConnectionRefusedError():
            return f"no answer: nothing listens there at {host}"
        case TimeoutError():
            return f"no answer: {host} took too long"
        case _:
            return f"no answer ({type(error).__name__})"


def _connect(scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
    if scheme == "https":
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(host, port, timeout=SECONDS, context=context)
    if scheme != "http":
        raise FetchError("only http and https are read")
    return http.client.HTTPConnection(host, port, timeout=SECONDS)


def _cut(connected: socket.socket) -> None:
    """Wake whoever waits for more; a mere close would not."""
    with suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


def _read(body: bytes) -> JsonObject:
    try:
        found: Json = json.loads(body)  # pyright: ignore[reportAny] - typed by the next line
    except (ValueError, RecursionError):
        raise FetchError("the answer is no JSON") from None
    if not isinstance(found, dict):
        raise FetchError("the answer is no JSON object")
    return found
