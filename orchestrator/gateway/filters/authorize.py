"""Default deny: only methods of the table, and only what the role was attested to have."""

import asyncio
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, final

from orchestrator.audit.record import hash_arguments
from orchestrator.errors import (
    InvalidParamsError,
    MethodNotAllowedError,
    TargetUnavailableError,
    UnknownPromptError,
    UnknownResourceError,
    UnknownToolError,
)
from orchestrator.gateway.context import Exchange, Handler, Reply
from orchestrator.gateway.table import Place, Table
from orchestrator.model.base import JsonObject
from orchestrator.protocol import headers, mcp

# What an instance is needed for, with the capability that it must have told; tools are always one.
_NEEDS: Final = {
    "resources/list": "resources",
    "resources/templates/list": "resources",
    "resources/read": "resources",
    "resources/subscribe": "resources",
    "resources/unsubscribe": "resources",
    "prompts/list": "prompts",
    "prompts/get": "prompts",
    "completion/complete": "completions",
}
# Answered whether or not anything is known of the instance.
_ALWAYS: Final = frozenset({"ping", "logging/setLevel"})
# Answered better than not at all while the instance is away.
_OPENING: Final = frozenset({"initialize", "server/discover"})
# Longer arguments are named beside the event loop.
_LONG_BYTES: Final = 32 * 1024


@final
class Authorize:
    """Decides from the parsed message whether it may go on."""

    def __init__(self, table: Table) -> None:
        """Decide by the table's current snapshot."""
        self._table = table
        # One at a time: each takes turns with the event loop, in which all others wait.
        self._hasher = ThreadPoolExecutor(1, "hash")

    def __call__(self, exchange: Exchange, /, then: Handler) -> Awaitable[Reply]:
        """Let served methods through, with names that the role has.

        Raises:
            MethodNotAllowedError: The method is not served in the caller's era, or not at this
                role.
            PolicyError: The role has no such tool, resource or prompt.
            InvalidParamsError: The parameters do not have the method's shape.
            HeaderMismatchError: A modern caller's headers tell other arguments than its body.
            TargetUnavailableError: Nobody knows yet what the role has.
        """
        method = exchange.method
        if method not in mcp.SERVED[exchange.era]:
            raise MethodNotAllowedError("Method not found")
        if method == "tools/call" and exchange.held_bytes <= _LONG_BYTES:
            place = self._table.known(exchange.role)
            if place is not None:
                call = exchange.call = mcp.parse_tool_call(exchange.params)
                _allow_tool(exchange, call, place)
                return then(exchange)
        return self._decide(exchange, then)

    async def _decide(self, exchange: Exchange, then: Handler) -> Reply:
        method = exchange.method
        if method == "tools/call":
            await self._read_call(exchange)
        elif method in _OPENING:
            try:
                exchange.place = await self._table.attested(exchange.role, exchange.wait)
            except TargetUnavailableError:
                exchange.place = None
        elif method not in _ALWAYS:
            place = await self._table.attested(exchange.role, exchange.wait)
            exchange.place = place
            needed = _NEEDS.get(method)
            if needed is not None:
                _require(place, needed)
            _allow_name(place, method, exchange.params)
        return await then(exchange)

    async def _read_call(self, exchange: Exchange) -> None:
        call = mcp.parse_tool_call(exchange.params)
        if exchange.held_bytes > _LONG_BYTES:
            # It may take a second of Python; the record needs it whatever becomes of the call.
            exchange.arguments_sha256 = await asyncio.get_running_loop().run_in_executor(
                self._hasher, hash_arguments, call.arguments
            )
            exchange.require_whole()
        exchange.call = call
        _allow_tool(exchange, call, await self._table.attested(exchange.role, exchange.wait))


def _allow_tool(exchange: Exchange, call: mcp.ToolCall, place: Place) -> None:
    exchange.place = place
    tool = place.tools.get(call.name)
    if tool is None:
        # The same words for a hidden tool, so that nobody learns that it exists.
        raise UnknownToolError(call.name)
    exchange.kind = tool.kind
    if tool.headers and exchange.era == "modern":
        headers.check_parameters(tool.headers, call.arguments or {}, exchange.head.raw)


def _require(place: Place, needed: str) -> None:
    """Refuse what the role has none of, or what its server does not have, as a server would."""
    policy = place.route.policy
    allowed = {
        "resources": bool(policy.resources),
        "prompts": bool(policy.prompts),
        "completions": bool(policy.resources or policy.prompts),
    }
    if not allowed[needed] or needed not in place.capabilities:
        raise MethodNotAllowedError("Method not found")


def _allow_name(place: Place, method: str, params: JsonObject) -> None:
    match method:
        case "resources/read" | "resources/subscribe" | "resources/unsubscribe":
            uri = params.get("uri")
            if not isinstance(uri, str):
                raise InvalidParamsError("Invalid params: `uri` must be a text")
            if not place.policy.resources.allows(uri):
                raise UnknownResourceError(uri)
        case "prompts/get":
            name = params.get("name")
            if not isinstance(name, str):
                raise InvalidParamsError("Invalid params: `name` must be a text")
            if not place.policy.prompts.allows(name):
                raise UnknownPromptError(name)
        case "completion/complete":
            _allow_reference(place, params.get("ref"))
        case _:
            pass


def _allow_reference(place: Place, reference: object) -> None:
    match reference:
        case {"type": "ref/prompt", "name": str(name)}:
            if not place.policy.prompts.allows(name):
                raise UnknownPromptError(name)
        case {"type": "ref/resource", "uri": str(uri)}:
            if not place.policy.resources.shows(uri):
                raise UnknownResourceError(uri)
        case _:
            raise InvalidParamsError("Invalid params: `ref` must name a prompt or a resource")
