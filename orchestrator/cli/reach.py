"""A role as its agents see it, for the commands that speak to it for a person."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from orchestrator.cli.connect import endpoint_of, find_role, read_token
from orchestrator.cli.places import find_paths
from orchestrator.control.admin_client import RemoteError
from orchestrator.errors import AgentsError, CallerAskedError, ToolFailedError
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.text import cut, visible
from orchestrator.protocol import mcp
from orchestrator.shim.ask import Asker

_LONGEST_MESSAGE: Final = 500
_CATEGORIES: Final = frozenset({"validation", "upstream", "flow", "auth", "limit", "not_available"})


@dataclass(frozen=True, slots=True)
class Reach:
    """A way to a role.

    Attributes:
        asker: Asks it with the workstation's own token.
        classes: Class of each tool that the role is promised.
        held: Tools that agents do not get for now.
    """

    asker: Asker
    classes: Mapping[str, str]
    held: tuple[str, ...]


def reach(project: Path | None, role: str) -> Reach:
    """Find a role that runs, and this workstation's token for it.

    Raises:
        NotRunningError: Nothing runs.
        SettingsError: The role does not run.
        TokenUnknownError: There is no token for it.
        TargetUnavailableError: The gateway does not listen yet.
    """
    from importlib.metadata import version

    paths = find_paths(project)
    status = find_role(paths.control_socket, role)
    asker = Asker(endpoint_of(status), read_token(paths.tokens / role), version("bandmaster"))
    classes = cast("Mapping[str, str]", status["classes"])
    return Reach(asker, classes, tuple(cast("list[str]", status["held"])))


def refusal_of(error: JsonObject) -> AgentsError:
    """Make an error of the JSON-RPC error that a request was answered with."""
    data = error.get("data")
    known = None if not isinstance(data, dict) else _known(data)
    if known is not None:
        return known
    if error.get("code") == mcp.MISSING_CAPABILITY:
        return asks_caller()
    said = visible(cut(str(error.get("message")), _LONGEST_MESSAGE), "")
    return ToolFailedError(f"the server refused the request: {said} ({error.get('code')})")


def refusal_in(result: JsonObject) -> AgentsError | None:
    """Make an error of a result by which the gateway, not the tool, refused a call; else None."""
    data = result.get("structuredContent")
    if result.get("isError") is not True or not isinstance(data, dict):
        return None
    return _known(data) if "requestId" in data else None


def asks_caller() -> CallerAskedError:
    """Say that a tool asks its caller something."""
    return CallerAskedError(
        "the tool asks its caller something, and a command cannot answer it",
        hint="Call it from an MCP client that can be asked: `agents config` connects one.",
    )


def _known(data: JsonObject) -> AgentsError | None:
    """Read an error as the gateway tells it; None if it is somebody else's."""
    code, said, action = data.get("code"), data.get("message"), data.get("requiredAction")
    status = _exit_status(code)
    if not isinstance(code, str) or status is None or data.get("category") not in _CATEGORIES:
        return None
    hint = action if isinstance(action, str) else _later(data.get("retryAfterMs"))
    return RemoteError(code, status, str(said), hint)


def _exit_status(code: Json) -> int | None:
    """Tell the exit status of a public code, by its branch; None if it is none of ours."""
    branches = {kind.code: kind.exit_code for kind in AgentsError.__subclasses__()}
    branches[AgentsError.code] = AgentsError.exit_code
    return branches.get(code.partition(".")[0]) if isinstance(code, str) else None


def _later(milliseconds: Json) -> str | None:
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, int | float):
        return None
    return f"Try again in {max(1, round(milliseconds / 1000))} s."
