"""Event-stream framing, fed any split of bytes.

Source: HTML Living Standard, 9.2 Server-sent events.
"""

from collections.abc import Generator
from typing import final


@final
class EventStream:
    """Reads the data of `message` events; ids, retry times and comments are passed over."""

    def __init__(self) -> None:
        """Begin at the start of a stream."""
        self._rest: bytes = b""
        self._pieces: list[bytes] = []
        self._data: list[bytes] = []
        self._kind: bytes = b""

    def feed(self, chunk: bytes) -> Generator[bytes]:
        """Take some bytes.

        Yields:
            The data of each event that is complete now, never empty.
        """
        if b"\n" not in chunk and b"\r" not in chunk:
            self._pieces.append(chunk)
            return
        text = b"".join((self._rest, *self._pieces, chunk))
        self._pieces.clear()
        # A carriage return at the end may be half of a line's end.
        held = b"\r" if text.endswith(b"\r") else b""
        lines = text.removesuffix(held).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = lines.pop() + held
        for line in lines:
            if data := self._take(line):
                yield data

    def _take(self, line: bytes) -> bytes | None:
        if line:
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"data":
                self._data.append(value)
            elif field == b"event":
                self._kind = value
            return None
        data, kind = b"\n".join(self._data), self._kind
        self._data.clear()
        self._kind = b""
        return data if kind in {b"", b"message"} else None
