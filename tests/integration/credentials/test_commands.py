"""`agents rotate`, `revoke-all` and `reopen` against the real control socket."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import anyio
import anyio.to_thread
import pytest

from orchestrator.cli.revoke_all import reopen, revoke_all
from orchestrator.cli.rotate import act, provide, rotate
from orchestrator.cli.rotate_status import receipt_lines, status
from orchestrator.control.admin_client import RemoteError
from orchestrator.errors import (
    ControlUnavailableError,
    NotRunningError,
    RotationUnknownError,
    SettingsError,
)
from orchestrator.model.rotation import State

if TYPE_CHECKING:
    from orchestrator.model.base import JsonObject
    from orchestrator.rotation.schedule import Due
    from tests.integration.credentials.conftest import MemoryEngine

AGENTS: Final = str(Path(sys.executable).with_name("agents"))
SCRIPT: Final = Path(__file__).parents[3] / "scripts" / "rotate-tokens"
Captured = pytest.CaptureFixture[str]
Object = dict[str, object]
Run = Callable[[Callable[[], None]], Awaitable[int]]
Served = Callable[[], AbstractAsyncContextManager["MemoryEngine"]]
CANARY: Final = "canary-5f0c9e"


def rotating(project: Path, *roles: str, **options: object) -> Callable[[], None]:
    """Make the command `agents rotate`."""
    usual: dict[str, object] = {
        "purpose": None,
        "agent": None,
        "due": False,
        "dry_run": False,
        "reason": "",
        "as_json": False,
    }
    return cast("Callable[[], None]", partial(rotate, project, roles, **{**usual, **options}))


async def agents(
    project: Path, *words: str, text: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the real command beside the event loop."""

    def work() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [AGENTS, *words, "-C", str(project)],
            env={"PATH": os.environ["PATH"], "HOME": str(project)},
            input=text or "",
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    with anyio.fail_after(40):
        return await anyio.to_thread.run_sync(work)


def rotation_of(engine: MemoryEngine, state: State) -> str:
    """Find the rotation in a state."""
    return next(one.id for one in engine.known.values() if one.state is state)


async def test_a_rotation_as_a_person_sees_it(project: Path, run: Run, capsys: Captured) -> None:
    """Each state is a line with its time beside the output; the end is one sentence."""
    assert await run(rotating(project, "treasury", purpose="upstream")) == 0
    out, err = capsys.readouterr()
    assert err.splitlines()[0] == "03:17:00  treasury upstream  planned"
    assert err.splitlines()[-1] == "03:17:08  treasury upstream  done"
    assert out.startswith("treasury upstream: replaced by new; old was seen refused (8s, rotation ")
    assert out.count("\n") == 1


@pytest.mark.parametrize(
    ("receipt", "told"),
    [
        ({"proof": {"proved": False}}, "that old is dead was not seen"),
        ({"proof": {"proved": False}, "approved_by": "x"}, "a person said that old is dead"),
    ],
)
async def test_only_what_was_seen_is_told(  # noqa: PLR0917  fixtures are arguments
    project: Path,
    engine: MemoryEngine,
    run: Run,
    capsys: Captured,
    receipt: Object,
    told: str,
) -> None:
    """Where nobody could ask the issuer, the sentence does not say that it refused."""
    engine.receipt = cast("JsonObject", receipt)
    _ = await run(rotating(project, "treasury", purpose="upstream"))
    out = capsys.readouterr().out
    assert told in out
    assert "refused" not in out


async def test_a_program_reads_one_object(project: Path, run: Run, capsys: Captured) -> None:
    """With --json there is nothing beside it."""
    assert await run(rotating(project, "treasury", as_json=True)) == 0
    out, err = capsys.readouterr()
    body = cast("dict[str, list[Object]]", json.loads(out))
    assert [one["state"] for one in body["rotations"]] == ["staged", "done"]
    assert err == ""


async def test_a_token_by_hand_is_all_of_the_output(
    project: Path, run: Run, capsys: Captured
) -> None:
    """`TOKEN=$(agents rotate treasury --agent alice)` works, and progress does not have it."""
    assert await run(rotating(project, "treasury", agent="alice")) == 0
    out, err = capsys.readouterr()
    assert out.startswith("mga_")
    assert out.count("\n") == 1
    assert out.strip() not in err
    assert "works until the new one is in use" in err


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        (State.FAILED, 9, "not replaced: the issuer said no; old works as before"),
        (State.HELD, 12, "held: delete the old key in the console"),
    ],
)
async def test_exit_statuses(  # noqa: PLR0917  fixtures are arguments
    project: Path,
    engine: MemoryEngine,
    credentials: dict[str, Due],
    run: Run,
    capsys: Captured,
    end: State,
    code: int,
    words: str,
) -> None:
    """9 for what was not replaced, 12 for what waits for a person, in both forms."""
    engine.lead(credentials["upstream"], State.MINTING, end)
    assert await run(rotating(project, "treasury", purpose="upstream")) == code
    assert words in capsys.readouterr().out
    engine.known.clear()
    assert await run(rotating(project, "treasury", purpose="upstream", as_json=True)) == code


async def test_a_busy_credential(
    project: Path, engine: MemoryEngine, credentials: dict[str, Due], run: Run, capsys: Captured
) -> None:
    """Alone it is an error of the daemon's; among others it is a line, and the status tells."""
    engine.lead(credentials["upstream"], State.MINTING, State.HELD)
    command = rotating(project, "treasury", purpose="upstream")
    _ = await run(command)
    _ = capsys.readouterr()
    with pytest.raises(RemoteError) as caught:
        _ = await run(command)
    assert (caught.value.remote_code, caught.value.remote_exit_code) == ("rotation.busy", 9)
    assert await run(rotating(project, purpose="upstream")) == 9
    assert "treasury upstream: not replaced: treasury is being rotated" in capsys.readouterr().out


async def test_a_dry_run_is_told(
    project: Path, engine: MemoryEngine, run: Run, capsys: Captured
) -> None:
    """What would be replaced, what would not and why, and that nothing was done."""
    command = "`agents rotate treasury --agent alice`"
    assert await run(rotating(project, dry_run=True)) == 0
    assert capsys.readouterr().out.splitlines() == [
        "monitoring upstream: old would be replaced (due now).",
        "treasury token of workstation: old would be replaced (due now).",
        "treasury upstream: old would be replaced (due now).",
        f"treasury token of alice: by hand: {command} shows the new one, once.",
        "Nothing was done.",
    ]
    assert engine.known == {}


@pytest.mark.parametrize(
    "options",
    [
        {"roles": ("../etc",)},
        {"agent": "a b"},
        {"agent": "alice", "purpose": "upstream"},
    ],
)
def test_what_cannot_be_asked(project: Path, options: dict[str, object]) -> None:
    """Improper names and options that do not go together are refused before anybody is asked."""
    roles = cast("tuple[str, ...]", options.pop("roles", ()))
    with pytest.raises(SettingsError):
        rotating(project, *roles, **options)()


def test_nothing_runs(project: Path) -> None:
    """Every command says so."""
    for command in (
        rotating(project, due=True),
        partial(status, project, None, as_json=False),
        partial(act, project, "0" * 12, "resume", as_json=False),
        partial(revoke_all, project, (), everything=True, reason="x", yes=True, as_json=False),
        partial(reopen, project, "treasury", as_json=False),
    ):
        with pytest.raises(NotRunningError):
            command()


async def test_a_daemon_that_goes_away(
    project: Path, engine: MemoryEngine, served: Served, capsys: Captured
) -> None:
    """What was begun goes on without the command, which says how to see it."""
    engine.stops_at = State.STAGED
    caught: list[ControlUnavailableError] = []

    def work() -> None:
        try:
            rotating(project, "treasury", purpose="upstream")()
        except ControlUnavailableError as error:
            caught.append(error)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group, served():
            group.start_soon(anyio.to_thread.run_sync, work)
            await engine.stopped.wait()
    (only,) = engine.known.values()
    assert only.id in str(caught[0].hint)
    assert "staged" in capsys.readouterr().err


async def test_a_person_leaves(project: Path, engine: MemoryEngine, served: Served) -> None:
    """Ctrl-C ends the command alone, which says how to look after what goes on."""
    engine.stops_at = State.STAGED
    words = [AGENTS, "rotate", "treasury", "--purpose", "upstream", "-C", str(project)]
    # Programs that were started in the background ignore Ctrl-C, and so would all that they start.
    _ = signal.signal(signal.SIGINT, signal.default_int_handler)
    async with served():
        with anyio.fail_after(30):
            async with await anyio.open_process(words) as process:
                await engine.stopped.wait()
                assert process.stderr is not None
                told = b""
                async for chunk in process.stderr:
                    told += chunk
                    if b"staged" in told:
                        process.send_signal(signal.SIGINT)
                        break
                async for chunk in process.stderr:
                    told += chunk
            assert process.returncode == 130
    (only,) = engine.known.values()
    assert f"agents rotate status {only.id}".encode() in told


# A person's word.


async def test_a_person_goes_on(
    project: Path, engine: MemoryEngine, credentials: dict[str, Due], run: Run, capsys: Captured
) -> None:
    """Held, looked at, resumed; what is taken back on purpose is no failure."""
    for word, code, told in (
        ("resume", 0, "treasury upstream: replaced by new"),
        ("abort", 0, "not replaced: the issuer said no"),
        ("approve-revoke", 0, "treasury upstream: replaced by new"),
    ):
        engine.lead(credentials["upstream"], State.REVOKING, State.HELD)
        assert await run(rotating(project, "treasury", purpose="upstream")) == 12
        identity = rotation_of(engine, State.HELD)
        assert f"agents rotate resume {identity}" in capsys.readouterr().out
        assert await run(partial(act, project, identity, word, as_json=False)) == code
        assert told in capsys.readouterr().out


async def test_a_word_about_an_emergency(
    project: Path, engine: MemoryEngine, run: Run, capsys: Captured
) -> None:
    """The id may be of a receipt of `revoke-all`: what was vouched for is told."""
    version: JsonObject = {"role": "treasury", "version": "bm-a", "approved_by": "operator"}
    engine.ended = {"id": "0123456789ab", "upstream": [version, {"version": "bm-b"}]}
    for as_json in (False, True):
        word = partial(act, project, "0123456789ab", "approve-revoke", as_json=as_json)
        assert await run(word) == 0
        out = capsys.readouterr().out
        assert ("your word was taken that bm-a is dead" in out) is not as_json
        assert ("approved_by" in out, "bm-b" in out) == (as_json, as_json)
    vouched = ("vouch", "0123456789ab", "operator")
    assert engine.asked == [vouched, ("changed",)] * 2


async def test_what_is_no_id_is_not_repeated(project: Path) -> None:
    """It may be a credential that was pasted in the wrong place."""
    for command in (
        partial(act, project, CANARY, "resume", as_json=False),
        partial(provide, project, CANARY, as_json=False),
    ):
        with pytest.raises(RotationUnknownError) as caught:
            command()
        assert CANARY not in f"{caught.value} {caught.value.hint}"


@pytest.fixture
async def held(engine: MemoryEngine, credentials: dict[str, Due], project: Path, run: Run) -> str:
    """Hold a rotation that waits for a value."""
    engine.lead(credentials["upstream"], State.MINTING, State.HELD)
    _ = await run(rotating(project, "treasury", purpose="upstream"))
    return rotation_of(engine, State.HELD)


async def test_a_value_from_a_pipe(
    project: Path, engine: MemoryEngine, served: Served, held: str
) -> None:
    """One line break at its end is none of it; it is in no output and no argument."""
    async with served():
        done = await agents(project, "rotate", "provide", held, text=f"{CANARY} 2\r\n")
    assert done.returncode == 0, done.stderr
    assert ("value", f"{CANARY} 2") in engine.asked
    assert CANARY not in done.stdout + done.stderr


@pytest.mark.parametrize("text", ["", "\n", "  \n", "x" * 70_000])
async def test_no_value(
    project: Path, engine: MemoryEngine, served: Served, held: str, text: str
) -> None:
    """Nothing, blanks and far too much are refused before the daemon hears of it."""
    async with served():
        done = await agents(project, "rotate", "provide", held, text=text)
    assert done.returncode == 2
    assert not [one for one in engine.asked if one[0] == "value"]


async def test_bytes_are_no_value(
    project: Path, held: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A credential is text."""
    stdin = io.TextIOWrapper(io.BytesIO(b"\xff\xfe" + CANARY.encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(SettingsError) as caught:
        provide(project, held, as_json=False)
    assert caught.value.__cause__ is None
    assert CANARY not in str(caught.value)


def on_a_terminal(project: Path, answer: str, *words: str) -> tuple[int, str]:
    """Run the command on a terminal, answer its first question, and tell status and screen."""
    pid, terminal = pty.fork()
    if not pid:  # pragma: no cover  another program from here on
        os.execve(AGENTS, [AGENTS, *words, "-C", str(project)], {**os.environ, "TERM": "xterm"})  # noqa: S606  no shell is wanted
    screen = b""
    with closing(os.fdopen(terminal, "rb+", buffering=0)) as file:
        while b"? [y/N] " not in screen and b"(not shown): " not in screen:
            screen += os.read(file.fileno(), 4096)
        _ = file.write(answer.encode() + b"\n")
        try:
            while data := os.read(file.fileno(), 4096):
                screen += data
        except OSError:
            pass  # the terminal's other end is closed
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), screen.decode()


async def test_a_value_at_a_prompt_is_not_shown(
    project: Path, engine: MemoryEngine, served: Served, held: str
) -> None:
    """What is typed does not appear."""
    async with served():
        with anyio.fail_after(30):
            code, screen = await anyio.to_thread.run_sync(
                on_a_terminal, project, CANARY, "rotate", "provide", held
            )
    assert (code, CANARY in screen) == (0, False)
    assert ("value", CANARY) in engine.asked


# What there is.


async def test_status_in_tables(
    project: Path, engine: MemoryEngine, credentials: dict[str, Due], run: Run, capsys: Captured
) -> None:
    """Ages and due days, then rotations, then what a person has to do."""
    engine.lead(credentials["upstream"], State.REVOKING, State.HELD)
    _ = await run(rotating(project, purpose="upstream", reason="quarterly"))
    _ = capsys.readouterr()
    assert await run(partial(status, project, None, as_json=False)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ROLE", "PURPOSE", "AGENT", "CREDENTIAL", "AGE", "DUE", "EXPIRES"]
    assert "due, by hand" in "\n".join(lines)
    assert "7d, due" in "\n".join(lines)
    held = next(line for line in lines if " held " in line)
    assert held.split()[1:] == ["treasury", "upstream", "-", "held", *held.split()[5:]]
    assert held.endswith("quarterly")
    assert any(line.endswith(": delete the old key in the console") for line in lines)
    assert lines[-1] == "treasury upstream ends in 3 days"


async def test_one_rotation_in_full(
    project: Path, engine: MemoryEngine, run: Run, capsys: Captured
) -> None:
    """Its facts, its moments in their order, its receipt."""
    _ = await run(rotating(project, "treasury", purpose="upstream"))
    identity = rotation_of(engine, State.DONE)
    _ = capsys.readouterr()
    assert await run(partial(status, project, identity, as_json=False)) == 0
    text = capsys.readouterr().out
    assert f"rotation    {identity}\n" in text
    assert "held" not in text
    assert text.index("minting") < text.index("promoted") < text.index("receipt")
    assert "    refused at: 03:17:09" in text
    with pytest.raises(RemoteError):
        _ = await run(partial(status, project, "0" * 12, as_json=False))


async def test_status_of_a_role(project: Path, run: Run, capsys: Captured) -> None:
    """One role's own; a name that is none is refused."""
    assert await run(partial(status, project, "monitoring", as_json=True)) == 0
    body = cast("dict[str, list[Object]]", json.loads(capsys.readouterr().out))
    assert [one["role"] for one in body["credentials"]] == ["monitoring"]
    with pytest.raises(SettingsError):
        status(project, "../x", as_json=False)


async def test_nothing_to_show(
    project: Path, engine: MemoryEngine, run: Run, capsys: Captured
) -> None:
    """A project without credentials says so."""
    engine.credentials = []
    assert await run(partial(status, project, None, as_json=False)) == 0
    assert capsys.readouterr().out.startswith("no credentials\n")


def test_receipts_are_facts_below_each_other() -> None:
    """Lists and objects are indented, and nothing in them steers a terminal."""
    receipt: Object = {
        "refused_within_ms": 3.5,
        "note": "a\x1b[2Jb",
        "control": None,
        "roles": {"treasury": {"calls_cut": 2}},
        "problems": [],
        "probes": ["refused", {"at": 1, "by": {"x": 2}}],
    }
    assert receipt_lines(receipt) == [
        "  refused within ms: 3.5",
        "  note: a\\u001b[2Jb",
        "  control: -",
        "  roles",
        "    treasury",
        "      calls cut: 2",
        "  problems: none",
        "  probes:",
        "    - refused",
        "    - at: 1",
        "      by",
        "        x: 2",
    ]


# In an emergency.


def test_revoke_all_where_nothing_runs(tmp_path: Path) -> None:
    """In an emergency the error says what works without a daemon."""
    (tmp_path / "roles").mkdir()
    with pytest.raises(NotRunningError) as caught:
        revoke_all(tmp_path, ("treasury",), everything=False, reason="x", yes=True, as_json=False)
    assert "agents token revoke" in str(caught.value.hint)


async def test_revoke_all_prints_its_receipt(
    project: Path, engine: MemoryEngine, run: Run, capsys: Captured
) -> None:
    """What was ended, when it was refused, and how the roles come back."""
    command = partial(
        revoke_all, project, ("treasury",), everything=False, reason="leak", yes=True, as_json=False
    )
    assert await run(command) == 0
    out, err = capsys.readouterr()
    assert engine.asked[0] == ("revoke-all", "treasury", "leak", "operator")
    assert "  took ms: 3.5" in out
    assert "agents reopen ROLE" in err
    assert await run(partial(reopen, project, "treasury", as_json=False)) == 0
    assert "treasury may run again" in capsys.readouterr().out


async def test_what_was_not_seen_dead(
    project: Path, engine: MemoryEngine, run: Run, capsys: Captured
) -> None:
    """The receipt is printed all the same; what is left is told, and the status tells."""
    token = {"token": "4fG7xQ2LmZ0p", "agent": "alice", "streams_left": 0}
    engine.ended = cast(
        "JsonObject",
        {
            "tokens": [
                {**token, "refused_at": "now"},
                {**token, "refused_at": None, "token": "openopenopen"},
            ],
            "id": "0123456789ab",
            "processes": {
                "treasury": {"ended": False, "calls_cut": 0, "note": "the engine does not answer"}
            },
            "upstream": [
                {"version": "bm-a", "proved": True, "note": ""},
                {"version": "bm-b", "proved": False, "note": "it is looked at again"},
            ],
        },
    )
    for as_json in (False, True):
        command = partial(
            revoke_all,
            project,
            ("treasury",),
            everything=False,
            reason="leak",
            yes=True,
            as_json=as_json,
        )
        assert await run(command) == 9
        out, err = capsys.readouterr()
        assert "openopenopen" in out
        if not as_json:
            assert "`agents rotate approve-revoke 0123456789ab` says so" in err
            assert [line for line in err.splitlines() if "not seen dead" in line] == [
                "agents: not seen dead: token openopenopen of alice",
                "agents: not seen dead: processes of treasury: the engine does not answer",
                "agents: not seen dead: bm-b: it is looked at again",
            ]


@pytest.mark.parametrize(("roles", "everything"), [((), False), (("treasury",), True)])
def test_which_roles_has_to_be_said(
    project: Path, roles: tuple[str, ...], everything: bool
) -> None:
    """Neither and both are mistakes."""
    with pytest.raises(SettingsError):
        revoke_all(project, roles, everything=everything, reason="x", yes=True, as_json=False)


async def test_nobody_is_there_to_confirm(
    project: Path, engine: MemoryEngine, served: Served
) -> None:
    """Without a terminal and without --yes nothing is revoked."""
    async with served():
        done = await agents(project, "revoke-all", "treasury", "--reason", "leak")
    assert (done.returncode, engine.asked) == (2, [])
    assert "--yes" in done.stderr


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("", 5), ("no", 5)])
async def test_a_person_confirms(
    project: Path, engine: MemoryEngine, served: Served, answer: str, code: int
) -> None:
    """Anything but yes leaves everything as it was."""
    async with served():
        with anyio.fail_after(30):
            status, screen = await anyio.to_thread.run_sync(
                on_a_terminal, project, answer, "revoke-all", "treasury", "--reason", "leak"
            )
    assert status == code
    assert bool(engine.asked) is (code == 0)
    assert "every credential of treasury" in screen


# The command line.


async def test_words_and_roles(project: Path, engine: MemoryEngine, served: Served) -> None:
    """The first word may be a subcommand; else it is a role, and `start` makes it one."""
    async with served():
        for words in (("treasury",), ("start", "treasury")):
            done = await agents(project, "rotate", *words, "--dry-run", "--json")
            assert done.returncode == 0, done.stderr
            body = cast("dict[str, list[Object]]", json.loads(done.stdout))
            assert {one["role"] for one in body["planned"]} == {"treasury"}
        done = await agents(project, "rotate", "start", "status")
        assert (done.returncode, "not running here: status" in done.stderr) == (10, True)
        done = await agents(project, "rotate", "status", "--json")
        assert "credentials" in done.stdout
    assert engine.known == {}


def test_help_has_options_and_subcommands() -> None:
    """One page tells all of it."""
    done = subprocess.run([AGENTS, "rotate", "--help"], capture_output=True, text=True, check=True)
    for word in ("--due", "--agent", "[ROLE]...", "approve-revoke", "provide", "Examples:", "12"):
        assert word in done.stdout


async def test_a_daily_run_with_nothing_due(
    project: Path, nothing_due: MemoryEngine, served: Served
) -> None:
    """It says nothing, and touches nothing."""
    _ = (project / "agents.yaml").write_text("listen: 127.0.0.1:0\n")
    async with served():
        before = picture(project)
        done = await agents(project, "rotate", "--due")
        assert picture(project) == before
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert nothing_due.known == {}


def picture(project: Path) -> dict[str, tuple[object, ...]]:
    """Tell every file of a project with its times and content."""
    found: dict[str, tuple[object, ...]] = {}
    for path in project.rglob("*"):
        facts = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path)] = (facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size, content)
    return found


async def test_the_script_for_cron(
    project: Path, engine: MemoryEngine, credentials: dict[str, Due], served: Served
) -> None:
    """It fails where nothing runs or something is held, and is silent if there is no news."""
    # Beside an environment of another name the command is looked for on PATH.
    env = {**os.environ, "PATH": f"{Path(AGENTS).parent}:{os.environ['PATH']}"}
    for shell in ("dash", "bash"):
        result = await anyio.run_process(
            [shell, str(SCRIPT), str(project)], check=False, input=b"", env=env
        )
        assert (result.returncode, result.stdout) == (10, b"")
        assert b"nothing is running" in result.stderr
    engine.credentials = []
    async with served():
        result = await anyio.run_process(
            [str(SCRIPT), str(project)], check=False, input=b"", env=env
        )
        assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
        engine.credentials = [credentials["upstream"]]
        engine.lead(credentials["upstream"], State.MINTING, State.HELD)
        result = await anyio.run_process(
            [str(SCRIPT), str(project)], check=False, input=b"", env=env
        )
        assert (result.returncode, b"held: delete" in result.stdout) == (12, True)
        engine.credentials = []
        result = await anyio.run_process(
            [str(SCRIPT), str(project)], check=False, input=b"", env=env
        )
        assert (result.returncode, b"held: delete" in result.stdout) == (12, True)
