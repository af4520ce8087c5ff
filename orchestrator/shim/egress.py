"""The forward proxy of a role's servers: to listed hosts and ports, and nowhere else.

It resolves names itself and connects to the very address that it checked. What goes through a
tunnel it does not read. Standard library and anyio only, as it is started with each such role.

Source: RFC 9110, sections 9.3.6 (CONNECT) and 15.5.8 (407).
"""

import asyncio
import hashlib
import hmac
import ipaddress
import json
import signal
import sys
from base64 import b64encode
from collections.abc import Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from socket import SOCK_STREAM
from typing import Final, TypeAlias, cast, final

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketListener, SocketStream
from anyio.streams.stapled import MultiListener

from orchestrator.model.destination import Destination, is_public
from orchestrator.shim.egress_request import HEAD_END, Asked, read_head

Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
Log: TypeAlias = Callable[[dict[str, object]], None]

_MOST_ADDRESSES: Final = 8
_RESOLVERS: Final = 16
_CHUNK_BYTES: Final = 65_536
_GOODBYE_SECONDS: Final = 1.0
_ADDRESS: Final = SocketAttribute.local_address
_PAUSE_SECONDS: Final = 0.1
_ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"
_REALM: Final = 'Proxy-Authenticate: Basic realm="agents egress"\r\n'


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one client may take.

    Attributes:
        head_bytes: The longest head of a request.
        head_seconds: How long it may take to arrive.
        connections: Most connections at a time.
        resolve_seconds: How long a name may take to be resolved.
        connect_seconds: How long one address may take to answer.
        idle_seconds: How long nothing may pass through a connection before it is closed.
    """

    head_bytes: int = 16_384
    head_seconds: float = 10.0
    connections: int = 256
    resolve_seconds: float = 5.0
    connect_seconds: float = 5.0
    idle_seconds: float = 300.0


@final
class RefusedError(Exception):
    """A request that is not carried out."""

    def __init__(self, status: HTTPStatus, reason: str, words: str) -> None:
        """Keep the answer.

        Args:
            status: Its status.
            reason: One word for the log.
            words: A sentence for the client.
        """
        super().__init__(words)
        self.status = status
        self.reason = reason
        self.words = words


async def resolve_by_system(host: str, port: int) -> Sequence[str]:
    """Ask the system's resolver for a name's addresses."""
    found = await anyio.getaddrinfo(host, port, type=SOCK_STREAM)
    return [str(each[4][0]) for each in found]


def log_to_stderr(entry: dict[str, object]) -> None:
    """Write one line of JSON."""
    _ = sys.stderr.write(json.dumps(entry) + "\n")
    sys.stderr.flush()


def as_basic(credential: str) -> str:
    """Write `user:password` as clients show it."""
    return "Basic " + b64encode(credential.encode()).decode()


@final
class EgressProxy:
    """Takes requests of a role's servers, and carries out those to listed destinations."""

    def __init__(
        self,
        allowed: Collection[Destination],
        *,
        credential: str = "",
        limits: Limits | None = None,
        resolve: Resolve = resolve_by_system,
        log: Log = log_to_stderr,
    ) -> None:
        """Prepare.

        Args:
            allowed: Every destination that may be reached. One that is a literal address allows
                that address at that port, be it private or not, also to names that lead there.
            credential: `user:password` that clients have to show; empty for none.
            limits: How much a client may take.
            resolve: Tells the addresses of a name, or raises OSError.
            log: Takes one entry for each decision.
        """
        self._allowed = frozenset(allowed)
        self._digest = _digest(as_basic(credential).encode()) if credential else b""
        self._limits = limits or Limits()
        self._resolve = resolve
        self._log = log
        self._open = 0

    async def run(self, host: str, port: int) -> None:
        """Serve until SIGTERM or SIGINT.

        Args:
            host: The address to listen on; empty for all of this machine's.
            port: The port; 0 takes any free one, which the log tells.

        Raises:
            OSError: The address cannot be listened on.
        """
        # By themselves they are as many as a large machine likes, and a container has few.
        resolvers = ThreadPoolExecutor(_RESOLVERS, "resolver")
        asyncio.get_running_loop().set_default_executor(resolvers)
        listener = await anyio.create_tcp_listener(local_host=host or None, local_port=port)
        async with listener, anyio.create_task_group() as group:
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                group.start_soon(self.serve, listener)
                async for _ in signals:
                    group.cancel_scope.cancel()
                    return

    async def serve(self, listener: MultiListener[SocketStream]) -> None:
        """Serve until cancelled."""
        sockets = [cast("SocketListener", each) for each in listener.listeners]
        host, port = cast("tuple[str, int]", sockets[0].extra(_ADDRESS)[:2])  # noqa: S610  not Django's
        self._write(decision="listening", host=host, port=port)
        async with anyio.create_task_group() as group:
            for each in sockets:
                group.start_soon(self._accept, each)

    async def _accept(self, listener: SocketListener) -> None:
        async with anyio.create_task_group() as group:
            while True:
                try:
                    client = await listener.accept()
                except OSError:  # no descriptor is left; some will be given back
                    await anyio.sleep(_PAUSE_SECONDS)
                    continue
                group.start_soon(self._take, client)

    async def _take(self, client: SocketStream) -> None:
        """Serve one connection, whatever happens on it."""
        asked: Asked | None = None
        self._open += 1
        try:
            async with client:
                try:
                    self._check_room()
                    head, more = await self._receive_head(client)
                    asked = _understand(head)
                    await self._carry(client, asked, more)
                except RefusedError as error:
                    self._log_refusal(asked, error)
                    await _answer(client, error)
        except (OSError, anyio.BrokenResourceError, anyio.EndOfStream):
            pass  # the client went away, and there is nobody to tell
        except Exception as error:  # noqa: BLE001  one connection's trouble is not another's
            self._write(decision="fail", reason="unexpected", error=type(error).__name__)
        finally:
            self._open -= 1

    def _check_room(self) -> None:
        if self._open > self._limits.connections:
            raise RefusedError(
                HTTPStatus.SERVICE_UNAVAILABLE, "busy", "too many connections are open"
            )

    async def _receive_head(self, client: SocketStream) -> tuple[bytes, bytes]:
        """Receive a request's head; give what came after it, too."""
        received = b""
        with anyio.move_on_after(self._limits.head_seconds) as scope:
            while HEAD_END not in received:
                if len(received) > self._limits.head_bytes:
                    break
                received += await client.receive(self._limits.head_bytes)
        if scope.cancelled_caught:
            raise RefusedError(
                HTTPStatus.REQUEST_TIMEOUT, "slow-head", "the request did not arrive in time"
            )
        head, _, more = received.partition(HEAD_END)
        if len(head) + len(HEAD_END) > self._limits.head_bytes:
            raise RefusedError(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                "long-head",
                f"a request's head may have {self._limits.head_bytes} bytes",
            )
        return head + HEAD_END, more

    async def _carry(self, client: SocketStream, asked: Asked, more: bytes) -> None:
        destination = asked.destination
        if self._digest and not hmac.compare_digest(self._digest, _digest(asked.credential)):
            raise RefusedError(
                HTTPStatus.PROXY_AUTHENTICATION_REQUIRED,
                "credential",
                "this proxy asks for a credential, and yours is missing or not the right one",
            )
        if destination not in self._allowed:
            raise RefusedError(
                HTTPStatus.FORBIDDEN,
                "not-listed",
                f"{destination} is not in the role's `egress` list",
            )
        upstream, address = await self._connect(destination)
        async with upstream:
            self._write(
                decision="allow", host=destination.host, port=destination.port, address=address
            )
            if asked.is_tunnel:
                await client.send(_ESTABLISHED)
            if first := asked.head + more:
                await upstream.send(first)
            await self._relay(client, upstream)

    async def _connect(self, destination: Destination) -> tuple[SocketStream, str]:
        """Connect to the first address that may be reached and can be."""
        failure = "no address answers"
        for address in await self._addresses(destination):
            try:
                with anyio.fail_after(self._limits.connect_seconds):
                    # A literal address: nothing is resolved again between the check and this.
                    return await anyio.connect_tcp(address, destination.port), address
            except TimeoutError:
                failure = "it does not answer in time"
            except OSError:
                failure = "it cannot be reached"
        raise RefusedError(HTTPStatus.BAD_GATEWAY, "unreachable", f"{destination}: {failure}")

    async def _addresses(self, destination: Destination) -> Sequence[str]:
        """Tell the addresses of a destination that may be connected to, at least one."""
        host, port = destination
        if destination.address is not None:
            return [host]
        try:
            with anyio.fail_after(self._limits.resolve_seconds):
                found = await self._resolve(host, port)
        except (OSError, UnicodeError):
            raise RefusedError(
                HTTPStatus.BAD_GATEWAY, "no-address", f"{host} has no address that can be found"
            ) from None
        good = [each for each in dict.fromkeys(found) if self._may_reach(each, port)]
        if not good:
            raise RefusedError(
                HTTPStatus.FORBIDDEN,
                "inside-address",
                f"{host} leads to an address that is private, or this machine's own; such an "
                "address has to be in the role's `egress` list itself",
            )
        return good[:_MOST_ADDRESSES]

    def _may_reach(self, text: str, port: int) -> bool:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return False
        return is_public(address) or Destination(str(address), port) in self._allowed

    async def _relay(self, client: SocketStream, upstream: SocketStream) -> None:
        """Pass bytes both ways until both sides have ended, one broke, or nothing passed."""
        idle = self._limits.idle_seconds
        with anyio.CancelScope(deadline=anyio.current_time() + idle) as scope:

            async def pump(source: ByteStream, sink: ByteStream) -> None:
                try:
                    while True:
                        chunk = await source.receive(_CHUNK_BYTES)
                        await sink.send(chunk)
                        scope.deadline = anyio.current_time() + idle
                except anyio.EndOfStream:
                    with suppress(OSError, anyio.BrokenResourceError):
                        await sink.send_eof()  # the other half goes on
                except (OSError, anyio.BrokenResourceError):
                    scope.cancel()

            async with anyio.create_task_group() as group:
                group.start_soon(pump, client, upstream)
                group.start_soon(pump, upstream, client)

    # What is told.

    def _log_refusal(self, asked: Asked | None, error: RefusedError) -> None:
        where: dict[str, object] = {}
        if asked is not None:
            where = {"host": asked.destination.host, "port": asked.destination.port}
        decision = "fail" if error.status == HTTPStatus.BAD_GATEWAY else "refuse"
        self._write(decision=decision, **where, status=int(error.status), reason=error.reason)

    def _write(self, **facts: object) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._log({"time": now, "event": "egress", **facts})


def _understand(head: bytes) -> Asked:
    try:
        return read_head(head)
    except ValueError as error:
        raise RefusedError(HTTPStatus.BAD_REQUEST, "no-request", str(error)) from None


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


async def _answer(client: SocketStream, error: RefusedError) -> None:
    """Refuse, and take what is still under way: else the refusal is lost with the connection."""
    status = error.status
    body = f"agents egress: {error.words}\n".encode()
    challenge = _REALM if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED else ""
    head = (
        f"HTTP/1.1 {int(status)} {status.phrase}\r\n{challenge}"
        "Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    with anyio.move_on_after(_GOODBYE_SECONDS):
        await client.send(head.encode() + body)
        await client.send_eof()
        while True:
            _ = await client.receive(_CHUNK_BYTES)
