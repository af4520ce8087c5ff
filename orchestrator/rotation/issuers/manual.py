"""Credentials that a person makes, and gives by `agents rotate provide`."""

from collections.abc import Mapping
from datetime import timedelta
from typing import final

from typing_extensions import override

from orchestrator.errors import IssuerError, IssuerPersonError, SecretError
from orchestrator.model.base import JsonObject
from orchestrator.model.issuers import ManualIssuer
from orchestrator.model.names import RoleName
from orchestrator.rotation.issuers.command import read_verdict, written
from orchestrator.rotation.issuers.program import Surroundings
from orchestrator.rotation.ports import Capabilities, Credential, Ending, Issuer, Minted, Verdict
from orchestrator.rotation.running import ProgramError


@final
class PersonIssuer(Issuer):
    """An issuer of kind `manual`."""

    def __init__(self, settings: ManualIssuer, surroundings: Surroundings) -> None:
        """Keep what the file says."""
        self._settings = settings
        self._surroundings = surroundings

    @property
    @override
    def capabilities(self) -> Capabilities:
        settings = self._settings
        return Capabilities(
            overlap=settings.overlap,
            revoke="manual",
            lists=False,
            probes=settings.probe is not None,
            max_life=settings.max_life,
        )

    @override
    async def mint(self, name: str, role: RoleName, life: timedelta) -> Minted:
        # Names are `bm-ROLE-ID-ATTEMPT`.
        parts = name.rsplit("-", 2)
        rotation = parts[1] if len(parts) == 3 else "ID"  # noqa: PLR2004 - just said
        raise IssuerPersonError(
            f"{role} needs a new credential, named {name}: {self._settings.instructions}",
            hint=f"Then give it: `agents rotate provide {rotation}` reads it from stdin.",
        )

    @override
    async def probe(self, credential: Credential) -> Verdict:
        if self._settings.probe is None:
            return Verdict.UNKNOWN
        question: JsonObject = {"verb": "probe", **written(credential)}
        try:
            answer = await self._surroundings.ask(self._settings.probe, question)
        except (ProgramError, SecretError):
            return Verdict.UNKNOWN
        return read_verdict(answer)

    @override
    async def revoke(self, name: str, handle: JsonObject) -> Ending:
        return Ending.BY_PERSON

    @override
    async def list(self, prefix: str) -> Mapping[str, JsonObject]:
        raise IssuerError("nobody keeps a list of what persons made")
