"""The ends of a project's containers, as the engine tells them, read in a thread of their own."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias, final

from orchestrator.errors import ContainerEngineError
from orchestrator.runtimes.docker_answers import read_event
from orchestrator.runtimes.docker_client import DockerClient, EventStream

KILLED: Final = 128 + 9
_SIGNALS: Final = range(129, 129 + 64)


@dataclass(frozen=True, slots=True)
class Died:
    """The end of a container.

    Attributes:
        container: Its id.
        code: Exit code of its first process, or minus the signal's number; None if nobody can tell.
        cause: What the engine knows beyond that.
    """

    container: str
    code: int | None
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Connected:
    """From here on nothing is missed."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The engine tells no more, and why."""

    error: ContainerEngineError


@dataclass(frozen=True, slots=True)
class Reminder:
    """The time that somebody asked for is over."""


News: TypeAlias = Died | Connected | Lost | Reminder


def exit_of(code: int) -> int:
    """Tell an exit code as the rest of Bandmaster does.

    The engine says 128 and the signal's number where a signal ended the first process.
    """
    return 128 - code if code in _SIGNALS else code


@final
class EventReader:
    """One subscription."""

    def __init__(self, client: DockerClient, project: str) -> None:
        """Subscribe to nothing yet."""
        self._client = client
        self._project = project
        self._queue: asyncio.Queue[News] = asyncio.Queue()
        self._stream: EventStream | None = None
        self._is_over = False

    def begin(self) -> None:
        """Start to read."""
        loop = asyncio.get_running_loop()

        def tell(news: News) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody hears any more
                _ = loop.call_soon_threadsafe(self._queue.put_nowait, news)

        threading.Thread(
            target=self._read, args=(tell,), name="container-events", daemon=True
        ).start()

    def close(self) -> None:
        """Read no more; whenever it is called, nothing stays open."""
        self._is_over = True
        if (stream := self._stream) is not None:
            _close(stream)

    def remind(self, seconds: float) -> None:
        """Have a reminder among the news after a while."""
        _ = asyncio.get_running_loop().call_later(seconds, self._queue.put_nowait, Reminder())

    async def next(self) -> News:
        """Wait for news."""
        return await self._queue.get()

    def _read(self, tell: Callable[[News], None]) -> None:
        if self._is_over:
            return
        stream: EventStream | None = None
        try:
            # It is kept before the loop asks whether all is over, and `close` says so before it
            # looks for what is kept: so the two cannot miss each other.
            self._stream = stream = self._client.events(self._project)
            tell(Connected())
            while not self._is_over:
                event = read_event(next(stream))
                if event.action == "die":
                    tell(self._died(event.actor.id, event.actor.attributes.get("exitCode", "")))
        except ContainerEngineError as error:
            tell(Lost(error))
        except StopIteration:
            tell(Lost(ContainerEngineError("the container engine is gone")))
        except Exception:  # noqa: BLE001 - whatever a stream ends with: the engine, or its connection
            tell(Lost(ContainerEngineError("the container engine ended the stream of its events")))
        finally:
            if stream is not None:
                _close(stream)

    def _died(self, container: str, code: str) -> Died:
        number = int(code) if code.isdigit() else None
        if number != KILLED:
            return Died(container, None if number is None else exit_of(number))
        try:
            found = self._client.find(container)
        except ContainerEngineError:
            found = None
        if found is not None and found.state.out_of_memory:
            return Died(container, -9, "out of memory")
        return Died(container, -9)


def _close(stream: EventStream) -> None:
    with contextlib.suppress(Exception):  # it is closed already, or the other end is gone
        stream.close()
