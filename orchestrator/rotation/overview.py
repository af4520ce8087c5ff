"""Keeps a report of all credentials at hand for `agents status`, and logs what grows old."""

from collections.abc import Sequence
from datetime import date
from typing import Final, Protocol, final

import anyio
from structlog.typing import FilteringBoundLogger

from orchestrator.clock import Clock
from orchestrator.errors import AgentsError
from orchestrator.model.names import RoleName
from orchestrator.model.rotation import FINISHED, Rotation
from orchestrator.model.status import CredentialsReport, CredentialStatus
from orchestrator.rotation.schedule import Due
from orchestrator.rotation.targets import describe_due

REFRESH_SECONDS: Final = 30.0


class Source(Protocol):
    """What the report is made of: the engine."""

    async def due(self) -> Sequence[Due]:
        """Tell every current credential."""
        ...

    async def rotations(self, role: RoleName | None = None) -> Sequence[Rotation]:
        """Tell rotations."""
        ...

    async def notes(self) -> Sequence[str]:
        """Tell what a person should know."""
        ...


@final
class Overview:
    """The newest report, and the days on which each warning was logged."""

    def __init__(self, source: Source, clock: Clock, log: FilteringBoundLogger) -> None:
        """Prepare; the report is empty until it is refreshed.

        Args:
            source: The engine.
            clock: Time.
            log: Takes each warning once a day.
        """
        self._source = source
        self._clock = clock
        self._log = log
        self._logged: dict[tuple[str, str], date] = {}
        self.report = CredentialsReport()

    async def run(self) -> None:
        """Refresh until cancelled."""
        while True:
            await self.look()
            await anyio.sleep(REFRESH_SECONDS)

    async def look(self) -> None:
        """Refresh; where the rotations cannot be read, the earlier report stays."""
        try:
            await self.refresh()
        except AgentsError as error:
            self._log.warning("credentials not looked through", detail=str(error))

    async def refresh(self) -> None:
        """Make the report anew, and log each warning that today's log does not have yet.

        Raises:
            AgentsError: The rotations cannot be read; the earlier report stays.
        """
        dues = await self._source.due()
        rotations = await self._source.rotations()
        self.report = CredentialsReport(
            credentials=tuple(describe_due(due) for due in dues),
            rotations=tuple(one for one in rotations if one.state not in FINISHED),
            notes=tuple(await self._source.notes()),
        )
        today = self._clock.now().date()
        for one in self.report.credentials:
            if one.warning is not None and self._is_new((one.credential, one.warning), today):
                self._log.warning("credential grows old", **_facts(one))
        for note in self.report.notes:
            if self._is_new(("", note), today):
                self._log.warning("credentials need somebody", detail=note)
        self._logged = {key: day for key, day in self._logged.items() if day == today}

    def _is_new(self, key: tuple[str, str], today: date) -> bool:
        known = self._logged.get(key) == today
        self._logged[key] = today
        return not known


def _facts(one: CredentialStatus) -> dict[str, str | None]:
    return {
        "role": one.role,
        "purpose": one.purpose,
        "agent": one.agent,
        "credential": one.credential,
        "warning": one.warning,
        "expires_at": None if one.expires_at is None else one.expires_at.isoformat(),
    }
