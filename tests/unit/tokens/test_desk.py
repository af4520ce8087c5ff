"""The desk: what is kept for the workstation."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from orchestrator.clock import SystemClock
from orchestrator.model.names import RoleName
from orchestrator.tokens.desk import TokenDesk
from orchestrator.tokens.store import TokenStore
from orchestrator.tokens.verify import TokenIndex

ROLES = tuple(RoleName(f"role-{number}") for number in range(20))


def test_files_that_are_asked_for_at_once_are_made_once(tmp_path: Path) -> None:
    """The gateway's start and an apply, in threads of their own, leave one good token a role."""
    clock = SystemClock()
    store = TokenStore(tmp_path / "state" / "agents.db", clock)
    index = TokenIndex(clock)
    desk = TokenDesk(store, index, clock, tmp_path / "state" / "tokens")
    try:
        with ThreadPoolExecutor(4) as pool:
            for future in [pool.submit(desk.keep_workstation_tokens, ROLES) for _ in range(4)]:
                future.result(30)
        assert sorted(record.role for record in desk.list()) == sorted(ROLES)
        for role in ROLES:
            text = (tmp_path / "state" / "tokens" / role).read_text().strip()
            assert index.verify(text, role).role == role
    finally:
        store.close()
