"""`agents down`: drain and stop everything that this project runs."""

from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from orchestrator.cli.output import note, say, say_json
from orchestrator.cli.places import find_paths
from orchestrator.config.settings import load_settings
from orchestrator.control.admin_client import ask_once
from orchestrator.control.state import read_state
from orchestrator.errors import (
    AgentsError,
    ControlUnavailableError,
    LockHeldError,
    NotRunningError,
)
from orchestrator.files import hold_lock
from orchestrator.paths import Paths
from orchestrator.runtimes.engine import Engine, end_ghosts
from orchestrator.runtimes.fence import end_orphan
from orchestrator.wiring.engine import end_containers, engine_of

SPARE_SECONDS: Final = 20.0
LOCK_SECONDS: Final = 0.1


def down(project: Path | None, *, as_json: bool) -> None:
    """Stop everything; it is no error when nothing runs."""
    paths = find_paths(project)
    stopped = stop_everything(paths)
    if as_json:
        say_json({"stopped": stopped})
    else:
        say("Everything is stopped." if stopped else "Nothing was running.")


def stop_everything(paths: Paths) -> bool:
    """Drain, stop every instance, the daemon and the engine; end orphans of a dead engine.

    Returns:
        Whether anything ran.
    """
    engine = engine_of(paths)
    running = anyio.run(engine.find) if paths.run.is_dir() else None
    if running is not None:
        longest = _longest_stop(paths)
        try:
            _ = ask_once(paths.control_socket, {"op": "shutdown"}, patience=longest)
        except (NotRunningError, ControlUnavailableError) as error:
            note(f"The daemon does not take orders ({error}); stopping without a drain.")
        anyio.run(_shut_down, engine, longest)
    had_containers = anyio.run(end_containers, paths, _socket(paths))
    return anyio.run(_end_leftovers, engine) or had_containers or running is not None


async def _shut_down(engine: Engine, longest: float) -> None:
    """End the engine; another command that does the same is waited for."""
    end = anyio.current_time() + longest
    while True:
        try:
            return await engine.shutdown(timedelta(seconds=longest))
        except LockHeldError:
            if anyio.current_time() > end:
                raise
        await anyio.sleep(LOCK_SECONDS)


async def _end_leftovers(engine: Engine) -> bool:
    """End what an engine left that was killed, or whose files were deleted under it."""
    end = anyio.current_time() + SPARE_SECONDS
    while True:
        try:
            with hold_lock(engine.files.lock) if engine.files.run.is_dir() else nullcontext():
                ghosts = await end_ghosts(engine.files, timedelta(seconds=SPARE_SECONDS))
                fences = sorted((engine.files.run / "fences").glob("*.lock"))
                ended = [await anyio.to_thread.run_sync(end_orphan, path) for path in fences]
                return bool(ghosts) or any(ended)
        except LockHeldError:  # another command starts or ends the engine at this moment
            if anyio.current_time() > end:
                raise
        await anyio.sleep(LOCK_SECONDS)


def _socket(paths: Paths) -> str:
    """Tell the engine for containers, as far as the project's file can be read."""
    try:
        return load_settings(paths.root).docker.socket
    except AgentsError:
        return ""


def _longest_stop(paths: Paths) -> float:
    """Tell how long the slowest role may take to drain and end, in seconds, with some to spare."""
    try:
        specs = read_state(paths.control_state).roles.values()
    except AgentsError:
        specs = ()
    times = [(spec.stop.drain + spec.stop.grace).total_seconds() for spec in specs]
    return max(times, default=0.0) + SPARE_SECONDS
