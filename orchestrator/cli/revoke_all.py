"""`agents revoke-all` and `agents reopen`: for the day on which a credential leaked."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from orchestrator.cli.output import note, say, say_json
from orchestrator.cli.places import find_paths
from orchestrator.cli.rotate_status import receipt_lines
from orchestrator.control.admin_client import Object, ask_once, is_listening
from orchestrator.errors import CallDeniedError, NotRunningError, RotationError, SettingsError
from orchestrator.model.names import check_role_name
from orchestrator.model.text import visible


def revoke_all(  # noqa: PLR0913  one for each option
    project: Path | None,
    roles: tuple[str, ...],
    *,
    everything: bool,
    reason: str,
    yes: bool,
    as_json: bool,
) -> None:
    """End every credential of some roles at once, and print the receipt.

    Exits with 9 when something of it was not seen dead.

    Raises:
        SettingsError: It is not said which roles, or nobody can confirm it.
        CallDeniedError: The person declined.
        NotRunningError: Nothing runs, or not one of these roles; nothing was revoked.
    """
    for role in roles:
        _ = check_role_name(role)
    if everything == bool(roles):
        raise SettingsError(
            "name the roles, or say --everything; nothing was revoked",
            hint="`agents status` lists them.",
        )
    paths = find_paths(project)
    if not yes:
        _confirm("every role" if everything else ", ".join(roles))
    request: Object = {
        "op": "revoke-all",
        "roles": list(roles),
        "everything": everything,
        "reason": reason,
    }
    # The issuer may take its time to refuse; what can be done at once is done before.
    try:
        receipt = cast("Object", ask_once(paths.control_socket, request, patience=None))
    except NotRunningError as error:
        if not is_listening(paths.control_socket):
            error.hint = (
                "Nothing was revoked. `agents token list` and `agents token revoke ID` need no "
                "daemon; what roles show others ends by `agents up -d`, then this once more."
            )
        raise
    alive = list(_not_seen_dead(receipt))
    if as_json:
        say_json(receipt)
    else:
        say("The receipt:")
        say("\n".join(receipt_lines(receipt)))
        for text in alive:
            note(f"agents: not seen dead: {text}")
        note("The roles stay down until `agents reopen ROLE`.")
    if alive:
        sys.exit(RotationError.exit_code)


def _not_seen_dead(receipt: Object) -> Iterator[str]:
    """Tell what of a receipt a person still has to look after."""
    for token in cast("list[Object]", receipt.get("tokens") or []):
        if token["refused_at"] is None or token["streams_left"]:
            yield f"token {token['token']} of {token['agent']}"
    for role, closed in cast("Object", receipt.get("processes") or {}).items():
        if isinstance(closed, str):
            yield f"processes of {role}: {visible(closed, '')}"
    for version in cast("list[Object]", receipt.get("upstream") or []):
        if not version["proved"]:
            yield f"{version['version']}: {visible(str(version['note']), '')}"


def reopen(project: Path | None, role: str, *, as_json: bool) -> None:
    """Let a role run again.

    Raises:
        NotRunningError: Nothing runs, or not this role.
        RotationUnknownError: The role was not closed.
    """
    _ = check_role_name(role)
    request: Object = {"op": "reopen", "role": role}
    body = cast("Object", ask_once(find_paths(project).control_socket, request, patience=None))
    if as_json:
        say_json(body)
    else:
        say(f"{role} may run again, with fresh credentials. `agents status` shows it.")


def _confirm(what: str) -> None:
    """Ask a person on the terminal whether it is meant.

    Raises:
        SettingsError: There is no terminal to ask on.
        CallDeniedError: It is not.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise SettingsError(
            "this ends every credential at once, and there is no terminal to confirm it on",
            hint="`--yes` confirms it.",
        )
    _ = sys.stderr.write(
        f"This revokes every credential of {what}, cuts what is under way and keeps it down. "
        "Do it? [y/N] "
    )
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise CallDeniedError("nothing was revoked", rule="confirmation")
