"""A stdio MCP server, without any library, that shows and answers what a file says at that moment.

Its argument is a JSON file, which is read again for every request:

    era           legacy, modern or both (default: both)
    instructions  what it says at its opening
    tools         its tools, as it lists them; without `execution` in the modern era, as SDKs do
    results       by tool: the result of a call, or {"error": {...}}; without one the arguments are
                  given back
    progress      how many progress notifications go before each result, a moment apart
    hold          tools that are never answered

At SIGUSR1 it says that its tools changed; it touches FILE.called at each call.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TypeAlias, cast

Message: TypeAlias = dict[str, object]
FILE = Path(sys.argv[1])
META = "io.modelcontextprotocol/"


def read() -> Message:
    """Read the file as it is now."""
    return cast("Message", json.loads(FILE.read_text()))


def send(message: Message) -> None:
    """Write one line, in one piece."""
    _ = os.write(1, json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")


def say_so(_number: int, _frame: object) -> None:
    """Say that the tools changed."""
    send({"method": "notifications/tools/list_changed"})


def call(identity: object, params: Message, script: Message) -> None:
    """Answer a call."""
    name = str(params["name"])
    FILE.with_name(f"{FILE.name}.called").touch()
    if name in cast("list[str]", script.get("hold", [])):
        return
    meta = cast("Message", params.get("_meta") or {})
    total = cast("int", script.get("progress", 0))
    for step in range(1, total + 1 if "progressToken" in meta else 1):
        time.sleep(0.7)
        progress: Message = {"progress": step, "total": total, "message": f"step \x1b[31m{step}"}
        told = {"progressToken": meta["progressToken"], **progress}
        send({"method": "notifications/progress", "params": told})
    text = json.dumps(params.get("arguments"))
    usual: Message = {"content": [{"type": "text", "text": text}]}
    result = cast("dict[str, Message]", script.get("results", {})).get(name, usual)
    if "error" in result:
        send({"id": identity, "error": result["error"]})
    else:
        send({"id": identity, "result": result})


def answer(message: Message) -> None:
    """Answer one request."""
    script, identity = read(), message.get("id")
    era, words = script.get("era", "both"), script.get("instructions")
    params = cast("Message", message.get("params") or {})
    modern = f"{META}protocolVersion" in cast("Message", params.get("_meta") or {})
    about = {"name": "changing", "version": "1"}
    opening: Message = {"capabilities": {"tools": {"listChanged": True}}}
    if words is not None:
        opening["instructions"] = words
    match message.get("method"):
        case "server/discover" if era != "legacy":
            opening |= {"supportedVersions": ["2026-07-28"], "_meta": {f"{META}serverInfo": about}}
            send({"id": identity, "result": opening})
        case "initialize" if era != "modern":
            opening |= {"protocolVersion": "2025-11-25", "serverInfo": about}
            send({"id": identity, "result": opening})
        case "ping":
            send({"id": identity, "result": {}})
        case "tools/list":
            tools = cast("list[Message]", script["tools"])
            if modern:
                tools = [{k: v for k, v in tool.items() if k != "execution"} for tool in tools]
            send({"id": identity, "result": {"tools": tools}})
        case "tools/call":
            call(identity, params, script)
        case _ if identity is not None:
            send({"id": identity, "error": {"code": -32601, "message": "Method not found"}})
        case _:
            pass


def main() -> None:
    """Serve until the end."""
    _ = signal.signal(signal.SIGUSR1, say_so)
    for line in sys.stdin:
        if line.strip():
            answer(cast("Message", json.loads(line)))


if __name__ == "__main__":
    main()
