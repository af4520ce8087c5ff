"""The way to the gateway, which may go away, come back elsewhere, and want another token."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Final, TypeVar, final

import anyio

from orchestrator.errors import AgentsError, TargetLostError, TargetUnavailableError
from orchestrator.shim.request import Answer, Endpoint, Verb, request

# How long a message waits for a gateway that is being restarted.
_PATIENCE_SECONDS: Final = 6.0
_FIRST_PAUSE_SECONDS: Final = 0.05
_LONGEST_PAUSE_SECONDS: Final = 0.5
# Who only listens may wait longer: nothing is said while the gateway is away.
_LONGEST_LISTENERS_PAUSE_SECONDS: Final = 5.0
_UNAUTHORIZED: Final = 401

T = TypeVar("T")


@final
class Patience:
    """How long one message waits for a gateway that went away; the first look is at once."""

    def __init__(self) -> None:
        """Begin to wait now."""
        self._until = anyio.current_time() + _PATIENCE_SECONDS
        self._pause = 0.0

    async def lasts(self, *, is_short: bool) -> bool:
        """Wait until the next look is due; False when there will be none."""
        if self._pause and (is_short or anyio.current_time() > self._until):
            return False
        await anyio.sleep(self._pause)
        self._pause = min(max(2 * self._pause, _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
        return True


@final
class Pause:
    """How long somebody who listens waits before a stream that ended is opened again."""

    def __init__(self) -> None:
        """Begin with a short one."""
        self._seconds = _FIRST_PAUSE_SECONDS
        self._since = anyio.current_time()

    async def wait(self) -> None:
        """Wait, twice as long as last time unless the stream lasted."""
        if anyio.current_time() - self._since > 2 * _LONGEST_LISTENERS_PAUSE_SECONDS:
            self._seconds = _FIRST_PAUSE_SECONDS
        await anyio.sleep(self._seconds)
        self._seconds = min(2 * self._seconds, _LONGEST_LISTENERS_PAUSE_SECONDS)
        self._since = anyio.current_time()


@final
class Way:
    """Sends requests to wherever the gateway is now, with the token as it is now."""

    def __init__(
        self, endpoint: Endpoint | None, find: Callable[[], Endpoint], token: Callable[[], str]
    ) -> None:
        """Prepare.

        Args:
            endpoint: Where the role was found, None if its gateway does not listen yet.
            find: Finds the role again; blocks for a short while, raises AgentsError.
            token: Reads the token, as it is now; raises TokenError.
        """
        self._endpoint = endpoint
        self._find = find
        self._token = token
        self._is_gone = False

    @asynccontextmanager
    async def open(
        self, verb: Verb, headers: Sequence[tuple[str, str]], body: bytes = b""
    ) -> AsyncGenerator[Answer]:
        """Send one request; a second one if the token was replaced meanwhile.

        Yields:
            The answer, its head read.

        Raises:
            TokenError: There is no token.
            TargetUnavailableError: Nothing was sent.
            TargetLostError: The connection broke; what was sent may have arrived.
            UpstreamProtocolError: The answer is no HTTP.
        """
        endpoint = self._endpoint
        if endpoint is None:
            raise TargetUnavailableError("the gateway does not listen yet")

        def send(token: str) -> AbstractAsyncContextManager[Answer]:
            return request(endpoint, verb, [*headers, ("authorization", f"Bearer {token}")], body)

        token = self._token()
        try:
            async with AsyncExitStack() as stack:
                answer = await stack.enter_async_context(send(token))
                if answer.status == _UNAUTHORIZED and (newer := self._token()) != token:
                    await stack.aclose()
                    answer = await stack.enter_async_context(send(newer))
                yield answer
        except (TargetUnavailableError, TargetLostError):
            # Nothing goes to the old address any more: somebody else may listen there by now.
            if self._endpoint is endpoint:
                self._endpoint = None
            raise

    async def deliver(self, once: Callable[[], Awaitable[T]], *, may_repeat: bool) -> T:
        """Do an exchange, again if the gateway went away and that can do no harm.

        Args:
            once: Does it once.
            may_repeat: Whether nothing happens twice if it arrived and is done again.

        Raises:
            AgentsError: It could not be done.
        """
        patience = Patience()
        while True:
            try:
                found = await once()
            except TargetLostError as error:
                if not may_repeat:
                    raise TargetLostError(
                        f"{error}; the outcome is unknown",
                        hint="Find out whether the call took effect before you make it again.",
                    ) from error
                await self.find_again(error, patience)
            except TargetUnavailableError as error:
                await self.find_again(error, patience)
            else:
                self._is_gone = False
                return found

    async def find_again(self, error: AgentsError, patience: Patience) -> None:
        """Find the gateway, which may have another port now.

        Once it stayed away for the whole time, later messages do not wait: they fail at once
        until it is back.

        Args:
            error: Why it is looked for.
            patience: What is left of the message's.

        Raises:
            AgentsError: It is not found; nothing was sent.
        """
        while True:
            if not await patience.lasts(is_short=self._is_gone):
                self._is_gone = True
                raise error
            try:
                await self.look()
            except AgentsError as failure:
                error = failure
            else:
                return

    async def look(self) -> None:
        """Look once where the gateway is now, unless that is known.

        Raises:
            AgentsError: It is not found.
        """
        if self._endpoint is None:
            self._endpoint = await anyio.to_thread.run_sync(self._find, abandon_on_cancel=True)
