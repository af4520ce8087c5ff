"""Instances that run as users of their own: real users, real engine, real processes."""

# ruff: noqa: ASYNC110, ASYNC240 - what is watched here is /proc and small files, and nothing
# else runs in this loop

import json
import os
import secrets
import socket
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import anyio
import pytest
from pydantic import SecretStr

from orchestrator.errors import SettingsError, TargetUnavailableError, WorkloadStartError
from orchestrator.files import PASSABLE_DIRECTORY, PRIVATE_DIRECTORY, make_private_directory
from orchestrator.model.names import SecretName
from orchestrator.model.workload import HttpServing, WorkloadSpec
from orchestrator.runtimes.address import Address
from orchestrator.runtimes.base import Process
from orchestrator.runtimes.fence import end_orphan
from orchestrator.runtimes.http_wire import HttpWire
from orchestrator.runtimes.identity import look_up, user_of
from orchestrator.runtimes.users import (
    Account,
    account_name,
    find_account,
    make_account,
    make_role_directory,
    need_account,
    out_of_reach,
    shared_note,
)

if TYPE_CHECKING:
    from tests.integration.runtimes.conftest import Project

CANARY = "canary-b1946ac92492"
SPY = Path(__file__).parents[2] / "servers" / "spy.py"
NO_CAPABILITIES = ["0" * 16] * 4

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes users")


@pytest.fixture(scope="module")
def accounts() -> Generator[tuple[Account, Account]]:
    """Make two users, and remove them again."""
    project = Path("/", secrets.token_hex(8))
    made = [make_account(account_name(project, part), "test") for part in ("ann", "bob")]
    yield (made[0], made[1])
    for account in made:
        _ = subprocess.run(["/usr/sbin/userdel", account.name], check=False, capture_output=True)


@pytest.fixture(scope="module")
def python(accounts: tuple[Account, Account]) -> str:
    """Find a Python that other users may run, too."""
    for path in ("/usr/bin/python3", "/usr/local/bin/python3"):
        if Path(path).exists() and not out_of_reach(accounts[0], [(path, os.X_OK)]):
            return path
    pytest.skip("no Python is installed where other users may run it")


@pytest.fixture
def spying(running: "Project", python: str) -> Callable[..., WorkloadSpec]:
    """Give a function that describes a spy in a role with directories of its own."""
    running.root.chmod(0o755)
    program = running.root / "spy.py"
    program.write_text(SPY.read_text())
    program.chmod(0o644)

    def describe(role: str, account: Account | None, *options: str) -> WorkloadSpec:
        home, temporary = running.root / "homes" / role, running.root / "tmp" / role
        for place in (home, temporary):
            make_role_directory(place, account, running.root)
        spec = running.spec(
            "spy.py", role=role, env={"HOME": str(home)}, secrets={"KEY": "env:KEY"}
        )
        argv = (python, "-I", "-S", str(program), str(home / "report"), *options)
        user = account.name if account else ""
        return spec.model_copy(update={"argv": argv, "directory": str(home), "user": user})

    return describe


async def launch(project: "Project", spec: WorkloadSpec) -> tuple[Process, dict[str, object]]:
    """Start a spy and wait for what it found."""
    path = Path(spec.env[SecretName("HOME")], "report")
    with anyio.fail_after(30):
        await project.runtime.start(spec)
        process = await project.runtime.launch(spec, {SecretName("KEY"): SecretStr(CANARY)})
        while not path.exists():
            await anyio.sleep(0.005)
    return process, cast("dict[str, object]", json.loads(path.read_text()))


async def test_a_role_is_its_user_and_nothing_more(
    running: "Project", spying: Callable[..., WorkloadSpec], accounts: tuple[Account, Account]
) -> None:
    """No groups, no capabilities, no cores; its home is its own, and its standard input works."""
    ann = accounts[0]
    process, found = await launch(running, spying("ann", ann))
    assert user_of(process.pid) == ann.user
    assert (found["uid"], found["gid"]) == ([ann.user] * 3, [ann.group] * 3)
    assert found["groups"] == []
    assert found["capabilities"] == NO_CAPABILITIES
    assert (found["no_new_privs"], found["umask"], found["core"]) == ("1", "0077", [1, 1])
    assert found["cwd"] == found["home"] == str(running.root / "homes" / "ann")
    assert found["stdin"] == "ok"
    facts = (running.root / "homes" / "ann").stat()
    assert (facts.st_uid, facts.st_mode & 0o777) == (ann.user, PRIVATE_DIRECTORY)


async def test_roles_cannot_reach_each_other(
    running: "Project", spying: Callable[..., WorkloadSpec], accounts: tuple[Account, Account]
) -> None:
    """A role reads neither environment, memory, home nor pipes of another one, nor of the rest."""
    ann, bob = accounts
    other, _ = await launch(running, spying("bob", bob))
    make_private_directory(running.root / "keys")
    (running.root / "keys" / "vault.key").write_text(CANARY)
    closed = [
        f"/proc/{other.pid}/environ",
        f"/proc/{other.pid}/mem",
        f"/proc/{other.pid}/fd/0",
        f"/proc/{os.getpid()}/environ",
        f"/proc/{running_engine(running)}/fd/3",
        str(running.root / "homes" / "bob" / "report"),
        str(running.root / "homes"),
        str(running.root / "tmp" / "bob"),
        str(running.root / "keys" / "vault.key"),
        str(running.files.seat("bob.test.g1") / "in"),
        str(running.files.fence("ann.test.g1")),
        str(running.files.socket),
    ]
    options = [word for path in closed for word in ("--read", path)]
    mine = str(running.root / "homes" / "ann" / "note")
    writable = [str(running.root / "homes" / "ann.part"), str(running.root / "note"), mine]
    options += [word for path in writable for word in ("--write", path)]
    _, found = await launch(
        running,
        spying("ann", ann, *options, "--read", "/proc/self/environ", "--signal", str(other.pid)),
    )
    content = cast("dict[str, str]", found["content"])
    assert content.pop("/proc/self/environ") == "ok"
    assert set(content) == set(closed)
    assert {path for path, how in content.items() if how != "EACCES"} == set()
    assert found["write"] == {writable[0]: "EACCES", writable[1]: "EACCES", mine: "ok"}
    assert found["signal"] == "EPERM"


async def test_roles_of_one_user_do_reach_each_other(
    running: "Project", spying: Callable[..., WorkloadSpec], accounts: tuple[Account, Account]
) -> None:
    """What the users are for: without them, one role reads the secrets of another."""
    other, _ = await launch(running, spying("bob", accounts[0]))
    path = f"/proc/{other.pid}/environ"
    _, found = await launch(running, spying("ann", accounts[0], "--read", path))
    assert found["content"] == {path: "ok"}


async def test_a_role_cannot_choose_what_a_successor_ends(
    running: "Project", spying: Callable[..., WorkloadSpec], accounts: tuple[Account, Account]
) -> None:
    """The fence that it inherits is closed to it, and still keeps an orphan from being doubled."""
    spec = spying("ann", accounts[0])
    process, found = await launch(running, spec)
    fence = running.files.fence(spec.name)
    assert found["inherited"] == {str(fence): "EBADF"}
    assert int(fence.read_text().split()[0]) == process.pid
    # As after a crash of the engine: the orphan is found by its fence, and ended.
    os.kill(running_engine(running), 9)
    assert await anyio.to_thread.run_sync(end_orphan, fence)
    with anyio.fail_after(30):
        # Ended is enough: whether somebody takes note of it is the first process's affair.
        while (facts := look_up(process.pid)) is not None and facts.state not in {"Z", "X"}:
            await anyio.sleep(0.005)


def running_engine(project: "Project") -> int:
    """Tell the engine's process."""
    return int((project.files.run / "supervisord.pid").read_text())


async def test_what_an_earlier_user_left_changes_hands(
    running: "Project", accounts: tuple[Account, Account]
) -> None:
    """A role that gets another user keeps its files; links out of its home stay without effect."""
    ann, bob = accounts
    home = running.root / "homes" / "ann"
    make_role_directory(home, ann, running.root)
    outside = running.root / "outside"
    outside.write_text("root's")
    (home / "deep").mkdir()
    (home / "deep" / "note").write_text("a note")
    (home / "link").symlink_to(outside)
    (home / "twin").hardlink_to(outside)
    for name in ("deep", "deep/note"):
        os.chown(home / name, ann.user, ann.group)
    os.chown(home / "link", ann.user, ann.group, follow_symlinks=False)
    for account, uid in ((bob, bob.user), (None, 0), (ann, ann.user)):
        make_role_directory(home, account, running.root)
        for name in (".", "deep", "deep/note"):
            assert (home / name).stat().st_uid == uid, name
        assert outside.stat().st_uid == 0


async def test_nothing_that_was_put_there_meanwhile_changes_hands(
    running: "Project", accounts: tuple[Account, Account], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier user's process swaps in while its files are given away stays whose it is."""
    ann, bob = accounts
    home, outside = running.root / "homes" / "ann", running.root / "outside"
    make_role_directory(home, ann, running.root)
    outside.write_text("root's")
    (home / "note").write_text("a note")
    os.chown(home / "note", ann.user, ann.group)
    give = os.chown

    def swap(path: str, *given: int, **options: object) -> None:
        (home / "note").unlink(missing_ok=True)
        (home / "note").hardlink_to(outside)
        give(path, *given, **options)

    monkeypatch.setattr(os, "chown", swap)
    make_role_directory(home, bob, running.root)
    assert (home / "note").samefile(outside)
    assert outside.stat().st_uid == 0


def test_only_what_has_to_be_passed_is_opened(
    accounts: tuple[Account, Account], directory: Path
) -> None:
    """Directories around a home let others through, and stay so when they are made again."""
    state = directory / "state"
    make_private_directory(state / "keys")
    make_private_directory(state)
    make_role_directory(state / "homes" / "ann", accounts[0], state)
    modes = {
        str(path.relative_to(directory)): path.stat().st_mode & 0o777
        for path in (state, state / "keys", state / "homes", state / "homes" / "ann", directory)
    }
    assert modes == {
        "state": PASSABLE_DIRECTORY,
        "state/keys": PRIVATE_DIRECTORY,
        "state/homes": PASSABLE_DIRECTORY,
        "state/homes/ann": PRIVATE_DIRECTORY,
        ".": PRIVATE_DIRECTORY,
    }
    make_private_directory(state)
    assert state.stat().st_mode & 0o777 == PASSABLE_DIRECTORY


async def test_a_socket_is_between_its_role_and_the_gateway(
    running: "Project", spying: Callable[..., WorkloadSpec], accounts: tuple[Account, Account]
) -> None:
    """A server of another user can listen on its unix socket, and no third user can connect."""
    ann, bob = accounts
    spec = spying("ann", ann, "--socket", "{socket}")
    http = HttpServing.model_validate({"listen": "socket", "path": "/mcp"})
    process, _ = await launch(running, spec.model_copy(update={"http": http}))
    place = Address.parse(process.address).socket
    facts = Path(place).parent.stat()
    assert (facts.st_uid, facts.st_mode & 0o777) == (ann.user, PRIVATE_DIRECTORY)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(place)
    assert out_of_reach(bob, [(place, os.R_OK)]) == place
    assert not out_of_reach(ann, [(place, os.R_OK | os.W_OK)])
    await running.runtime.stop(spec.name, spec.stop.grace)
    assert list((running.files.run / "at").iterdir()) == []


async def test_a_socket_that_leads_to_another_role_is_refused(
    running: "Project", spying: Callable[..., WorkloadSpec], accounts: tuple[Account, Account]
) -> None:
    """A role that puts a link in the place of its socket gets no connection to somebody else."""
    http = HttpServing.model_validate({"listen": "socket", "path": "/mcp"})
    found: dict[str, Process] = {}
    for account, role in zip(accounts, ("ann", "bob"), strict=True):
        spec = spying(role, account, "--socket", "{socket}").model_copy(update={"http": http})
        found[role], _ = await launch(running, spec)
    place = Path(Address.parse(found["ann"].address).socket)
    place.unlink()
    place.symlink_to(Address.parse(found["bob"].address).socket)
    address = Address.parse(found["ann"].address)
    with anyio.fail_after(30):
        async with HttpWire(address, found["ann"].pid) as wire:
            with pytest.raises(TargetUnavailableError, match="another user"):
                await wire.send(b'{"jsonrpc":"2.0","id":1,"method":"ping"}')


async def test_a_user_that_cannot_start_the_server_is_told(
    running: "Project", spying: Callable[..., WorkloadSpec], accounts: tuple[Account, Account]
) -> None:
    """A working directory or a program that its user may not use is an error with its reason."""
    spec = spying("ann", accounts[0])
    (running.root / "closed").mkdir(mode=0o700)
    for change in (
        {"directory": str(running.root / "closed")},
        {"argv": (str(running.root / "closed" / "program"),)},
        {"user": "bm-nobody-has-this"},
    ):
        wrong = spec.model_copy(update=change)
        with anyio.fail_after(30):
            await running.runtime.start(wrong)
            with pytest.raises((WorkloadStartError, SettingsError)) as caught:
                _ = await running.runtime.launch(wrong, {SecretName("KEY"): SecretStr(CANARY)})
            await running.runtime.stop(wrong.name, wrong.stop.grace)
        assert "ermission" in str(caught.value) or "no user" in str(caught.value)


def test_users_that_are_none() -> None:
    """Root is no user for a role, and nobody is needed for a role without one."""
    assert need_account("") is None
    with pytest.raises(SettingsError, match="is root"):
        _ = need_account("root")
    with pytest.raises(SettingsError, match="has no user"):
        _ = need_account("bm-nobody-has-this")
    assert find_account("bm-nobody-has-this") is None


def test_names_of_users_fit() -> None:
    """They are short enough for the system, and differ from project to project and role to role."""
    names = {
        account_name(Path(project), role)
        for project in ("/one", "/two")
        for role in ("a", "r" * 32, "r" * 31 + "s")
    }
    assert len(names) == 6
    assert all(len(name) <= 32 for name in names)


def test_what_sharing_means_is_told() -> None:
    """It is told only while some role shares the user of everything else."""
    assert shared_note([]) == ""
    assert shared_note(["ann", "bob"]) == ""
    assert "all roles run" in shared_note(["", ""])
    assert "1 of 2 roles run" in shared_note(["", "bob"])
