"""What rotations ask of others: issuers, the vault, the instances."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Literal, Protocol

from pydantic import SecretStr

from orchestrator.model.base import JsonObject
from orchestrator.model.names import RoleName, ToolName, WorkloadName
from orchestrator.model.rotation import Closure, Drain

# The one field of a credential that is a single text.
WHOLE = ""


@dataclass(frozen=True, slots=True)
class Credential:
    """What an issuer made, in memory.

    Attributes:
        fields: Its texts by name, such as `username` and `password`; `WHOLE` if it has one only.
    """

    fields: Mapping[str, SecretStr] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Minted:
    """A new credential.

    Attributes:
        credential: Its texts.
        handle: How the issuer knows it: a lease's or a key's id; never a secret.
        expires_at: When it really ends by itself, None if it does not.
    """

    credential: Credential
    handle: JsonObject
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an issuer can do; a plan that needs more is refused.

    Attributes:
        overlap: Whether a new credential works beside the old one.
        revoke: How a credential ends: at once by request, by being disabled, by its time alone,
            or by a person.
        lists: Whether it can tell what it made, by name.
        probes: Whether it can tell if a credential is accepted.
        max_life: How long a credential lives at most, None if for ever.
    """

    overlap: bool
    revoke: Literal["api", "disable", "expiry", "manual"]
    lists: bool
    probes: bool
    max_life: timedelta | None = None


class Verdict(StrEnum):
    """What a probe saw."""

    ACCEPTED = "accepted"
    REFUSED = "refused"  # as no credential, by whoever checks it: nothing else counts as refused
    UNKNOWN = "unknown"  # no answer, an overloaded service: proves nothing


class Ending(StrEnum):
    """What became of the request to end a credential."""

    ASKED = "asked"  # a probe will tell
    QUEUED = "queued"  # accepted, not done yet: a probe will tell
    BY_PERSON = "by-person"  # no request can do it


class Issuer(Protocol):
    """Who makes credentials. Every verb may be called again with the same name."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        ...

    async def mint(self, name: str, role: RoleName, life: timedelta) -> Minted:
        """Make a credential under a name that we chose.

        Raises:
            IssuerUncertainError: It may have been made; whoever asks has to look for it by name.
            IssuerPersonError: A person has to do it; says what.
            IssuerError: It was not made.
        """
        ...

    async def probe(self, credential: Credential) -> Verdict:
        """Tell whether a credential is accepted now; never raises for what the network does."""
        ...

    async def revoke(self, name: str, handle: JsonObject) -> Ending:
        """End a credential; ending one that is gone is no error.

        Raises:
            IssuerError: It could not be asked; it is to be tried again.
        """
        ...

    async def list(self, prefix: str) -> Mapping[str, JsonObject]:
        """Tell the handles of what it made, by name, for names that begin so.

        Raises:
            IssuerError: It could not be asked.
        """
        ...


class Vault(Protocol):
    """Where made credentials are kept, by role and version; which one counts is not its concern.

    Every verb may be called again.
    """

    async def put(self, role: RoleName, version: str, credential: Credential) -> None:
        """Keep a credential; on disk, or wherever it is kept, before this returns.

        Raises:
            SecretStoreUnavailableError: It could not be kept.
        """
        ...

    async def get(self, role: RoleName, version: str) -> Credential:
        """Give a credential.

        Raises:
            SecretNotFoundError: There is none.
            SecretStoreUnavailableError: The vault cannot be used.
        """
        ...

    async def promote(self, role: RoleName, version: str) -> None:
        """Mark a version as the current one, for others who read the same place.

        Raises:
            SecretStoreUnavailableError: The vault cannot be used.
        """
        ...

    async def drop(self, role: RoleName, version: str) -> None:
        """Forget a credential for good.

        Raises:
            SecretStoreUnavailableError: The vault cannot be used.
        """
        ...


class Instances(Protocol):
    """The processes of roles, as rotations see them. Every verb may be called again."""

    async def ready(self, role: RoleName, version: str) -> None:
        """Have a generation that runs with exactly this version beside the one that serves.

        Returns when it was probed, attested and checked. If the serving one runs with it already,
        nothing is done.

        Raises:
            WorkloadNotReadyError: It did not become ready; it is ended again, the old one serves.
            NotRunningError: The role is not applied.
        """
        ...

    async def switch(self, role: RoleName, version: str) -> None:
        """Send all new calls to the generation of this version; on disk before this returns.

        Raises:
            WorkloadNotReadyError: There is none that is ready.
        """
        ...

    async def drain(self, role: RoleName, grace: float) -> Drain:
        """Wait until nothing uses what served before, then end its process groups.

        Args:
            role: The role.
            grace: Longest wait, in seconds. Calls that change something are never cut; while one
                is in flight at the end of the wait, the processes run on.
        """
        ...

    async def discard(self, role: RoleName) -> None:
        """End the generation that does not serve yet."""
        ...

    async def hold(self, role: RoleName, seconds: float) -> None:
        """Let new calls wait, each at most so long, until `release`; calls in flight end meanwhile.

        Raises:
            WorkloadNotReadyError: Some did not end in half of that time; calls are let through
                again.
            NotRunningError: The role is not applied.
        """
        ...

    async def release(self, role: RoleName) -> None:
        """Let calls through again."""
        ...

    async def close(self, role: RoleName, reason: str) -> int:
        """Kill every process of a role at once and keep it down, on disk, until `reopen`.

        Returns:
            How many calls were cut.
        """
        ...

    async def reopen(self, role: RoleName) -> None:
        """Let a role run again that was closed."""
        ...

    def using(self, role: RoleName) -> Mapping[WorkloadName, str]:
        """Tell the version that each live process of a role was started with."""
        ...


class Closures(Protocol):
    """Orders to end everything of roles, kept until they are carried out to their end."""

    def begin_closure(self, closure: Closure) -> None:
        """Remember an order, and that its roles are closed; in memory in any case.

        Raises:
            StateUnwritableError: It would be forgotten with this process.
        """
        ...

    def unfinished_closures(self) -> tuple[Closure, ...]:
        """Tell the orders that are not carried out to their end."""
        ...

    def finish_closure(self, closure: Closure) -> None:
        """Forget an order that was carried out; the roles stay closed.

        Raises:
            StateUnwritableError: It is not forgotten, and carried out once more.
        """
        ...

    def catch_up(self) -> None:
        """Write what could not be written before.

        Raises:
            StateUnwritableError: It still cannot.
        """
        ...


class Owner(Protocol):
    """An instance of a role's server in its owner's mode, for the moment; no agent reaches it."""

    @property
    def home(self) -> Path:
        """The home of such instances of this role, and of nothing else."""
        ...

    async def call_tool(self, tool: ToolName, arguments: JsonObject) -> JsonObject:
        """Call one tool and give its result, which may say `isError`.

        Raises:
            WorkloadError: The instance ended before it answered.
            UpstreamError: It refused the call itself.
        """
        ...


class Owners(Protocol):
    """Owner's instances of roles."""

    def open(self, role: RoleName) -> AbstractAsyncContextManager[Owner]:
        """Run one for the length of a block; its process group is gone after it.

        Raises:
            WorkloadError: It did not start, or ended in the middle.
            SecretError: A secret of it does not resolve.
            NotRunningError: The role is not applied, or has none.
        """
        ...
