"""`agents call`: one call of a tool, through the gateway like any agent's."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, final

import anyio

from orchestrator.cli.arguments import read_arguments
from orchestrator.cli.output import note, say, say_json
from orchestrator.cli.reach import Reach, asks_caller, reach, refusal_in, refusal_of
from orchestrator.cli.results import lines_of
from orchestrator.errors import (
    AgentsError,
    CallDeniedError,
    SettingsError,
    TargetLostError,
    ToolFailedError,
    UnknownToolError,
    UpstreamTimeoutError,
)
from orchestrator.model.base import Json, JsonObject, parse_duration
from orchestrator.model.text import cut, visible
from orchestrator.protocol import jsonrpc

_LIST_SECONDS: Final = 60.0
# A call that takes longer is told to be under way.
_QUIET_SECONDS: Final = 1.0
_STEP_SECONDS: Final = 0.5
_LONGEST_MESSAGE: Final = 200
_CHECK_FIRST: Final = "Find out whether the call took effect before you make it again."


def call(  # noqa: PLR0913  one for each option
    project: Path | None,
    role: str,
    tool: str,
    text: str | None,
    pairs: Sequence[str],
    *,
    timeout: str,
    yes: bool,
    as_json: bool,
) -> None:
    """Call a tool and print its result; exits with 11 when the tool reports an error.

    Raises:
        SettingsError: The arguments cannot be read, or nobody can confirm the call.
        UnknownToolError: The role has no such tool.
        CallDeniedError: The person declined.
        AgentsError: The call was refused, or no answer came.
    """
    try:
        seconds = parse_duration(timeout).total_seconds()
    except ValueError as error:
        raise SettingsError(f"--timeout: {error}") from error
    way = reach(project, role)
    if tool not in way.classes:
        unknown = UnknownToolError(tool)
        unknown.hint = f"`agents tools {role}` lists what there is."
        raise unknown
    arguments = read_arguments(text, pairs, anyio.run(_schema, way, tool))
    if way.classes[tool] == "DESTRUCTIVE" and not yes:
        _confirm(role, tool, from_stdin=text == "-")
    result = anyio.run(_call, way, tool, arguments, seconds)
    refused = refusal_in(result)
    if refused is not None:
        raise refused
    if result.get("resultType") == "input_required":
        raise asks_caller()
    if as_json:
        say_json(result)
    else:
        for line in lines_of(result, is_terminal=sys.stdout.isatty()):
            say(line)
    if result.get("isError") is True:
        if not as_json:
            note(f"agents: {tool} reported an error")
        sys.exit(ToolFailedError.exit_code)


async def _schema(way: Reach, tool: str) -> Json:
    """Look up a tool's schema; it also tells which arguments are repeated in headers."""
    with anyio.fail_after(_LIST_SECONDS):
        response = await way.asker.list_tools()
    if response.error is not None:
        raise refusal_of(response.error)
    tools = (response.result or {}).get("tools")
    for one in tools if isinstance(tools, list) else []:
        if isinstance(one, dict) and one.get("name") == tool:
            return one.get("inputSchema")
    return None  # the gateway has the last word on what there is


async def _call(way: Reach, tool: str, arguments: JsonObject, seconds: float) -> JsonObject:
    """Call the tool once, and tell its progress.

    Raises:
        AgentsError: It was refused, or no answer came.
    """
    progress = _Progress(tool)
    outcome: jsonrpc.Response | AgentsError = AgentsError("the call ended without an outcome")
    async with anyio.create_task_group() as group:
        group.start_soon(progress.wait)
        outcome = await _outcome(way, tool, arguments, seconds, progress)
        group.cancel_scope.cancel()
    if isinstance(outcome, AgentsError):
        raise outcome
    if outcome.error is not None:
        raise refusal_of(outcome.error)
    return outcome.result or {}


async def _outcome(
    way: Reach, tool: str, arguments: JsonObject, seconds: float, progress: "_Progress"
) -> jsonrpc.Response | AgentsError:
    """Call the tool; an error is returned, as a task group would wrap one that is raised."""
    try:
        with anyio.fail_after(seconds):
            return await way.asker.call_tool(tool, arguments, progress.take)
    except TimeoutError:
        return UpstreamTimeoutError(
            f"{tool} did not answer within {seconds:g} s; the call was taken back, "
            "and its outcome is unknown",
            hint=_CHECK_FIRST,
        )
    except TargetLostError as error:
        return TargetLostError(f"{error}; the outcome is unknown", hint=_CHECK_FIRST)
    except AgentsError as error:
        return error


@final
class _Progress:
    """Tells on standard error how far a call is, once it takes a while."""

    def __init__(self, tool: str) -> None:
        self._tool = tool
        self._next = time.monotonic() + _QUIET_SECONDS
        self._told = False

    async def wait(self) -> None:
        """Say that the call is under way, if the tool itself says nothing."""
        await anyio.sleep(_QUIET_SECONDS + _STEP_SECONDS)
        if not self._told:
            note(f"{self._tool}: still running; Ctrl-C takes the call back")

    def take(self, method: str, params: JsonObject) -> None:
        """Tell a progress notification, if the last one was not just now."""
        now = time.monotonic()
        if method != "notifications/progress" or now < self._next:
            return
        self._next, self._told = now + _STEP_SECONDS, True
        done, total, said = (params.get(key) for key in ("progress", "total", "message"))
        text = f"{self._tool}: {done}" + ("" if total is None else f"/{total}")
        note(cut(visible(text + (f"  {said}" if said else ""), ""), _LONGEST_MESSAGE))


def _confirm(role: str, tool: str, *, from_stdin: bool) -> None:
    """Ask a person on the terminal whether a destructive tool is meant to be called.

    Raises:
        SettingsError: There is no terminal to ask on.
        CallDeniedError: It is not.
    """
    if from_stdin or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise SettingsError(
            f"{tool} is destructive, and there is no terminal to confirm the call on",
            hint="`--yes` confirms it.",
        )
    _ = sys.stderr.write(f"{tool} of {role} is destructive. Call it? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise CallDeniedError("nothing was called", rule="confirmation")
