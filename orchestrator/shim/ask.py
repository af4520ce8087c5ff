"""A person's single requests to a role: modern ones, as no session has to be opened for them."""

from collections.abc import Callable
from typing import Final, final

from orchestrator.errors import ProtocolError, TargetLostError, UpstreamProtocolError
from orchestrator.model.base import JsonObject
from orchestrator.protocol import jsonrpc, mcp
from orchestrator.protocol.header_writer import HeaderWriter
from orchestrator.protocol.sse import EventStream
from orchestrator.shim.request import Answer, Endpoint, request

_ID: Final = 1
_PAGES: Final = 100

Notice = Callable[[str, JsonObject], None]


def _pass_over(_: str, __: JsonObject) -> None:
    """Tell nobody."""


@final
class Asker:
    """Asks one role, on a connection of its own for each request."""

    def __init__(self, endpoint: Endpoint, token: str, version: str) -> None:
        """Prepare.

        Args:
            endpoint: Where the role is reached.
            token: The token to show.
            version: Our own version.
        """
        self._endpoint = endpoint
        self._token = token
        self._info: JsonObject = {"name": "agents", "title": "Bandmaster", "version": version}
        self._headers = HeaderWriter()

    async def list_tools(self) -> jsonrpc.Response:
        """List the role's tools, all pages as one.

        Raises:
            AgentsError: No answer came.
        """
        tools: list[JsonObject] = []
        params: JsonObject = {}
        for _ in range(_PAGES):
            response = await self._ask("tools/list", params, _pass_over)
            if response.result is None:
                return response
            self._headers.learn_tools(response.result)
            found = response.result.get("tools")
            tools += (
                [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
            )
            cursor = response.result.get("nextCursor")
            if cursor is None:
                return jsonrpc.Response(_ID, {"tools": [*tools]}, None)
            params = {"cursor": cursor}
        raise UpstreamProtocolError("the list of tools has no end")

    async def call_tool(self, name: str, arguments: JsonObject, notice: Notice) -> jsonrpc.Response:
        """Call a tool once; leaving early takes the call back. List the tools first.

        Args:
            name: The tool.
            arguments: Its arguments.
            notice: Is told of notifications that come before the answer.

        Raises:
            TargetUnavailableError: Nothing was sent.
            AgentsError: No answer came; the outcome is unknown.
        """
        params: JsonObject = {"name": name, "arguments": arguments}
        return await self._ask("tools/call", params, notice)

    async def _ask(self, method: str, params: JsonObject, notice: Notice) -> jsonrpc.Response:
        meta: JsonObject = {**mcp.envelope(self._info), mcp.PROGRESS_TOKEN_KEY: _ID}
        params = {**params, "_meta": meta}
        headers = [
            *self._headers.write(method, params),
            ("authorization", f"Bearer {self._token}"),
        ]
        body = jsonrpc.encode(jsonrpc.request_body(_ID, method, params))
        async with request(self._endpoint, "POST", headers, body) as answer:
            return await _read(answer, notice)


async def _read(answer: Answer, notice: Notice) -> jsonrpc.Response:
    if answer.media == "application/json":
        return _response(await answer.body())
    if not answer.is_stream:
        raise UpstreamProtocolError(f"the gateway answered with HTTP status {answer.status}")
    events = EventStream()
    async for piece in answer.pieces():
        for data in events.feed(piece):
            message = _message(data)
            if isinstance(message, jsonrpc.Notification):
                notice(message.method, message.params)
            elif isinstance(message, jsonrpc.Response):
                return message
    raise TargetLostError("the gateway's answer ended early; the outcome is unknown")


def _response(body: bytes) -> jsonrpc.Response:
    message = _message(body)
    if not isinstance(message, jsonrpc.Response):
        raise UpstreamProtocolError("the gateway's answer is none")
    return message


def _message(data: bytes) -> jsonrpc.Message:
    try:
        value = jsonrpc.decode(data)
        # What is refused before it was read is told without an id.
        if isinstance(value, dict) and value.get("id", _ID) is None:
            value = {**value, "id": _ID}
        return jsonrpc.parse(value)
    except ProtocolError as error:
        raise UpstreamProtocolError("the gateway's answer is no JSON-RPC message") from error
