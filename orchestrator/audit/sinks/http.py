"""Batches to an HTTP endpoint, over a connection that is kept."""

import ssl
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, final

import httpx2
from pydantic import SecretStr
from typing_extensions import override

from orchestrator.audit.formats.base import Format, product_version
from orchestrator.audit.sinks.base import Entry, Outlet, RefusedError, SinkError, gently

SECONDS: Final = 10.0
# No receiver may silence a sink for longer.
LONGEST_WAIT_SECONDS: Final = 3600.0
# What is read of an answer.
_LONGEST_ANSWER: Final = 64 * 1024
_SERVER_ERROR: Final = 500
# It took too long or is busy; or the way there is wrong, which says nothing of the lines.
_LATER: Final = frozenset({401, 403, 404, 405, 407, 408, 421, 425, 429})
_WITHOUT_LOGIN: Final = frozenset({401, 403})
_TOO_LARGE: Final = 413


@dataclass(slots=True)
class Post:
    """Sends bodies to one URL. Used by one thread.

    Attributes:
        url: Where to.
        media_type: What the bodies are.
        context: How TLS is done.
        token: Tells the secret that is shown, None for none; may block.
    """

    url: str
    media_type: str
    context: ssl.SSLContext
    token: Callable[[], SecretStr] | None = None
    _client: httpx2.Client | None = None
    _shown: SecretStr | None = field(default=None, repr=False)

    def send(self, body: bytes, entries: Sequence[Entry]) -> bytes:
        """Send one body; blocks.

        No redirect is followed.

        Returns:
            The answer, or the beginning of it.

        Raises:
            SinkError: It was not taken now.
            RefusedError: It never will be.
        """
        headers = {
            "content-type": self.media_type,
            "user-agent": f"bandmaster/{product_version()}",
            # So that a receiver knows a batch that it has already.
            "x-bandmaster-seq": f"{entries[0].seq}-{entries[-1].seq}",
        }
        if self.token is not None:
            if self._shown is None:
                self._shown = self.token()
            shown = self._shown.get_secret_value()
            if not shown.isascii() or not shown.isprintable() or not shown or " " in shown:
                self._shown = None
                raise SinkError("its secret is empty, or nothing that a header can hold")
            headers["authorization"] = f"Bearer {shown}"
        if self._client is None:
            # Made in the thread that uses it: loading the authorities takes a moment.
            self._client = httpx2.Client(timeout=SECONDS, trust_env=False, verify=self.context)
        try:
            with ExitStack() as stack:
                response = stack.enter_context(
                    self._client.stream("POST", self.url, content=body, headers=headers)
                )
                answer = _read(response)
        except httpx2.TimeoutException:
            raise SinkError(f"it gave no answer within {SECONDS:g} s") from None
        except httpx2.HTTPError as error:
            raise SinkError(_reason(error)) from None
        self._judge(response)
        return answer

    def _judge(self, response: httpx2.Response) -> None:
        status = response.status_code
        if httpx2.codes.is_success(status):
            return
        what = f"it answered with status {status}"
        if status in _WITHOUT_LOGIN:
            self._shown = None  # it may have been replaced
        if status == _TOO_LARGE:
            raise RefusedError(what, is_size=True)
        if httpx2.codes.is_client_error(status) and status not in _LATER:
            raise RefusedError(what)
        raise SinkError(what, after=_wait(response.headers.get("retry-after", "")))

    def close(self) -> None:
        """Let go of the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None


def _read(response: httpx2.Response) -> bytes:
    answer = b""
    for piece in response.iter_bytes(4096):
        answer += piece
        if len(answer) > _LONGEST_ANSWER:
            break
    return answer


def _wait(text: str) -> float:
    """Tell how long `Retry-After` asks to wait, in seconds; 0 if it says nothing."""
    if text.isascii() and text.isdecimal():
        seconds = float(text[:10])
    else:
        try:
            moment = parsedate_to_datetime(text)
        except ValueError:
            return 0.0
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), LONGEST_WAIT_SECONDS)


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


@final
class HttpOutlet(Outlet):
    """Sends lines of text."""

    def __init__(self, post: Post, form: Format) -> None:
        """Mean this endpoint.

        Args:
            post: The way there.
            form: How lines are written.
        """
        self._post = post
        self._form = form

    @override
    def send(self, entries: Sequence[Entry]) -> None:
        render, end = self._form.render, self._form.end
        body = b"".join(render(entry.line, entry.told) + end for entry in gently(entries))
        _ = self._post.send(body, entries)

    @override
    def close(self) -> None:
        self._post.close()
