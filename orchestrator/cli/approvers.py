"""`agents approvers`: the people who may approve."""

import secrets
import sys
from pathlib import Path
from typing import Final, cast

from orchestrator.cli.approver import Who, read_passphrase
from orchestrator.cli.output import note, say, say_json, table
from orchestrator.cli.places import find_paths
from orchestrator.control.admin_client import Object, ask_once
from orchestrator.errors import SettingsError

# 100 bits, in groups that can be read out.
_GROUPS: Final = 5
_GROUP: Final = 4
_DIGITS: Final = "0123456789abcdefghjkmnpqrstvwxyz"


def list_all(project: Path | None, *, as_json: bool) -> None:
    """List approvers.

    Raises:
        NotRunningError: Nothing runs.
    """
    body = cast("Object", ask_once(find_paths(project).control_socket, {"op": "approvers"}))
    rows = cast("list[Object]", body["approvers"])
    if as_json:
        say_json(body)
    elif not rows:
        say(f"no approver is named; {body['operator']} decides, on this machine")
    else:
        head = ("NAME", "ROLES", "SUBJECT", "SINCE", "BY")
        say("\n".join(table(head, [_row(row) for row in rows])))


def _row(row: Object) -> list[str]:
    return [
        str(row["name"]),
        ", ".join(cast("list[str]", row["roles"])) or "(all)",
        str(row["subject"] or "-"),
        str(row["added_at"])[:16].replace("T", " "),
        str(row["added_by"]),
    ]


def add(  # noqa: PLR0913  one for each option
    project: Path | None,
    name: str,
    who: Who,
    *,
    roles: tuple[str, ...],
    subject: str,
    generate: bool,
    file: Path | None,
    as_json: bool,
) -> None:
    """Name an approver.

    Raises:
        SettingsError: The passphrase is too short, or the name is taken.
        ApproverError: This person may not.
    """
    if generate and file is not None:
        raise SettingsError("give either --generate or --new-passphrase-file")
    socket = find_paths(project).control_socket
    passphrase = _generate() if generate else _ask(name, file)
    request: Object = {
        "op": "approver.add",
        "name": name,
        "passphrase": passphrase,
        "subject": subject,
        "roles": list(roles),
        "ticket": who.ticket(socket),
    }
    body = cast("Object", ask_once(socket, request))
    if as_json:
        say_json({**body, **({"passphrase": passphrase} if generate else {})})
        return
    say(f"{name} may approve from now on, and only approvers may.")
    if generate:
        note("This passphrase is shown once, and kept nowhere:")
        say(passphrase)


def remove(project: Path | None, name: str, who: Who, *, as_json: bool) -> None:
    """Take an approver's right away.

    Raises:
        ApproverError: There is none of that name, or this person may not.
    """
    socket = find_paths(project).control_socket
    request: Object = {"op": "approver.remove", "name": name, "ticket": who.ticket(socket)}
    body = cast("Object", ask_once(socket, request))
    if as_json:
        say_json(body)
    else:
        say(f"{name} approves nothing any more.")


def _generate() -> str:
    letters = [secrets.choice(_DIGITS) for _ in range(_GROUPS * _GROUP)]
    return "-".join("".join(letters[at : at + _GROUP]) for at in range(0, len(letters), _GROUP))


def _ask(name: str, file: Path | None) -> str:
    """Have a person choose a passphrase; on a terminal twice, as nobody sees what was typed.

    Raises:
        SettingsError: There is none, or they are two.
    """
    first = read_passphrase(file, f"Passphrase for {name}: ")
    if file is None and sys.stdin.isatty() and read_passphrase(None, "Once more: ") != first:
        raise SettingsError("these are two different passphrases")
    return first
