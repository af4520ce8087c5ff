"""The console's listener: nobody holds a connection for nothing, or says two things at once."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Final, cast

import pytest
import uvicorn
from starlette.responses import PlainTextResponse

from orchestrator.console import patience
from orchestrator.console.patience import Patient

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

PATIENCE: Final = 30.0


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Generator[Callable[[], socket.socket]]:
    """Listen with little patience, and give a way to connect."""
    monkeypatch.setattr(patience, "HEAD_SECONDS", 0.2)
    config = uvicorn.Config(
        PlainTextResponse("here"),
        http=Patient,
        ws="none",
        lifespan="off",
        log_level="critical",
        h11_max_incomplete_event_size=16 * 1024,
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = cast("tuple[str, int]", listener.getsockname())
        serving = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        serving.start()
        yield lambda: socket.create_connection(place, PATIENCE)
        server.should_exit = True
        serving.join(PATIENCE)


def everything(connection: socket.socket) -> bytes:
    """Read until the other side ends it."""
    told = b""
    while piece := connection.recv(65_536):
        told += piece
    return told


def test_a_request_that_never_ends_is_ended(connect: Callable[[], socket.socket]) -> None:
    """Whether it has begun or not; one that is whole is answered."""
    with connect() as silent, connect() as slow, connect() as whole:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        whole.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert everything(whole).endswith(b"here")
        assert everything(silent) == b""
        assert everything(slow) == b""


def test_two_names_and_endless_headers_are_refused(connect: Callable[[], socket.socket]) -> None:
    """The name that was checked is the only one there is."""
    with connect() as double:
        double.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n")
        assert b" 400 " in everything(double).splitlines()[0]
    with connect() as endless:
        endless.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 40_000)
        assert b"here" not in everything(endless)
