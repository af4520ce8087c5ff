"""`agents notify test`: whether people would hear of it."""

import sys
from pathlib import Path
from typing import cast

from orchestrator.cli.output import paint, say, say_json
from orchestrator.cli.places import find_paths
from orchestrator.control.admin_client import Object, ask_once
from orchestrator.errors import UndeliveredError
from orchestrator.model.text import visible


def test(project: Path | None, target: str | None, *, as_json: bool) -> None:
    """Send a test message, and tell what became of it at each target.

    Exits with 7 when one did not take it.

    Raises:
        NotRunningError: Nothing runs.
        SettingsError: There is no such target, or none at all.
    """
    request: Object = {"op": "notify.test", "target": target}
    socket = find_paths(project).control_socket
    found = cast("list[Object]", ask_once(socket, request, patience=None))
    if as_json:
        say_json(found)
    else:
        for one in found:
            is_done = one["state"] == "delivered"
            mark = paint("told", "green") if is_done else paint("not told", "red")
            why = "" if is_done else f": {visible(str(one['note']), '')}"
            say(f"{one['target']}  {mark}{why}")
    if any(one["state"] != "delivered" for one in found):
        sys.exit(UndeliveredError.exit_code)
