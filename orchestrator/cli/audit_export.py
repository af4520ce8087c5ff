"""`agents audit export`: the record for other programs."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from orchestrator.audit.formats.choose import FORMATS
from orchestrator.audit.query import Query, select
from orchestrator.audit.reader import end
from orchestrator.cli.output import note
from orchestrator.cli.places import find_paths
from orchestrator.errors import NotRunningError, SettingsError
from orchestrator.files import PRIVATE_FILE


def export(  # noqa: PLR0913, PLR0917  one for each option
    project: Path | None, form: str, since: str, until: str, role: str, out: Path | None
) -> None:
    """Write the lines that are asked for, the oldest first.

    Raises:
        NotRunningError: There is no record (yet).
        SettingsError: There is no such format, or the file is there or cannot be written.
    """
    chosen = FORMATS.get(form)
    if chosen is None:
        raise SettingsError(
            f"{form!r} is no format of exports", hint=f"There are {', '.join(FORMATS)}."
        )
    directory = find_paths(project).audit
    if end(directory) is None:
        raise NotRunningError("nothing is recorded yet", hint="Start with `agents up`.")
    count = 0
    with _open(out) as file:
        _ = file.write(chosen.head)
        for line, told in select(directory, Query(since=since, until=until, role=role)):
            _ = file.write(chosen.render(line, told) + chosen.end)
            count += 1
    if out is not None:
        note(f"{count} lines written to {out}")


@contextmanager
def _open(out: Path | None) -> Generator[BinaryIO]:
    """Open the place that is written to; a file is new, private, and on disk at the end."""
    if out is None:
        try:
            yield sys.stdout.buffer
        finally:
            sys.stdout.flush()
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(out, flags, PRIVATE_FILE), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        hint = "Name a file that is not there yet." if isinstance(error, FileExistsError) else ""
        raise SettingsError(f"{out} cannot be written: {error.strerror}", hint=hint) from error
