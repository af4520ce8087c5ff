"""Credentials that a Vault or OpenBao server makes: tokens, and whatever comes with a lease.

What counts as proof that one is dead:

- A token: the server refuses it, and knows its accessor no more. Only both together: a token
  whose policy does not let it look itself up is refused as well.
- Anything else: what the role's own program sees at the service; or, where the operator says so,
  that the server knows its lease no more. A lease is revoked synchronously, so the server
  forgets it only after the service has ended what came with it; still it is the server's word.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, final

from anyio import to_thread
from pydantic import SecretStr
from typing_extensions import override

from orchestrator.clock import Clock
from orchestrator.errors import IssuerError, IssuerUncertainError, SecretError
from orchestrator.model.base import JsonObject
from orchestrator.model.issuers_cloud import VaultLeaseIssuer
from orchestrator.model.names import RoleName
from orchestrator.rotation.issuers.command import read_verdict, written
from orchestrator.rotation.issuers.program import Surroundings
from orchestrator.rotation.ports import Capabilities, Credential, Ending, Issuer, Minted, Verdict
from orchestrator.rotation.running import ProgramError
from orchestrator.secrets.vault_client import (
    UNKNOWN_ACCESSOR,
    UNKNOWN_LEASE,
    Method,
    VaultAnswer,
    VaultClient,
)

_TOKEN: Final = "token"  # noqa: S105 # the name of a field
_ACCESSOR: Final = "accessor"
_LEASE: Final = "lease_id"
# What a token is called at the server, so that it is found again.
_META: Final = "bandmaster"
_MOST_ACCESSORS: Final = 2000
_FORBIDDEN: Final = 403
_NOT_FOUND: Final = 404
_QUEUED: Final = 202


@final
class LeaseIssuer(Issuer):
    """Makes credentials by reading one path of one server."""

    def __init__(
        self,
        settings: VaultLeaseIssuer,
        client: VaultClient,
        clock: Clock,
        surroundings: Surroundings,
    ) -> None:
        """Keep the place; nothing is asked yet.

        Args:
            settings: What `agents.yaml` says.
            client: The server, of the store that it names.
            clock: For the ends of leases.
            surroundings: What the program of its probe runs with.
        """
        self._settings = settings
        self._client = client
        self._clock = clock
        self._surroundings = surroundings

    @property
    @override
    def capabilities(self) -> Capabilities:
        is_token = self._settings.makes_tokens
        return Capabilities(
            overlap=True,
            revoke="api",
            lists=is_token and self._settings.sweep,
            probes=is_token or self._settings.probe is not None,
        )

    @override
    async def mint(self, name: str, role: RoleName, life: timedelta) -> Minted:
        return await to_thread.run_sync(self._mint, name, life)

    @override
    async def probe(self, credential: Credential) -> Verdict:
        if isinstance(self._settings.probe, tuple):
            return await probed(self._settings.probe, credential, self._surroundings)
        return await to_thread.run_sync(self._look, credential)

    @override
    async def revoke(self, name: str, handle: JsonObject) -> Ending:
        if not handle:
            # It was lost in a crash.
            if not self.capabilities.lists:
                # It ends by its time, and by nothing else.
                return Ending.QUEUED
            handle = (await self.list(name)).get(name, {})
            if not handle:
                return Ending.ASKED
        answer = await to_thread.run_sync(self._end, name, handle)
        return Ending.QUEUED if answer.status == _QUEUED else Ending.ASKED

    @override
    async def list(self, prefix: str) -> Mapping[str, JsonObject]:
        if not self.capabilities.lists:
            raise IssuerError(
                f"the store {self._client.name} does not tell which leases were made for whom"
            )
        return await to_thread.run_sync(self._search, prefix)

    def _mint(self, name: str, life: timedelta) -> Minted:
        # What is made ends with our login: an old one would have less time left.
        self._client.forget_login()
        own_end = self._own_end(life)
        began = self._clock.now()
        answer = self._made(name, life)
        auth = answer.part("auth")
        made = auth or answer.body
        handle: JsonObject = (
            {_ACCESSOR: auth.get("accessor")} if auth else {_LEASE: made.get("lease_id")}
        )
        fields = _token_fields(auth) if auth else _lease_fields(made)
        problem = _flaw(handle, fields)
        if problem:
            # It was made all the same, and nobody would use it.
            if any(handle.values()):
                _ = self._end(name, handle)
            raise IssuerError(f"{self._settings.path}: {problem}")
        end = _end(began, _seconds(made))
        if not auth and made.get("renewable") is True and (end is None or end < began + life):
            # It is given for the time that the server's role says; how far it may be prolonged
            # is known only by asking.
            answer = self._client.call(
                "put", "sys/leases/renew", {**handle, "increment": int(life.total_seconds())}
            )
            if answer.is_success and (seconds := _seconds(answer.body)):
                end = _end(self._clock.now(), seconds)
        # Leases and tokens end with the token that they were asked for with.
        is_orphan = auth.get("orphan") is True
        ends = [each for each in (end, None if is_orphan else own_end) if each is not None]
        return Minted(Credential(fields), handle, min(ends, default=None))

    def _own_end(self, life: timedelta) -> datetime | None:
        """Tell when our own login ends, after it was prolonged as far as it may be."""
        began = self._clock.now()
        data = self._ask("get", "auth/token/lookup-self").part("data")
        end = _end(began, _seconds(data, "ttl"))
        if end is None or data.get("renewable") is not True or end >= began + life:
            return end
        body: JsonObject = {"increment": int(life.total_seconds())}
        renewed = self._client.call("post", "auth/token/renew-self", body)
        seconds = _seconds(renewed.part("auth")) if renewed.is_success else 0
        return max(end, began + timedelta(seconds=seconds))

    def _made(self, name: str, life: timedelta) -> VaultAnswer:
        settings = self._settings
        body: JsonObject = dict(settings.parameters)
        if settings.makes_tokens:
            body |= {
                "ttl": f"{int(life.total_seconds())}s",
                "display_name": name,
                "meta": {_META: name},
            }
        return self._ask("post" if body else "get", settings.path, body or None)

    def _ask(self, method: Method, path: str, body: JsonObject | None = None) -> VaultAnswer:
        """Ask for what a credential is made of; anything but success ends the making."""
        answer = self._client.call(method, path, body)
        if answer.is_success:
            return answer
        problem = f"the store {self._client.name}: {path}: {answer.problem}"
        if answer.may_have_happened and path == self._settings.path:
            raise IssuerUncertainError(problem)
        raise IssuerError(problem, hint=answer.hint)

    def _look(self, credential: Credential) -> Verdict:
        fields = credential.fields
        if self._settings.makes_tokens:
            own = self._client.call("get", "auth/token/lookup-self", token=fields.get(_TOKEN))
            if own.is_success:
                return Verdict.ACCEPTED
            if own.status != _FORBIDDEN or _ACCESSOR not in fields:
                return Verdict.UNKNOWN
            path, body = "auth/token/lookup-accessor", _ACCESSOR
        elif self._settings.probe == "lease" and _LEASE in fields:
            path, body = "sys/leases/lookup", _LEASE
        else:
            return Verdict.UNKNOWN
        known = self._client.call("put", path, {body: fields[body].get_secret_value()})
        if known.is_success:
            return Verdict.ACCEPTED
        is_gone = known.problem in {UNKNOWN_ACCESSOR, UNKNOWN_LEASE}
        return Verdict.REFUSED if is_gone else Verdict.UNKNOWN

    def _end(self, name: str, handle: JsonObject) -> VaultAnswer:
        if _ACCESSOR in handle:
            path, body = "auth/token/revoke-accessor", {_ACCESSOR: handle[_ACCESSOR]}
        elif _LEASE in handle:
            # Without `sync` it may be queued only, and what the lease gave works on.
            path, body = "sys/leases/revoke", {_LEASE: handle[_LEASE], "sync": True}
        else:
            raise IssuerError(f"what is known of {name} is neither a lease nor an accessor")
        answer = self._client.call("put", path, body)
        if answer.is_success or answer.problem in {UNKNOWN_ACCESSOR, UNKNOWN_LEASE}:
            return answer
        raise IssuerError(f"the store {self._client.name} did not revoke {name}: {answer.problem}")

    def _search(self, prefix: str) -> Mapping[str, JsonObject]:
        answer = self._client.call("list", "auth/token/accessors")
        if answer.status == _NOT_FOUND:
            return {}
        keys = answer.part("data").get("keys")
        if not answer.is_success or not isinstance(keys, list):
            raise IssuerError(f"the store {self._client.name}: {answer.problem}")
        if len(keys) > _MOST_ACCESSORS:
            raise IssuerError(
                f"the store {self._client.name} has more than {_MOST_ACCESSORS} tokens",
                hint="Leave out `sweep`: a token that is lost in a crash ends by its time.",
            )
        found: dict[str, JsonObject] = {}
        for accessor in keys:
            # One that ended meanwhile is no error.
            about = self._client.call("post", "auth/token/lookup-accessor", {_ACCESSOR: accessor})
            meta = about.part("data").get("meta")
            name = meta.get(_META) if isinstance(meta, dict) else None
            if isinstance(name, str) and name.startswith(prefix):
                found[name] = {_ACCESSOR: accessor}
        return found


async def probed(
    command: Sequence[str], credential: Credential, surroundings: Surroundings
) -> Verdict:
    """Ask a program whether a credential is accepted; no answer proves nothing."""
    try:
        return read_verdict(
            await surroundings.ask(command, {"verb": "probe", **written(credential)})
        )
    except (ProgramError, SecretError):
        return Verdict.UNKNOWN


def _token_fields(auth: JsonObject) -> dict[str, SecretStr]:
    return {
        name: SecretStr(value)
        for name, key in ((_TOKEN, "client_token"), (_ACCESSOR, "accessor"))
        if isinstance(value := auth.get(key), str)
    }


def _lease_fields(body: JsonObject) -> dict[str, SecretStr]:
    data = body.get("data")
    fields = data if isinstance(data, dict) else {}
    # The lease's id is no secret, and a probe needs it.
    texts = {**fields, _LEASE: body.get("lease_id")}
    return {name: SecretStr(value) for name, value in texts.items() if isinstance(value, str)}


def _flaw(handle: JsonObject, fields: Mapping[str, SecretStr]) -> str:
    """Tell why what was made cannot be used, empty if it can."""
    if not any(handle.values()):
        return "what is made there has no lease and no accessor, so it could not be revoked"
    if len(fields) <= len(handle) or not all(map(len, fields.values())):
        return "what is made there is empty"
    return ""


def _seconds(body: JsonObject, key: str = "lease_duration") -> int:
    value = body.get(key)
    return value if isinstance(value, int) else 0


def _end(began: datetime, seconds: int) -> datetime | None:
    """Tell when something ends; a life of 0 seconds is one without end."""
    return began + timedelta(seconds=seconds) if seconds else None
