"""The record of a whole project as others get it: nothing is lost, whatever dies."""

from __future__ import annotations

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, cast

import orjson
import pytest
from typing_extensions import override

from orchestrator.journal import segments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import Object, Project

CANARY = "canary-siem-token-77"


class Siem:
    """Takes lines by HTTP.

    Attributes:
        lines: What was taken.
        status: What is answered.
        shown: The logins that were shown.
    """

    def __init__(self) -> None:
        """Listen."""
        self.lines: list[bytes] = []
        self.status = 200
        self.shown: set[str | None] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.shown.add(self.headers["authorization"])
                if outer.status == 200:
                    outer.lines += body.splitlines()
                self.send_response(outer.status)
                self.send_header("content-length", "0")
                self.end_headers()

            @override
            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/ingest"


@pytest.fixture
def siem() -> Iterator[Siem]:
    """Serve HTTP."""
    made = Siem()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def record(project: Project) -> list[bytes]:
    """Read the whole lines of the record."""
    paths = segments(project.state / "audit")
    whole = b"".join(path.read_bytes() for path in paths)
    return whole[: whole.rfind(b"\n") + 1].splitlines()


def notes(project: Project) -> str:
    """Tell what `agents status` has people know."""
    return "\n".join(cast("list[str]", project.status()["notes"]))


async def test_nothing_is_lost_when_the_daemon_is_killed(project: Project, siem: Siem) -> None:
    """Every line reaches each sink, over a kill and a receiver that is away; twice means the same.

    The receiver's secret is shown to it, and is in no file and no argument.
    """
    settings = f"""
listen: 127.0.0.1:0
audit:
  sinks:
    siem: {{http: "{siem.url}", secret: env:SIEM_TOKEN, batch: 7}}
    copy: {{file: copy.jsonl, batch: 7}}
"""
    _ = project.write("agents.yaml", settings)
    project.env["SIEM_TOKEN"] = CANARY
    _ = project.agents("up", "-d")
    for status in (200, 503):
        siem.status = status
        async with project.client("treasury") as client:
            for _ in range(20):
                assert not (await client.call_tool("get_price", {"symbol": "ETH"})).is_error
        daemon = project.daemon_pid()
        os.kill(daemon, 9)
        project.wait(lambda old=daemon: project.is_ready() and project.daemon_pid() != old)
    project.wait(lambda: "the sink siem is" in notes(project))
    assert "it answered with status 503" in notes(project)
    siem.status = 200
    copy = project.root / "copy.jsonl"
    for taken in (lambda: siem.lines, lambda: copy.read_bytes().splitlines()):
        project.wait(lambda taken=taken: set(record(project)) <= set(taken()))
        by_number: dict[int, bytes] = {}
        for line in taken():
            number = cast("int", cast("Object", orjson.loads(line))["seq"])
            assert by_number.setdefault(number, line) == line
        assert list(by_number) == sorted(by_number)
    project.wait(lambda: "sink" not in notes(project))

    # A sink that is taken away ends; what is written then reaches the other one alone.
    _ = project.write("agents.yaml", "\n".join(settings.splitlines()[:-1]) + "\n")
    _ = project.agents("up", "-d")
    assert siem.shown == {f"Bearer {CANARY}"}
    _ = project.agents("down")
    assert "as it was written" in project.agents("audit", "verify").stdout
    for path in project.state.rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes(), path
