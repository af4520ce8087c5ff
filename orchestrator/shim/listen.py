"""A modern client's `subscriptions/listen`, which stays open though the gateway is restarted.

Source: MCP 2026-07-28, subscriptions.
"""

from contextlib import suppress
from typing import Final, final

from orchestrator.errors import (
    AgentsError,
    TargetLostError,
    TargetUnavailableError,
    UpstreamProtocolError,
)
from orchestrator.model.base import Json, JsonObject
from orchestrator.protocol import jsonrpc
from orchestrator.protocol.header_writer import HeaderWriter
from orchestrator.shim.exchange import Call, Tell, answer_to, one_line, read_json, read_messages
from orchestrator.shim.request import Answer
from orchestrator.shim.way import Patience, Pause, Way

METHOD: Final = "subscriptions/listen"
_ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"
_SUBSCRIPTION_KEY: Final = "io.modelcontextprotocol/subscriptionId"
_LISTS: Final = (
    ("toolsListChanged", "tools"),
    ("promptsListChanged", "prompts"),
    ("resourcesListChanged", "resources"),
)
# Too many streams, a gateway that has too much to do.
_LATER: Final = frozenset({429, 503})


@final
class Subscription:
    """One subscription, over one stream after the other."""

    def __init__(self, way: Way, headers: HeaderWriter, call: Call, tell: Tell) -> None:
        """Prepare.

        Args:
            way: Leads to the gateway.
            headers: Writes the request's headers.
            call: The request.
            tell: Takes a line for the client.
        """
        self._way = way
        self._headers = headers
        self._call = call
        self._tell = tell
        self._told: Json = None
        self._last = b""

    async def run(self) -> bytes:
        """Listen until the client cancels it, or the gateway has no stream for it.

        A stream that ends is opened again, even one that the gateway ended in due form: that is
        how it says that it is being restarted. Only if there is no other was it the end.

        Returns:
            The answer to the request.

        Raises:
            AgentsError: It was not opened, or the gateway's words are of no use.
        """
        patience, pause = Patience(), Pause()
        while True:
            try:
                if await self._listen():
                    return self._last
            except (TargetUnavailableError, TargetLostError) as error:
                if self._told is None:
                    await self._way.find_again(error, patience)
                    continue
            await pause.wait()
            with suppress(AgentsError):
                await self._way.look()

    async def _listen(self) -> bool:
        """Listen as long as a stream lasts; True if the request is answered for good."""
        request = self._call.request
        headers = self._headers.write(request.method, request.params)
        async with self._way.open("POST", headers, self._call.body) as answer:
            if not answer.is_stream:
                return await self._take_refusal(answer)
            async for text in read_messages(answer):
                message = read_json(text)
                method = message.get("method") if isinstance(message, dict) else None
                if method is None:
                    _, self._last = answer_to(request, message, text)
                    return self._told is None
                if method == _ACKNOWLEDGED and self._told is not None:
                    for missed in self._missed():
                        await self._tell(jsonrpc.encode(missed))
                    continue
                if method == _ACKNOWLEDGED and isinstance(message, dict):
                    self._told = message.get("params", {})
                await self._tell(one_line(text))
        raise TargetLostError("the subscription's stream ended early")

    async def _take_refusal(self, answer: Answer) -> bool:
        if self._told is not None and answer.status in _LATER:
            return False
        async for text in read_messages(answer):
            _, line = answer_to(self._call.request, read_json(text), text)
            self._last = self._last or line
        if not self._last:
            raise UpstreamProtocolError(f"the gateway answered with HTTP status {answer.status}")
        return True

    def _missed(self) -> list[JsonObject]:
        """Tell what may have been said between two streams."""
        told = self._told.get("notifications") if isinstance(self._told, dict) else None
        if not isinstance(told, dict):
            return []
        meta: JsonObject = {_SUBSCRIPTION_KEY: self._call.request.id}
        uris = told.get("resourceSubscriptions")
        return [
            *(
                jsonrpc.notification_body(f"notifications/{name}/list_changed", {"_meta": meta})
                for key, name in _LISTS
                if told.get(key) is True
            ),
            *(
                jsonrpc.notification_body(
                    "notifications/resources/updated", {"uri": uri, "_meta": meta}
                )
                for uri in (uris if isinstance(uris, list) else [])
            ),
        ]
