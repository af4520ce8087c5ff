"""Runs the server: `python -m walletserver`."""

import gc

# Importing makes many objects and no garbage; without the collector the start is about 0.1 s
# shorter. `process.run` turns it on again.
gc.disable()

import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402

from walletserver.errors import EXIT_CONFIG, SettingsError  # noqa: E402
from walletserver.logs import configure_logging, log_event  # noqa: E402
from walletserver.settings import load_settings  # noqa: E402


def main() -> int:
    """Run the server, or an admin command when there are arguments.

    Returns:
        The exit status: 0 done, 1 failed, 78 for a wrong environment.
    """
    configure_logging()
    try:
        if sys.argv[1:]:
            from walletserver import admin  # noqa: PLC0415 (not needed to serve)

            return admin.run(sys.argv[1:])
        settings = load_settings()
    except SettingsError as error:
        log_event("settings_refused", level=40, variable=error.variable, problem=error.problem)
        return EXIT_CONFIG
    # Until `process.run` takes over there is nothing to end properly.
    signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(0))
    # Loads the SDK, which a wrong environment should not have to wait for.
    from walletserver import process  # noqa: PLC0415

    try:
        process.run(settings)
    except OSError as error:
        log_event("start_failed", level=40, error=type(error).__name__)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
