"""The daemon's entry: `python -I -m orchestrator.cli.agentsd ROOT STATE RUN LEVEL`."""

import gc
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from orchestrator.errors import AgentsError

COMPLAINT: Final = "agentsd: "
PR_SET_DUMPABLE: Final = 4  # linux/prctl.h


def main() -> int:
    """Run the daemon; the exit status is 78 when it must not be tried again soon."""
    # Imports make hundreds of thousands of objects that stay: collecting garbage meanwhile would
    # take a sixth of the time that the daemon needs to start.
    gc.disable()
    from pathlib import Path

    import anyio

    from orchestrator.cli.daemon_log import configure_log
    from orchestrator.errors import AgentsError
    from orchestrator.paths import Paths
    from orchestrator.wiring.daemon import run_daemon

    gc.freeze()
    gc.enable()
    close_to_others()
    open_many()
    root, state, run, level = sys.argv[1:]
    paths = Paths(Path(root), Path(state), Path(run))
    configure_log(level, paths.daemon_log)
    status = 0
    try:
        anyio.run(
            run_daemon,
            paths,
            backend="asyncio",
            backend_options={"use_uvloop": True},
        )
    except* AgentsError as group:
        # `agents up` looks for this line when the daemon does not come up.
        for error in leaves(group):
            _ = sys.stderr.write(f"{COMPLAINT}{error}\n")
        status = 78
    return status


def write_no_cores() -> None:
    """Keep what this process knows, and the programs that it runs, out of core files."""
    import resource

    # A soft limit of 1, not 0: with a piped core_pattern a limit of 0 is passed over.
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    limit = 1 if hard == resource.RLIM_INFINITY else min(1, hard)
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))


def close_to_others() -> None:
    """Keep what this process knows out of core files and out of reach of same-user debuggers."""
    import ctypes

    write_no_cores()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0):
        _ = sys.stderr.write(f"{COMPLAINT}cannot be closed to other processes of this user\n")


def open_many() -> None:
    """Allow as many descriptors as the system does: each session and each instance needs some.

    Instances are no children of this process: they get what their launch frames say.
    """
    import resource
    from contextlib import suppress

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # a hard limit above what the kernel knows; it goes without
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def leaves(group: "BaseExceptionGroup[AgentsError]") -> "Iterator[AgentsError]":
    """Give the errors of a group, whatever groups they are in."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error


if __name__ == "__main__":
    sys.exit(main())
