"""Credentials that live in AWS Secrets Manager, replaced in the four steps that AWS names.

create (AWSPENDING) and set are one `mint` here, test is `probe`, and finish is the vault's
`promote`. Nothing in that scheme ends the value before: a program of the user's does, or a person,
or the service itself when it is told the new one.
"""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final, final

from anyio import to_thread
from pydantic import SecretStr
from typing_extensions import override

from orchestrator.clock import Clock
from orchestrator.errors import (
    IssuerError,
    IssuerUncertainError,
    SecretError,
    SecretStoreUnavailableError,
)
from orchestrator.model.base import JsonObject
from orchestrator.model.issuers_cloud import AwsSmIssuer, AwsVerb
from orchestrator.model.names import RoleName
from orchestrator.rotation.issuers.command import read_minted, read_verdict, written
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
from orchestrator.rotation.vaults.secrets_manager import AwsVault, version_id
from orchestrator.secrets.aws_client import AwsClient

_VERSION: Final = "version"
_ROLE: Final = "role"
_NAME: Final = re.compile(r"bm-(?P<role>.+?)-(?:[0-9a-f]{12}-[0-9]*)?")


@final
class SecretsManagerIssuer(Issuer):
    """An issuer of kind `aws-sm`."""

    def __init__(
        self,
        settings: AwsSmIssuer,
        client: AwsClient,
        clock: Clock,
        surroundings: Surroundings,
    ) -> None:
        """Keep the place; nothing is asked yet.

        Args:
            settings: What `agents.yaml` says.
            client: The region, of the store that it names.
            clock: For the ends of credentials.
            surroundings: What its programs run with.
        """
        self._settings = settings
        self._client = client
        self._clock = clock
        self._surroundings = surroundings
        self._vault = AwsVault(client, settings.secret)

    @property
    def vault(self) -> AwsVault:
        """Where its credentials are kept: the secret itself."""
        return self._vault

    @property
    @override
    def capabilities(self) -> Capabilities:
        settings = self._settings
        return Capabilities(
            overlap=settings.overlap,
            revoke="api" if "revoke" in settings.verbs else "manual",
            # What a program made is known here only once it is kept.
            lists="mint" not in settings.verbs,
            probes="test" in settings.verbs,
            max_life=settings.max_life,
        )

    @override
    async def mint(self, name: str, role: RoleName, life: timedelta) -> Minted:
        began = self._clock.now()
        settings = self._settings
        try:
            current = await self._vault.current(role)
            made = await self._vault.find(role, version_id(name))
        except SecretStoreUnavailableError as error:
            raise IssuerError(str(error), hint=error.hint) from None
        ends = [began + settings.max_life] if settings.max_life is not None else []
        if made is None:
            made, its_end = await self._make(name, role, life, current)
            ends += [its_end] if its_end is not None else []
            try:
                await self._vault.put(role, name, made)
            except SecretStoreUnavailableError as error:
                raise IssuerUncertainError(str(error), hint=error.hint) from None
        if "set" in settings.verbs:
            await self._set(name, role, made, current)
        handle: JsonObject = {_ROLE: role, _VERSION: version_id(name)}
        return Minted(made, handle, min(ends, default=None))

    @override
    async def probe(self, credential: Credential) -> Verdict:
        if "test" not in self._settings.verbs:
            return Verdict.UNKNOWN
        try:
            return read_verdict(await self._ask("test", written(credential)))
        except (ProgramError, SecretError):
            return Verdict.UNKNOWN

    @override
    async def revoke(self, name: str, handle: JsonObject) -> Ending:
        role = handle.get(_ROLE, _role_of(name))
        if not isinstance(role, str) or not role:
            raise IssuerError(f"nothing is known of {name} by which it could be revoked")
        try:
            credential = await self._vault.find(RoleName(role), version_id(name))
            if "revoke" in self._settings.verbs:
                texts = written(credential) if credential is not None else {}
                _ = await self._ask("revoke", {"name": name, "handle": handle, **texts})
            # Its labels go, so that it blocks nobody; one that still counts keeps its own.
            await self._vault.unlabel(RoleName(role), name)
        except ProgramError as error:
            raise IssuerError(str(error)) from None
        except SecretError as error:
            raise IssuerError(str(error), hint=error.hint) from None
        return Ending.ASKED if self.capabilities.revoke == "api" else Ending.BY_PERSON

    @override
    async def list(self, prefix: str) -> Mapping[str, JsonObject]:
        role = _role_of(prefix)
        try:
            names = await self._vault.names(RoleName(role))
        except SecretStoreUnavailableError as error:
            raise IssuerError(str(error), hint=error.hint) from None
        return {
            name: {_ROLE: role, _VERSION: version_id(name)}
            for name in names
            if name.startswith(prefix)
        }

    async def _make(
        self, name: str, role: RoleName, life: timedelta, current: Credential | None
    ) -> tuple[Credential, datetime | None]:
        """Make what the credential is to be, and tell its end where it has one of its own."""
        settings = self._settings
        old = dict(current.fields) if current is not None else {}
        if "mint" in settings.verbs:
            question: JsonObject = {
                "name": name,
                "role": role,
                "lifeSeconds": int(life.total_seconds()),
                "current": written(current) if current is not None else None,
            }
            try:
                minted = read_minted(await self._ask("mint", question))
            except SecretError as error:
                raise IssuerError(str(error), hint=error.hint) from None
            except ProgramError as error:
                kind = IssuerError if error.was_refused else IssuerUncertainError
                raise kind(str(error)) from None
            if minted is None:
                raise IssuerUncertainError("the program answered to mint with no credential")
            return minted.credential, minted.expires_at
        if settings.field is None:
            return Credential({WHOLE: await self._password()}), None
        _ = old.pop(WHOLE, None)
        return Credential({**old, settings.field: await self._password()}), None

    async def _password(self) -> SecretStr:
        settings = self._settings
        answer = await to_thread.run_sync(
            lambda: self._client.call(
                "get_random_password",
                PasswordLength=settings.length,
                ExcludeCharacters=settings.exclude,
            )
        )
        text = answer.text("RandomPassword")
        if not answer.is_success or len(text) < settings.length:
            problem = answer.problem or "it made no password"
            raise IssuerError(f"the store {self._client.name}: {problem}", hint=answer.hint)
        return SecretStr(text)

    async def _set(
        self, name: str, role: RoleName, made: Credential, current: Credential | None
    ) -> None:
        question: JsonObject = {
            "name": name,
            "role": role,
            "current": written(current) if current is not None else None,
            **written(made),
        }
        try:
            _ = await self._ask("set", question)
        except SecretError as error:
            await self._take_back(name, role)
            raise IssuerError(str(error), hint=error.hint) from None
        except ProgramError as error:
            if not error.was_refused:
                raise IssuerUncertainError(str(error)) from None
            await self._take_back(name, role)
            raise IssuerError(str(error)) from None

    async def _take_back(self, name: str, role: RoleName) -> None:
        """Leave no AWSPENDING behind, which would be in everybody's way."""
        try:
            await self._vault.unlabel(role, name)
        except SecretStoreUnavailableError as error:
            raise IssuerUncertainError(str(error), hint=error.hint) from None

    async def _ask(self, verb: AwsVerb, question: JsonObject) -> JsonObject:
        # `test` is what other issuers call a probe; a program may serve for both.
        told = "probe" if verb == "test" else verb
        return await self._surroundings.ask(self._settings.verbs[verb], {"verb": told, **question})


def _role_of(name: str) -> str:
    """Tell the role of a name or of the beginning of names, empty if it is none."""
    match = _NAME.fullmatch(name)
    return match["role"] if match else ""
