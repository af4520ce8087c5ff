"""A stdio MCP server without any library that behaves as its options say; it starts in 30 ms.

    --tools A,B       tools that it shows (default: echo)
    --era E           legacy (default), modern or both
    --notes FILE      appends a line for its start, each initialize, each call and each SIGTERM
    --exit N          ends at once with this status
    --exit-unless F   ends at once with status 1 unless this file is there
    --exit-if F       ends at once with status 1 if this file is there
    --extra-if F:NAME shows this tool, too, if this file is there when it starts
    --note-asks       appends the capabilities of the client, too, at each initialize
    --mute            reads everything and answers nothing
    --rubbish         writes a line to stdout that is no MCP, and then nothing any more
    --say TEXT        writes a line to stderr first
    --surprise NAME   at SIGUSR1: shows this tool, too, and says that its tools changed
    --mute-later      answers no tools/list after that SIGUSR1
    --stubborn        ignores SIGTERM
    --children FILE   starts two children that ignore SIGTERM; writes their pids to the file

Tools that do something, whatever else is shown: `echo` gives its arguments back, `crash` ends the
process with status 3, `spin` uses the processor for `seconds`, `hold` is never answered, `flood`
writes a line of `bytes` bytes, `write` makes the private file `path`, `crash-once` ends the process
unless the file `path` is there and makes it first, `refuse` answers with the error code `code`.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TypeAlias, cast

Message: TypeAlias = dict[str, object]
CHILD = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


class Options(argparse.Namespace):
    """What the command line says."""

    tools: str
    era: str
    notes: Path | None
    exit: int | None
    exit_unless: Path | None
    exit_if: Path | None
    extra_if: str
    note_asks: bool
    mute: bool
    rubbish: bool
    say: str
    surprise: str
    mute_later: bool
    stubborn: bool
    children: Path | None


def read_options() -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    for name, default in (("tools", "echo"), ("era", "legacy"), ("say", ""), ("surprise", "")):
        _ = parser.add_argument(f"--{name}", default=default)
    _ = parser.add_argument("--extra-if", default="")
    for name in ("notes", "exit-unless", "exit-if", "children"):
        _ = parser.add_argument(f"--{name}", type=Path)
    _ = parser.add_argument("--exit", type=int)
    for name in ("mute", "rubbish", "stubborn", "mute-later", "note-asks"):
        _ = parser.add_argument(f"--{name}", action="store_true")
    return parser.parse_args(namespace=Options())


OPTIONS = read_options()
NAMES = OPTIONS.tools.split(",")


def note(text: str) -> None:
    """Write down what happened."""
    if OPTIONS.notes is not None:
        with OPTIONS.notes.open("a") as file:
            _ = file.write(f"{text}\n")


def send(message: Message) -> None:
    """Write one line, in one piece."""
    _ = os.write(1, json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")


def surprise(_number: int, _frame: object) -> None:
    """Show another tool from now on."""
    NAMES.append(OPTIONS.surprise)
    send({"method": "notifications/tools/list_changed"})


def end(_number: int, _frame: object) -> None:
    """End politely."""
    note("terminated")
    os._exit(0)


def bear_children(path: Path) -> None:
    """Start children in this process's group."""
    children = [subprocess.Popen([sys.executable, "-I", "-S", "-c", CHILD]) for _ in range(2)]
    part = path.with_suffix(".part")
    _ = part.write_text(json.dumps([child.pid for child in children]))
    _ = part.rename(path)


def make(path: Path) -> None:
    """Make a private file."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))


def work(seconds: float) -> None:
    """Use the processor."""
    finish = time.monotonic() + seconds
    while time.monotonic() < finish:
        pass


def call(identity: object, name: str, arguments: dict[str, str]) -> None:
    """Run a tool."""
    note(f"call {name} {json.dumps(arguments)}")
    result: Message = {"content": [{"type": "text", "text": json.dumps(arguments)}]}
    match name:
        case "crash":
            os._exit(3)
        case "crash-once":
            path = Path(arguments["path"])
            if not path.exists():
                make(path)
                os._exit(3)
        case "spin":
            work(float(arguments["seconds"]))
        case "hold":
            return
        case "flood":
            _ = sys.stdout.write("x" * int(arguments["bytes"]) + "\n")
            _ = sys.stdout.flush()
        case "write":
            make(Path(arguments["path"]))
        case "refuse":
            problem = {"code": arguments["code"], "message": "\x1b[31mno\n"}
            result |= {"isError": True, "structuredContent": problem}
        case _:
            pass
    send({"id": identity, "result": result})


def answer(message: Message) -> None:
    """Answer one request."""
    identity, era = message.get("id"), OPTIONS.era
    params = cast("Message", message.get("params") or {})
    about = {"name": "scripted", "version": "1"}
    abilities = {"tools": {"listChanged": True}}
    match message.get("method"):
        case "server/discover" if era != "legacy":
            meta = {"io.modelcontextprotocol/serverInfo": about}
            result: Message = {"supportedVersions": ["2026-07-28"], "capabilities": abilities}
            send({"id": identity, "result": {**result, "_meta": meta}})
        case "initialize" if era != "modern":
            note("initialize")
            if OPTIONS.note_asks:
                note(f"asks {json.dumps(params['capabilities'])}")
            result = {"protocolVersion": "2025-11-25", "capabilities": abilities}
            send({"id": identity, "result": {**result, "serverInfo": about}})
        case "ping":
            send({"id": identity, "result": {}})
        case "tools/list":
            if not (OPTIONS.mute_later and OPTIONS.surprise in NAMES):
                tools = [{"name": name, "inputSchema": {"type": "object"}} for name in NAMES]
                send({"id": identity, "result": {"tools": tools}})
        case "tools/call":
            arguments = cast("dict[str, str]", params.get("arguments") or {})
            call(identity, str(params["name"]), arguments)
        case _ if identity is not None:
            error = {"code": -32601, "message": "Method not found"}
            send({"id": identity, "error": error})
        case _:
            pass


def may_start() -> bool:
    """Tell whether the files that stand for the world's state allow a start."""
    wanted, unwanted = OPTIONS.exit_unless, OPTIONS.exit_if
    return (wanted is None or wanted.exists()) and not (unwanted and unwanted.exists())


def main() -> int:
    """Serve until the end."""
    if OPTIONS.say:
        _ = sys.stderr.write(OPTIONS.say + "\n")
        _ = sys.stderr.flush()
    note("start")
    if OPTIONS.exit is not None:
        return OPTIONS.exit
    if not may_start():
        return 1
    path, _, extra = OPTIONS.extra_if.rpartition(":")
    if path and Path(path).exists():
        NAMES.append(extra)
    _ = signal.signal(signal.SIGTERM, signal.SIG_IGN if OPTIONS.stubborn else end)
    if OPTIONS.surprise:
        _ = signal.signal(signal.SIGUSR1, surprise)
    if OPTIONS.children is not None:
        bear_children(OPTIONS.children)
    if OPTIONS.rubbish:
        _ = os.write(1, b"Server \x1b[32mlistens\x1b[0m on port 80\n")
    for line in sys.stdin:
        if line.strip() and not (OPTIONS.mute or OPTIONS.rubbish):
            answer(cast("Message", json.loads(line)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
