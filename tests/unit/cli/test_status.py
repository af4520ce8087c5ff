"""A status as a person reads it."""

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from orchestrator.cli.status import is_ready, render, status
from orchestrator.errors import NotRunningError

Object = dict[str, object]
READY: Object = {
    "role": "reader",
    "state": "ready",
    "detail": "",
    "hint": "",
    "settled": True,
    "server": "shop",
    "bands": ["look", "order"],
    "mode": "agent",
    "tools": ["list_goods", "order_goods"],
    "missing": [],
    "pid": 4711,
    "generation": 3,
    "restarts": 2,
    "uptime_seconds": 200.5,
    "retry_in_seconds": None,
    "url": "http://127.0.0.1:8700/reader/mcp",
}
LOOPING: Object = {
    **READY,
    "role": "signer",
    "state": "crash-looping",
    "detail": "it ended by itself (exit status 3)",
    "hint": "See `agents logs signer`.",
    "tools": [],
    "pid": None,
    "uptime_seconds": None,
    "retry_in_seconds": 42.7,
}


def body(*roles: Object, notes: tuple[str, ...] = (), **gateway: object) -> Object:
    """Make a status."""
    front = {"url": "http://127.0.0.1:8700", "ready": True, "detail": "", **gateway}
    return {"gateway": front, "roles": list(roles), "notes": list(notes)}


def test_roles_stand_in_a_table_and_troubles_below() -> None:
    """One line a role; then what is wrong, when it is tried again and what to do."""
    missing = {**READY, "missing": ["pay_bill", "hire"]}
    assert render(body(missing, LOOPING, notes=("bootstrap of shop: under way",))) == [
        "gateway  http://127.0.0.1:8700",
        "",
        "ROLE    STATE          BANDS       TOOLS  PID   RESTARTS  UPTIME",
        "reader  ready          look,order  2      4711  2         3m",
        "signer  crash-looping  look,order  -      -     2         -",
        "",
        "reader: promised and not shown by the server: pay_bill, hire",
        "",
        "signer: it ended by itself (exit status 3); next try in 42s",
        "  See `agents logs signer`.",
        "",
        "bootstrap of shop: under way",
    ]


def test_all_is_well_in_few_lines() -> None:
    """Where nothing is wrong nothing else is said."""
    assert len(render(body(READY))) == 4


def process(**fields: object) -> Object:
    """Make the status of a further process."""
    ready = {"state": "ready", "detail": "", "era": "modern", "owner": "", "pid": 4712}
    return {**ready, **fields}


def test_spares_and_lanes_stand_below_the_table() -> None:
    """Who stands by is told with what is wrong with it; lanes are told with whose they are."""
    failing: Object = {"state": "backoff", "detail": "it ended", "pid": None}
    shown = [f"legacy of bob{number}" for number in range(7)]
    roles: tuple[Object, ...] = (
        {**READY, "instances": "per-role", "spare": process(), "lanes": [process()]},
        {**READY, "role": "b", "spare": process(**failing)},
        {
            **READY,
            "role": "c",
            "instances": "per-agent",
            "spare": None,
            "lanes": [
                process(owner="alice", **failing),
                *(process(owner=f"bob{number}", era="legacy") for number in range(8)),
            ],
        },
        {**READY, "role": "d", "instances": "per-session", "lanes": [process(owner="0f")]},
    )
    assert render(body(*roles))[7:] == [
        "",
        "reader: spare ready, pid 4712",
        "reader: 1 lane: modern",
        "b: spare backoff (it ended)",
        f"c: 9 lanes: modern of alice backoff (it ended); {'; '.join(shown)}; and 1 more",
        "d: 1 lane: modern of session 0f",
    ]


@pytest.mark.parametrize(
    ("detail", "told"), [("", "starting"), ("127.0.0.1:8700 cannot be bound", "cannot be bound")]
)
def test_a_gateway_that_does_not_listen(detail: str, told: str) -> None:
    """In place of its address stands why there is none."""
    lines = render(body(url="", ready=False, detail=detail))
    assert told in lines[0]
    assert lines[2:] == ["no roles"]


def test_ready_means_all_of_it() -> None:
    """A project is ready when its gateway and every role are."""
    assert is_ready(body(READY))
    assert not is_ready(body(READY, LOOPING))
    assert not is_ready(body(READY, ready=False))


# The command.


@pytest.fixture
def daemon(project: Path) -> Callable[[Object], None]:
    """Return the function that answers one question on the project's control socket."""

    def serve(answer: Object) -> None:
        run = project / ".agents" / "run"
        run.mkdir(parents=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(run / "control.sock"))
        listener.listen()

        def reply() -> None:
            with listener, listener.accept()[0] as connection:
                _ = connection.recv(9999)
                line = json.dumps({"type": "result", "body": answer})
                connection.sendall(line.encode() + b"\n")

        threading.Thread(target=reply, daemon=True).start()

    return serve


@pytest.mark.parametrize(("roles", "code"), [((READY,), None), ((READY, LOOPING), 6)])
@pytest.mark.parametrize("as_json", [True, False])
def test_the_exit_status_tells(
    project: Path,
    daemon: Callable[[Object], None],
    roles: tuple[Object, ...],
    code: int | None,
    as_json: bool,
) -> None:
    """The command ends with 6 when a role is not ready, in both forms."""
    daemon(body(*roles))
    if code is None:
        status(project, watch=False, as_json=as_json)
    else:
        with pytest.raises(SystemExit) as caught:
            status(project, watch=False, as_json=as_json)
        assert caught.value.code == code


def test_nothing_runs(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A person gets an error with a way out, a program a status that says so."""
    with pytest.raises(NotRunningError):
        status(project, watch=False, as_json=False)
    with pytest.raises(SystemExit) as caught:
        status(project, watch=False, as_json=True)
    assert caught.value.code == 10
    told = TypeAdapter(Object).validate_json(capsys.readouterr().out)
    assert (told["running"], told["roles"]) == (False, [])
