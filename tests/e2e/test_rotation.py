"""Credentials of a whole project are replaced, proved dead, and seen nowhere else."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import quote

import httpx2
import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Object, Project

AGENTS: Final = str(Path(sys.executable).with_name("agents"))
SERVERS: Final = Path(__file__).parents[1] / "servers"
ROLES: Final = ("low", "middle", "high")

SETTINGS = """
listen: 127.0.0.1:0
issuers:
  keys:
    kind: command
    run: ["{python}", SERVERS/keys.py]
    overlap: true
    revoke: api
    lists: true
    probes: true
    timeout: 60s
    env:
      KEYS: "{project}/keys.json"
      MADE: "{project}/made/keys.txt"
      DAEMON: "{project}/daemon.pid"
      KILL: "WHEN"
"""
SERVER = """
server: keyed
description: Calls a service.
owner: tests
source: tests/servers/keyed.py
launch:
  command: ["{python}", -I, SERVERS/keyed.py]
  env: {KEYS: "{project}/keys.json", EFFECTS: "{project}/effects.txt"}
  accepts: {API_KEY: Key of the service.}
era: legacy
bands: {names: [read, write]}
tools:
  use: {band: read, class: READ}
  slowly: {band: read, class: READ}
  transfer: {band: write, class: DESTRUCTIVE}
"""
ROLE = """
role: NAME
justification: Its credentials are replaced.
owner: tests
server: keyed
bands: BANDS
secrets: {API_KEY: "issued:"}
rotation:
  agent: {overlap: 1h, quiet: 1s}
  upstream: {issuer: keys, soak: 0s, check: {tool: use}}
"""


def fill(project: Project, when: str = "never") -> None:
    """Write the project's files."""
    for name, text in (("agents.yaml", SETTINGS), ("roles/servers/keyed.yaml", SERVER)):
        _ = project.write(name, text.replace("SERVERS", str(SERVERS)).replace("WHEN", when))
    for name in ROLES:
        bands = "full" if name == "high" else "[read]"
        _ = project.write(f"roles/{name}.yaml", ROLE.replace("NAME", name).replace("BANDS", bands))
    (project.root / "made").mkdir(exist_ok=True)


@pytest.fixture
def rotating(bare: Project) -> Project:
    """Make a project of three roles whose server needs a key that is replaced, all ready."""
    fill(bare)
    _ = bare.agents("up", "-d")
    return bare


def alive(project: Project) -> dict[str, str]:
    """Tell the keys that the service takes, by the role that they were made for."""
    keys = cast("dict[str, Object]", json.loads((project.root / "keys.json").read_text()))
    good = [name for name, key in keys.items() if not key["over"]]
    return {name.split("-")[1]: name for name in good}


def made(project: Project) -> list[str]:
    """Tell the text of every key that was ever made."""
    return (project.root / "made" / "keys.txt").read_text().split()


def call(project: Project, url: str, role: str, tool: str, **arguments: object) -> httpx2.Response:
    """Call a tool as a modern client does, with the token as it is now."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "tests", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params = {"name": tool, "arguments": arguments, "_meta": meta}
    return httpx2.post(
        url,
        json={"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params},
        headers={
            "authorization": f"Bearer {project.token(role)}",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": "2026-07-28",
            "mcp-method": "tools/call",
            "mcp-name": tool,
        },
        timeout=60,
    )


def said(response: httpx2.Response) -> str:
    """Read the text of a good answer."""
    assert response.status_code == 200, response.text
    result = cast("Object", cast("Object", response.json())["result"])
    assert not result.get("isError"), response.text
    return cast("str", cast("list[Object]", result["content"])[0]["text"])


@contextmanager
def calling(project: Project, *errands: tuple[str, str, Object]) -> Generator[list[str]]:
    """Call again and again, one caller for each errand, while the block runs.

    Yields:
        Ids of the requests, complete after the block; every answer was a good one.
    """
    over, troubles, requests = threading.Event(), list[BaseException](), list[str]()

    def work(role: str, tool: str, arguments: Object) -> None:
        url, number = urls[role], 0
        try:
            while not over.is_set():
                number += 1
                answer = call(project, url, role, tool, **arguments, number=number)
                requests.append(answer.headers["x-request-id"])
                assert said(answer).startswith("accepted")
        except BaseException as error:  # noqa: BLE001  told by the block
            troubles.append(error)

    urls = {role: project.url(role) for role in ROLES}
    threads = [threading.Thread(target=work, args=errand) for errand in errands]
    for thread in threads:
        thread.start()
    try:
        yield requests
    finally:
        over.set()
        for thread in threads:
            thread.join(90)
    assert not troubles, troubles[0]


def finished(project: Project, purpose: str) -> Callable[[], bool]:
    """Ask whether no rotation of one of the credentials is under way."""

    def ask() -> bool:
        told = project.ask({"op": "rotations", "id": None, "role": None})
        rotations = cast("list[Object]", told["rotations"])
        return all(
            one["state"] in {"done", "failed"} for one in rotations if one["purpose"] == purpose
        )

    return ask


def test_nobody_notices_that_credentials_are_replaced(rotating: Project) -> None:
    """Under constant calls of every role no call fails, none is made twice, all are recorded."""
    project = rotating
    before = alive(project)
    assert sorted(before) == sorted(ROLES)
    old = {role: project.token(role) for role in ROLES}
    errands: list[tuple[str, str, Object]] = [
        *((role, "use", {}) for role in ROLES),
        ("middle", "slowly", {"seconds": 0.7}),
        ("high", "transfer", {"seconds": 0.3}),
    ]
    with calling(project, *errands) as requests:
        for _ in range(2):
            _ = project.agents("rotate", "--purpose", "upstream")
        _ = project.agents("rotate", "--purpose", "agent")
        project.wait(finished(project, "agent"), 120)
    after = alive(project)
    assert sorted(after) == sorted(ROLES)
    assert not set(before.values()) & set(after.values())
    for role in ROLES:
        assert project.token(role) != old[role]
        head = {"authorization": f"Bearer {old[role]}"}
        assert httpx2.post(project.url(role), headers=head, timeout=60).status_code == 401
    effects = (project.root / "effects.txt").read_text().split()
    assert effects == [str(number) for number in range(1, len(effects) + 1)]
    told = project.agents("calls", "-n", "100000", "--json").stdout.splitlines()
    lines = [cast("Object", json.loads(line)) for line in told]
    recorded = [cast("str", line["request"]) for line in lines if line.get("event") == "outcome"]
    assert len(requests) > 20
    assert sorted(r for r in recorded if r in set(requests)) == sorted(requests)
    rotations = cast("list[Object]", project.json("rotate", "status")["rotations"])
    assert {one["state"] for one in rotations} == {"done"}
    for one in rotations:
        proof = cast("Object | None", cast("Object", one["receipt"])["proof"])
        assert one["old"] == "" or (proof is not None and proof["proved"])
    # Beside a look at the issuer's list, which the daemon takes now and then.
    project.wait(lambda: len(project.processes()) == 3 + 2)


def test_calls_wait_where_credentials_do_not_overlap(bare: Project) -> None:
    """If a new key ends the old one, calls wait while it is replaced, and none of them fails."""
    fill(bare)
    settings = (bare.root / "agents.yaml").read_text()
    settings = settings.replace("overlap: true", "overlap: false")
    _ = bare.write("agents.yaml", settings.replace("    env:\n", "    env:\n      ALONE: 'yes'\n"))
    _ = bare.agents("up", "-d")
    before = alive(bare)
    errands: list[tuple[str, str, Object]] = [
        *((role, "use", {}) for role in ROLES),
        ("high", "transfer", {"seconds": 0.3}),
    ]
    with calling(bare, *errands) as requests:
        _ = bare.agents("rotate", "--purpose", "upstream")
    after = alive(bare)
    assert sorted(after) == sorted(ROLES)
    assert not set(before.values()) & set(after.values())
    assert len(requests) > 5


def test_a_credential_whose_role_is_gone(rotating: Project) -> None:
    """It is told of and left alone, also in the middle of its rotation, until somebody ends it."""
    project, role = rotating, rotating.root / "roles" / "low.yaml"
    kept = alive(project)["low"]
    role.unlink()
    _ = project.agents("up", "-d")
    told = project.json("rotate", "status")
    assert f"low: {kept} still works" in str(told["notes"])
    _ = project.agents("rotate", "--purpose", "upstream")
    assert alive(project)["low"] == kept
    _ = project.agents("revoke-all", "low", "--reason", "its role is gone", "--yes")
    assert sorted(alive(project)) == ["high", "middle"]
    assert project.json("rotate", "status")["notes"] == []


@pytest.mark.parametrize(
    "when",
    ["mint", "mint-after", "probe", "probe-after", "revoke", "revoke-after"],
)
def test_a_daemon_that_is_killed_goes_on_where_it_was(bare: Project, when: str) -> None:
    """Whenever the daemon dies, in the end one key works, and calls are answered."""
    fill(bare, when)
    _ = bare.agents("up", "-d", "--only", "low")
    before = alive(bare)["low"]
    pid = bare.daemon_pid()
    _ = bare.write("daemon.pid", str(pid))
    _ = bare.agents("rotate", "low", "--purpose", "upstream", check=None)
    bare.wait(lambda: not (bare.root / "daemon.pid").exists())
    bare.wait(lambda: bare.is_ready() and bare.daemon_pid() != pid, 120)
    bare.wait(finished(bare, "upstream"), 180)
    keys = cast("dict[str, Object]", json.loads((bare.root / "keys.json").read_text()))
    assert len([name for name, key in keys.items() if not key["over"]]) == 1
    after = alive(bare)["low"]
    assert after != before
    bare.wait(lambda: bare.role("low")["state"] == "ready")
    assert said(call(bare, bare.url("low"), "low", "use")).startswith("accepted")
    bare.wait(lambda: len(bare.processes()) == 1 + 2)


def test_everything_ends_at_once_and_begins_anew(rotating: Project) -> None:
    """After `revoke-all` nothing of a role works or runs until it is opened, over a restart too."""
    project = rotating
    url, token, key = project.url("low"), project.token("low"), alive(project)["low"]
    running = threading.Event()
    answers = list[httpx2.Response]()

    def wait_long() -> None:
        running.set()
        answers.append(call(project, url, "low", "slowly", seconds=30))

    caller = threading.Thread(target=wait_long)
    caller.start()
    assert running.wait(60)
    project.wait(lambda: project.agents("status").returncode == 0)
    receipt = project.json("revoke-all", "low", "--reason", "a test", "--yes")
    caller.join(90)
    assert not caller.is_alive()
    assert "accepted" not in answers[0].text
    assert key not in alive(project).values()
    assert token not in json.dumps(receipt)
    head = {"authorization": f"Bearer {token}"}
    assert httpx2.post(url, headers=head, timeout=60).status_code == 401
    os.kill(project.daemon_pid(), 9)
    project.wait(lambda: project.agents("rotate", "status", check=None).returncode == 0)
    project.wait(lambda: project.role("high")["state"] == "ready")
    assert project.role("low")["pid"] is None
    _ = project.agents("reopen", "low")
    project.wait(lambda: project.role("low")["state"] == "ready")
    assert said(call(project, project.url("low"), "low", "use")).startswith("accepted")
    assert len(alive(project)) == 3


def test_nothing_due_touches_nothing(rotating: Project) -> None:
    """`rotate --due` with nothing due says so and leaves every file as it was."""

    def state() -> dict[Path, tuple[int, int]]:
        found = dict[Path, tuple[int, int]]()
        for path in rotating.state.rglob("*"):
            if path.is_file() and "logs" not in path.parts:
                facts = path.stat()
                found[path] = (facts.st_mtime_ns, facts.st_size)
        return found

    rotating.wait(finished(rotating, "upstream"))
    changes: list[bool] = []
    # The daemon writes something of its own now and then, such as a signature under its record.
    while not changes or (changes[-1] and len(changes) < 3):
        before = state()
        done = rotating.json("rotate", "--due")
        assert done["rotations"] == []
        changes.append(state() != before)
    assert not changes[-1]


def forms(text: str) -> Iterable[bytes]:
    """Tell every way in which a text may be written."""
    raw = text.encode()
    yield raw
    yield raw[::-1]
    yield raw.hex().encode()
    yield quote(text, safe="").encode()
    for shift in range(3):
        # Whatever stands before it, two of three letters of the middle are the same.
        yield base64.b64encode(b"x" * shift + raw)[4:-4]


def where(project: Project, texts: Iterable[str]) -> set[str]:
    """Tell where texts are found: files, and arguments and environments of processes."""
    wanted = [form for text in texts for form in forms(text)]
    found = set[str]()
    for path in project.root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            if any(form in content for form in wanted):
                found.add(str(path.relative_to(project.root)))
    for pid, words in project.processes().items():
        for part in ("cmdline", "environ"):
            try:
                content = Path(f"/proc/{pid}/{part}").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                break  # it ended meanwhile
            if any(form in content for form in wanted):
                found.add(f"{part} of {words.split()[2] if part == 'environ' else words}")
    return found


def test_no_credential_is_anywhere_but_where_it_is_used(rotating: Project) -> None:
    """Keys and tokens, old and new, are in their holder's environment or file and nowhere else."""
    project = rotating
    tokens = [project.token(role) for role in ROLES]
    outputs = [project.agents("status").stdout]
    _ = project.agents("rotate")
    for role in ROLES:
        assert said(call(project, project.url(role), role, "use")).startswith("accepted")
    fill(project, "mint")
    (project.root / "made").rename(project.root / "gone")  # the issuer fails from here on
    daemon_log = project.state / "logs" / "agentsd.log"
    with subprocess.Popen(
        [AGENTS, "rotate", "low", "--purpose", "upstream"],
        cwd=project.root,
        env=project.env,
        stderr=subprocess.PIPE,
        text=True,
    ) as rotate:
        project.wait(lambda: "rotation.tried" in daemon_log.read_text())
        rotate.terminate()
        outputs += [rotate.communicate()[1]]
    (project.root / "gone").rename(project.root / "made")
    for words in (
        ["status", "--json"],
        ["rotate", "status"],
        ["rotate", "status", "--json"],
        ["token", "list", "--json"],
        ["calls", "--json"],
        ["secrets", "check", "--json"],
        ["logs", "--daemon"],
        ["validate", "--json"],
        ["rotate", "--dry-run", "--json"],
    ):
        done = project.agents(*words, check=None)
        outputs += [done.stdout, done.stderr]
    tokens += [project.token(role) for role in ROLES]
    holders = where(project, made(project))
    assert holders == {"made/keys.txt", f"environ of {SERVERS / 'keyed.py'}"}
    assert where(project, tokens) <= {f".agents/tokens/{role}" for role in ROLES} | {
        f".agents/tokens/{role}.old" for role in ROLES
    }
    text = "\n".join(outputs).encode()
    assert not [form for one in (*made(project), *tokens) for form in forms(one) if form in text]
    # The search finds what is there.
    _ = project.write("planted.txt", base64.b64encode(f"xx{tokens[0]}".encode()).decode())
    assert "planted.txt" in where(project, tokens[:1])
    with sqlite3.connect(project.state / "agents.db") as database:
        assert database.execute("select count(*) from tokens").fetchone()[0] >= 3
