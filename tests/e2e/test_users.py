"""Roles that run as unix users of their own: the real command, as root."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from orchestrator.runtimes.users import account_name, make_account, out_of_reach

if TYPE_CHECKING:
    from tests.e2e.conftest import Project

AGENTS = str(Path(sys.executable).with_name("agents"))
SERVERS = Path(__file__).parents[1] / "servers"
SERVER = """\
server: scripted
description: A server that does as it is told.
owner: tests
source: tests/servers
launch:
  command: [PYTHON, -I, -S, "{project}/scripted.py"]
  accepts: {KEY: A secret.}
bands: {names: [read]}
tools: {echo: {band: read, class: READ}}
era: legacy
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes users")


def remove(name: str) -> None:
    """Remove a user."""
    _ = subprocess.run(["/usr/sbin/userdel", name], check=False, capture_output=True)


@pytest.fixture
def shared(bare: Project) -> Generator[Project]:
    """Make a project that other users may pass, with two roles that have a secret each."""
    nobody = pwd.getpwnam("nobody").pw_name
    probe = make_account(account_name(bare.root, "probe"), "test")
    try:
        bare.root.chmod(0o755)
        found = [
            path for path in ("/usr/bin/python3", "/usr/local/bin/python3")
            if Path(path).exists() and not out_of_reach(probe, [(path, os.X_OK)])
        ]  # fmt: skip
    finally:
        remove(probe.name)
    if not found:
        pytest.skip(f"no Python is installed where users such as {nobody} may run it")
    _ = shutil.copy(SERVERS / "scripted.py", bare.root / "scripted.py")
    _ = bare.write("roles/servers/scripted.yaml", SERVER.replace("PYTHON", found[0]))
    for name in ("ann", "bob"):
        _ = bare.write(f"roles/{name}.yaml", role(name))
        secret = bare.write(f"{name}.key", f"canary-of-{name}-6c1d")
        secret.chmod(0o600)
    yield bare
    _ = bare.agents("down", check=None)  # a user of a process is not removed
    for name in ("ann", "bob"):
        remove(account_name(bare.root, name))


def role(name: str, more: str = "") -> str:
    """Write a role file."""
    return (
        f"role: {name}\nserver: scripted\nbands: full\njustification: A test of users.\n"
        f"owner: tests\nsecrets: {{KEY: 'file:{{project}}/{name}.key'}}\n{more}"
    )


def as_user(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program as a user."""
    argv = ["setpriv", f"--reuid={name}", f"--regid={name}", "--clear-groups", *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)


def notes(project: Project) -> list[str]:
    """Tell what `agents status` notes."""
    return cast("list[str]", project.status()["notes"])


def test_each_role_gets_a_user(shared: Project) -> None:
    """`up --users` makes them once and says so; no role reads another's secrets, and calls work."""
    names = {role: account_name(shared.root, role) for role in ("ann", "bob")}
    done = shared.agents("up", "-d", "--users")
    for name in names.values():
        assert f"Made the system user {name}" in done.stderr
    pids = {role: shared.pid(role) for role in names}
    for role_name, pid in pids.items():
        assert Path(f"/proc/{pid}").stat().st_uid == pwd.getpwnam(names[role_name]).pw_uid
    for mine, other in (("ann", "bob"), ("bob", "ann")):
        own = as_user(names[mine], "cat", f"/proc/{pids[mine]}/environ")
        assert f"canary-of-{mine}" in own.stdout
        assert as_user(names[mine], "cat", f"/proc/{pids[other]}/environ").stdout == ""
        for closed in (f"homes/{other}", f"tmp/{other}", "tokens/ann", "agents.db", "control.json"):
            listed = as_user(names[mine], "ls", str(shared.state / closed))
            if closed in {"agents.db", "control.json"}:
                listed = as_user(names[mine], "cat", str(shared.state / closed))
            assert listed.returncode != 0, closed
        assert as_user(names[mine], "ls", str(shared.state)).returncode != 0
        assert as_user(names[mine], "touch", f"{shared.state}/homes/{mine}/new").returncode == 0
    assert notes(shared) == []
    answer = shared.json("call", "ann", "echo", '{"a": 1}')
    assert not answer.get("isError")
    # Asked again, it makes and changes nothing; and without --users the users stay.
    again = shared.agents("up", "-d", "--users")
    assert "Made" not in again.stderr
    assert "Nothing would change." in shared.agents("up", "--dry-run").stdout
    assert {role: shared.pid(role) for role in names} == pids


def test_a_shared_user_is_told(shared: Project) -> None:
    """Without users it is said once by `up`, and noted by `status`."""
    done = shared.agents("up", "-d")
    assert done.stderr.count("all roles run as the user root") == 1
    (told,) = notes(shared)
    assert "a hostile server can read what that user can" in told


def test_a_user_of_the_file(shared: Project) -> None:
    """A role runs as the user that its file names, alone or with other roles."""
    name = make_account(account_name(shared.root, "ann"), "test").name
    for one in ("ann", "bob"):
        _ = shared.write(f"roles/{one}.yaml", role(one, f"user: {name}\n"))
    _ = shared.agents("up", "-d")
    uid = pwd.getpwnam(name).pw_uid
    assert {Path(f"/proc/{shared.pid(one)}").stat().st_uid for one in ("ann", "bob")} == {uid}
    # The rest of a change of users: what was one's own stays so.
    other = make_account(account_name(shared.root, "bob"), "test")
    home = shared.state / "homes" / "bob"
    assert home.stat().st_uid == uid
    _ = shared.write("roles/bob.yaml", role("bob"))
    _ = shared.agents("up", "-d")
    assert home.stat().st_uid == other.user
    assert Path(f"/proc/{shared.pid('bob')}").stat().st_uid == other.user


def test_users_that_cannot_be(shared: Project) -> None:
    """A user that is not there, root, or one who cannot reach the program: nothing is started."""
    for user, words in (
        ("bm-nobody-has-this", "this machine has no user bm-nobody-has-this"),
        ("root", "is root"),
    ):
        _ = shared.write("roles/ann.yaml", role("ann", f"user: {user}\n"))
        done = shared.agents("up", "-d", check=2)
        assert "roles/ann.yaml:7:7: user: " in done.stderr
        assert words in done.stderr
    name = make_account(account_name(shared.root, "ann"), "test").name
    _ = shared.write("roles/ann.yaml", role("ann", f"user: {name}\n"))
    shared.root.chmod(0o700)
    done = shared.agents("up", "-d", check=2)
    assert f"ann: the user {name} may not use {shared.root}" in done.stderr
    assert not shared.processes()


def test_without_root(shared: Project) -> None:
    """Who is not root starts no other user's process and makes no user; both are told."""
    name = make_account(account_name(shared.root, "bob"), "test").name
    _ = shared.write("roles/ann.yaml", role("ann", f"user: {name}\n"))
    uid = pwd.getpwnam("nobody").pw_uid
    for path in (shared.root, *shared.root.rglob("*")):
        os.chown(path, uid, uid)
    # It may read whatever the command is made of, wherever that is installed; no more.
    rights = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    setpriv = ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *rights)
    for words, expected in (
        (("up", "-d"), "only root starts instances as another user"),
        (("up", "-d", "--users"), "only root makes users"),
    ):
        done = subprocess.run(
            [*setpriv, AGENTS, *words],
            cwd=shared.root,
            env=shared.env,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert expected in done.stderr, done.stderr
        assert done.returncode == 2
