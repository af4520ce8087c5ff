"""All that the rotation engine works with."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

import anyio
from structlog.typing import FilteringBoundLogger

from orchestrator.clock import Clock
from orchestrator.model.names import RoleName, TokenId
from orchestrator.model.rotation import RotationRule
from orchestrator.rotation.calendar import Roles
from orchestrator.rotation.delivery import Deliverer
from orchestrator.rotation.events import Event, Tell
from orchestrator.rotation.ports import Closures, Instances, Issuer, Vault
from orchestrator.rotation.store import RotationStore
from orchestrator.tokens.desk import TokenDesk
from orchestrator.tokens.verify import TokenIndex

Pause: TypeAlias = Callable[[float, anyio.Event], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """All that the engine works with.

    Attributes:
        store: Rotations, in the project's database.
        desk: Tokens of agents.
        index: What the gateway asks of tokens.
        issuers: Who makes upstream credentials, by name.
        vault: Where a role's are kept.
        instances: The processes of roles.
        closures: Keeps orders to end everything until they are carried out.
        roles: The roles that are applied and their rules, from the least to the most power.
        deliverer: Brings tokens to agents.
        streams_open: Tells how many requests and streams of a token are open.
        changing: Tells how many calls of a token are under way that change something.
        clock: Where time comes from.
        tell: Is told what happens.
        log: Structured log.
        fingerprint_key: Makes fingerprints of credentials; a new one each time without it.
        pause: Waits for a time, or until an event; the usual way without it.
    """

    store: RotationStore
    desk: TokenDesk
    index: TokenIndex
    issuers: Callable[[str], Issuer]
    vault: Callable[[RoleName], Vault]
    instances: Instances
    closures: Closures
    roles: Roles
    deliverer: Deliverer
    streams_open: Callable[[TokenId], int]
    changing: Callable[[TokenId], int]
    clock: Clock
    tell: Tell
    log: FilteringBoundLogger
    fingerprint_key: bytes | None = None
    pause: Pause | None = None

    def rule(self, role: RoleName) -> RotationRule | None:
        """Tell what a role file says, None for a role that is not applied."""
        return dict(self.roles()).get(role)

    def alarm(self, result: str, role: str = "") -> None:
        """Tell that a look at what is due went wrong."""
        self.tell(Event("rotation.tick", self.clock.now(), role=role, result=result, alarm=True))
