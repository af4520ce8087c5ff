"""The record by syslog: over each way, and to a real rsyslogd."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from orchestrator.audit.formats.choose import FORMATS
from orchestrator.audit.reader import parse
from orchestrator.audit.record import CallRecord
from orchestrator.audit.sinks.base import Entry
from orchestrator.audit.sinks.syslog import render
from orchestrator.audit.sinks.wire import SyslogOutlet
from orchestrator.model.names import AgentName, RoleName
from orchestrator.model.sinks import parse_syslog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.integration.sinks.conftest import Place, Wait

# Source: RFC 5424, 6.
MESSAGE = re.compile(
    rb"<(?P<pri>[0-9]{1,3})>1 (?P<time>\d{4}-\d\d-\d\dT[0-9:]{8}\.\d{6}Z) (?P<host>[!-~]{1,255}) "
    rb"(?P<app>[!-~]{1,48}) (?P<process>[!-~]{1,128}) (?P<id>[!-~]{1,32}) "
    rb'\[(?P<element>[!-<>-\\^-~]{1,32})(?P<parameters>( [!-<>-\\^-~]{1,32}="([^"\\\]]|\\.)*")*)\] '
    rb"(?P<text>.*)",
    re.DOTALL,
)
BOM = b"\xef\xbb\xbf"


def to(
    where: str,
    form: str = "jsonl",
    longest: int | None = None,
    context: Callable[[], ssl.SSLContext] = ssl.create_default_context,
) -> Callable[[], SyslogOutlet]:
    """Give the way to a server."""
    return lambda: SyslogOutlet(parse_syslog(where), FORMATS[form], longest, context)


class Counted:
    """Takes messages whose octets are counted, connection after connection.

    Attributes:
        messages: What came.
        port: Where it listens.
    """

    def __init__(self, context: ssl.SSLContext | None = None, port: int = 0) -> None:
        """Listen."""
        self.messages: list[bytes] = []
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection = self._listener.accept()[0]
                self._open.append(connection)
                with suppress(OSError):
                    self._read(connection)

    def _read(self, connection: socket.socket) -> None:
        if self._context is not None:
            connection = self._context.wrap_socket(connection, server_side=True)
            self._open.append(connection)
        with connection.makefile("rb") as file:
            while True:
                count = b""
                while (digit := file.read(1)) not in {b"", b" "}:
                    count += digit
                if not count:
                    return
                self.messages.append(file.read(int(count)))

    def end(self) -> None:
        """Go away, connections and all."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._thread.join()


@pytest.fixture
def serve() -> Iterator[Callable[..., Counted]]:
    """Give a function that serves until the test ends."""
    made: list[Counted] = []

    def work(context: ssl.SSLContext | None = None, port: int = 0) -> Counted:
        made.append(Counted(context, port))
        return made[-1]

    yield work
    for each in made:
        each.end()


def texts(messages: list[bytes]) -> list[bytes]:
    """Give the texts of messages, all of which have to be right."""
    found: list[bytes] = []
    for message in messages:
        match = MESSAGE.fullmatch(message)
        assert match is not None, message
        text = match["text"]
        # Source: RFC 5424, 6.4.
        assert text.startswith(BOM) != text.isascii()
        found.append(text.removeprefix(BOM))
    return found


def entry(line: bytes) -> Entry:
    """Read one line."""
    told = parse(line)
    assert told is not None
    return Entry(line, told, int(str(told["seq"])))


def odd_lines(place: Place) -> None:
    """Write lines with letters that mean something somewhere."""
    call = CallRecord("decision", "r1", RoleName("treasury"), AgentName('a"]\\b'), status=403)
    place.log.record(call)
    place.log.note("approval.denied", {"by": "operator:änne", "reason": "nö\n\x1b[2J] <13>1 x"})


def test_messages_are_right(place: Place) -> None:
    """Priority by what matters, fields as parameters, and nothing in them ends what they are in."""
    odd_lines(place)
    every = [entry(line) for line in place.lines()]
    for form in ("jsonl", "cef"):
        messages = [render(each, FORMATS[form], 65_536) for each in every]
        _ = texts(messages)
        assert [message[: message.index(b">")] for message in messages] == [
            b"<110", b"<110", b"<108", b"<108",
        ]  # fmt: skip
        assert b'seq="3" role="treasury" agent="a\\"\\]\\\\b"' in messages[2]
        assert all(b"\n" not in message and b"\x1b" not in message for message in messages)
        assert 'by="operator:änne"'.encode() in messages[3]


@pytest.mark.parametrize("longest", [480, 500, 501, 502, 503, 2048])
def test_what_is_too_long_is_cut_and_says_so(longest: int) -> None:
    """No message is longer than it may be, and no character is cut in two."""
    line = '{"event":"note","reason":"%s","seq":7}' % ("ä€😀" * 400)
    message = render(entry(line.encode()), FORMATS["jsonl"], longest)
    assert longest - 10 <= len(message) <= longest
    text = message.partition(BOM)[2]
    found = re.search(rb' truncated="(\d+)"', message)
    assert found is not None
    assert len(text) + int(found[1]) == len(line.encode())
    assert line.startswith(text.decode())


def test_udp(place: Place, wait: Wait) -> None:
    """One message a datagram, none larger than what every receiver has to take."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taker:
        taker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        taker.bind(("127.0.0.1", 0))
        taker.settimeout(30)
        place.fill(60)
        worker = place.sink(to(f"udp://127.0.0.1:{taker.getsockname()[1]}"))
        messages = [taker.recv(65_536) for _ in range(60)]
        wait(lambda: worker.progress.seq == 60)
    assert texts(messages) == place.lines()
    assert max(map(len, messages)) <= 2048


def test_socket(place: Place, wait: Wait) -> None:
    """A server's socket takes them, and while there is none the sink says so."""
    path = place.root / "log"
    place.fill(60)
    worker = place.sink(to(f"unix:{path}"))
    wait(lambda: worker.progress.error == "nothing listens there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as taker:
        taker.bind(str(path))
        taker.settimeout(30)
        messages = [taker.recv(65_536) for _ in range(60)]
        wait(lambda: worker.progress.seq == 60)
    assert texts(messages) == place.lines()


def test_tcp_down_and_back(place: Place, wait: Wait, serve: Callable[..., Counted]) -> None:
    """A server that goes away and comes back has all lines; what it has twice has one number."""
    first = serve()
    place.fill(60)
    worker = place.sink(to(f"tcp://127.0.0.1:{first.port}"))
    wait(lambda: worker.progress.seq == 60 and len(first.messages) == 60)
    first.end()
    place.fill(130)
    wait(lambda: worker.progress.error == "nothing listens there")
    second = serve(port=first.port)
    wait(lambda: worker.progress.seq == 130)
    wait(lambda: len(second.messages) >= 70)
    every = texts(first.messages + second.messages)
    assert list(dict.fromkeys(every)) == place.lines()


def certificate(root: Path) -> tuple[Path, Path]:
    """Make a certificate for this machine that is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        )
        .add_extension(
            x509.KeyUsage(
                digital_signature=True, content_commitment=False, key_encipherment=False,
                data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
                encipher_only=False, decipher_only=False,
            ),
            critical=True,
        )
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    paths = root / "cert.pem", root / "key.pem"
    _ = paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    _ = paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


def test_tls(place: Place, wait: Wait, serve: Callable[..., Counted]) -> None:
    """Only a server that proves to be itself gets a line."""
    cert, key = certificate(place.root)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server = serve(context)
    where = f"tls://127.0.0.1:{server.port}"
    place.fill(60)
    doubtful = place.sink(to(where), "doubtful")
    wait(lambda: doubtful.progress.error == "its certificate is not accepted")
    place.end(doubtful)
    assert server.messages == []
    trusting = place.sink(to(where, context=lambda: ssl.create_default_context(cafile=cert)))
    wait(lambda: trusting.progress.seq == 60)
    wait(lambda: len(server.messages) == 60)
    assert texts(server.messages) == place.lines()


def test_a_real_rsyslogd_understands_all(place: Place, wait: Wait) -> None:
    """It finds each part of each message, over TCP and its socket, also with odd letters."""
    program = shutil.which("rsyslogd", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        assert "BANDMASTER_TEST_ALL" not in os.environ, "rsyslogd is not installed"
        pytest.skip("rsyslogd is not installed (scripts/dev-services)")
    port_file, path = place.root / "port", place.root / "log"
    out, config = place.root / "out", place.root / "rsyslog.conf"
    _ = config.write_text(f"""
global(workDirectory="{place.root}" maxMessageSize="64k"
  parser.escapeControlCharactersOnReceive="off")
module(load="imtcp")
module(load="imuxsock" sysSock.use="off")
template(name="parts" type="string"
  string="%inputname% %pri% %app-name% %msgid% %structured-data% %msg%\\n")
ruleset(name="keep") {{ action(type="omfile" file="{out}" template="parts") }}
input(type="imtcp" address="127.0.0.1" port="0" listenPortFileName="{port_file}" ruleset="keep")
input(type="imuxsock" socket="{path}" useSpecialParser="off" parseHostname="on" ruleset="keep")
""")
    odd_lines(place)
    place.fill(40)
    with subprocess.Popen(
        [program, "-n", "-f", str(config), "-i", str(place.root / "rsyslogd.pid")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as daemon:
        try:
            wait(lambda: port_file.exists() and port_file.read_text().strip() != "")
            port = int(port_file.read_text())
            by_tcp = place.sink(to(f"tcp://127.0.0.1:{port}"), "stream")
            wait(lambda: by_tcp.progress.seq == 40)
            by_socket = place.sink(to(f"unix:{path}"), "datagram")
            wait(lambda: by_socket.progress.seq == 40)
            wait(lambda: out.exists() and out.read_bytes().count(b"\n") >= 80)
        finally:
            daemon.terminate()
    lines = out.read_bytes().splitlines()
    for way in (b"imtcp", b"imuxsock"):
        found = [line.split(b" ", 4) for line in lines if line.startswith(way)]
        assert [each[2] for each in found] == [b"bandmaster"] * 40
        assert (found[2][1], found[2][3]) == (b"108", b"decision")
        kept = [each[4].partition(b"] ")[2] for each in found]
        assert found[2][4].startswith(b'[bandmaster@32473 seq="3" ')
        record = place.lines()
        for text, line in zip(kept, record, strict=True):
            assert text.endswith(line)
