"""One attempt to hand a launch frame to a waiting seat, over its unix socket."""

import os
import socket
from enum import Enum
from pathlib import Path

from orchestrator.errors import WorkloadStartError
from orchestrator.runtimes.identity import peer_of

CONNECT_SECONDS = 1.0
ANSWER_SECONDS = 10.0
_ANSWER_BYTES = 4096


class Attempt(Enum):
    """How an attempt ended, when it is no error."""

    LAUNCHED = "launched"
    NOBODY = "nobody"  # nothing listens, or it ended before it answered
    STRANGER = "stranger"  # the listener is not the process that it should be


def attempt(directory: Path, pid: int, frame: bytes) -> Attempt:
    """Connect to the seat in a directory, see that it is the right process, and send the frame.

    Blocks, for bounded time: call it in a worker thread.

    Args:
        directory: The seat's directory.
        pid: The process that the engine started for the workload.
        frame: The frame; sent to no other process than that.

    Raises:
        WorkloadStartError: The seat refused the frame or could not execute the server.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(CONNECT_SECONDS)
        try:
            connect_below(peer, directory, "seat.sock")
        except OSError:
            return Attempt.NOBODY
        if peer_of(peer) != (pid, os.geteuid()):
            return Attempt.STRANGER
        peer.settimeout(ANSWER_SECONDS)
        try:
            peer.sendall(frame)
            peer.shutdown(socket.SHUT_WR)
            answer = _read(peer)
        except TimeoutError as error:
            raise WorkloadStartError("the seat did not answer to its launch frame") from error
        except OSError:
            return Attempt.NOBODY
    return _judge(answer)


def connect_below(peer: socket.socket, directory: Path, name: str) -> None:
    """Connect to a socket in a directory whose whole path may be too long for an address."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        peer.connect(f"/proc/self/fd/{descriptor}/{name}")
    finally:
        os.close(descriptor)


def _read(peer: socket.socket) -> bytes:
    """Read until the seat's end of the connection is gone: closed by its execve, or by its end."""
    answer = b""
    while part := peer.recv(_ANSWER_BYTES):
        answer += part
        if len(answer) > _ANSWER_BYTES:
            raise WorkloadStartError("the seat answered with too much")
    return answer


def _judge(answer: bytes) -> Attempt:
    """Read the seat's lines: `opened` alone is success, nothing at all a seat that just ended."""
    lines = answer.decode(errors="replace").splitlines()
    if not lines:
        return Attempt.NOBODY
    if lines == ["opened"]:
        return Attempt.LAUNCHED
    word, _, rest = lines[-1].partition(" ")
    if word == "failed":
        number, _, stage = rest.partition(" ")
        reason = os.strerror(int(number)) if number.isdigit() else "unknown"
        raise WorkloadStartError(f"the server could not be started ({stage}): {reason}")
    raise WorkloadStartError(f"the seat refused the launch frame: {rest}")
