"""How an error is told on standard error, and which exit status it gets."""

import json
import sys
from typing import cast

from orchestrator.cli.output import note
from orchestrator.control.admin_client import RemoteError
from orchestrator.errors import AgentsError, RoleFileError
from orchestrator.model.text import visible


def report(error: AgentsError) -> int:
    """Tell an error and return the exit status.

    With `--json` on the command line the error is one JSON object on standard output.
    """
    code = error.remote_code if isinstance(error, RemoteError) else error.code
    status = error.remote_exit_code if isinstance(error, RemoteError) else error.exit_code
    if "--json" in sys.argv:
        problems = error.problems if isinstance(error, RoleFileError) else ()
        body: dict[str, object] = {"code": code, "message": str(error), "hint": error.hint}
        if problems:
            body["problems"] = [
                {
                    "path": problem.path,
                    "line": problem.line,
                    "column": problem.column,
                    "field": problem.field,
                    "problem": problem.problem,
                    "expected": problem.expected,
                }
                for problem in problems
            ]
        _ = sys.stdout.write(json.dumps({"error": body}, indent=2) + "\n")
        return status
    if isinstance(error, RoleFileError):
        for problem in error.problems:
            note(visible(str(problem)))
        count = len(error.problems)
        note(f"agents: {count} problem{'s' if count > 1 else ''} in the project's files")
    else:
        note(f"agents: {visible(str(error))}")
    if error.hint:
        note(visible(error.hint))
    return status


def report_unexpected(error: Exception) -> int:
    """Tell an error that nobody expected, by its kind only: its text may hold anything."""
    if isinstance(error, OSError) and error.strerror:
        name = cast("object", error.filename)
        return report(AgentsError(f"{name}: {error.strerror}" if name else error.strerror))
    return report(
        AgentsError(
            f"unexpected {type(error).__name__}; this is a mistake in Bandmaster",
            hint="Set AGENTS_DEBUG=1 to see where it happened, and please report it.",
        )
    )
