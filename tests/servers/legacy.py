"""A hand-written stdio server that knows 2025-06-18 only, and misbehaves where told to.

Its first argument is a directory in which it notes what it was sent.
"""

import json
import os
import sys
from pathlib import Path
from typing import cast

NOTES = Path(sys.argv[1])
NAMES = ("echo", "rubbish", "twice", "nan", "big", "stranger", "asks", "changed", "last")
Message = dict[str, object]


def send(message: object) -> None:
    """Write one line."""
    _ = os.write(1, json.dumps(message).encode() + b"\n")


def answer(request: Message, result: object) -> None:
    """Answer a request."""
    send({"jsonrpc": "2.0", "id": request["id"], "result": result})


def text(words: str) -> Message:
    """Make a tool's result."""
    return {"content": [{"type": "text", "text": words}]}


def call(request: Message) -> None:
    """Run a tool."""
    params = cast("Message", request["params"])
    name = params["name"]
    if name == "rubbish":
        _ = os.write(1, b'Hello, I am a print!\n[1,2]\n{"half": \n\n')
    if name == "twice":
        answer(request, text("first"))
        answer(request, text("second"))
        return
    if name == "nan":
        answer(request, {"content": [], "structuredContent": {"value": float("nan")}})
        return
    if name == "big":
        answer(request, {"content": [], "structuredContent": {"wei": 2**80 + 1}})
        return
    if name == "stranger":
        send({"jsonrpc": "2.0", "id": "somebody-1", "result": text("not yours")})
        send({"jsonrpc": "2.0", "id": 1, "result": text("not yours")})
    if name == "asks":
        send({"jsonrpc": "2.0", "id": "q1", "method": "ping"})
        send({"jsonrpc": "2.0", "id": "q2", "method": "sampling/createMessage", "params": {}})
    if name == "changed":
        send({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
    answer(request, text(json.dumps(params)))


def main() -> None:
    """Serve until the end."""
    for line in sys.stdin:
        if not line.strip():
            continue
        with (NOTES / "received").open("a") as file:
            _ = file.write(line)
        try:
            message = cast("Message", json.loads(line))
        except ValueError:
            continue
        if "method" not in message or "id" not in message:
            continue
        match message["method"]:
            case "initialize":
                answer(
                    message,
                    {
                        "protocolVersion": "2025-06-18",
                        "capabilities": {"tools": {"listChanged": True}},
                        "serverInfo": {"name": "legacy", "version": "1"},
                    },
                )
            case "ping":
                answer(message, {})
            case "tools/list":
                params = cast("Message", message.get("params", {}))
                page = int(str(params.get("cursor", "0")))
                tools = [{"name": name, "inputSchema": {"type": "object"}} for name in NAMES]
                result: Message = {"tools": tools[page : page + 4]}
                if page + 4 < len(tools):
                    result["nextCursor"] = str(page + 4)
                answer(message, result)
            case "tools/call":
                call(message)
            case _:
                error = {"code": -32601, "message": "Method not found"}
                send({"jsonrpc": "2.0", "id": message["id"], "error": error})


main()
