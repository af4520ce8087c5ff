"""One server process as the gateway's calls see it: its state, its calls, its end."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from enum import Enum
from typing import Final, final

import anyio
from anyio.abc import TaskGroup
from typing_extensions import override

from orchestrator.errors import AgentsError, TargetLostError, UpstreamProtocolError
from orchestrator.gateway.log import get_log
from orchestrator.gateway.settings import Common
from orchestrator.gateway.upstream.base import Outgoing, Upstream, Wait
from orchestrator.model.base import JsonObject
from orchestrator.model.names import RoleName
from orchestrator.model.rotation import Drain
from orchestrator.model.snapshot import Pulse, TargetRef
from orchestrator.protocol import jsonrpc, mcp

_MAX_PAGES: Final = 100
_MAX_TOOLS: Final = 2_000
_LISTEN_AGAIN_SECONDS: Final = 1.0
# How long a caller who was asked something is waited for, before what it answers may go to another
# process: what servers themselves grant, as a rule.
PROMISE_SECONDS: Final = 600.0
_MOST_PROMISES: Final = 10_000
# How long calls that were moved take to let go of the process that they were taken from.
_MOVE_SECONDS: Final = 1.0


class State(Enum):
    """What a target does with a new call."""

    OPEN = "open"
    LEAVING = "leaving"  # takes what goes on with calls that it had
    DRAINING = "draining"
    LOST = "lost"


@final
class Target:
    """One incarnation of one workload.

    Attributes:
        ref: Which one, and how it is reached.
        role: The role that it belongs to.
        state: What it does with a new call.
        claims: Calls that hold it, until their replies are sent.
    """

    def __init__(
        self,
        ref: TargetRef,
        role: RoleName,
        upstream: Upstream,
        common: Common,
        capabilities: JsonObject,
    ) -> None:
        """Take the connection; nothing moves before `run`.

        Args:
            ref: Which process.
            role: The role that it belongs to.
            upstream: The connection to it.
            common: The gateway.
            capabilities: What the gateway's own requests declare: what the server may ask anybody
                of the role, as what a server lists may depend on that.
        """
        self.ref = ref
        self.role = role
        self.state = State.OPEN
        self.claims = 0
        self._common = common
        self._envelope = mcp.envelope(common.info, capabilities)
        self._upstream = upstream
        # When callers were asked what they will answer, by what they were given for it.
        self._promises: dict[str, float] = {}
        # Is there only while somebody waits for the last claim to end.
        self._idle: asyncio.Event | None = None
        self._closed = asyncio.Event()
        self._last_call = common.clock.monotonic()
        self._uris: frozenset[str] = frozenset()
        self._uris_changed = asyncio.Event()
        self._level = ""
        self._level_changed = asyncio.Event()

    @override
    def __repr__(self) -> str:
        return f"<Target {self.ref.workload} {self.ref.pid} {self.state.value} {self.claims}>"

    @property
    def is_open(self) -> bool:
        """Whether it takes calls."""
        return self.state is State.OPEN

    @property
    def goes_on(self) -> bool:
        """Whether it takes what goes on with calls that it had."""
        return self.state is not State.LOST and not self._closed.is_set()

    @property
    def promised(self) -> int:
        """How many callers were asked something and have not answered yet."""
        if not self.goes_on:
            self._promises.clear()
        oldest = self._common.clock.monotonic() - PROMISE_SECONDS
        while self._promises:
            name, at = next(iter(self._promises.items()))
            if at > oldest:
                break
            del self._promises[name]
        return len(self._promises)

    async def run(self) -> None:
        """Carry messages until the target is closed; a broken connection ends its calls."""
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._upstream.run)
                group.start_soon(self._keep_listening)
                group.start_soon(self._keep_level)
                _ = await self._closed.wait()
                group.cancel_scope.cancel()
        except* (OSError, anyio.ClosedResourceError, AgentsError) as broken:
            cause = broken.exceptions[0]
            _ = get_log(__name__).warning(
                "target_broken",
                workload=self.ref.workload,
                pid=self.ref.pid,
                error=type(cause).__name__,
            )
            self.lose(TargetLostError("The connection to the instance broke"))
        finally:
            self._upstream.close()

    def claim(self) -> None:
        """Hold it for one call; `release` ends that."""
        self.claims += 1

    def release(self) -> None:
        """End a claim."""
        self.claims -= 1
        if self.claims == 0:
            self._last_call = self._common.clock.monotonic()
            if self._idle is not None:
                self._idle.set()
            if self.state is State.DRAINING:
                self.close()

    def promise(self, name: str) -> None:
        """Be there for what a caller will answer to this."""
        self._promises[name] = self._common.clock.monotonic()
        if len(self._promises) > _MOST_PROMISES:
            del self._promises[next(iter(self._promises))]

    def keep_promise(self, name: str) -> None:
        """Note that the caller answered; the call that goes on claims the target itself."""
        _ = self._promises.pop(name, None)

    def touch(self) -> None:
        """Note that somebody needs it."""
        self._last_call = self._common.clock.monotonic()

    def leave(self) -> None:
        """Take nothing but what goes on with calls that it had, until it is retired or lost."""
        if self.state is State.OPEN:
            self.state = State.LEAVING

    def retire(self) -> None:
        """Take no more calls, and close when the last one is done."""
        if self.state in {State.OPEN, State.LEAVING}:
            self.state = State.DRAINING
        if self.claims == 0:
            self.close()

    async def drain(self, grace: float) -> int:
        """Refuse new calls and wait for those in flight.

        Args:
            grace: Longest wait, in seconds.

        Returns:
            How many calls were still in flight when the wait ended; 0 is a clean drain.
        """
        if self.state in {State.OPEN, State.LEAVING}:
            self.state = State.DRAINING
        with anyio.move_on_after(grace):
            while self.claims:
                if self._idle is None or self._idle.is_set():
                    self._idle = asyncio.Event()
                _ = await self._idle.wait()
        return self.claims

    async def see_out(self, grace: float, *, promises: bool) -> Drain:
        """Wait until nothing uses it; nobody may send it new calls meanwhile.

        Calls that are still there at the end of the wait and may be made again are made again, by
        whoever takes calls then. All others stay.

        Args:
            grace: Longest wait, in seconds.
            promises: Whether to wait for callers, too, who were asked something.
        """
        with anyio.move_on_after(grace):
            await self._unused(promises=promises)
        if self.claims:
            self._upstream.move(TargetLostError("The call is made again by another process"))
            with anyio.move_on_after(_MOVE_SECONDS):
                await self._unused(promises=False)
        left = self.claims + (self.promised if promises else 0)
        if not left:
            return Drain(0)
        now, sent = self._common.clock.monotonic(), self._upstream.oldest_call
        begun = [now if sent is None else sent]
        begun += list(self._promises.values())[:1] if promises else []
        return Drain(left, now - min(begun))

    async def _unused(self, *, promises: bool) -> None:
        while self.claims or (promises and self.promised):
            if self._idle is None or self._idle.is_set():
                self._idle = asyncio.Event()
            # The time of a promise ends without anybody telling.
            with anyio.move_on_after(_LISTEN_AGAIN_SECONDS if promises else None):
                _ = await self._idle.wait()

    def lose(self, error: AgentsError) -> None:
        """The process is gone: end its calls now."""
        self.state = State.LOST
        self._upstream.fail(error)
        self.close()

    def close(self) -> None:
        """Stop carrying messages."""
        self._closed.set()

    def pulse(self) -> Pulse:
        """Tell what is known of its life."""
        upstream = self._upstream
        in_use = self.claims or self.promised
        last = self._common.clock.monotonic() if in_use else self._last_call
        return Pulse(upstream.heard, upstream.in_flight, upstream.oldest_call, last)

    def request(self, out: Outgoing, wait: Wait) -> Coroutine[None, None, jsonrpc.Response]:
        """Make one request, written in the era of the instance.

        It is sent at once. The answer has to be awaited; nothing of the request is kept for that.

        Raises:
            UpstreamError: There was none.
        """
        return self._upstream.request(out, wait)

    def notify(self, method: str, params: JsonObject) -> None:
        """Send a notification."""
        self._upstream.notify(method, params)

    async def ping(self) -> None:
        """Ask for a sign of life; any answer is one.

        Raises:
            UpstreamError: The instance went away.
        """
        if self.ref.era == "legacy":
            _ = await self._ask("ping", {})
        else:
            _ = await self._ask("server/discover", {"_meta": dict(self._envelope)})

    async def list_tools(self) -> tuple[JsonObject, ...]:
        """Ask for all tools, page after page.

        Raises:
            UpstreamError: The instance went away, or did not answer with tools of unique names.
        """
        tools: dict[str, JsonObject] = {}
        cursor: str | None = None
        for _ in range(_MAX_PAGES):
            params: JsonObject = {} if cursor is None else {"cursor": cursor}
            if self.ref.era == "modern":
                params["_meta"] = dict(self._envelope)
            response = await self._ask("tools/list", params)
            listed = None if response.result is None else response.result.get("tools")
            if response.result is None or not isinstance(listed, list):
                raise UpstreamProtocolError("The instance did not list its tools")
            for tool in listed:
                name = tool.get("name") if isinstance(tool, dict) else None
                if not isinstance(tool, dict) or not isinstance(name, str) or name in tools:
                    raise UpstreamProtocolError("The instance's list has no unique names")
                tools[name] = tool
            following = response.result.get("nextCursor")
            if not isinstance(following, str):
                return tuple(tools.values())
            if len(tools) > _MAX_TOOLS:
                break
            cursor = following
        raise UpstreamProtocolError("The instance's list of tools does not end")

    # What the gateway itself wants to be told.

    def watch(self, uris: frozenset[str]) -> None:
        """Have the instance tell when these resources change, and no others."""
        if uris != self._uris:
            self._uris = uris
            self._uris_changed.set()

    def set_level(self, level: str) -> None:
        """Have a legacy instance send log messages from this level on."""
        if level != self._level and self.ref.era == "legacy":
            self._level = level
            self._level_changed.set()

    async def _keep_level(self) -> None:
        """Tell the instance the level, one answer after the other, however often it changes."""
        while True:
            _ = await self._level_changed.wait()
            self._level_changed.clear()
            await self._ask_quietly("logging/setLevel", {"level": self._level})

    async def _keep_listening(self) -> None:
        try:
            await self._listen()
        except* AgentsError:
            # It is gone, or makes no sense: whoever waits for more than news learns of that.
            pass

    async def _listen(self) -> None:
        """Keep the instance telling what somebody here wants to hear."""
        if self.ref.era == "modern":
            await self._listen_modern()
            return
        told: frozenset[str] = frozenset()
        while True:
            self._uris_changed.clear()
            wanted = self._uris
            for uri in sorted(told - wanted):
                await self._ask_quietly("resources/unsubscribe", {"uri": uri})
            for uri in sorted(wanted - told):
                await self._ask_quietly("resources/subscribe", {"uri": uri})
            told = wanted
            _ = await self._uris_changed.wait()

    async def _listen_modern(self) -> None:
        """Keep one listen open, for what the instance can tell and somebody wants."""
        while True:
            self._uris_changed.clear()
            wanted = _what_it_tells(self.ref.capabilities)
            if self._uris:
                wanted["resourceSubscriptions"] = [*sorted(self._uris)]
            refused = not wanted
            if wanted:
                params: JsonObject = {
                    "notifications": wanted,
                    "_meta": dict(self._envelope),
                }
                async with anyio.create_task_group() as group:
                    group.start_soon(self._cancel_on_change, group)
                    response = await self._ask("subscriptions/listen", params)
                    refused = response.error is not None
                    group.cancel_scope.cancel()
            if refused:
                # It cannot tell, or there is nothing to tell.
                _ = await self._uris_changed.wait()
            elif not self._uris_changed.is_set():
                await anyio.sleep(_LISTEN_AGAIN_SECONDS)

    async def _cancel_on_change(self, group: TaskGroup) -> None:
        _ = await self._uris_changed.wait()
        group.cancel_scope.cancel()

    async def _ask(self, method: str, params: JsonObject) -> jsonrpc.Response:
        return await self._upstream.request(Outgoing(method, params), just_wait)

    async def _ask_quietly(self, method: str, params: JsonObject) -> None:
        with suppress(AgentsError):
            _ = await self._ask(method, params)


def _what_it_tells(capabilities: JsonObject) -> JsonObject:
    told: JsonObject = {}
    for name in ("tools", "prompts", "resources"):
        offered = capabilities.get(name)
        if isinstance(offered, dict) and offered.get("listChanged") is True:
            told[f"{name}ListChanged"] = True
    return told


async def just_wait(future: "asyncio.Future[jsonrpc.Response]") -> jsonrpc.Response:
    """Wait for an answer without anybody who could interrupt that."""
    return await future
