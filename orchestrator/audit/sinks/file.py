"""The record in a file of somebody else's, who may move it away at any time."""

from collections.abc import Sequence
from pathlib import Path
from typing import final

from typing_extensions import override

from orchestrator.audit.formats.base import Format
from orchestrator.audit.sinks.base import Entry, Outlet, SinkError, gently
from orchestrator.audit.sinks.dead import append


@final
class FileOutlet(Outlet):
    """Appends to one file; what is told as taken is on disk."""

    def __init__(self, path: Path, form: Format) -> None:
        """Mean this file.

        Args:
            path: The file; its directory has to be there.
            form: How lines are written.
        """
        self._path = path
        self._form = form

    @override
    def send(self, entries: Sequence[Entry]) -> None:
        render, end = self._form.render, self._form.end
        data = b"".join(render(entry.line, entry.told) + end for entry in gently(entries))
        try:
            append(self._path, data, self._form.head)
        except OSError as error:
            raise SinkError(f"{self._path} cannot be written: {error.strerror}") from None

    @override
    def close(self) -> None:
        pass
