"""Addresses of servers that serve HTTP, and who listens on a port."""

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import TargetUnavailableError
from orchestrator.runtimes.address import Address
from orchestrator.runtimes.engine import EngineFiles
from orchestrator.runtimes.ports import Listener, check_own, free_port, listeners

TABLE = (
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
    "   0: 0100007F:21FC 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000 0 1\n"
    "   1: 0100007F:21FC 0100007F:9999 01 00000000:00000000 00:00000000 00000000  1001 0 1\n"
    "   2: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0 0 1\n"
)
PATHS = st.text("abcXYZ012._~/-").map(lambda text: f"/{text}")


@given(PATHS, st.integers(1, 65_535))
def test_an_address_is_read_as_it_was_written(path: str, port: int) -> None:
    """All kinds of address survive being written into a record."""
    for address in (
        Address(path, port=port),
        Address(path, socket="/run/a:b/http.sock"),
        Address(path, port=port, host="10.0.0.7"),
        Address(path, port=port, host="fd00::7", name="till.example"),
    ):
        assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http://192.0.2.1:80/mcp",
        "https://127.0.0.1:80/mcp",
        "http://127.0.0.1/mcp",
        "http://127.0.0.1:0/mcp",
        "http://127.0.0.1:65536/mcp",
        "http://127.0.0.1:80",
        "http://127.0.0.1:80@192.0.2.1:80/mcp",
        "unix:relative:/mcp",
        "unix:/run/http.sock",
        "elsewhere:10.0.0.7:80/mcp",
        "elsewhere:till=10.0.0.7:80/mcp",
        "elsewhere:tillhttp://10.0.0.7:80/mcp",
        "elsewhere:a b=http://10.0.0.7:80/mcp",
        "elsewhere:http://10.0.0.7:0/mcp",
    ],
)
def test_anything_else_is_no_address(text: str) -> None:
    """Only a unix socket or a port of this machine is taken."""
    with pytest.raises(TargetUnavailableError):
        _ = Address.parse(text)


def test_the_host_header_is_one_that_servers_let_in() -> None:
    """Servers that check it know loopback names with a port only."""
    assert Address("/mcp", socket="/x").authority == "localhost:80"
    assert Address("/mcp", port=81).authority == "127.0.0.1:81"
    assert Address("/mcp", port=81, host="10.0.0.7", name="till").authority == "till:81"


def test_listeners_are_read_from_the_kernels_table() -> None:
    """Only listeners on that very port count."""
    assert listeners(TABLE, 8700) == {Listener(1000, "0100007F", 1)}
    assert listeners(TABLE, 80) == {Listener(0, "00000000", 1)}
    assert listeners(TABLE, 81) == set()


@pytest.mark.parametrize(
    ("address", "is_local"),
    [
        ("0100007F", True),
        ("0200007F", True),
        ("00000000", False),
        ("0101A8C0", False),
        ("00000000000000000000000001000000", True),
        ("0000000000000000FFFF00000100007F", True),
        ("0000000000000000FFFF000001010A0A", False),
        ("00000000000000000000000000000000", False),
        ("B80D0120000000000000000000007F7F", False),
    ],
)
def test_only_loopback_is_local(address: str, is_local: bool) -> None:
    """A listener on all addresses, or on one of the network, is not local."""
    assert Listener(0, address, 1).is_local is is_local


def test_a_port_of_our_own_is_taken_and_no_other() -> None:
    """Nothing is sent to a port where nobody listens, or that the network reaches."""
    port = free_port()
    with pytest.raises(ConnectionRefusedError):
        check_own(port)
    with socket.create_server(("127.0.0.1", port)):
        check_own(port)
        check_own(port, os.getpgrp())
        with pytest.raises(ConnectionRefusedError):  # it belongs to none of these
            check_own(port, 1)
    with (
        socket.create_server(("0.0.0.0", port)),  # noqa: S104 - what is refused
        pytest.raises(TargetUnavailableError, match="more addresses than 127"),
    ):
        check_own(port)


def test_the_path_of_a_servers_socket_is_short() -> None:
    """However long the names are, it fits into an address wherever the engine's own does."""
    files = EngineFiles(run=Path("/" + "r" * 78), logs=Path("/"))
    longest = f"{'r' * 32}.{'s' * 32}.g999999.m-0123456789"
    assert len(str(files.socket)) == 95
    assert len(str(files.http_socket(longest))) <= 107
    assert files.http_socket(longest) != files.http_socket("reader.http.g1")
