"""The seat alone, as a process."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import cast, final

import pytest
from pydantic import SecretStr

from orchestrator.errors import WorkloadStartError
from orchestrator.runtimes.engine import seat_command
from orchestrator.runtimes.launch_frame import LaunchFrame
from orchestrator.runtimes.seat_client import Attempt, attempt

# add_key and keyctl.
KEY_CALLS = {"x86_64": (248, 250), "aarch64": (217, 219)}
SERVERS = Path(__file__).parents[2] / "servers"


def eventually(check: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


@final
class Seat:
    """One seat process."""

    def __init__(self, root: Path, name: str = "one") -> None:
        """Start it."""
        self.directory = root / name
        self.fence = root / "fence.lock"
        self.log = root / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                seat_command("sit", str(self.directory), str(self.fence), str(self.log)),
                stdin=subprocess.DEVNULL,
                stderr=log,
                env={"LEAK": "canary-of-the-engine"},
                process_group=0,
            )

    def connect(self) -> socket.socket:
        """Connect once it listens."""
        eventually((self.directory / "seat.sock").exists)
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        peer.settimeout(30)

        def is_listening() -> bool:
            try:
                peer.connect(str(self.directory / "seat.sock"))
            except ConnectionRefusedError:  # bound, and not listening yet
                return False
            return True

        eventually(is_listening)
        return peer

    def launch(self, *argv: str, **parts: str) -> Attempt:
        """Hand over a frame."""
        self.connect().close()
        secrets = {name: SecretStr(value) for name, value in parts.items()}
        frame = LaunchFrame(argv, {"PATH": os.defpath}, secrets, str(self.directory.parent))
        return attempt(self.directory, self.process.pid, frame.encode())

    def end(self) -> None:
        """Kill whatever it is now."""
        self.process.kill()
        _ = self.process.wait(30)


@pytest.fixture
def root() -> Generator[Path]:
    """Make a directory with a short path."""
    with tempfile.TemporaryDirectory(prefix="bm-", dir="/tmp") as path:
        yield Path(path)


@pytest.fixture
def sit(root: Path) -> Generator[Callable[[], Seat]]:
    """Give a function that starts a seat of one and the same workload."""
    seats: list[Seat] = []

    def start() -> Seat:
        seats.append(Seat(root))
        return seats[-1]

    yield start
    for seat in seats:
        seat.end()


def read_json(path: Path) -> dict[str, object]:
    """Wait for a file and read it."""
    eventually(path.exists)
    return cast("dict[str, object]", json.loads(path.read_text()))


def test_the_server_has_exactly_what_the_frame_says(root: Path, sit: Callable[[], Seat]) -> None:
    """Environment, directory, umask, limits, group and descriptors are the frame's, no more."""
    seat = sit()
    report = root / "report.json"
    program = (sys.executable, "-I", "-S", str(SERVERS / "program.py"), "report", str(report))
    assert seat.launch(*program, API_KEY="canary-value") is Attempt.LAUNCHED
    found = read_json(report)
    assert found["env"] == {"PATH": os.defpath, "API_KEY": "canary-value"}
    assert found["cwd"] == str(root)
    assert found["umask"] == 0o077
    assert found["core"] == [1, 1]
    assert found["no_new_privileges"] == "1"
    assert found["pid"] == found["group"] == seat.process.pid
    assert found["blocked"] == "0" * 16
    descriptors = cast("dict[str, str]", found["descriptors"])
    assert descriptors["0"] == str(seat.directory / "in")
    assert descriptors["1"] == str(seat.directory / "out")
    # Only the fence besides; closing it would open the fence.
    assert sorted(descriptors)[:3] == ["0", "1", "2"]
    assert list(descriptors.values())[3:] == [str(seat.fence)]
    assert not (seat.directory / "seat.sock").exists()


def test_no_key_of_the_engine_is_there(root: Path, sit: Callable[[], Seat]) -> None:
    """The server has a session keyring of its own: keys in the one of its engine are not there."""
    ask = (
        "import ctypes, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "key = libc.syscall({}, b'user', b'bandmaster-test', b'canary', 6, -3)\n"
        "found = libc.syscall({}, 10, -3, b'user', b'bandmaster-test', 0)\n"
    ).format(*KEY_CALLS[os.uname().machine])
    probe = f"{ask}raise SystemExit(0 if found == key > 0 else 1)"
    if subprocess.run([sys.executable, "-c", probe], check=False).returncode:
        pytest.skip("the kernel has no keyrings here, or forbids them")
    path = root / "found"
    # Whatever this process has in its keyring, all that it starts can see.
    add = ask.splitlines()
    exec("\n".join(add[:3]))  # noqa: S102 - the very same words
    look = "\n".join([*add[:2], add[3], f"open({str(path)!r}, 'w').write(str(found))"])
    seen = subprocess.run(
        [sys.executable, "-c", look], check=True, stdin=subprocess.DEVNULL
    ).returncode
    assert (seen, int(path.read_text()) > 0) == (0, True)
    path.unlink()
    assert sit().launch(sys.executable, "-c", look) is Attempt.LAUNCHED
    eventually(lambda: path.exists() and bool(path.read_text()))
    assert path.read_text() == "-1"


def test_signals_that_python_ignores_are_back(root: Path, sit: Callable[[], Seat]) -> None:
    """The server gets SIGPIPE, SIGXFSZ and SIGINT with their default action."""
    path = root / "status"
    script = f"cat /proc/self/status > {path}.part; mv {path}.part {path}; exec sleep 60"
    assert sit().launch("/bin/sh", "-c", script) is Attempt.LAUNCHED
    eventually(path.exists)
    line = next(row for row in path.read_text().splitlines() if row.startswith("SigIgn"))
    assert int(line.split()[1], 16) & sum(1 << (number - 1) for number in (2, 13, 25)) == 0


def test_everything_in_its_directory_is_private(sit: Callable[[], Seat]) -> None:
    """Directory, socket and FIFOs are open to their owner only."""
    seat = sit()
    seat.connect().close()
    assert seat.directory.stat().st_mode & 0o777 == 0o700
    assert (seat.directory / "seat.sock").stat().st_mode & 0o777 == 0o600
    assert seat.launch("/bin/sleep", "60") is Attempt.LAUNCHED
    assert {(seat.directory / name).stat().st_mode & 0o777 for name in ("in", "out")} == {0o600}


@pytest.mark.parametrize(
    ("program", "words", "status"),
    [
        ("/nowhere/server", "No such file", 127),
        ("/etc/passwd", "Permission denied", 126),
        ("/", "Permission denied", 126),
    ],
)
def test_failed_execution_is_told_exactly(
    sit: Callable[[], Seat], program: str, words: str, status: int
) -> None:
    """The reason of the kernel comes back over the socket, and the exit status says which kind."""
    seat = sit()
    with pytest.raises(WorkloadStartError, match=rf"\(execute\): {words}"):
        _ = seat.launch(program)
    assert seat.process.wait(30) == status


def test_missing_working_directory_is_told(root: Path, sit: Callable[[], Seat]) -> None:
    """A working directory that is not there is the reason given."""
    seat = sit()
    seat.connect().close()
    frame = LaunchFrame(("/bin/true",), {}, {}, str(root / "nowhere")).encode()
    with pytest.raises(WorkloadStartError, match=r"\(working directory\): No such file"):
        _ = attempt(seat.directory, seat.process.pid, frame)


def test_a_refused_frame_leaves_the_seat_waiting(sit: Callable[[], Seat]) -> None:
    """Junk, half a frame and a peer that hangs up are dropped; the next good frame is taken."""
    seat = sit()
    good = LaunchFrame(("/bin/sleep", "60"), {}, {}, "/").encode()
    for bad in (b"junk", good[:20], b"", good.replace(b"umask", b"mask!")):
        with seat.connect() as peer:
            peer.sendall(bad)
            peer.shutdown(socket.SHUT_WR)
            assert peer.recv(500).startswith(b"refused")
    with seat.connect() as peer:
        peer.sendall(good[:10])
    assert attempt(seat.directory, seat.process.pid, good) is Attempt.LAUNCHED
    assert "refused a launch" in seat.log.read_text()


def test_a_frame_in_single_bytes_is_taken(sit: Callable[[], Seat]) -> None:
    """How the bytes of a frame arrive makes no difference."""
    seat = sit()
    with seat.connect() as peer:
        for byte in LaunchFrame(("/bin/sleep", "60"), {}, {}, "/").encode():
            _ = peer.send(bytes([byte]))
        peer.shutdown(socket.SHUT_WR)
        assert peer.recv(100) == b"opened\n"
        assert peer.recv(100) == b""


def test_too_many_bytes_are_refused(sit: Callable[[], Seat]) -> None:
    """A peer that sends without end is dropped at the limit."""
    seat = sit()
    with seat.connect() as peer, pytest.raises((BrokenPipeError, ConnectionResetError)):
        peer.sendall(b"x" * 10_000_000)
    seat.connect().close()


def test_a_stuck_peer_holds_the_seat_for_bounded_time(sit: Callable[[], Seat]) -> None:
    """A peer that sends nothing is dropped after five seconds, and the seat serves the next."""
    seat = sit()
    frame = LaunchFrame(("/bin/sleep", "60"), {}, {}, "/").encode()
    begun = time.monotonic()
    with seat.connect() as stuck:
        assert attempt(seat.directory, seat.process.pid, frame) is Attempt.LAUNCHED
        assert time.monotonic() - begun > 4
        assert b"took too long" in stuck.recv(100)


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_another_user_is_refused(root: Path, sit: Callable[[], Seat]) -> None:
    """A peer of another user is refused, even when file modes would let it in."""
    seat = sit()
    seat.connect().close()
    for path in (root, seat.directory):
        path.chmod(0o755)
    (seat.directory / "seat.sock").chmod(0o777)
    code = (
        "import os, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "s.connect(sys.argv[1])\n"
        "try:\n s.sendall(sys.stdin.buffer.read()); s.shutdown(1)\n"
        "except OSError: pass\n"
        "print(s.recv(500))\n"
    )
    frame = LaunchFrame(("/bin/sleep", "60"), {}, {}, "/").encode()
    done = subprocess.run(
        ["/usr/bin/python3", "-I", "-S", "-c", code, str(seat.directory / "seat.sock")],
        input=frame,
        capture_output=True,
        check=False,
        user=65534,
        timeout=60,
    )
    assert b"another user" in done.stdout
    assert (seat.directory / "seat.sock").exists()


def test_an_orphan_is_replaced_with_its_children(root: Path, sit: Callable[[], Seat]) -> None:
    """The next seat of a workload ends the one before, its TERM-ignoring children included."""
    first = sit()
    family = root / "family.json"
    program = (sys.executable, "-I", "-S", str(SERVERS / "program.py"))
    assert first.launch(*program, "family-polite", str(family)) is Attempt.LAUNCHED
    eventually(family.exists)
    pids = cast("list[int]", json.loads(family.read_text()))
    second = sit()
    second.connect().close()
    assert first.process.wait(30) == -15
    eventually(lambda: not any(runs(pid) for pid in pids))
    assert second.launch("/bin/sleep", "60") is Attempt.LAUNCHED


def test_what_a_dead_server_left_is_ended(root: Path, sit: Callable[[], Seat]) -> None:
    """Children of a server that died without an engine end when its workload is seated again."""
    first = sit()
    family = root / "family.json"
    program = (sys.executable, "-I", "-S", str(SERVERS / "program.py"))
    assert first.launch(*program, "family", str(family)) is Attempt.LAUNCHED
    eventually(family.exists)
    pids = cast("list[int]", json.loads(family.read_text()))
    first.end()
    assert all(runs(pid) for pid in pids[1:])
    sit().connect().close()
    eventually(lambda: not any(runs(pid) for pid in pids))


def test_a_server_that_closed_its_fence_is_still_found(root: Path, sit: Callable[[], Seat]) -> None:
    """A server that closes all descriptors loses the lock, and is ended by name."""
    first = sit()
    marker = root / "closed"
    code = "import os, sys, time; os.closerange(3, 99); open(sys.argv[1], 'w'); time.sleep(60)"
    program = (sys.executable, "-I", "-S", "-c", code, str(marker))
    assert first.launch(*program) is Attempt.LAUNCHED
    eventually(marker.exists)
    sit().connect().close()
    assert first.process.wait(30) == -15


def runs(pid: int) -> bool:
    """Tell whether a process lives."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    "arguments", [(), ("sit",), ("sit", "a", "/b"), ("guard", "/f"), ("stand", "/a", "/b")]
)
def test_unusable_arguments(arguments: tuple[str, ...]) -> None:
    """Arguments that make no sense end it with 78."""
    done = subprocess.run(seat_command(*arguments), capture_output=True, check=False, timeout=60)
    assert done.returncode == 78
    assert b"usage" in done.stderr


def test_an_open_directory_is_refused(root: Path) -> None:
    """A directory that others can enter is no place for a seat."""
    (root / "one").mkdir(mode=0o755)
    seat = Seat(root)
    assert seat.process.wait(30) == 78
    assert "not private" in seat.log.read_text()


def test_guard_replaces_the_orphan(root: Path) -> None:
    """A guarded program ends its predecessor first, then is the program itself."""
    command = seat_command("guard", str(root / "fence"), "/bin/sleep", "60")
    first = subprocess.Popen(command, process_group=0)
    eventually(lambda: b"sleep" in Path(f"/proc/{first.pid}/cmdline").read_bytes()[:12])
    second = subprocess.Popen(command, process_group=0)
    try:
        assert first.wait(30) == -15
        eventually(lambda: b"sleep" in Path(f"/proc/{second.pid}/cmdline").read_bytes()[:12])
    finally:
        second.kill()
        _ = second.wait(30)


def test_guard_of_a_missing_program(root: Path) -> None:
    """A guarded program that is not there ends with 127."""
    command = seat_command("guard", str(root / "fence"), "/nowhere/program")
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert done.returncode == 127
