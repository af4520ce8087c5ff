"""The MCP server: lists the registered tools and answers their calls."""

import json
import re
import secrets
import threading
import time
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, cast

import anyio.to_thread
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CallToolResult, TextContent, Tool, ToolAnnotations
from typing_extensions import override

from walletserver.about import INSTRUCTIONS, SERVER_NAME, SERVER_TITLE, VERSION
from walletserver.bands import HINTS, TOOL_BANDS
from walletserver.codes import Code
from walletserver.errors import ErrorBody, UpstreamError, WalletError
from walletserver.logs import log_event, where
from walletserver.tools.bound import BoundTool

if TYPE_CHECKING:
    from collections.abc import Generator

# Whoever stands between the agent and us may number requests; its log and ours then tell one story.
REQUEST_ID_KEY: Final = "dev.bandmaster/requestId"
REQUEST_ID: Final = re.compile(r"[0-9a-f]{16}")


class InFlight:
    """Counts the calls being served, for whoever has to wait for their end."""

    def __init__(self) -> None:
        """Start at none."""
        self._count = 0
        self._changed = threading.Condition()

    @contextmanager
    def call(self) -> "Generator[None]":
        """Count one call while the block runs."""
        with self._changed:
            self._count += 1
        try:
            yield
        finally:
            with self._changed:
                self._count -= 1
                self._changed.notify_all()

    def wait_idle(self, grace_seconds: float) -> bool:
        """Block until no call is being served.

        Args:
            grace_seconds: Longest wait.

        Returns:
            Whether it came to that.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self._count == 0, grace_seconds)


class WalletMcpServer(MCPServer[object]):
    """An `MCPServer` whose tools answer failures in the structured error shape."""

    def __init__(self, tools: tuple[BoundTool, ...], in_flight: InFlight) -> None:
        """Register the tools.

        Args:
            tools: Exactly the ones that exist for this process.
            in_flight: Told of every call.
        """
        super().__init__(
            name=SERVER_NAME,
            title=SERVER_TITLE,
            instructions=INSTRUCTIONS,
            version=VERSION,
            subscriptions=False,
            log_level="WARNING",
        )
        self._bound: Final = {tool.name: tool for tool in tools}
        self._in_flight: Final = in_flight

    @override
    async def list_tools(self) -> list[Tool]:
        """Return the registered tools."""
        return [_listing(tool) for tool in self._bound.values()]

    @override
    async def call_tool(
        self,
        name: str,
        arguments: dict[str, object],
        context: Context[object, object] | None = None,
    ) -> CallToolResult:
        """Answer one call.

        Raises:
            MCPError: No tool of that name is registered.
        """
        tool = self._bound.get(name)
        if tool is None:
            log_event("unknown_tool")
            raise MCPError(INVALID_PARAMS, "Unknown tool")
        request_id = _request_id(context)
        started = time.monotonic()
        with self._in_flight.call():
            # Handlers wait for the ledger and the disk; a worker thread keeps the loop free. A
            # cancelled call runs to its end there, so that its receipt and effect stay together.
            outcome = await anyio.to_thread.run_sync(_answer, tool, arguments, request_id)
        result, label = outcome
        log_event(
            "tool_called",
            requestId=request_id,
            operation=name,
            outcome=label,
            elapsedMs=round((time.monotonic() - started) * 1000, 1),
        )
        return result


def _request_id(context: Context[object, object] | None) -> str:
    """Take the caller's id of the request, where it sent one of that shape, or make one."""
    meta = cast("Mapping[str, object] | None", context and context.request_context.meta)
    given = meta.get(REQUEST_ID_KEY) if meta else None
    if isinstance(given, str) and REQUEST_ID.fullmatch(given):
        return given
    return secrets.token_hex(8)


def _answer(
    tool: BoundTool, arguments: Mapping[str, object], request_id: str
) -> tuple[CallToolResult, str]:
    try:
        return _result(tool.call(arguments), is_error=False), "success"
    except WalletError as error:
        return _result(error.body(), is_error=True), error.code
    except Exception as error:  # noqa: BLE001 (nothing unexpected may reach the client)
        log_event("unexpected", requestId=request_id, operation=tool.name, error=where(error))
        body: ErrorBody = UpstreamError(
            Code.INTERNAL_ERROR, f"An internal error was logged under request {request_id}."
        ).body()
        return _result(body, is_error=True), Code.INTERNAL_ERROR.value


def _result(content: Mapping[str, object], *, is_error: bool) -> CallToolResult:
    return CallToolResult(
        content=[TextContent(type="text", text=json.dumps(content))],
        structured_content=dict(content),
        is_error=is_error,
    )


def _listing(tool: BoundTool) -> Tool:
    hints = HINTS[TOOL_BANDS[tool.name]]
    return Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.input_schema,
        annotations=ToolAnnotations(
            title=tool.title,
            read_only_hint=hints.read_only,
            destructive_hint=hints.destructive,
            idempotent_hint=hints.idempotent,
            open_world_hint=hints.open_world,
        ),
    )
