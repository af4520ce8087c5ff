"""Messages to an HTTP endpoint, in the shape that Slack and its likes take; signed.

Source: Slack, Incoming webhooks, and Block Kit (lengths of texts).
"""

import hashlib
import hmac
import json
import ssl
from collections.abc import Awaitable, Callable
from typing import Final

import httpx2
from pydantic import SecretStr

from orchestrator.clock import Clock
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.message import Link
from orchestrator.model.notify import Webhook, check_webhook
from orchestrator.model.secret import SecretRef
from orchestrator.notify.base import Message, SendError

SECONDS: Final = 10.0
_LONGEST_TITLE: Final = 150
_LONGEST_TEXT: Final = 3000
_LONGEST_LABEL: Final = 75
_MOST_LINKS: Final = 25
# Another try may succeed: it took too long, is busy, or has trouble of its own.
_LATER: Final = frozenset({408, 425, 429})
_SERVER_ERROR: Final = 500


def payload(message: Message) -> bytes:
    """Write a message down. Texts are plain, so that nothing in them is a mention or a link."""
    blocks: list[Json] = [
        {"type": "header", "text": _plain(message.title, _LONGEST_TITLE)},
    ]
    if message.text:
        blocks.append({"type": "section", "text": _plain(message.text, _LONGEST_TEXT)})
    if message.links:
        blocks.append({"type": "actions", "elements": [*map(_button, message.links[:_MOST_LINKS])]})
    whole = f"{message.title}\n{message.text}".strip()
    # This one is read as Slack's own markup, where blocks cannot be shown.
    text = whole.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return json.dumps({"text": text[:_LONGEST_TEXT], "blocks": blocks}).encode()


def sign(secret: str, timestamp: int, body: bytes) -> str:
    """Sign a message: HMAC-SHA256 over `v1:TIMESTAMP:BODY`, as `v1=` and hexadecimal digits."""
    signed = b"v1:%d:%b" % (timestamp, body)
    return "v1=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


async def post(
    target: Webhook,
    message: Message,
    resolve: Callable[[SecretRef], Awaitable[SecretStr]],
    clock: Clock,
) -> None:
    """Bring a message to its endpoint.

    No redirect is followed, and nothing of the answer is kept but its status.

    Raises:
        SendError: The endpoint did not take it.
    """
    url = target.webhook
    if isinstance(url, SecretRef):
        url = (await resolve(url)).get_secret_value()
        try:
            url = check_webhook(url)
        except ValueError:
            raise SendError("what its reference tells is no https URL", is_final=True) from None
    body, now = payload(message), int(clock.now().timestamp())
    headers = {
        "content-type": "application/json",
        "user-agent": "bandmaster",
        "x-bandmaster-topic": message.topic,
        "x-bandmaster-delivery": message.id,
        "x-bandmaster-timestamp": str(now),
    }
    if target.secret is not None:
        secret = (await resolve(target.secret)).get_secret_value()
        headers["x-bandmaster-signature"] = sign(secret, now, body)
    try:
        async with (
            httpx2.AsyncClient(
                timeout=SECONDS, trust_env=False, verify=ssl.create_default_context()
            ) as client,
            client.stream("POST", url, content=body, headers=headers) as response,
        ):
            status = response.status_code
    except httpx2.TimeoutException:
        raise SendError(f"it gave no answer within {SECONDS:g} s") from None
    except httpx2.HTTPError as error:
        raise SendError(_reason(error)) from None
    if not httpx2.codes.is_success(status):
        is_final = status < _SERVER_ERROR and status not in _LATER
        raise SendError(f"it answered with status {status}", is_final=is_final)


def _reason(error: BaseException) -> str:
    """Say why there was no answer; an error's own words may repeat the URL."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "its certificate is not accepted"
        if isinstance(cause, ConnectionRefusedError):
            return "nothing listens there"
        cause = cause.__cause__ or cause.__context__
    return f"it cannot be reached ({type(error).__name__})"


def _plain(text: str, longest: int) -> JsonObject:
    return {"type": "plain_text", "text": text[:longest], "emoji": False}


def _button(link: Link) -> JsonObject:
    return {"type": "button", "text": _plain(link.label, _LONGEST_LABEL), "url": link.url}
