"""What is kept of a token: everything but its text."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias

from orchestrator.model.names import AgentName, RoleName, TokenId

# `pending` and `retiring` are steps of a rotation: the new token is good as soon as it can be
# delivered, the old one for a while after the new one was used.
TokenState: TypeAlias = Literal["pending", "active", "retiring", "revoked", "expired"]
USABLE: Final[tuple[TokenState, ...]] = ("pending", "active", "retiring")
LONGEST_LIFE: Final = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """One token.

    Attributes:
        id: Its public id.
        agent: Who shows it.
        role: The only role that it opens.
        digest: SHA-256 of its text.
        state: Where it stands.
        created_at: When it was issued.
        expires_at: When it ends by itself.
        revoked_at: When it was revoked, or None.
        last_used_at: When it was last accepted, to the minute, or None.
        retire_at: When it ends because another one took its place, or None.
        rotation_id: The rotation that made it; empty if none did.
    """

    id: TokenId
    agent: AgentName
    role: RoleName
    digest: bytes = field(repr=False)
    state: TokenState
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    retire_at: datetime | None = None
    rotation_id: str = ""

    @property
    def is_replaced(self) -> bool:
        """Whether another one took its place, before its own time was over."""
        return self.retire_at is not None and self.retire_at < self.expires_at

    @property
    def ends_at(self) -> datetime:
        """When it is refused at the latest."""
        return self.expires_at if self.retire_at is None else self.retire_at
