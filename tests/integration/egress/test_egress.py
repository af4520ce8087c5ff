"""The forward proxy on real sockets: what it lets through, and what it stops."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final, cast

import anyio
import pytest
from anyio.abc import SocketAttribute
from typing_extensions import override

from orchestrator.model.destination import Destination
from orchestrator.shim.egress import EgressProxy, Limits, as_basic

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Sequence

    from anyio.abc import SocketStream
    from anyio.streams.stapled import MultiListener

LOOPBACK: Final = "127.0.0.1"
_PORT: Final = SocketAttribute.local_port
OTHER: Final = "127.0.0.2"
LONGEST: Final = 60
Entries = list[dict[str, object]]


class Names:
    """A resolver that gives other addresses each time it is asked, the last ones for ever."""

    def __init__(self, *answers: Sequence[str]) -> None:
        """Keep what to answer."""
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Answer."""
        del port
        self.asked.append(host)
        if not self.answers:
            raise OSError("no such name")
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Proxied:
    """A proxy that listens, and what it logged."""

    def __init__(self, port: int, entries: Entries) -> None:
        """Keep them."""
        self.port = port
        self.entries = entries

    async def ask(self, head: str | bytes) -> SocketStream:
        """Connect and send a request."""
        stream = await anyio.connect_tcp(LOOPBACK, self.port)
        await stream.send(head.encode() if isinstance(head, str) else head)
        return stream

    async def tell(self, head: str | bytes) -> str:
        """Send a request that is answered at once, and read all of the answer."""
        async with await self.ask(head) as stream:
            return (await read_all(stream)).decode()

    @property
    def decisions(self) -> Entries:
        """What it decided."""
        return [each for each in self.entries if each["decision"] != "listening"]


async def read_all(stream: SocketStream) -> bytes:
    """Read until the other side has ended."""
    found = b""
    with suppress(anyio.EndOfStream):
        while True:
            found += await stream.receive()
    return found


async def read_head(stream: SocketStream) -> bytes:
    """Read the head of an answer, and no more."""
    found = b""
    while not found.endswith(b"\r\n\r\n"):
        found += await stream.receive(1)
    return found


@asynccontextmanager
async def proxy(
    allowed: Collection[Destination],
    *,
    names: Names | None = None,
    credential: str = "",
    limits: Limits | None = None,
) -> AsyncGenerator[Proxied]:
    """Run a proxy."""
    entries: Entries = []
    made = EgressProxy(
        allowed,
        credential=credential,
        limits=limits,
        resolve=names or Names(),
        log=entries.append,
    )
    listener = await anyio.create_tcp_listener(local_host=LOOPBACK)
    async with listener, anyio.create_task_group() as group:
        group.start_soon(made.serve, listener)
        yield Proxied(port_of(listener), entries)
        group.cancel_scope.cancel()


def port_of(listener: MultiListener[SocketStream]) -> int:
    """Tell a listener's port."""
    return listener.extra(_PORT)  # noqa: S610  not Django's


@asynccontextmanager
async def echo(host: str = LOOPBACK, port: int = 0, name: str = "echo") -> AsyncGenerator[int]:
    """Run a destination that says its name, then what it got, and ends when the other side did."""

    async def handle(stream: SocketStream) -> None:
        async with stream:
            await stream.send(f"{name} ".encode())
            got = await read_all(stream)
            await stream.send(got[::-1])

    listener = await anyio.create_tcp_listener(local_host=host, local_port=port)
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, handle)
        yield port_of(listener)
        group.cancel_scope.cancel()


async def test_a_tunnel_goes_through_and_each_half_ends_by_itself() -> None:
    """What was sent with the request arrives, and a client that has ended still gets its answer."""
    with anyio.fail_after(LONGEST):
        async with echo() as port, proxy([Destination(LOOPBACK, port)]) as proxied:
            request = f"CONNECT {LOOPBACK}:{port} HTTP/1.1\r\nHost: x\r\n\r\nearly,"
            async with await proxied.ask(request) as stream:
                assert (await read_head(stream)).startswith(b"HTTP/1.1 200 ")
                await stream.send(b"late")
                await stream.send_eof()
                assert await read_all(stream) == b"echo etal,ylrae"
            assert [each["decision"] for each in proxied.decisions] == ["allow"]


async def test_what_is_not_listed_is_refused_and_not_even_resolved() -> None:
    """Another host, or another port of a listed one, gets 403; its name is asked of nobody."""
    with anyio.fail_after(LONGEST):
        names = Names([LOOPBACK])
        async with proxy([Destination("api.example.com", 443)], names=names) as proxied:
            for where in ("secret.attacker.example:443", "api.example.com:22", f"{LOOPBACK}:443"):
                answer = await proxied.tell(f"CONNECT {where} HTTP/1.1\r\n\r\n")
                assert answer.startswith("HTTP/1.1 403 Forbidden\r\n")
                assert f"{where} is not in the role's `egress` list" in answer
            assert names.asked == []
            assert {str(each["reason"]) for each in proxied.decisions} == {"not-listed"}


async def test_the_address_that_was_checked_is_the_one_that_is_connected_to() -> None:
    """A name that leads elsewhere when it is asked again is asked once."""
    with anyio.fail_after(LONGEST):
        async with echo(name="good") as port, echo(OTHER, port, "bad"):
            names = Names([LOOPBACK], [OTHER])
            allowed = [Destination("api.example.com", port), Destination(LOOPBACK, port)]
            async with proxy(allowed, names=names) as proxied:
                request = f"CONNECT api.example.com:{port} HTTP/1.1\r\n\r\n"
                async with await proxied.ask(request) as stream:
                    _ = await read_head(stream)
                    await stream.send_eof()
                    assert await read_all(stream) == b"good "
                assert names.asked == ["api.example.com"]
                assert proxied.decisions[0]["address"] == LOOPBACK
                # Asked for another tunnel it resolves anew, and refuses.
                assert " 403 " in await proxied.tell(request)
                assert proxied.decisions[1]["reason"] == "inside-address"


@pytest.mark.parametrize(
    "address",
    [OTHER, "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.2", "fe80::1%1", "junk"],
)
async def test_a_listed_name_leads_to_no_inside_address(address: str) -> None:
    """A private address is reached only if it is listed itself, with its port."""
    with anyio.fail_after(LONGEST):
        async with echo(OTHER) as port:
            allowed = [Destination("api.example.com", port), Destination(OTHER, port + 1)]
            async with proxy(allowed, names=Names([address])) as proxied:
                answer = await proxied.tell(f"CONNECT api.example.com:{port} HTTP/1.1\r\n\r\n")
                assert answer.startswith("HTTP/1.1 403 Forbidden\r\n")
                assert "private" in answer
                assert address not in answer


async def test_of_many_addresses_the_first_that_may_be_reached_and_answers_is_taken() -> None:
    """Addresses inside are passed over, and so is one where nobody listens."""
    with anyio.fail_after(LONGEST):
        async with echo(OTHER) as port:
            names = Names(["127.0.0.9", LOOPBACK, OTHER])
            hosts = ("api.example.com", LOOPBACK, OTHER)
            async with proxy([Destination(host, port) for host in hosts], names=names) as proxied:
                async with await proxied.ask(
                    f"CONNECT api.example.com:{port} HTTP/1.1\r\n\r\n"
                ) as stream:
                    assert b" 200 " in await read_head(stream)
                assert proxied.decisions[0]["address"] == OTHER


async def test_a_plain_request_is_passed_on_only_where_port_80_is_listed() -> None:
    """An http:// URL of a host without its port 80 in the list is refused."""
    with anyio.fail_after(LONGEST):
        async with proxy([Destination("api.example.com", 443)]) as proxied:
            answer = await proxied.tell("GET http://api.example.com/?token=canary HTTP/1.1\r\n\r\n")
            assert answer.startswith("HTTP/1.1 403 ")
            answer = await proxied.tell("GET http://api.example.com:443/ HTTP/1.1\r\n\r\n")
            assert answer.startswith("HTTP/1.1 400 ")
            assert "canary" not in json.dumps(proxied.entries)


async def test_a_name_without_address_and_a_closed_port_are_502() -> None:
    """What cannot be reached is told from what must not be."""
    with anyio.fail_after(LONGEST):
        async with echo() as port:
            pass
        allowed = [Destination("gone.example", 443), Destination(LOOPBACK, port)]
        async with proxy(allowed) as proxied:
            answer = await proxied.tell("CONNECT gone.example:443 HTTP/1.1\r\n\r\n")
            assert answer.startswith("HTTP/1.1 502 Bad Gateway\r\n")
            assert "gone.example has no address" in answer
            answer = await proxied.tell(f"CONNECT {LOOPBACK}:{port} HTTP/1.1\r\n\r\n")
            assert answer.startswith("HTTP/1.1 502 Bad Gateway\r\n")
            assert "cannot be reached" in answer
            assert [each["decision"] for each in proxied.decisions] == ["fail", "fail"]


async def test_a_resolver_that_hangs_is_502() -> None:
    """Nobody waits for a name longer than the limit."""

    class Hanging(Names):
        @override
        async def __call__(self, host: str, port: int) -> Sequence[str]:
            del host, port
            await anyio.sleep_forever()
            return []

    with anyio.fail_after(LONGEST):
        limits = Limits(resolve_seconds=0.05)
        allowed = [Destination("slow.example", 443)]
        async with proxy(allowed, names=Hanging(), limits=limits) as proxied:
            answer = await proxied.tell("CONNECT slow.example:443 HTTP/1.1\r\n\r\n")
            assert answer.startswith("HTTP/1.1 502 ")


async def test_an_unexpected_failure_ends_one_connection() -> None:
    """A mistake of ours closes the connection that met it, is logged, and others go on."""

    class Broken(Names):
        @override
        async def __call__(self, host: str, port: int) -> Sequence[str]:
            del host, port
            raise LookupError

    with anyio.fail_after(LONGEST):
        async with proxy([Destination("a.example", 443)], names=Broken()) as proxied:
            with suppress(anyio.BrokenResourceError):
                assert await proxied.tell("CONNECT a.example:443 HTTP/1.1\r\n\r\n") == ""
            answer = await proxied.tell("CONNECT b.example:443 HTTP/1.1\r\n\r\n")
            assert answer.startswith("HTTP/1.1 403 ")
            assert [each["reason"] for each in proxied.decisions] == ["unexpected", "not-listed"]


async def test_a_credential_is_asked_for_before_anything_is_told() -> None:
    """Without the right one it is 407 for any host, and no credential is in the log."""
    with anyio.fail_after(LONGEST):
        async with echo() as port:
            allowed = [Destination(LOOPBACK, port)]
            async with proxy(allowed, credential="wallet:canary") as proxied:
                for host in (LOOPBACK, "other.example"):
                    for shown in ("", f"Proxy-Authorization: {as_basic('wallet:wrong')}\r\n"):
                        answer = await proxied.tell(
                            f"CONNECT {host}:{port} HTTP/1.1\r\n{shown}\r\n"
                        )
                        assert answer.startswith("HTTP/1.1 407 Proxy Authentication Required\r\n")
                        assert "Proxy-Authenticate: Basic " in answer
                        assert "credential" in answer
                good = f"Proxy-Authorization: {as_basic('wallet:canary')}\r\n"
                async with await proxied.ask(
                    f"CONNECT {LOOPBACK}:{port} HTTP/1.1\r\n{good}\r\n"
                ) as stream:
                    assert b" 200 " in await read_head(stream)
                logged = json.dumps(proxied.entries)
                assert "canary" not in logged
                assert "wrong" not in logged
                assert as_basic("wallet:canary")[6:] not in logged


async def test_a_huge_head_is_refused_while_it_arrives() -> None:
    """A head longer than the limit gets 431, though its end never came."""
    with anyio.fail_after(LONGEST):
        async with proxy([], limits=Limits(head_bytes=512)) as proxied:
            answer = await proxied.tell("CONNECT a.example:443 HTTP/1.1\r\nX: " + "a" * 5000)
            assert answer.startswith("HTTP/1.1 431 ")
            assert [each["reason"] for each in proxied.decisions] == ["long-head"]


async def test_a_head_that_trickles_is_given_up() -> None:
    """A client that sends its head byte by byte has no more time than one that sends nothing."""
    with anyio.fail_after(LONGEST):
        async with proxy([], limits=Limits(head_seconds=0.2)) as proxied:
            answer = b""
            async with await proxied.ask("CONNECT ") as stream:

                async def trickle() -> None:
                    with suppress(anyio.BrokenResourceError, OSError):
                        while True:
                            await stream.send(b"a")
                            await anyio.sleep(0.02)

                async with anyio.create_task_group() as group:
                    group.start_soon(trickle)
                    answer = await read_head(stream)
                    group.cancel_scope.cancel()
            assert answer.startswith(b"HTTP/1.1 408 ")


async def test_one_connection_too_many_is_told_so() -> None:
    """When all places are taken the next client gets 503 at once, until one is given up."""
    with anyio.fail_after(LONGEST):
        async with echo() as port:
            request = f"CONNECT {LOOPBACK}:{port} HTTP/1.1\r\n\r\n"
            allowed = [Destination(LOOPBACK, port)]
            async with proxy(allowed, limits=Limits(connections=1)) as proxied:
                async with await proxied.ask(request) as first:
                    assert b" 200 " in await read_head(first)
                    answer = await proxied.tell(request)
                    assert answer.startswith("HTTP/1.1 503 ")
                    await first.send_eof()
                    _ = await read_all(first)
                while b" 200 " not in await head_of(proxied, request):
                    pass


async def head_of(proxied: Proxied, request: str) -> bytes:
    """Ask, and read the head of the answer."""
    async with await proxied.ask(request) as stream:
        return await read_head(stream)


async def test_a_tunnel_in_which_nothing_passes_is_closed() -> None:
    """An idle tunnel does not hold its place for ever."""
    with anyio.fail_after(LONGEST):
        async with echo() as port:
            allowed = [Destination(LOOPBACK, port)]
            request = f"CONNECT {LOOPBACK}:{port} HTTP/1.1\r\n\r\n"
            async with (
                proxy(allowed, limits=Limits(idle_seconds=1)) as proxied,
                await proxied.ask(request) as stream,
            ):
                assert b" 200 " in await read_head(stream)
                with suppress(anyio.BrokenResourceError):
                    assert await read_all(stream) == b"echo "


async def test_a_connection_without_a_byte_is_nobodys_decision() -> None:
    """A probe that connects and hangs up leaves no line."""
    with anyio.fail_after(LONGEST):
        async with proxy([]) as proxied:
            async with await anyio.connect_tcp(LOOPBACK, proxied.port):
                pass
            assert (await proxied.tell("GET / HTTP/1.1\r\n\r\n")).startswith("HTTP/1.1 400 ")
            assert [each["reason"] for each in proxied.decisions] == ["no-request"]


async def test_the_command_serves_until_it_is_told_to_end() -> None:
    """`agents egress` says where it listens, refuses with a line of JSON, and ends by SIGTERM."""
    command = [sys.executable, "-m", "orchestrator.cli.main", "egress"]
    with anyio.fail_after(3 * LONGEST):
        async with await anyio.open_process(
            [*command, "--listen", f"{LOOPBACK}:0", "--allow", "api.example.com:443"],
            stdin=subprocess.DEVNULL,
        ) as process:
            assert process.stderr is not None
            first = cast("dict[str, object]", json.loads(await process.stderr.receive()))
            proxied = Proxied(cast("int", first["port"]), [first])
            answer = await proxied.tell("CONNECT other.example:443 HTTP/1.1\r\n\r\n")
            assert answer.startswith("HTTP/1.1 403 ")
            line = cast("dict[str, object]", json.loads(await process.stderr.receive()))
            del line["time"]
            assert line == {
                "event": "egress",
                "decision": "refuse",
                "host": "other.example",
                "port": 443,
                "status": 403,
                "reason": "not-listed",
            }
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--listen", "127.0.0.1:x"], "Example"),
        (["--listen", "127.0.0.1:0", "--allow", "*.example.com:443"], "a host and a port"),
        (["--listen", "203.0.113.1:1"], "cannot be listened on"),
        (["--listen", "127.0.0.1:0", "--credential", "/nowhere"], "cannot be read"),
    ],
)
def test_options_that_cannot_be_used_are_told(words: list[str], said: str) -> None:
    """A wrong destination, address or file ends the command with status 2 and a sentence."""
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli.main", "egress", *words],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
