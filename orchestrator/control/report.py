"""Where a keeper's process stands, as a person reads it."""

from orchestrator.clock import Clock
from orchestrator.control.keeper import Keeper
from orchestrator.model.status import ProcessStatus, RoleStatus


def report_role(keeper: Keeper, clock: Clock, url: str) -> RoleStatus:
    """Tell where a role stands whose serving process is kept here.

    Args:
        keeper: Keeps the process.
        clock: Time.
        url: Where agents reach the role.
    """
    spec, ready, now = keeper.spec, keeper.is_ready, clock.monotonic()
    return RoleStatus(
        role=spec.role,
        state=keeper.phase,
        detail=keeper.detail,
        hint=keeper.hint,
        settled=keeper.is_settled,
        server=spec.server,
        bands=spec.bands,
        mode=spec.mode,
        tools=tuple(str(tool["name"]) for tool in keeper.tools) if ready else (),
        missing=keeper.missing if ready else (),
        pid=_pid(keeper),
        generation=spec.generation,
        restarts=keeper.restarts,
        uptime_seconds=_uptime(keeper, now),
        retry_in_seconds=(
            round(max(0.0, keeper.retry_at - now), 3) if keeper.retry_at is not None else None
        ),
        instances=spec.sharing,
        credential=keeper.credential if keeper.process else "",
        url=url,
    )


def report_process(keeper: Keeper, clock: Clock) -> ProcessStatus:
    """Tell where a further process of a role stands."""
    return ProcessStatus(
        workload=keeper.spec.name,
        state=keeper.phase,
        detail=keeper.detail,
        era=keeper.era or "",
        owner=keeper.owner,
        pid=_pid(keeper),
        restarts=keeper.restarts,
        uptime_seconds=_uptime(keeper, clock.monotonic()),
        credential=keeper.credential if keeper.process else "",
    )


def _pid(keeper: Keeper) -> int | None:
    """Tell the process; one that somebody else runs has only a number of ours."""
    return None if keeper.process is None or keeper.spec.attached else keeper.process.pid


def _uptime(keeper: Keeper, now: float) -> float | None:
    if not keeper.is_ready or keeper.ready_since is None:
        return None
    return round(now - keeper.ready_since, 3)
