"""One server process as the gateway's calls see it: its state, its calls, its end."""

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Final, final

import anyio
from typing_extensions import override

from orchestrator.errors import AgentsError, TargetLostError, UpstreamProtocolError
from orchestrator.gateway.log import get_log
from orchestrator.gateway.settings import Common
from orchestrator.gateway.upstream.stdio import StdioUpstream, Wait, Wire
from orchestrator.model.base import JsonObject
from orchestrator.model.snapshot import Pulse, TargetRef
from orchestrator.protocol import jsonrpc, mcp

_MAX_PAGES: Final = 100


class State(Enum):
    """What a target does with a new call."""

    OPEN = "open"
    DRAINING = "draining"
    LOST = "lost"


@final
class Target:
    """One incarnation of one workload.

    Attributes:
        ref: Which one, and how it is reached.
        state: What it does with a new call.
        claims: Calls that hold it, until their replies are sent.
    """

    def __init__(
        self,
        ref: TargetRef,
        wire: Wire,
        common: Common,
        on_tools_changed: Callable[[], None],
    ) -> None:
        """Take the wire; nothing moves before `run`."""
        self.ref = ref
        self.state = State.OPEN
        self.claims = 0
        self._client_info = common.info
        self._upstream = StdioUpstream(wire, common.boot, common.clock, on_tools_changed)
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = asyncio.Event()

    @override
    def __repr__(self) -> str:
        return f"<Target {self.ref.workload} {self.ref.pid} {self.state.value} {self.claims}>"

    @property
    def is_open(self) -> bool:
        """Whether it takes calls."""
        return self.state is State.OPEN

    async def run(self) -> None:
        """Carry messages until the target is closed; a broken wire ends its calls."""
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._upstream.run)
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
        self._idle.clear()

    def release(self) -> None:
        """End a claim."""
        self.claims -= 1
        if self.claims == 0:
            self._idle.set()
            if self.state is not State.OPEN:
                self.close()

    def retire(self) -> None:
        """Take no more calls, and close when the last one is done."""
        if self.state is State.OPEN:
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
        if self.state is State.OPEN:
            self.state = State.DRAINING
        with anyio.move_on_after(grace):
            _ = await self._idle.wait()
        return self.claims

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
        return Pulse(upstream.heard, upstream.in_flight, upstream.oldest_call)

    def call(self, call: mcp.ToolCall, request_id: str, wait: Wait) -> Awaitable[jsonrpc.Response]:
        """Make one tool call, in the era of the instance.

        It is sent at once. The answer has to be awaited; nothing of the call is kept for that.

        Args:
            call: The call.
            request_id: The gateway's id of the request.
            wait: How to wait for the answer.

        Raises:
            UpstreamError: There was none.
        """
        params = mcp.upstream_call(call, self.ref.era, self._client_info, request_id)
        return self._upstream.request("tools/call", params, wait)

    async def ping(self) -> None:
        """Ask for a sign of life; any answer is one.

        Raises:
            UpstreamError: The instance went away.
        """
        if self.ref.era == "legacy":
            _ = await self._upstream.request("ping", {}, _just_wait)
        else:
            params: JsonObject = {"_meta": mcp.envelope(self._client_info)}
            _ = await self._upstream.request("server/discover", params, _just_wait)

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
                params["_meta"] = mcp.envelope(self._client_info)
            response = await self._upstream.request("tools/list", params, _just_wait)
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
            cursor = following
        raise UpstreamProtocolError("The instance's list of tools does not end")


async def _just_wait(future: "asyncio.Future[jsonrpc.Response]") -> jsonrpc.Response:
    return await future
