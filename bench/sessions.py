"""What sessions cost the gateway's memory: idle ones, ones that listen, and many that come and go.

    python -m bench.sessions [--idle 1000] [--churn 50000]

The gateway is a project as users have it, with a server over standard input behind. Memory is the
resident memory of the daemon, which the gateway is a part of. Of four sessions that come and go,
one is deleted, one is called in and deleted, one is called in and abandoned, and one is abandoned.
"""

import argparse
import json
import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Final, cast, final

from bench import rig
from bench.gateway import opening, session_head
from orchestrator.model.base import JsonObject

AGENTS: Final = 8
PATH: Final = "/stdio/mcp"


@final
class Caller:
    """One connection that makes one request after the other."""

    def __init__(self, port: int, token: str) -> None:
        """Connect."""
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = {"Host": f"127.0.0.1:{port}", **session_head(token)}
        self._held = b""

    def close(self) -> None:
        """Let go of the connection."""
        self._socket.close()

    def send(self, method: str, message: JsonObject | None, session: str) -> Mapping[str, str]:
        """Make a request of a session, and read the head of the reply.

        Args:
            method: The HTTP method.
            message: What is posted.
            session: The session's id; empty before there is one.

        Returns:
            The reply's headers.
        """
        body = b"" if message is None else json.dumps(message).encode()
        head = dict(self._head)
        if message is not None:
            head["Content-Length"] = str(len(body))
        if session:
            head["Mcp-Session-Id"] = session
        lines = [f"{method} {PATH} HTTP/1.1", *(f"{name}: {text}" for name, text in head.items())]
        self._socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode() + body)
        while b"\r\n\r\n" not in self._held:
            self._more()
        told, _, self._held = self._held.partition(b"\r\n\r\n")
        status, *rest = told.decode("latin-1").split("\r\n")
        if status.split()[1] not in {"200", "202"}:
            raise SystemExit(f"{method} was refused: {status}")
        pairs = (line.partition(": ") for line in rest)
        return {name.lower(): value for name, _, value in pairs}

    def ask(self, method: str, message: JsonObject | None, session: str = "") -> str:
        """Make a request, and read the whole reply; tell the session that it opened."""
        headers = self.send(method, message, session)
        length = int(headers.get("content-length", "0"))
        while len(self._held) < length:
            self._more()
        self._held = self._held[length:]
        return headers.get("mcp-session-id", "")

    def _more(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise SystemExit("the gateway closed a connection")
        self._held += data

    def open_session(self) -> str:
        """Open a session as a client does."""
        session = self.ask("POST", opening())
        note: JsonObject = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        _ = self.ask("POST", note, session)
        return session


def call() -> JsonObject:
    """Write a call."""
    return cast("JsonObject", json.loads(rig.call_body()))


def measure_idle(project: rig.Project, tokens: list[str], number: int) -> None:
    """Open sessions and leave them; then the same with a stream open in each."""
    callers = [Caller(project.port, token) for token in tokens]
    before = rig.memory_of(project.pids())
    for place in range(number):
        _ = callers[place % len(callers)].open_session()
    after = rig.memory_of(project.pids())
    print(f"{number} idle sessions: {after - before:+.1f} MB ({before:.1f} to {after:.1f})")
    before = after
    with ExitStack() as stack:
        for place in range(number):
            token = tokens[place % len(tokens)]
            session = callers[place % len(callers)].open_session()
            listener = Caller(project.port, token)
            _ = stack.callback(listener.close)
            _ = listener.send("GET", None, session)
        after = rig.memory_of(project.pids())
        print(
            f"{number} sessions that listen: {after - before:+.1f} MB ({before:.1f} to {after:.1f})"
        )
    for caller in callers:
        caller.close()


def measure_churn(project: rig.Project, tokens: list[str], number: int) -> None:
    """Open sessions, use some, end some, and tell the memory now and then."""
    callers = [Caller(project.port, token) for token in tokens]
    begun = time.monotonic()
    told = [rig.memory_of(project.pids())]
    for place in range(number):
        caller = callers[place % len(callers)]
        session = caller.open_session()
        if place % 4 in {1, 2}:
            _ = caller.ask("POST", call(), session)
        if place % 4 in {0, 1}:
            _ = caller.ask("DELETE", None, session)
        if (place + 1) % (number // 10) == 0:
            told.append(rig.memory_of(project.pids()))
    for caller in callers:
        caller.close()
    took = time.monotonic() - begun
    print(f"{number} sessions in {took:.0f} s; MB before, and after each tenth:")
    print("  " + ", ".join(f"{value:.1f}" for value in told))
    print(f"  second half: {told[-1] - told[5]:+.1f} MB")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    _ = parser.add_argument("--idle", type=int, default=1_000)
    _ = parser.add_argument("--churn", type=int, default=50_000)
    options = cast("dict[str, int]", vars(parser.parse_args()))
    print(rig.describe_machine())
    with rig.home() as root, rig.project(root, rig.compile_upstreams(root)) as project:
        tokens = [
            rig.agents(root, "token", "issue", "stdio", "--agent", f"a{number}").strip()
            for number in range(AGENTS)
        ]
        warm = Caller(project.port, tokens[0])
        for _ in range(100):
            _ = warm.ask("POST", call(), warm.open_session())
        warm.close()
        measure_idle(project, tokens, options["idle"])
        measure_churn(project, tokens, options["churn"])


if __name__ == "__main__":
    main()
