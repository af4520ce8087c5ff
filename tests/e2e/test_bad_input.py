"""What goes wrong is told with its place, its cause and its cure, and nothing is started."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Project

TREASURY = "roles/treasury.yaml"
SCRIPT_SERVER = """
server: odd
description: A server that does not do as it should.
owner: tests
source: tests
launch: {{command: ["{{python}}", "{script}"]}}
bands: {{names: [read]}}
tools: {{echo: {{band: read, class: READ}}}}
probe: {{startup: 3s}}
"""
ODD_ROLE = """
role: odd
server: odd
bands: [read]
justification: A test of an odd server.
owner: tests
"""


def edit(project: Project, name: str, old: str, new: str) -> None:
    """Change a file of the project."""
    path = project.root / name
    text = path.read_text()
    assert old in text
    _ = path.write_text(text.replace(old, new))


def refused(project: Project, status: int, *words: str) -> str:
    """Run `up -d`, which must fail and start nothing; return what it said."""
    done = project.agents("up", "-d", check=status)
    assert project.processes() == {}
    for word in words:
        assert word in done.stderr, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("role: treasury", "role: [treasury", ("treasury.yaml:",)),
        ("bands: [read, prepare]", "bands: [read, prepair]", ("prepair", "prepare")),
        ("bands: [read, prepare]", "band: [read, prepare]", ("band", "did you mean", "bands")),
        ("server: wallet", "server: walet", ("walet", "wallet")),
        ("mode: agent", "mode: admin", ("mode", "agent", "owner")),
        ("bands: [read, prepare]", "bands: [prepare]", ("cumulative", "read")),
    ],
)
def test_a_mistake_in_a_role_file_is_told_with_its_place(
    project: Project, old: str, new: str, words: tuple[str, ...]
) -> None:
    """A mistake is named with file and line, and with what would be right."""
    text = (project.root / TREASURY).read_text()
    if old not in text:
        assert old == "mode: agent"
        _ = (project.root / TREASURY).write_text(text + f"\n{new}\n")
    else:
        edit(project, TREASURY, old, new)

    said = refused(project, 2, *words)

    assert f"{TREASURY}:" in said


def test_all_mistakes_of_all_files_are_told_in_one_run(project: Project) -> None:
    """Two broken files give two problems, and `--json` gives them as data."""
    edit(project, TREASURY, "owner:", "ownr:")
    edit(project, "roles/servers/wallet.yaml", "get_price: {band: read", "get_price: {band: red")

    said = refused(project, 2)

    assert "ownr" in said
    assert "wallet.yaml:" in said
    problems = project.json("validate", check=2)["error"]
    assert isinstance(problems, dict)
    assert problems["code"] == "config.files"


def test_an_unknown_tool_in_a_bootstrap_is_refused(project: Project) -> None:
    """A tool that the server file does not name cannot be called by its bootstrap."""
    edit(project, "roles/servers/wallet.yaml", "- tool: create_wallet", "- tool: create_walet")

    _ = refused(project, 2, "create_walet", "create_wallet")


def test_a_literal_secret_is_refused_and_not_repeated(project: Project) -> None:
    """A secret that stands in a file is an error that does not show it."""
    literal = "sk_live_9f8e7d6c5b4a39281706"
    path = project.root / TREASURY
    _ = path.write_text(path.read_text() + f"\nsecrets:\n  MPC_AGENT_TOKEN: {literal}\n")

    said = refused(project, 2, "MPC_AGENT_TOKEN")

    assert literal not in said


def test_a_missing_secret_is_named_with_its_role(project: Project) -> None:
    """A reference to a variable that is not set stops `up`, with exit status 3."""
    path = project.root / TREASURY
    _ = path.write_text(path.read_text() + "\nsecrets:\n  MPC_AGENT_TOKEN: env:NOT_SET_HERE\n")

    _ = refused(project, 3, "treasury", "NOT_SET_HERE", ".env")


def test_a_secret_file_that_others_can_read_is_refused(project: Project) -> None:
    """A group-readable secret file stops `up` and tells the command that mends it."""
    secret = project.write("secret.txt", "0123456789abcdef\n")
    secret.chmod(0o640)
    path = project.root / TREASURY
    _ = path.write_text(path.read_text() + f"\nsecrets:\n  MPC_AGENT_TOKEN: file:{secret}\n")

    _ = refused(project, 3, str(secret), "chmod")


def test_a_taken_port_is_named(project: Project) -> None:
    """A gateway address that another program has stops `up` before anything runs."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(cast("tuple[str, int]", taken.getsockname())[1])
        _ = project.write("agents.yaml", f"listen: 127.0.0.1:{port}\n")

        _ = refused(project, 2, port, "listen:")


def test_an_address_that_others_reach_is_refused(project: Project) -> None:
    """The gateway does not listen beyond this machine."""
    _ = project.write("agents.yaml", "listen: 0.0.0.0:8700\n")

    _ = refused(project, 2, "agents.yaml:1", "TLS")


def test_a_state_directory_that_cannot_be_used_is_named(project: Project) -> None:
    """A file where the state should be stops `up`."""
    _ = project.write("blocked", "")
    _ = project.write("agents.yaml", "listen: 127.0.0.1:0\nstate: blocked/state\n")

    _ = refused(project, 2, "blocked")


def test_a_state_directory_that_is_not_writable_is_named(project: Project) -> None:
    """A place where not even root may make a directory stops `up`."""
    _ = project.write("agents.yaml", "listen: 127.0.0.1:0\nstate: /proc/closed\n")

    _ = refused(project, 2, "/proc/closed")


def test_a_run_directory_with_too_long_a_path_is_told_with_a_cure(project: Project) -> None:
    """A path that no unix socket can have stops `up`, which names the setting to change."""
    _ = project.write("agents.yaml", f"listen: 127.0.0.1:0\nstate: {'long/' * 20}state\n")

    _ = refused(project, 2, "run:")


def test_a_missing_program_is_named_at_its_line(bare: Project) -> None:
    """A server whose program is not installed stops `up` and says where it is asked for."""
    text = SCRIPT_SERVER.format(script="x").replace('"{python}", "x"', "no-such-program")
    _ = bare.write("roles/servers/odd.yaml", text)
    _ = bare.write("roles/odd.yaml", ODD_ROLE)

    _ = refused(bare, 2, "roles/servers/odd.yaml:6", "no-such-program")


@pytest.mark.parametrize(
    ("program", "state", "words"),
    [
        ("print('hello world', flush=True)\nimport sys\nsys.stdin.read()", "", ("hello world",)),
        ("import sys\nsys.stdin.read()", "", ("did not answer", "3 s")),
        (
            "import sys\nsys.exit('the database is away')",
            "crash-looping",
            ("exit status 1", "the database is away"),
        ),
    ],
    ids=["rubbish", "silent", "exits"],
)
def test_a_server_that_does_not_work_gets_no_traffic_and_says_why(
    bare: Project, program: str, state: str, words: tuple[str, ...]
) -> None:
    """`up -d` ends with status 6 and the cause, and the role takes no call."""
    script = bare.write("odd.py", program)
    _ = bare.write("roles/servers/odd.yaml", SCRIPT_SERVER.format(script=script))
    _ = bare.write("roles/odd.yaml", ODD_ROLE)

    failed = bare.agents("up", "-d", check=6)

    for word in words:
        assert word in failed.stderr, failed.stderr
    assert "agents logs odd" in failed.stderr
    role = bare.role("odd")
    assert role["state"] in {state or "backoff", "crash-looping", "starting"}
    assert role["tools"] == []


def test_a_server_that_shows_too_much_is_quarantined(project: Project) -> None:
    """A role whose server shows a tool that its file does not name is stopped, the tool named."""
    edit(
        project,
        "roles/servers/wallet.yaml",
        "  prepare_onramp: {band: prepare, class: WRITE, identifies: [address, chain]}\n",
        "",
    )

    failed = project.agents("up", "-d", check=6)

    assert "quarantined" in failed.stderr
    assert "prepare_onramp" in failed.stderr
    assert project.role("treasury")["state"] == "quarantined"
    assert project.role("treasury")["pid"] is None
    assert project.role("monitoring")["state"] == "ready"


def test_commands_outside_a_project_say_what_to_do(bare: Project) -> None:
    """Without files `up` points to `agents init`; without a daemon the others to `agents up`."""
    assert "agents init" in bare.agents("up", "-d", check=2).stderr
    for words in (["status"], ["restart", "treasury"], ["connect", "treasury"]):
        assert "agents up" in bare.agents(*words, check=10).stderr


def test_a_state_file_that_is_not_understood_stops_up(project: Project) -> None:
    """A damaged state is named and left as it is."""
    project.state.mkdir(mode=0o700)
    damaged = project.write(".agents/control.json", '{"format": 99}')

    _ = refused(project, 10, str(damaged))

    assert damaged.read_text() == '{"format": 99}'


def test_usage_errors_are_short(bare: Project) -> None:
    """A wrong option ends with status 2, a sentence, and no traceback."""
    agents = Path(sys.executable).with_name("agents")
    done = subprocess.run(
        [agents, "up", "--nope"], env=bare.env, capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert "No such option" in done.stderr


def test_init_and_config_print_json(project: Project) -> None:
    """`init --json` tells what was kept, `config --json` where an entry belongs and what it is."""
    again = project.json("init")
    assert again["written"] == []
    assert "roles/treasury.yaml" in str(again["kept"])

    told = project.json("config", "treasury", "--client", "cursor")
    assert str(told["file"]).endswith("/.cursor/mcp.json")
    assert told["changed"] is False
    assert "connect" in str(told["entry"])
