"""`agents rotate`: replace credentials, and follow until they are."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

from orchestrator.cli.hidden import ask_hidden
from orchestrator.cli.output import note, paint, say, say_json, seconds
from orchestrator.cli.places import find_paths
from orchestrator.control.admin_client import Object, ask
from orchestrator.errors import (
    ControlUnavailableError,
    RotationError,
    RotationUnknownError,
    SettingsError,
)
from orchestrator.model.text import visible

# Exit statuses: a rotation failed or was refused; a rotation waits for a person.
NOT_REPLACED: Final = RotationError.exit_code
HELD: Final = 12
LARGEST_VALUE_BYTES: Final = 65_536
ROTATION_ID: Final = r"[0-9a-f]{12}"
_COLOURS: Final = {"done": "green", "failed": "red", "held": "red"}


def rotate(  # noqa: PLR0913  one for each option
    project: Path | None,
    roles: tuple[str, ...],
    *,
    purpose: str | None,
    agent: str | None,
    due: bool,
    dry_run: bool,
    reason: str,
    as_json: bool,
) -> None:
    """Replace credentials; exits with 9 when one was not replaced, with 12 when one is held.

    Raises:
        SettingsError: A name is none, or the options do not go together.
        NotRunningError: Nothing runs, or not such a role.
        AgentsError: Nothing of the kind can be replaced now.
    """
    _check_names(roles, agent, purpose)
    paths = find_paths(project)
    request: Object = {
        "op": "rotate",
        "roles": list(roles),
        "purpose": purpose,
        "agent": agent,
        "due": due,
        "dry_run": dry_run,
        "reason": reason,
    }
    body = _follow(paths.control_socket, request, quiet=as_json)
    rotations, held = _objects(body, "rotations"), _objects(body, "held")
    if as_json:
        say_json(body)
    elif dry_run:
        _tell_plan(body)
    else:
        tokens = [one for one in rotations if "token" in one]
        # Where a token is shown it is all of standard output.
        tell = note if tokens else say
        for one in tokens:
            where = "" if len(tokens) == 1 else f"{one['role']} "
            say(f"{where}{one['token']}")
        for one in rotations:
            tell(_ending(one))
        for one in _objects(body, "refused"):
            tell(f"{_what(one)}: not replaced: {one['message']}")
        for one in held:
            tell(_ending(one))
        _tell_rest(body, due=due)
    states = [str(one["state"]) for one in (*rotations, *held)]
    _leave(states, refused=bool(body.get("refused")))


def _check_names(roles: tuple[str, ...], agent: str | None, purpose: str | None) -> None:
    from orchestrator.model.names import check_agent_name, check_role_name

    for role in roles:
        _ = check_role_name(role)
    if agent is not None:
        _ = check_agent_name(agent)
        if purpose == "upstream":
            raise SettingsError(
                "--agent is about tokens, and upstream credentials are of no agent",
                hint="Leave out one of --agent and --purpose.",
            )


def act(project: Path | None, rotation_id: str, word: str, *, as_json: bool) -> None:
    """Have a person's word on a rotation; exits as `rotate`.

    Raises:
        RotationUnknownError: There is no such rotation, or the word does not fit it now.
    """
    _check_id(rotation_id)
    request: Object = {"op": "rotation.act", "id": rotation_id, "act": word}
    # What is taken back, or vouched for on its way back, is not to succeed.
    _finish(project, request, is_wanted=word == "resume", as_json=as_json)


def provide(project: Path | None, rotation_id: str, *, as_json: bool) -> None:
    """Hand over a credential that a person made; exits as `rotate`.

    Raises:
        SettingsError: The value cannot be read.
        RotationUnknownError: No rotation of this id waits for one.
    """
    _check_id(rotation_id)
    # Before anything is read: who gave the value may not be able to give it again.
    _ = find_paths(project)
    request: Object = {"op": "rotation.provide", "id": rotation_id, "value": _read_value()}
    _finish(project, request, is_wanted=True, as_json=as_json)


def _finish(project: Path | None, request: Object, *, is_wanted: bool, as_json: bool) -> None:
    """Follow one rotation to its end.

    Args:
        project: The project.
        request: What is asked.
        is_wanted: Whether the rotation should succeed; one that is taken back should not.
        as_json: Whether a program reads.
    """
    body = _follow(find_paths(project).control_socket, request, quiet=as_json)
    if as_json:
        say_json(body)
    elif "state" in body:
        say(_ending(body))
    else:
        _tell_word(body)
    state = str(body.get("state", "done"))
    _leave(["done" if state == "failed" and not is_wanted else state], refused=False)


def _leave(states: list[str], *, refused: bool) -> None:
    """End with the status of the worst."""
    if refused or "failed" in states:
        sys.exit(NOT_REPLACED)
    if "held" in states:
        sys.exit(HELD)


def _check_id(text: str) -> None:
    if not re.fullmatch(ROTATION_ID, text):
        # What was given instead may be a credential: it is not repeated.
        raise RotationUnknownError(
            "that is no id of a rotation",
            hint="An id has 12 digits and letters from a to f; see `agents rotate status`.",
        )


def _read_value() -> str:
    """Read a credential, never from the command line, which others can see."""
    if sys.stdin.isatty():
        text = ask_hidden("New credential (not shown): ")
    else:
        content = sys.stdin.buffer.read(LARGEST_VALUE_BYTES + 1)
        if len(content) > LARGEST_VALUE_BYTES:
            raise SettingsError(f"a credential has at most {LARGEST_VALUE_BYTES} bytes")
        try:
            text = content.decode()
        except UnicodeDecodeError:
            raise SettingsError("a credential is UTF-8 text") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text.strip():
        raise SettingsError("the credential is empty; nothing was done")
    return text


# While it goes on.


def _follow(socket: Path, request: Object, *, quiet: bool) -> Object:
    """Tell every change on standard error; return the result."""
    # A rotation is silent while it drains or waits for its issuer.
    replies = ask(socket, request, patience=None)
    begun: Object | None = None
    try:
        while True:
            body = next(replies)
            if not quiet and (begun is None or _differs(begun, body)):
                _tell_change(body)
            begun = body
    except StopIteration as end:
        return cast("Object", end.value)
    except KeyboardInterrupt:
        if begun is not None:
            note(f"\nLeft; it goes on. `agents rotate status {begun['id']}` shows it.")
        raise
    except ControlUnavailableError as error:
        if begun is not None:
            error.hint = f"What was begun goes on: `agents rotate status {begun['id']}`."
        raise
    finally:
        replies.close()


def _differs(one: Object, other: Object) -> bool:
    keys = ("id", "state", "attempt", "tries", "error")
    return any(one.get(key) != other.get(key) for key in keys)


def _tell_change(body: Object) -> None:
    # A step that is tried again changes nothing: its own moment is the one when it began.
    moment = _now() if body.get("tries") else str(body["changed_at"])[11:19]
    state = str(body["state"])
    text = f"{moment}  {_what(body)}  {paint(state, _COLOURS.get(state, 'yellow'))}"
    if body["error"]:
        text += f"  {visible(str(body['error']), '')}"
        if body["not_before"]:
            text += f"; next try at {str(body['not_before'])[11:19]}"
    note(text)


# At its end.


def _what(body: Object) -> str:
    """Name a credential."""
    whose = f"token of {body['agent']}" if body["purpose"] == "agent" else "upstream"
    return f"{body['role']} {whose}"


def _ending(body: Object) -> str:
    """Tell how a rotation ended, or what it waits for, and what a person can do."""
    what, state, told = _what(body), str(body["state"]), visible(str(body["error"]), "")
    old, new = body["old"], body["new"]
    match state:
        case "done":
            end = _end_of(str(old), body) if old else ""
            return f"{what}: replaced by {new}{end} ({_length(body)}, rotation {body['id']})."
        case "failed":
            works = f"{old} works as before" if old else "there is still none"
            why = told or "it was taken back"
            return f"{what}: not replaced: {why}; {works} (rotation {body['id']})."
        case "held":
            why = visible(str(body["held_for"]), "")
            return f"{what}: held: {why}{'' if not told else f' ({told})'}\n  {_ways(body)}"
        case _ if body["purpose"] == "agent":
            how = "shown this once" if "token" in body else "delivered"
            return (
                f"{what}: {new} is {how}; {old} works until the new one is in use and {old} itself "
                f"has fallen quiet. If the new one is not used within `overlap`, it ends, and "
                f"{old} stays (rotation {body['id']})."
            )
        case _:
            return f"{what}: {state}; `agents rotate status {body['id']}` shows how it goes on."


def _tell_word(receipt: Object) -> None:
    """Tell for what of an emergency's receipt a person's word was taken."""
    for one in _objects(receipt, "upstream"):
        if "approved_by" in one:
            say(f"{one['role']} upstream: your word was taken that {one['version']} is dead.")


def _end_of(old: str, body: Object) -> str:
    """Tell what was seen of the old credential's end: `revoked` is only what was seen refused."""
    receipt = cast("Object", body["receipt"] or {})
    proof = cast("Object", receipt.get("proof") or {})
    if proof.get("proved"):
        return f"; {old} was seen refused"
    if "approved_by" in receipt and receipt.get("approved", old) == old:
        return f"; a person said that {old} is dead"
    return f"; that {old} is dead was not seen"


def _ways(body: Object) -> str:
    """Tell what a person can do about a held rotation, once they have done their part."""
    command = "`agents rotate {} " + f"{body['id']}`"
    match body["held_at"]:
        case "minting":
            ways = "{} hands it over, {} gives it up.", "provide", "abort"
        case "revoking" | "aborting" | "rolling-back":
            ways = "{} looks at it again, {} takes your word for it.", "resume", "approve-revoke"
        case _:
            ways = "{} goes on, {} takes it back.", "resume", "abort"
    text, *words = ways
    return text.format(*(command.format(word) for word in words))


def _now() -> str:
    from datetime import UTC, datetime

    return f"{datetime.now(UTC):%H:%M:%S}"


def _length(body: Object) -> str:
    from datetime import datetime

    begin, end = (datetime.fromisoformat(str(body[key])) for key in ("created_at", "changed_at"))
    return seconds((end - begin).total_seconds())


def _tell_plan(body: Object) -> None:
    planned = _objects(body, "planned")
    for one in planned:
        due = "due now" if one["is_due"] else f"due {str(one['due_at'])[:10]}"
        say(f"{_what(one)}: {one['credential']} would be replaced ({due}).")
    _tell_left(body, say)
    say("Nothing is to be replaced." if not planned else "Nothing was done.")


def _tell_rest(body: Object, *, due: bool) -> None:
    """Tell what was not touched; a job that runs every day is silent where nothing happened."""
    if due and not sys.stderr.isatty() and not _objects(body, "rotations"):
        return
    _tell_left(body, note)
    if due and not _objects(body, "rotations"):
        note("Nothing else is due." if _objects(body, "left") else "Nothing is due.")


def _tell_left(body: Object, tell: Callable[[str], None]) -> None:
    for one in _objects(body, "left"):
        if one["by_hand"]:
            command = f"agents rotate {one['role']} --agent {one['agent']}"
            tell(f"{_what(one)}: by hand: `{command}` shows the new one, once.")
        elif one["is_due"]:
            tell(f"{_what(one)}: due, and not begun now; the next run takes it.")


def _objects(body: Object, key: str) -> list[Object]:
    return cast("list[Object]", body.get(key) or [])
