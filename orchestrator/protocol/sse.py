"""Event-stream framing, fed any split of bytes, without I/O.

Source: HTML Living Standard, 9.2 Server-sent events.
"""

from typing import Final, final

from orchestrator.errors import UpstreamProtocolError

_MARK: Final = b"\xef\xbb\xbf"
# Longer ones would have to be held for long; who resumes by one sends it back in a header.
_MAX_ID_BYTES: Final = 1_024
_MAX_DIGITS: Final = 9


@final
class EventStream:
    """Reads the data of `message` events; other events and comments are passed over.

    Attributes:
        last_id: Id of the last event that ended, also of one without data; empty without one.
        retry_ms: What the stream says about how long to wait before it is asked for again.
    """

    def __init__(self, limit_bytes: int | None = None) -> None:
        """Begin at the start of a stream.

        Args:
            limit_bytes: How much one event may hold; None for no limit.
        """
        self.last_id = b""
        self.retry_ms: int | None = None
        self._limit = limit_bytes
        self._is_new = True
        self._after_return = False
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._held = 0
        self._kind: bytes = b""
        self._id: bytes = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take some bytes.

        Returns:
            The data of each event that is complete now, never empty.

        Raises:
            UpstreamProtocolError: An event is larger than the limit; the stream is of no more use.
        """
        if self._after_return:
            # The line ended already; this may be the second half of its end.
            self._after_return = not chunk
            chunk = chunk.removeprefix(b"\n")
        if b"\n" not in chunk and b"\r" not in chunk:
            self._rest += chunk
            self._held += len(chunk)
            self._check()
            return []
        text = bytes(self._rest) + chunk
        if b"\r" in text:
            self._after_return = text.endswith(b"\r")
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = text.split(b"\n")
        self._rest = bytearray(lines.pop())
        if self._is_new and lines:
            self._is_new = False
            lines[0] = lines[0].removeprefix(_MARK)
        found = [data for line in lines if (data := self._take(line))]
        self._held = len(self._rest) + self._data_bytes
        self._check()
        return found

    def _check(self) -> None:
        if self._limit is not None and self._held > self._limit:
            raise UpstreamProtocolError(f"an event of more than {self._limit} bytes")

    def _take(self, line: bytes) -> bytes | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._data_bytes += len(line)
        elif field == b"event":
            self._kind = value
        elif field == b"id" and b"\0" not in value and len(value) <= _MAX_ID_BYTES:
            self._id = value
        elif field == b"retry" and value.isdigit() and len(value) <= _MAX_DIGITS:
            self.retry_ms = int(value)
        return None

    def _dispatch(self) -> bytes | None:
        self.last_id = self._id
        data, kind = b"\n".join(self._data), self._kind
        self._data.clear()
        self._data_bytes = 0
        self._kind = b""
        return data if kind in {b"", b"message"} else None
