"""Events kept in memory, for clients of the older era that come again for what they missed."""

from mcp.server.streamable_http import EventCallback, EventId, EventMessage, EventStore, StreamId
from mcp_types import JSONRPCMessage
from typing_extensions import override


class Events(EventStore):
    """Keeps everything."""

    def __init__(self) -> None:
        """Start empty."""
        self._events: list[tuple[StreamId, JSONRPCMessage | None]] = []

    @override
    async def store_event(self, stream_id: StreamId, message: JSONRPCMessage | None) -> EventId:
        """Keep an event."""
        self._events.append((stream_id, message))
        return str(len(self._events))

    @override
    async def replay_events_after(
        self, last_event_id: EventId, send_callback: EventCallback
    ) -> StreamId | None:
        """Give what came after an event on its stream."""
        if not last_event_id.isdigit() or not 0 < int(last_event_id) <= len(self._events):
            return None
        last = int(last_event_id)
        stream = self._events[last - 1][0]
        for number, (owner, message) in enumerate(self._events[last:], last + 1):
            if owner == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream
