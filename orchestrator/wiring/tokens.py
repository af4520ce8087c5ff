"""The tokens of a project in which nothing runs."""

from collections.abc import Generator
from contextlib import contextmanager

from orchestrator.clock import SystemClock
from orchestrator.config.settings import load_settings
from orchestrator.control.state import read_state
from orchestrator.files import hold_lock, make_private_directory
from orchestrator.paths import Paths
from orchestrator.tokens.desk import TokenDesk
from orchestrator.tokens.store import TokenStore
from orchestrator.tokens.verify import TokenIndex


@contextmanager
def open_desk(paths: Paths) -> Generator[TokenDesk]:
    """Open the tokens of a project in which nothing runs.

    Raises:
        LockHeldError: Something does run.
    """
    make_private_directory(paths.state)
    with hold_lock(paths.lock):
        clock = SystemClock()
        store = TokenStore(paths.database, clock)
        try:
            index = TokenIndex(clock)
            for role in read_state(paths.control_state).closed:
                index.close(role)
            desk = TokenDesk(store, index, clock, paths.tokens)
            desk.attend(load_settings(paths.root).auth)
            yield desk
        finally:
            store.close()
