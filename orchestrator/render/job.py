"""The daily job of a project, whoever runs it."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.errors import SettingsError

_LONGEST_WORD: Final = 24
_PLAIN: Final = re.compile(r"[^\x00-\x1f\x7f]+")


@dataclass(frozen=True, slots=True)
class Job:
    """What runs once a day.

    Attributes:
        project: The project's directory, absolute.
        argv: Absolute program and arguments.
        user: Who runs it, for what the whole machine runs; empty for a user's own.
    """

    project: str
    argv: Sequence[str]
    user: str = ""

    @property
    def name(self) -> str:
        """A name that no other project's job has."""
        last = self.project.rstrip("/").rpartition("/")[2].lower()
        word = re.sub(r"[^a-z0-9]+", "-", last)[:_LONGEST_WORD].strip("-") or "project"
        return f"agents-rotate-{word}-{self._hash.hex()[:8]}"

    @property
    def minute(self) -> int:
        """A minute from 17 to 46, so that not all projects of a machine begin at once."""
        return 17 + int.from_bytes(self._hash) % 30

    @property
    def mark(self) -> str:
        """The comment by which what was written for this project is known again."""
        return (
            f"# Written by `agents schedule install` for {self.project}; "
            "`agents schedule remove` takes it away."
        )

    @property
    def _hash(self) -> bytes:
        return hashlib.sha256(self.project.encode("utf-8", "surrogateescape")).digest()


def check_job(job: Job) -> None:
    """Make sure that a job can be written on a line.

    Raises:
        SettingsError: A path of it holds a control character, or is not absolute.
    """
    words = [job.project, *job.argv]
    if not all(_PLAIN.fullmatch(word) for word in words) or not job.argv[0].startswith("/"):
        raise SettingsError(
            f"{words!r} cannot be written in a schedule",
            hint="Use absolute paths without control characters.",
        )
    try:
        _ = "".join(words).encode()
    except UnicodeEncodeError:
        raise SettingsError("a path that is not UTF-8 cannot be written in a schedule") from None
