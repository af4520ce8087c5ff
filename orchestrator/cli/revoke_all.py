"""`agents revoke-all` and `agents reopen`: for the day on which a credential leaked."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from orchestrator.cli.output import NOT_DURABLE, note, say, say_json
from orchestrator.cli.places import find_paths
from orchestrator.cli.rotate_status import receipt_lines
from orchestrator.control.admin_client import Object, ask_once, is_listening
from orchestrator.errors import (
    CallDeniedError,
    NotRunningError,
    RotationError,
    SettingsError,
    StateUnwritableError,
)
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

    Exits with 9 when something of it was not seen dead, with 10 when it is not on disk.

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
        processes = cast("dict[str, Object]", receipt.get("processes") or {})
        told = {role: _processes(closed) for role, closed in processes.items()}
        say("\n".join(receipt_lines({**receipt, "processes": told})))
        _tell_alive(receipt, alive)
        note("The roles stay down until `agents reopen ROLE`.")
    if not receipt.get("durable", True):
        note(f"agents: {NOT_DURABLE}")
        sys.exit(StateUnwritableError.exit_code)
    if alive:
        sys.exit(RotationError.exit_code)


def _tell_alive(receipt: Object, alive: list[str]) -> None:
    for text in alive:
        note(f"agents: not seen dead: {text}")
    if not all(one["proved"] for one in cast("list[Object]", receipt.get("upstream") or [])):
        word = f"`agents rotate approve-revoke {receipt['id']}`"
        note(f"When you ended such a credential by hand, {word} says so.")


def _not_seen_dead(receipt: Object) -> Iterator[str]:
    """Tell what of a receipt a person still has to look after."""
    for token in cast("list[Object]", receipt.get("tokens") or []):
        if token["refused_at"] is None or token["streams_left"]:
            yield f"token {token['token']} of {token['agent']}"
    for role, closed in cast("dict[str, Object]", receipt.get("processes") or {}).items():
        if not closed["ended"]:
            yield f"processes of {role}: {visible(str(closed['note']), '')}"
    for version in cast("list[Object]", receipt.get("upstream") or []):
        if not version["proved"]:
            yield f"{version['version']}: {visible(str(version['note']), '')}"


def _processes(closed: Object) -> str:
    """Say what became of a role's processes."""
    cut = closed["calls_cut"]
    calls = "no call was cut" if not cut else f"{cut} call{'' if cut == 1 else 's'} cut"
    return f"all ended, {calls}" if closed["ended"] else f"not all ended, {calls}"


def reopen(project: Path | None, role: str, *, as_json: bool) -> None:
    """Let a role run again.

    Raises:
        NotRunningError: Nothing runs, or not this role.
        RotationError: `agents revoke-all` of it is not carried out to its end.
    """
    _ = check_role_name(role)
    request: Object = {"op": "reopen", "role": role}
    body = cast("Object", ask_once(find_paths(project).control_socket, request, patience=None))
    if as_json:
        say_json(body)
    elif not body["was_closed"]:
        say(f"{role} was not closed; it runs on as it did.")
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
