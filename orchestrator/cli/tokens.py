"""`agents token`: through the daemon where one runs, else straight in the project's state."""

import re
import sys
from pathlib import Path
from typing import cast

from orchestrator.cli.output import NOT_DURABLE, note, say, say_json, table
from orchestrator.cli.places import find_paths
from orchestrator.control.admin_client import Object, ask_once
from orchestrator.errors import (
    NotRunningError,
    SettingsError,
    StateUnwritableError,
    TokenUnknownError,
)


def issue(project: Path | None, role: str, agent: str, ttl: str, *, as_json: bool) -> None:
    """Issue a token and print it, this once."""
    from orchestrator.model.base import parse_duration
    from orchestrator.model.names import check_agent_name, check_role_name

    try:
        life = parse_duration(ttl)
    except ValueError as error:
        raise SettingsError(f"--ttl: {error}") from error
    role_name, agent_name = check_role_name(role), check_agent_name(agent)
    paths = find_paths(project)
    try:
        request: Object = {"op": "token.issue", "role": role, "agent": agent, "ttl": ttl}
        body = cast("Object", ask_once(paths.control_socket, request))
    except NotRunningError:
        from orchestrator.config.project import load_project, select_roles
        from orchestrator.control.orders import describe_issued
        from orchestrator.wiring.tokens import open_desk

        _ = select_roles(load_project(paths.root), [role])
        with open_desk(paths) as desk:
            body = cast("Object", describe_issued(*desk.issue(agent_name, role_name, life)))
    if as_json:
        say_json(body)
        return
    say(str(body["token"]))
    note(
        f"Token {body['id']} of agent {agent} for role {role}, good until {body['expires_at']}. "
        "It is shown this once."
    )


def list_all(project: Path | None, *, as_json: bool) -> None:
    """List all tokens."""
    paths = find_paths(project)
    try:
        body = cast("list[Object]", ask_once(paths.control_socket, {"op": "token.list"}))
    except NotRunningError:
        from orchestrator.control.orders import describe_token
        from orchestrator.wiring.tokens import open_desk

        with open_desk(paths) as desk:
            body = [cast("Object", describe_token(record)) for record in desk.list()]
    if as_json:
        say_json(body)
        return
    if not body:
        say("no tokens")
        return
    head = ("ID", "ROLE", "AGENT", "STATE", "EXPIRES", "LAST USED")
    keys = ("id", "role", "agent", "state", "expires_at", "last_used_at")
    rows = [[_short(token[key]) for key in keys] for token in body]
    say("\n".join(table(head, rows)))


def deny(project: Path | None, *, token_id: str, jti: str, subject: str, as_json: bool) -> None:
    """Refuse access tokens of an identity provider: one by its id or `jti`, or a subject's."""
    paths = find_paths(project)
    try:
        request: Object = {"op": "token.deny", "id": token_id, "jti": jti, "subject": subject}
        body = cast("Object", ask_once(paths.control_socket, request))
    except NotRunningError:
        from orchestrator.wiring.tokens import open_desk

        with open_desk(paths) as desk:
            denial = desk.deny(token_id=token_id, jti=jti, subject=subject)
        body = cast("Object", denial.describe())
    if as_json:
        say_json(body)
    elif body["kind"] == "token":
        say(f"The access token {body['name']} is refused.")
    else:
        say(f"Access tokens of {subject} that were issued until {body['until']} are refused.")
        note("The identity provider may issue others: end the subject there, or in agents.yaml.")


def revoke(project: Path | None, token_id: str, *, as_json: bool) -> None:
    """Revoke a token."""
    if re.fullmatch(r"jwt-[0-9a-f]{16}", token_id):
        deny(project, token_id=token_id, jti="", subject="", as_json=as_json)
        return
    if not re.fullmatch(r"[0-9A-Za-z]{12}", token_id):
        # What was given instead may be a token: it is not repeated.
        raise TokenUnknownError(
            "that is no token id", hint="An id has 12 letters and digits; see `agents token list`."
        )
    paths = find_paths(project)
    try:
        request: Object = {"op": "token.revoke", "id": token_id}
        body = cast("Object", ask_once(paths.control_socket, request))
    except NotRunningError:
        from orchestrator.control.orders import describe_token
        from orchestrator.model.names import TokenId
        from orchestrator.wiring.tokens import open_desk

        with open_desk(paths) as desk:
            record = desk.revoke(TokenId(token_id), "revoked by an operator")
        body = cast("Object", describe_token(record))
    receipt = cast("Object", body.get("receipt") or {})
    if as_json:
        say_json(body)
    else:
        _tell_revoked(body, receipt)
    if not receipt.get("durable", True):
        note(f"agents: {NOT_DURABLE}")
        sys.exit(StateUnwritableError.exit_code)


def _tell_revoked(body: Object, receipt: Object) -> None:
    say(f"Token {body['id']} of agent {body['agent']} for role {body['role']} is revoked.")
    if receipt:
        seen = f"after {receipt['refused_after_ms']} ms" if receipt["refused_at"] else "not yet"
        cut, left = receipt["calls_cut"], receipt["streams_left"]
        say(f"Seen refused {seen}; {cut} of its calls were cut, {left} are still open.")


def _short(value: object) -> str:
    """Cut a moment to the minute, and show nothing as a dash."""
    text = "-" if value is None else str(value)
    return f"{text[:16].replace('T', ' ')}Z" if text.endswith("Z") and "T" in text else text
