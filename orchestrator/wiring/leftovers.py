"""Removes what a daemon that was killed left half written, wherever it writes."""

import os
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

from orchestrator.control.state import StateFile
from orchestrator.errors import RotationError
from orchestrator.files import remove_leftovers
from orchestrator.paths import Paths
from orchestrator.rotation.delivery import Deliverer


def sweep(paths: Paths, state: StateFile) -> int:
    """Remove such files, some of which hold a token or a key; before anything is written.

    Args:
        paths: The project's directories; all of the state is ours but what servers have in it.
        state: Tells where agents find their tokens; there only files of those names are ours.

    Returns:
        How many they were.
    """
    swept = sum(remove_leftovers(place) for top in (paths.state, paths.run) for place in _in(top))
    deliverer = Deliverer(paths.state, paths.root)
    for spec in state.state.roles.values():
        for delivery in spec.rotation.agent.deliver.values():
            with suppress(RotationError):
                path = deliverer.path_of(delivery)
                if path is not None:
                    names = (path.name, deliverer.beside(path).name)
                    swept += remove_leftovers(path.parent, names)
    return swept


def _in(top: Path) -> Generator[Path]:
    theirs = {top / "homes", top / "tmp"}
    for place, directories, _ in os.walk(top):
        directories[:] = [name for name in directories if Path(place, name) not in theirs]
        yield Path(place)
