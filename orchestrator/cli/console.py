"""`agents console`: becomes the program that serves the console."""

import os
import re
import sys
from pathlib import Path
from typing import Final

from orchestrator.cli.places import find_paths
from orchestrator.control.admin_client import is_listening
from orchestrator.errors import NotRunningError, SettingsError

_LISTEN: Final = re.compile(r"(?:\[(::1)\]|(127(?:\.[0-9]{1,3}){3})|(localhost)):([0-9]{1,5})")
_PUBLIC: Final = re.compile(r"https://([A-Za-z0-9.-]{1,255}(?::[0-9]{1,5})?)/?")
_LAST_PORT: Final = 65_535
_MODULE: Final = "orchestrator.console.main"


def console(project: Path | None, listen: str, public_url: str | None, *, opens: bool) -> None:
    """Serve the console until Ctrl-C.

    Args:
        project: The project.
        listen: Where, on this machine alone.
        public_url: Under which address people elsewhere open signed links; None for none.
        opens: Whether to open a browser.

    Raises:
        SettingsError: An address cannot be used.
        NotRunningError: Nothing runs in the project.
    """
    host, port = read_listen(listen)
    url = check_public_url(public_url)
    paths = find_paths(project)
    if not is_listening(paths.control_socket):
        raise NotRunningError(
            "nothing is running in this project", hint="Start it with `agents up -d`."
        )
    places = (str(paths.root), str(paths.state), str(paths.run))
    words = (*places, host, str(port), url, "open" if opens else "no")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-I", "-m", _MODULE, *words])  # noqa: S606  it becomes it


def read_listen(text: str) -> tuple[str, int]:
    """Read ADDRESS:PORT of this machine's own.

    Raises:
        SettingsError: It is something else, or can be reached from elsewhere.
    """
    match = _LISTEN.fullmatch(text)
    if not match or int(match[4]) > _LAST_PORT:
        raise SettingsError(
            f"--listen {text} is no loopback address with a port",
            hint="Example: --listen 127.0.0.1:8710. For people elsewhere put a proxy with TLS in "
            "front, and name its address with --public-url.",
        )
    return match[1] or match[2] or "127.0.0.1", int(match[4])


def check_public_url(text: str | None) -> str:
    """Check the address under which links are opened; empty for none.

    Raises:
        SettingsError: It is no https address of a host.
    """
    if text is None:
        return ""
    match = _PUBLIC.fullmatch(text)
    if not match:
        raise SettingsError(
            f"--public-url {text} is no https address of a host",
            hint="Example: --public-url https://approve.example.com",
        )
    # As browsers write it in `Host`.
    return f"https://{match[1].lower()}"
