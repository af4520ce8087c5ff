"""The daemon's entry: `python -I -m orchestrator.cli.agentsd ROOT STATE RUN LEVEL`."""

import gc
import sys


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
    root, state, run, level = sys.argv[1:]
    configure_log(level)
    try:
        anyio.run(
            run_daemon,
            Paths(Path(root), Path(state), Path(run)),
            backend="asyncio",
            backend_options={"use_uvloop": True},
        )
    except AgentsError as error:
        _ = sys.stderr.write(f"agentsd: {error}\n")
        return 78
    return 0


if __name__ == "__main__":
    sys.exit(main())
