"""Issues and revokes tokens: on disk first, then in the memory that the gateway asks."""

import threading
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Final, final

from pydantic import SecretStr

from orchestrator.clock import Clock
from orchestrator.errors import TokenError
from orchestrator.files import make_private_directory, read_regular, write_atomically
from orchestrator.model.names import AgentName, RoleName, TokenId
from orchestrator.tokens.record import LONGEST_LIFE, USABLE, TokenRecord
from orchestrator.tokens.store import TokenStore
from orchestrator.tokens.verify import TokenIndex

WORKSTATION: Final = AgentName("workstation")
RENEW_BEFORE: Final = timedelta(days=14)
_LONGEST_FILE_BYTES: Final = 4096


@final
class TokenDesk:
    """All changes of tokens go through here. Its methods block: call them in a thread."""

    def __init__(self, store: TokenStore, index: TokenIndex, clock: Clock, folder: Path) -> None:
        """Load every usable token.

        Args:
            store: Where tokens are kept.
            index: What the gateway asks.
            clock: Where time comes from.
            folder: The workstation's own tokens, one file a role.
        """
        self._store = store
        self._index = index
        self._clock = clock
        self._folder = folder
        self._files = threading.Lock()
        index.load(store.load_usable())

    def issue(
        self, agent: AgentName, role: RoleName, ttl: timedelta
    ) -> tuple[TokenRecord, SecretStr]:
        """Issue a token; the text is returned once and kept nowhere."""
        record, text = self._store.issue(agent, role, ttl)
        self._index.add(record)
        return record, text

    def list(self) -> tuple[TokenRecord, ...]:
        """Tell all tokens, the oldest first."""
        return self._store.list()

    def revoke(self, token_id: TokenId, reason: str) -> TokenRecord:
        """Revoke a token; it is refused before this returns.

        Raises:
            TokenUnknownError: There is none with this id.
        """
        try:
            return self._store.revoke(token_id, by="operator", reason=reason)
        finally:
            # Even when the disk fails: whoever revokes a token must not leave it open.
            self._index.remove(token_id)

    def keep_workstation_tokens(self, roles: Iterable[RoleName]) -> None:
        """Make sure that every role's file holds a token that is good for a while."""
        make_private_directory(self._folder)
        # The gateway's start and an apply may ask for the same files at once.
        with self._files:
            for role in roles:
                if not self._is_good(role):
                    self._replace(role)

    def note_uses(self) -> None:
        """Write down when tokens were last used."""
        self._store.note_use(self._index.take_used())

    def _is_good(self, role: RoleName) -> bool:
        try:
            content, _ = read_regular(self._folder / role, _LONGEST_FILE_BYTES, follow=False)
            principal = self._index.look(content.decode().strip(), role)
        except (OSError, UnicodeDecodeError, TokenError):
            return False
        return principal.expires_at - self._clock.now() > RENEW_BEFORE

    def _replace(self, role: RoleName) -> None:
        earlier = [
            record
            for record in self._store.list()
            if record.agent == WORKSTATION and record.role == role and record.state in USABLE
        ]
        _, text = self.issue(WORKSTATION, role, LONGEST_LIFE)
        write_atomically(self._folder / role, text.get_secret_value().encode() + b"\n")
        # One that ends soon goes on until then: a client may hold it. Others were lost.
        for record in earlier:
            if record.expires_at - self._clock.now() > RENEW_BEFORE:
                _ = self.revoke(record.id, "its file was lost")
