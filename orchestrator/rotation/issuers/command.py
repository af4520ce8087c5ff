"""Credentials that a program of the user's makes.

The contract is in `docs/how-to/rotate-with-a-program.md`.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, final

from pydantic import SecretStr
from typing_extensions import override

from orchestrator.errors import IssuerError, IssuerUncertainError, SecretError
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.issuers import CommandIssuer, Verb
from orchestrator.model.names import RoleName
from orchestrator.rotation.issuers.program import Surroundings
from orchestrator.rotation.ports import (
    WHOLE,
    Capabilities,
    Credential,
    Ending,
    Issuer,
    Minted,
    Verdict,
)
from orchestrator.rotation.running import ProgramError

_MOST_FIELDS: Final = 16
_LONGEST: Final = 64 * 1024
_DEEPEST: Final = 16


@final
class ProgramIssuer(Issuer):
    """An issuer of kind `command`."""

    def __init__(self, settings: CommandIssuer, surroundings: Surroundings) -> None:
        """Keep what the file says."""
        self._settings = settings
        self._surroundings = surroundings

    @property
    @override
    def capabilities(self) -> Capabilities:
        settings = self._settings
        return Capabilities(
            overlap=settings.overlap,
            revoke=settings.revoke,
            lists=settings.lists,
            probes=settings.probes,
            max_life=settings.max_life,
        )

    @override
    async def mint(self, name: str, role: RoleName, life: timedelta) -> Minted:
        if self._settings.max_life is not None:
            life = min(life, self._settings.max_life)
        seconds = int(life.total_seconds())
        try:
            answer = await self._ask("mint", {"name": name, "role": role, "lifeSeconds": seconds})
        except ProgramError as error:
            kind = IssuerError if error.was_refused else IssuerUncertainError
            raise kind(str(error)) from None
        minted = read_minted(answer)
        if minted is None:
            raise IssuerUncertainError("the program answered to mint with no credential")
        return minted

    @override
    async def probe(self, credential: Credential) -> Verdict:
        if not self._settings.probes:
            return Verdict.UNKNOWN
        try:
            answer = await self._ask("probe", written(credential))
        except (ProgramError, SecretError, IssuerError):
            return Verdict.UNKNOWN
        return read_verdict(answer)

    @override
    async def revoke(self, name: str, handle: JsonObject) -> Ending:
        match self._settings.revoke:
            case "manual":
                return Ending.BY_PERSON
            case "expiry":
                return Ending.QUEUED
            case "api" | "disable":
                pass
        try:
            answer = await self._ask("revoke", {"name": name, "handle": handle})
        except ProgramError as error:
            raise IssuerError(str(error)) from None
        match answer.get("ending"):
            case "asked":
                return Ending.ASKED
            case "queued":
                return Ending.QUEUED
            case "by-person":
                return Ending.BY_PERSON
            case _:
                raise IssuerError("the program answered to revoke with no `ending`")

    @override
    async def list(self, prefix: str) -> Mapping[str, JsonObject]:
        try:
            answer = await self._ask("list", {"prefix": prefix})
        except ProgramError as error:
            raise IssuerError(str(error)) from None
        made = answer.get("made")
        if not isinstance(made, dict):
            raise IssuerError("the program answered to list with no `made`")
        found: dict[str, JsonObject] = {}
        for name, handle in made.items():
            if not isinstance(handle, dict):
                raise IssuerError("the program listed something without a handle")
            if name.startswith(prefix):
                found[name] = handle
        return found

    async def _ask(self, verb: Verb, question: JsonObject) -> JsonObject:
        command = self._settings.command(verb)
        if command is None:
            raise IssuerError(f"no program is there for {verb}")
        try:
            return await self._surroundings.ask(command, {"verb": verb, **question})
        except SecretError as error:
            raise IssuerError(f"a secret of the program is missing: {error}") from error


def written(credential: Credential) -> JsonObject:
    """Write a credential for a program's stdin, and for nothing else."""
    texts: dict[str, Json] = {
        name: text.get_secret_value() for name, text in credential.fields.items()
    }
    return {"secret": texts[WHOLE]} if set(texts) == {WHOLE} else {"fields": texts}


def read_verdict(answer: JsonObject) -> Verdict:
    """Read what a probe told; anything unexpected proves nothing."""
    match answer.get("verdict"):
        case "accepted":
            return Verdict.ACCEPTED
        case "refused":
            return Verdict.REFUSED
        case _:
            return Verdict.UNKNOWN


def read_minted(answer: JsonObject) -> Minted | None:
    """Read what a program made; None if that is no credential, a handle and an end."""
    fields = _fields(answer)
    handle = answer.get("handle", {})
    ends = _moment(answer.get("expiresAt"))
    if fields is None or not isinstance(handle, dict) or ends == "":
        return None
    if _holds(handle, [text for name, text in fields.items() if _is_secret(name, fields)]):
        return None
    credential = Credential({name: SecretStr(text) for name, text in fields.items()})
    return Minted(credential, handle, ends if isinstance(ends, datetime) else None)


def _fields(answer: JsonObject) -> dict[str, str] | None:
    if "secret" in answer and "fields" in answer:
        return None
    fields = answer.get("fields", {WHOLE: answer.get("secret")})
    if not isinstance(fields, dict) or not 0 < len(fields) <= _MOST_FIELDS:
        return None
    found = {name: text for name, text in fields.items() if isinstance(text, str)}
    is_sound = all(text and len(text) <= _LONGEST and "\0" not in text for text in found.values())
    return found if is_sound and len(found) == len(fields) else None


def _is_secret(name: str, fields: Mapping[str, str]) -> bool:
    """Tell whether a field may not be in a handle; a user's name may be one."""
    return len(fields) == 1 or name.lower() not in {"user", "username", "login", "id"}


def _holds(value: Json, texts: list[str], room: int = _DEEPEST) -> bool:
    """Tell whether a handle holds a secret; one that is too deep to look at may."""
    if not room:
        return True
    match value:
        case str():
            return any(text in value for text in texts)
        case dict():
            parts = (*value.keys(), *value.values())
            return any(_holds(part, texts, room - 1) for part in parts)
        case list():
            return any(_holds(part, texts, room - 1) for part in value)
        case _:
            return False


def _moment(value: Json) -> datetime | str | None:
    """Read a moment; empty if it is none, None if there is none."""
    if value is None:
        return None
    if not isinstance(value, str):
        return ""
    try:
        moment = datetime.fromisoformat(value)
        return moment.astimezone(UTC) if moment.tzinfo is not None else ""
    except (ValueError, OverflowError):
        return ""
