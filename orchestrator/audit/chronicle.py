"""What the control plane has to tell, on its way into the record."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, final

import anyio
from typing_extensions import override

from orchestrator.audit.record import write_time
from orchestrator.clock import Clock
from orchestrator.errors import RecordUnavailableError
from orchestrator.model.notes import NoteFields, Notes
from orchestrator.model.secret_formats import find_secret
from orchestrator.model.text import cut

if TYPE_CHECKING:
    from orchestrator.audit.log import AuditLog

# What waits for the record to be opened; beyond that it is only counted.
MOST_WAITING: Final = 10_000
LONGEST_TEXT: Final = 500
# How long a person waits for a record that is being opened.
PATIENCE_SECONDS: Final = 20.0
_HIDDEN: Final = "?"


@final
class Chronicle(Notes):
    """Writes to the record, and waits with it while it is not open yet."""

    def __init__(self, clock: Clock) -> None:
        """Begin without a record."""
        self._clock = clock
        self._audit: AuditLog | None = None
        self._opened = anyio.Event()
        self._waiting: deque[tuple[str, NoteFields]] = deque()
        self._lost = 0
        self._call: Callable[[Callable[[], None]], object] | None = None

    def open(self, audit: "AuditLog") -> None:
        """Go on with a record; call it in its event loop."""
        self._audit = audit
        self._call = asyncio.get_running_loop().call_soon_threadsafe
        self.flush()
        self._opened.set()

    @override
    async def tell(self, event: str, fields: NoteFields, /) -> None:
        looked = _look(fields)
        with anyio.move_on_after(PATIENCE_SECONDS):
            await self._opened.wait()
        if self._audit is None:
            raise RecordUnavailableError(
                "The record is not open yet",
                hint="`agents status` tells what the gateway waits for.",
            )
        self.flush()
        await self._audit.note_durably(event, looked)

    def mention(self, event: str, fields: NoteFields, /) -> None:
        """Keep one event as soon as that can be; from any thread, without waiting.

        What cannot be kept is counted, and stops nothing.
        """
        if len(self._waiting) >= MOST_WAITING:
            self._lost += 1
            return
        looked = _look(fields)
        if self._call is None:
            looked = {**looked, "at": write_time(self._clock.now())}
        self._waiting.append((event, looked))
        if self._call is not None:
            with suppress(RuntimeError):  # the event loop has ended, and the record with it
                _ = self._call(self.flush)

    def flush(self) -> None:
        """Write what waits; call it in the record's event loop."""
        if self._audit is None:
            return
        while self._waiting:
            event, fields = self._waiting.popleft()
            try:
                self._audit.note(event, fields)
            except RecordUnavailableError:
                self._audit.miss()
        if self._lost:
            self._audit.miss(self._lost)
            self._lost = 0


def _look(fields: NoteFields) -> NoteFields:
    """Bound texts, and keep none that holds a secret."""
    return {
        name: value if isinstance(value, int) else _look_at(value) for name, value in fields.items()
    }


def _look_at(text: str) -> str:
    return _HIDDEN if find_secret(text.encode("utf-8", "replace")) else cut(text, LONGEST_TEXT)
