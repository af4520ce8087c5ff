"""Signed links to the page where one approval is decided, for messages that go to people.

A link says of which approval it is, whom it was made for, until when, and has a number of its own.
It opens that page and nothing else. What it was used for cannot be repeated: this process knows its
number, and after a restart the approval itself knows who decided it.
"""

import hashlib
import hmac
import os
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, cast, final

import orjson

from orchestrator.errors import LinkRefusedError, StateCorruptError
from orchestrator.files import make_private_directory, write_atomically

_KEY_BYTES: Final = 32
_PURPOSE: Final = b"approval link 1:"
_LONGEST: Final = 512
_PARTS: Final = 4


@dataclass(frozen=True, slots=True)
class Link:
    """What a link says.

    Attributes:
        approval: The approval that it is for.
        approver: Whom it was made for, who needs no passphrase then; empty for whoever has one.
        expires_at: Until when it is good.
        number: What no other link has.
    """

    approval: str
    approver: str
    expires_at: datetime
    number: str


@final
class Links:
    """Makes links and reads them."""

    def __init__(self, key: Path, now: Callable[[], datetime]) -> None:
        """Keep where the key is, or will be made at the first use.

        Args:
            key: The key's file.
            now: Tells the time.
        """
        self._place = key
        self._now = now
        self._key: bytes | None = None
        self._spent: dict[str, datetime] = {}

    def make(self, approval: str, expires_at: datetime, *, approver: str = "") -> str:
        """Make a link's text, which is fit for a path of a URL.

        Args:
            approval: Which approval it opens.
            expires_at: Until when, whole seconds of it.
            approver: Whom it is for. Whoever has it decides as them: send it to nobody else.

        Raises:
            StateCorruptError: The key's file holds no key.
        """
        number = secrets.token_urlsafe(9)
        said = orjson.dumps([approval, approver, int(expires_at.timestamp()), number])
        return f"{_write(said)}.{_write(self._sign(said))}"

    def read(self, text: str) -> Link:
        """Tell what a link says, if it is one of ours that still may be used.

        Raises:
            LinkRefusedError: It is forged, over, or was used.
            StateCorruptError: The key's file holds no key.
        """
        said, signature = _split(text)
        if not hmac.compare_digest(signature, self._sign(said)):
            raise LinkRefusedError("forged")
        parts = cast("list[object]", orjson.loads(said))
        if len(parts) != _PARTS:
            raise LinkRefusedError("forged")
        approval, approver, end, number = parts
        expires_at = datetime.fromtimestamp(float(str(end)), UTC)
        link = Link(str(approval), str(approver), expires_at, str(number))
        if self._now() >= link.expires_at:
            raise LinkRefusedError("expired", link.approval)
        if link.number in self._spent:
            raise LinkRefusedError("replayed", link.approval)
        return link

    def spend(self, link: Link) -> None:
        """Note that a link is used to decide; from now on it is refused.

        Raises:
            LinkRefusedError: Another decision by it came before this one.
        """
        if link.number in self._spent:
            raise LinkRefusedError("replayed", link.approval)
        now = self._now()
        self._spent = {name: end for name, end in self._spent.items() if end > now}
        self._spent[link.number] = link.expires_at

    def _sign(self, said: bytes) -> bytes:
        if self._key is None:
            self._key = _load(self._place)
        return hmac.new(self._key, _PURPOSE + said, hashlib.sha256).digest()


def _load(path: Path) -> bytes:
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        make_private_directory(path.parent)
        key = secrets.token_bytes(_KEY_BYTES)
        write_atomically(path, key)
    except OSError as error:
        raise StateCorruptError(f"{path} cannot be read: {os.strerror(error.errno or 0)}") from None
    if len(key) != _KEY_BYTES:
        raise StateCorruptError(
            f"{path} holds no key of {_KEY_BYTES} bytes",
            hint="Move it away; links that were sent earlier then open nothing any more.",
        )
    return key


def _split(text: str) -> tuple[bytes, bytes]:
    said, dot, signature = text.partition(".")
    if not dot or len(text) > _LONGEST or not text.isascii():
        raise LinkRefusedError("forged")
    try:
        return _read(said), _read(signature)
    except ValueError:
        raise LinkRefusedError("forged") from None


def _write(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _read(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
