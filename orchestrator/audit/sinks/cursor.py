"""How far a sink has read the record: a small file of its own, replaced as a whole."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from orchestrator.files import read_regular, write_atomically
from orchestrator.model.base import Model

_LONGEST: Final = 4096


class _Kept(Model):
    file: str
    offset: int
    seq: int
    hash: str
    refused: int
    missed: int


@dataclass(frozen=True, slots=True)
class Cursor:
    """What a sink has behind it.

    Attributes:
        file: Name of the record's file that it reads; empty before the first.
        offset: Where the next line begins there.
        seq: Number of the last line that is behind it.
        hash: SHA-256 of that line, empty if it read none.
        refused: How many lines its receiver refused; they lie beside.
        missed: How many lines were gone before it could read them.
    """

    file: str = ""
    offset: int = 0
    seq: int = 0
    hash: str = ""
    refused: int = 0
    missed: int = 0

    def write(self, path: Path) -> None:
        """Keep it, durably.

        Raises:
            OSError: It cannot be written.
        """
        kept = _Kept(
            file=self.file,
            offset=self.offset,
            seq=self.seq,
            hash=self.hash,
            refused=self.refused,
            missed=self.missed,
        )
        write_atomically(path, kept.model_dump_json().encode() + b"\n")


def read_cursor(path: Path) -> Cursor | None:
    """Read what was kept; None if there is nothing yet.

    Raises:
        ValueError: It is not understood.
        OSError: It cannot be read.
    """
    try:
        data, _ = read_regular(path, _LONGEST, follow=False)
    except FileNotFoundError:
        return None
    try:
        kept = _Kept.model_validate_json(data)
    except ValidationError:
        raise ValueError(f"{path} is not understood") from None
    return Cursor(kept.file, kept.offset, kept.seq, kept.hash, kept.refused, kept.missed)
