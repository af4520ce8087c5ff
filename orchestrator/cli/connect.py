"""`agents connect`: stdio for clients that speak no HTTP."""

import gc
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from orchestrator.shim.request import Endpoint

_LONGEST_FILE_BYTES: Final = 4096
# The daemon answers in milliseconds; a client that is being stopped must not wait for it.
_STATUS_SECONDS: Final = 2.0


def connect(project: Path | None, role: str) -> None:
    """Serve MCP on stdin and stdout until the client goes away.

    Raises:
        NotRunningError: Nothing runs in the project.
        SettingsError: The role does not run.
        TokenUnknownError: There is no token for it.
    """
    # Clients wait for us: imports make many objects that stay, and collecting meanwhile takes long.
    gc.disable()
    import anyio

    from orchestrator.cli.places import find_paths
    from orchestrator.errors import TargetUnavailableError
    from orchestrator.shim.connect import Shim

    gc.freeze()
    gc.enable()
    paths = find_paths(project)
    endpoint = None
    with suppress(TargetUnavailableError):  # it is starting; the first message waits for it
        endpoint = find_gateway(paths.control_socket, role)
    _ = read_token(paths.tokens / role)
    shim = Shim(
        endpoint,
        lambda: find_gateway(paths.control_socket, role),
        lambda: read_token(paths.tokens / role),
    )
    anyio.run(shim.run, backend="asyncio")


def find_gateway(control_socket: Path, role: str) -> "Endpoint":
    """Ask the daemon where a role is reached.

    Raises:
        NotRunningError: Nothing runs.
        ControlUnavailableError: The daemon does not answer.
        SettingsError: The role does not run.
        TargetUnavailableError: The gateway does not listen yet.
    """
    return endpoint_of(find_role(control_socket, role))


def find_role(control_socket: Path, role: str) -> Mapping[str, object]:
    """Ask the daemon how a role is.

    Raises:
        NotRunningError: Nothing runs.
        ControlUnavailableError: The daemon does not answer.
        SettingsError: The role does not run.
    """
    from orchestrator.control.admin_client import ask_once
    from orchestrator.errors import SettingsError

    status = cast(
        "Mapping[str, object]", ask_once(control_socket, {"op": "status"}, patience=_STATUS_SECONDS)
    )
    roles = {
        str(each["role"]): each for each in cast("list[Mapping[str, object]]", status["roles"])
    }
    if role not in roles:
        known = ", ".join(sorted(roles)) or "none yet"
        raise SettingsError(
            f"there is no role {role!r} running in this project",
            hint=f"These are: {known}. `agents up` starts what the role files say.",
        )
    return roles[role]


def endpoint_of(status: Mapping[str, object]) -> "Endpoint":
    """Tell from a role's status where it is reached.

    Raises:
        TargetUnavailableError: The gateway does not listen yet.
    """
    from orchestrator.errors import TargetUnavailableError
    from orchestrator.shim.request import Endpoint

    url = str(status.get("url") or "")
    if not url:
        raise TargetUnavailableError("the gateway does not listen yet", hint="See `agents status`.")
    return Endpoint.parse(url)


def read_token(path: Path) -> str:
    """Read this workstation's own token of a role.

    Raises:
        TokenUnknownError: There is none, or it must not be trusted as it is.
    """
    from orchestrator.errors import TokenUnknownError
    from orchestrator.files import read_regular
    from orchestrator.tokens.mint import read_id

    try:
        content, facts = read_regular(path, _LONGEST_FILE_BYTES, follow=False)
    except FileNotFoundError as error:
        raise TokenUnknownError(
            f"there is no token in {path}", hint="`agents up` writes one for each role."
        ) from error
    except OSError as error:
        raise TokenUnknownError(f"{path} cannot be read: {error.strerror}") from error
    if facts.st_uid != os.geteuid() or stat.S_IMODE(facts.st_mode) & 0o077:
        raise TokenUnknownError(
            f"{path} is open to other users, so its token is not used",
            hint=f"Run `chmod 600 {path}`; if others may have read it, replace the token.",
        )
    text = content.decode("ascii", "replace").strip()
    if read_id(text) is None:
        raise TokenUnknownError(
            f"{path} holds no token", hint="Remove it and run `agents up`, which writes a new one."
        )
    return text
