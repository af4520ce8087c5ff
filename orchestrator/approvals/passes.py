"""What lets one call through, and is used up by that before the call is made."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, final

from orchestrator.approvals.store import ApprovalStore
from orchestrator.approvals.words import taken
from orchestrator.clock import Clock
from orchestrator.errors import RecordUnavailableError, StateUnwritableError


class _Do(Protocol):
    def __call__(self, work: Callable[[], bool], /) -> Awaitable[bool]: ...


@final
class Spender:
    """Knows which approvals belong to a call that is under way."""

    def __init__(self, do: _Do, store: ApprovalStore, clock: Clock) -> None:
        """Begin with no call.

        Args:
            do: Does something in the store's thread.
            store: Where approvals are kept.
            clock: Where time comes from.
        """
        self._do = do
        self._store = store
        self._clock = clock
        self._taken: set[str] = set()

    def take(self, name: str) -> "ApprovalPass | None":
        """Take an approval for one call, None if it is another's."""
        if name in self._taken:
            return None
        self._taken.add(name)
        return ApprovalPass(self, name)

    def let_go(self, name: str) -> None:
        """Let another call have an approval, if it is still there."""
        self._taken.discard(name)

    async def use(self, name: str, request_id: str) -> None:
        """Use an approval up; raises as `ApprovalPass.spend`."""
        await self._spend(name, partial(self._store.use, name, request_id, self._clock.now()))

    async def use_grant(self, name: str) -> None:
        """Count a call of a grant; raises as `GrantPass.spend`."""
        await self._spend(name, partial(self._store.use_grant, name, self._clock.now()))

    async def _spend(self, name: str, work: Callable[[], bool]) -> None:
        try:
            is_there = await self._do(work)
        except StateUnwritableError as error:
            raise RecordUnavailableError(str(error), hint=error.hint) from error
        if not is_there:
            raise taken(name)


@final
class ApprovalPass:
    """A single approval, for one call.

    Attributes:
        id: Its name.
    """

    def __init__(self, spender: Spender, name: str) -> None:
        """Hold an approval that was taken."""
        self.id: str = name
        self._spender = spender
        self._is_spent = False

    async def spend(self, request_id: str) -> None:
        """Use it up: on disk when this returns, and then the call may be made.

        Raises:
            ApprovalTakenError: It is not there any more; the call must not be made.
            RecordUnavailableError: It cannot be written; the call must not be made.
        """
        if not self._is_spent:
            await self._spender.use(self.id, request_id)
            self._is_spent = True

    def release(self) -> None:
        """Let go of it; what was not spent may let another call through."""
        self._spender.let_go(self.id)


@final
class GrantPass:
    """One call of a standing grant.

    Attributes:
        id: The grant's name.
    """

    def __init__(self, spender: Spender, name: str) -> None:
        """Begin with nothing counted."""
        self.id: str = name
        self._spender = spender
        self._is_spent = False

    async def spend(self, request_id: str) -> None:  # noqa: ARG002  the same as an approval's
        """Count the call; raises as an approval's."""
        if not self._is_spent:
            await self._spender.use_grant(self.id)
            self._is_spent = True

    def release(self) -> None:
        """Let go of it: nothing was held."""
