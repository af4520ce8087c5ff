"""A stdio MCP server of the older era only, without any library.

Options: `--pages N` splits its tools, `--twice` lists one twice, `--circle` never ends its pages,
`--bare` leaves out an inputSchema, `--banner` prints a line that is no MCP first, `--asks` sends
requests of its own before it answers, `--changes N` says N times that its tools changed.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from typing import cast

parser = argparse.ArgumentParser()
_ = parser.add_argument("--pages", type=int, default=1)
_ = parser.add_argument("--changes", type=int, default=0)
for option in ("--twice", "--circle", "--bare", "--banner", "--asks"):
    _ = parser.add_argument(option, action="store_true")
options: dict[str, int] = vars(parser.parse_args())

names = [f"tool_{number}" for number in range(6)]
if options["twice"]:
    names.append("tool_0")


def write(message: Mapping[str, object]) -> None:
    """Send one message."""
    _ = sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    _ = sys.stdout.flush()


def tools(cursor: str) -> dict[str, object]:
    """Give one page."""
    size = -(-len(names) // options["pages"])
    page = int(cursor or "0")
    part = names[page * size : (page + 1) * size]
    listed = [{"name": n, "inputSchema": {"type": "object"}} for n in part]
    if options["bare"]:
        _ = listed[0].pop("inputSchema")
    result: dict[str, object] = {"tools": listed}
    if options["circle"]:
        result["nextCursor"] = "0"
    elif page + 1 < options["pages"]:
        result["nextCursor"] = str(page + 1)
    return result


if options["banner"]:
    _ = sys.stdout.write("Welcome to \x1b[1mlegacy\x1b[0m!\n")
    _ = sys.stdout.flush()
answered: list[object] = []
changes = options["changes"]
for line in sys.stdin:
    if not line.strip():
        continue
    message = cast("dict[str, object]", json.loads(line))
    method, identity = message.get("method"), message.get("id")
    params = cast("dict[str, object]", message.get("params") or {})
    if method is None:
        answered.append(message)
    elif method == "initialize":
        if options["asks"]:
            write({"id": "s1", "method": "ping"})
            write({"id": 2, "method": "roots/list"})
        capabilities: dict[str, object] = {"tools": {}}
        info = {"name": "legacy"}
        opened = {"protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": info}
        write({"id": identity, "result": opened})
    elif method == "tools/list":
        if changes:
            changes -= 1
            write({"method": "notifications/tools/list_changed"})
        page = tools(str(params.get("cursor", "")))
        write({"id": identity, "result": {**page, "answered": answered}})
    elif identity is not None:
        write({"id": identity, "error": {"code": -32601, "message": "Method not found"}})
