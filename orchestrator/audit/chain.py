"""How lines hold together: each names the one before it, and some are signed.

A line's `prev` is the SHA-256 of the whole line before it, so whoever changes one line has to
write all later ones anew. Signed lines, and the head, cannot be written anew without the key. The
head lies beside the lines and names the newest one that was signed: without it nobody could tell
that the end was cut off. It is signed for a purpose of its own, so that none can be made of a line
that was signed earlier.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import orjson
from typing_extensions import override

from orchestrator.audit.keys import Keys, Signer
from orchestrator.audit.record import Fields, seal
from orchestrator.files import read_regular, write_atomically

if TYPE_CHECKING:
    from orchestrator.model.base import JsonObject

# What the first line of a record names.
NOTHING: Final = "0" * 64
HEAD: Final = "head.json"
PUBLIC: Final = "audit.pub"
# No more lines than these are without a signature.
CHECKPOINT_LINES: Final = 1000
_LINE: Final = b"bandmaster audit line\n"
_HEAD: Final = b"bandmaster audit head\n"
_LONGEST_HEAD: Final = 4096


def digest(line: bytes) -> str:
    """Name a line, without its end."""
    return hashlib.sha256(line).hexdigest()


def sign(fields: Fields, signer: Signer) -> bytes:
    """Make a line that is signed as a whole."""
    fields["key"] = signer.public.id
    fields["signature"] = signer.sign(_LINE + seal(fields))
    return seal(fields)


def is_signed(told: "JsonObject", keys: Keys, purpose: bytes = _LINE) -> bool:
    """Tell whether what a line tells is signed with one of these keys."""
    key = keys.get(str(told.get("key")))
    rest = {name: value for name, value in told.items() if name != "signature"}
    data = purpose + orjson.dumps(rest, option=orjson.OPT_SORT_KEYS)
    return key is not None and key.has_signed(data, told.get("signature"))


@dataclass(frozen=True, slots=True)
class Head:
    """The newest signed line of a record.

    Attributes:
        seq: Its number.
        hash: Its SHA-256.
        time: When it was written.
    """

    seq: int
    hash: str
    time: str = ""

    @override
    def __str__(self) -> str:
        """Write it as people note it elsewhere."""
        return f"{self.seq}:{self.hash}"


def beside_key(key: Path) -> tuple[Path, Path]:
    """Tell where the head and the public keys are kept once more, beside the key that signs.

    Whoever puts an older record in the place of this one, or a key of their own, has these
    against them.
    """
    return key.with_suffix(".head"), key.with_suffix(".pub")


def write_head(path: Path, head: Head, signer: Signer) -> None:
    """Keep the head, signed, in place of an earlier one.

    Raises:
        OSError: It cannot be written.
    """
    fields: Fields = {"hash": head.hash, "key": signer.public.id, "seq": head.seq}
    fields["time"] = head.time
    fields["signature"] = signer.sign(_HEAD + seal(fields))
    write_atomically(path, seal(fields) + b"\n")


def read_head(path: Path, keys: Keys) -> tuple[Head | None, bool]:
    """Read the head.

    Returns:
        What it says, None if it is missing or says nothing; and whether it is signed with one of
        the keys.
    """
    try:
        data, _ = read_regular(path, _LONGEST_HEAD, follow=False)
        told = cast("object", orjson.loads(data))
    except (OSError, ValueError):
        return None, False
    if not isinstance(told, dict):
        return None, False
    fields = cast("JsonObject", told)
    seq, name, time = fields.get("seq"), fields.get("hash"), fields.get("time")
    if not (isinstance(seq, int) and isinstance(name, str) and isinstance(time, str)):
        return None, False
    return Head(seq, name, time), is_signed(fields, keys, _HEAD)
