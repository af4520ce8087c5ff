"""Callers that go on while something changes: paced or not, each answer looked at and counted."""

import asyncio
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, cast, final

from orchestrator.model.base import JsonObject
from orchestrator.protocol import mcp

_INFO: Final[JsonObject] = {"name": "bench", "version": "1"}


@dataclass(slots=True)
class Tally:
    """What callers saw.

    Attributes:
        seconds: How long each call took.
        failed: What was answered where it was not what it had to be.
        requests: Ids of the requests, as the gateway told them.
    """

    seconds: list[float] = field(default_factory=list[float])
    failed: list[str] = field(default_factory=list[str])
    requests: list[str] = field(default_factory=list[str])

    def quantile(self, part: float) -> float:
        """Tell the time that such a part of the calls kept to, in milliseconds."""
        ordered = sorted(self.seconds)
        return ordered[max(0, math.ceil(part * len(ordered)) - 1)] * 1000


@dataclass(frozen=True, slots=True)
class Errand:
    """What one caller asks for.

    Attributes:
        role: The role it belongs to.
        tool: The tool.
        arguments: Its arguments.
        token: Reads the token, as it is now.
    """

    role: str
    tool: str
    arguments: dict[str, object]
    token: Callable[[], str]


@final
class Callers:
    """Callers that take turns at errands until they are told to stop."""

    def __init__(self, port: int, errands: Sequence[Errand], number: int, pause: float) -> None:
        """Prepare.

        Args:
            port: Where the gateway listens on 127.0.0.1.
            errands: What they ask for, caller by caller.
            number: How many callers there are.
            pause: Seconds that a caller waits between two calls.
        """
        self.tally = Tally()
        self._port = port
        self._errands = errands
        self._number = number
        self._pause = pause
        self._is_over = False

    async def run(self, done: Callable[[], bool]) -> Tally:
        """Call until that is done."""
        callers = [self._call(number, done) for number in range(self._number)]
        _ = await asyncio.gather(*callers)
        return self.tally

    async def _call(self, number: int, done: Callable[[], bool]) -> None:
        errand = self._errands[number % len(self._errands)]
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        count = 0
        while not done():
            count += 1
            begun = time.perf_counter()
            writer.write(_request(errand, count, self._port))
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                answer = await reader.readexactly(_length(head))
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                self.tally.failed.append(f"{errand.role}: {type(error).__name__}")
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                continue
            self.tally.seconds.append(time.perf_counter() - begun)
            self.tally.requests.append(_header(head, b"x-request-id"))
            if not head.startswith(b"HTTP/1.1 200 ") or not _is_good(answer):
                said = (head.partition(b"\r\n")[0] + b" " + answer[:300]).decode()
                self.tally.failed.append(f"{errand.role}: {said}")
            await asyncio.sleep(self._pause)
        writer.close()


def _request(errand: Errand, number: int, port: int) -> bytes:
    params = {"name": errand.tool, "arguments": errand.arguments, "_meta": mcp.envelope(_INFO)}
    message = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
    body = json.dumps(message).encode()
    head = (
        f"POST /{errand.role}/mcp HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Authorization: Bearer {errand.token()}\r\n"
        "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
        f"MCP-Protocol-Version: {mcp.LATEST_MODERN}\r\nMcp-Method: tools/call\r\n"
        f"Mcp-Name: {errand.tool}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _header(head: bytes, name: bytes) -> str:
    for line in head.split(b"\r\n"):
        key, _, value = line.partition(b":")
        if key.lower() == name:
            return value.strip().decode()
    return ""


def _length(head: bytes) -> int:
    return int(_header(head, b"content-length") or 0)


def _is_good(answer: bytes) -> bool:
    said = cast("dict[str, object]", json.loads(answer or b"{}"))
    result = said.get("result")
    return isinstance(result, dict) and not cast("dict[str, object]", result).get("isError")
