"""What an operator refuses of an identity provider's tokens before they end."""

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from orchestrator.errors import SettingsError
from orchestrator.model.auth import Auth
from orchestrator.model.base import JsonObject
from orchestrator.model.names import TokenId

# A denial is kept for longer than any token lives that it could be about.
KEPT: Final = timedelta(days=1)
_ID: Final = re.compile(r"jwt-[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Denial:
    """One denial.

    Attributes:
        kind: What is refused: one token by its id, a subject's tokens, or a role's.
        issuer: Whose tokens.
        name: The token's id as records tell it, the subject, or the role.
        until: Tokens of a subject or a role are refused if they were issued until then.
        created_at: When it was said.
    """

    kind: Literal["token", "subject", "role"]
    issuer: str
    name: str
    until: datetime
    created_at: datetime

    def describe(self) -> JsonObject:
        """Tell all of it."""
        return {
            "kind": self.kind,
            "issuer": self.issuer,
            "name": self.name,
            "until": self.until.isoformat().replace("+00:00", "Z"),
            "created_at": self.created_at.isoformat().replace("+00:00", "Z"),
        }


def name_token(issuer: str, kind: Literal["jti", "text"], text: str) -> TokenId:
    """Name an access token by a hash of its `jti`, or of what is signed where it has none."""
    digest = hashlib.sha256(f"{issuer}\n{kind}\n{text}".encode()).hexdigest()
    return TokenId(f"jwt-{digest[:16]}")


def is_access_token_id(text: str) -> bool:
    """Tell whether a text is the id of an access token, as records tell it."""
    return _ID.fullmatch(text) is not None


def make_denial(
    auth: Auth, now: datetime, *, token_id: str = "", jti: str = "", subject: str = ""
) -> Denial:
    """Say what is refused: exactly one of the three.

    Args:
        auth: Which tokens agents show.
        now: The time.
        token_id: A token, as records call it.
        jti: A token, as the identity provider calls it.
        subject: All tokens that were issued to it so far.

    Raises:
        SettingsError: No identity provider issues tokens here, or it is not exactly one.
    """
    if auth.mode != "oauth" or auth.issuer is None:
        raise SettingsError(
            "no identity provider issues tokens here",
            hint="`agents token revoke ID` ends a static token.",
        )
    if sum(map(bool, (token_id, jti, subject))) != 1:
        raise SettingsError("Name one token or one subject")
    if subject:
        # Its clock may be ahead of ours by so much.
        return Denial("subject", auth.issuer, subject, now + auth.leeway, now)
    if token_id and not is_access_token_id(token_id):
        raise SettingsError("that is no id of an access token")
    name = token_id or name_token(auth.issuer, "jti", jti)
    return Denial("token", auth.issuer, name, now, now)
