"""How agents get their new tokens."""

import os
import stat
import sys
from pathlib import Path

import anyio
import pytest

from orchestrator.errors import RotationError
from orchestrator.model.names import AgentName, RoleName
from orchestrator.model.rotation import Delivery
from orchestrator.rotation import delivery
from orchestrator.rotation.delivery import Deliverer
from orchestrator.tokens.mint import mint

AGENT, ROLE = AgentName("claude"), RoleName("treasury")
READER = """
import os, sys
text = sys.stdin.read()
assert text.strip() not in str(sys.argv) + str(dict(os.environ))
assert "CANARY" not in os.environ
open(sys.argv[1], "w").write(text + os.environ["BANDMASTER_AGENT"] + os.environ["BANDMASTER_ROLE"])
"""


@pytest.fixture
def deliverer(tmp_path: Path) -> Deliverer:
    """Give one that knows two places."""
    return Deliverer(tmp_path / "state", tmp_path)


def test_nobody_who_waits_there_gets_the_token(deliverer: Deliverer, tmp_path: Path) -> None:
    """What another user put where the token is written first is not written to, nor waited for."""
    place = tmp_path / f".token.{os.getpid()}.tmp"
    for make in (lambda: place.write_text("theirs"), lambda: os.mkfifo(place)):
        _ = make()
        before = os.open(place, os.O_RDONLY | os.O_NONBLOCK)
        try:
            deliverer.put(tmp_path / "token", mint().text, None)
            assert not os.read(before, 100).startswith(b"mga_")
            assert os.fstat(before).st_ino != (tmp_path / "token").stat().st_ino
        finally:
            os.close(before)


def test_places(deliverer: Deliverer, tmp_path: Path) -> None:
    """A file is absolute, or below the state or the project."""
    assert deliverer.path_of(Delivery(command=("x",))) is None
    assert deliverer.path_of(Delivery(file="{state}/a")) == tmp_path / "state" / "a"
    assert deliverer.path_of(Delivery(file="{project}/a")) == tmp_path / "a"
    assert deliverer.path_of(Delivery(file="/a/b")) == Path("/a/b")
    with pytest.raises(RotationError, match="absolute"):
        _ = deliverer.path_of(Delivery(file="a/b"))


def test_a_file_is_replaced_and_put_back(deliverer: Deliverer, tmp_path: Path) -> None:
    """The new token is private at once; the old one is beside it until it is forgotten."""
    old, new, path = mint(), mint(), tmp_path / "token"
    deliverer.put(path, old.text, None)
    assert list(tmp_path.iterdir()) == [path]
    deliverer.put(path, new.text, old.id)
    deliverer.put(path, new.text, old.id)
    assert deliverer.holds(path, new.id)
    assert not deliverer.holds(path, old.id)
    for one in tmp_path.iterdir():
        assert stat.S_IMODE(one.stat().st_mode) == 0o600
    assert deliverer.restore(path, old.id)
    assert deliverer.restore(path, old.id)
    assert path.read_text() == old.text.get_secret_value() + "\n"
    assert list(tmp_path.iterdir()) == [path]
    deliverer.put(path, new.text, old.id)
    deliverer.forget(path)
    deliverer.forget(path)
    assert list(tmp_path.iterdir()) == [path]
    assert not deliverer.restore(path, old.id)
    assert deliverer.holds(path, new.id)


def test_what_is_no_token_file(deliverer: Deliverer, tmp_path: Path) -> None:
    """A missing file, a link or something else holds no token; a link is replaced, not followed."""
    minted, path, aim = mint(), tmp_path / "token", tmp_path / "aim"
    assert not deliverer.holds(path, minted.id)
    _ = aim.write_bytes(b"\xff\xfe")
    assert not deliverer.holds(aim, minted.id)
    path.symlink_to(aim)
    deliverer.put(path, minted.text, None)
    assert aim.read_bytes() == b"\xff\xfe"
    assert deliverer.holds(path, minted.id)


async def test_a_program_reads_it_from_stdin(
    deliverer: Deliverer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token is in neither its arguments nor its variables, and ours are not handed on."""
    monkeypatch.setenv("CANARY", "x")
    minted, place = mint(), tmp_path / "got"
    command = (sys.executable, "-c", READER, str(place))
    await deliverer.run(command, minted.text, AGENT, ROLE)
    assert place.read_text() == f"{minted.text.get_secret_value()}\nclaudetreasury"


LEAVER = """
import os, sys, time
_ = sys.stdin.read()
if not os.fork():
    open(sys.argv[1], "w").write(str(os.getpid()))
    time.sleep(60)
while not os.path.exists(sys.argv[1]) or not open(sys.argv[1]).read():
    time.sleep(0.01)
if "stays" in sys.argv:
    time.sleep(60)
"""


@pytest.mark.parametrize("how", ["ends", "stays"])
async def test_nothing_of_a_program_is_left(
    deliverer: Deliverer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """What a program started ends with it, whether it came to its end or took too long."""
    monkeypatch.setattr(delivery, "COMMAND_SECONDS", 60 if how == "ends" else 6)
    place = tmp_path / "pid"
    command = (sys.executable, "-c", LEAVER, str(place), how)
    with anyio.fail_after(90):
        if how == "ends":
            await deliverer.run(command, mint().text, AGENT, ROLE)
        else:
            with pytest.raises(RotationError, match="no answer within 6 s"):
                await deliverer.run(command, mint().text, AGENT, ROLE)
        pid = int(place.read_text())
        while is_running(pid):  # noqa: ASYNC110 - it is another process's child
            await anyio.sleep(0.01)


def is_running(pid: int) -> bool:
    """Tell whether a process runs, and is not just waiting for somebody to note its end."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_a_script_that_others_could_replace(deliverer: Deliverer, tmp_path: Path) -> None:
    """It would be given the token, so it is not run, wherever its name is looked for."""
    script = tmp_path / "deliver.sh"
    _ = script.write_text(f"touch {tmp_path}/ran")
    for name in (str(script), script.name):
        script.chmod(0o666)
        with pytest.raises(RotationError, match=f"{script} could be replaced"):
            await deliverer.run(("/bin/sh", name), mint().text, AGENT, ROLE)
        assert not (tmp_path / "ran").exists()
        script.chmod(0o600)
        await deliverer.run(("/bin/sh", name), mint().text, AGENT, ROLE)
        (tmp_path / "ran").unlink()


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ((sys.executable, "-c", "import sys; sys.exit(3)"), "status 3"),
        (("/does/not/exist",), "cannot be run"),
        ((sys.executable, "-c", "import time; time.sleep(60)"), "no answer within"),
    ],
)
async def test_a_program_that_fails(
    deliverer: Deliverer,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    problem: str,
) -> None:
    """A program that fails, is missing or takes too long is an error without the token."""
    monkeypatch.setattr(delivery, "COMMAND_SECONDS", 0.5 if "within" in problem else 30)
    minted = mint()
    with anyio.fail_after(90), pytest.raises(RotationError, match=problem) as caught:
        await deliverer.run(command, minted.text, AGENT, ROLE)
    assert minted.text.get_secret_value() not in str(caught.value)
