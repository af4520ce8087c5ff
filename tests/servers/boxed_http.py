"""A small MCP server over HTTP of the older era, without any library, to be run in a container.

    --socket PATH   listens on a unix socket
    --port N        listens on a port of all addresses

Tools: `echo` gives its arguments back, `reach` tries a connection to `host` and `port`, `through`
asks the proxy that its variables name for a tunnel there and tells the answer's first line, `fill`
takes `bytes` bytes of memory, `write` writes `bytes` bytes to the file `path`, `whoami` tells what
it may do.
"""

import argparse
import json
import os
import socket
import socketserver
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TypeAlias, cast
from urllib.parse import urlsplit

Message: TypeAlias = dict[str, object]
NAMES = ("echo", "reach", "through", "fill", "write", "whoami")
HELD: list[bytearray] = []


def reach(host: str, port: int) -> str:
    """Try a connection."""
    try:
        socket.create_connection((host, port), 2).close()
    except OSError as error:
        return f"refused: {error.strerror or error}"
    return "connected"


def through(host: str, port: int) -> str:
    """Ask the proxy for a tunnel."""
    proxy = urlsplit(os.environ["HTTPS_PROXY"])
    with socket.create_connection((str(proxy.hostname), proxy.port or 0), 5) as way:
        way.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        return way.recv(4096).decode().partition("\r\n")[0]


def write(path: str, size: int) -> str:
    """Write a file."""
    try:
        _ = Path(path).write_bytes(b"x" * size)
    except OSError as error:
        return f"failed: {error.strerror}"
    return "written"


def whoami() -> str:
    """Tell what this process may do."""
    lines = Path("/proc/self/status").read_text().splitlines()
    wanted = ("CapBnd", "CapEff", "NoNewPrivs", "Seccomp", "Uid", "Gid", "Groups")
    facts = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return json.dumps({name: facts[name] for name in wanted})


def call(name: str, given: dict[str, object]) -> str:
    """Run a tool."""
    host, port = str(given.get("host")), cast("int", given.get("port"))
    size = cast("int", given.get("bytes"))
    match name:
        case "reach":
            return reach(host, port)
        case "through":
            return through(host, port)
        case "fill":
            HELD.append(bytearray(b"x" * size))
            return "filled"
        case "write":
            return write(str(given["path"]), size)
        case "whoami":
            return whoami()
        case _:
            return json.dumps(given)


def answer(message: Message) -> Message | None:
    """Answer a request; None to a notification."""
    params = cast("dict[str, object]", message.get("params") or {})
    match message.get("method"):
        case "initialize":
            result: object = {
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "boxed", "version": "1"},
            }
        case "tools/list":
            result = {
                "tools": [{"name": name, "inputSchema": {"type": "object"}} for name in NAMES]
            }
        case "tools/call":
            text = call(
                str(params["name"]), cast("dict[str, object]", params.get("arguments") or {})
            )
            result = {"content": [{"type": "text", "text": text}]}
        case "ping":
            result = {}
        case _:
            if "id" not in message:
                return None
            error = {"code": -32601, "message": "no such method"}
            return {"jsonrpc": "2.0", "id": message["id"], "error": error}
    return {"jsonrpc": "2.0", "id": message.get("id"), "result": result}


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer one message."""
        size = int(self.headers["Content-Length"])
        found = answer(cast("Message", json.loads(self.rfile.read(size))))
        content = b"" if found is None else json.dumps(found).encode()
        self.send_response(202 if found is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        _ = self.wfile.write(content)

    def do_GET(self) -> None:
        """Offer no stream."""
        self.send_response(405)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_DELETE(self) -> None:
        """Keep no sessions."""
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # pyright: ignore[reportImplicitOverride] - its name; there is no library here
        """Say nothing."""


class OnSocket(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Listens on a unix socket."""

    daemon_threads = True

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:  # pyright: ignore[reportImplicitOverride] - as above
        """Accept; a unix socket has no address of a client."""
        return self.socket.accept()[0], ("local", 0)


class OnPort(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Listens on a port."""

    daemon_threads = True
    allow_reuse_address = True


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser()
    _ = parser.add_argument("--socket")
    _ = parser.add_argument("--port", type=int)
    options = parser.parse_args()
    place = cast("str | None", options.socket)
    if place:
        OnSocket(place, Handler).serve_forever()
    else:
        OnPort(("0.0.0.0", cast("int", options.port)), Handler).serve_forever()  # noqa: S104 - in a container


main()
