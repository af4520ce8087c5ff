"""A stdio MCP server without any library that plays what each call tells it; it starts in 30 ms.

Its first argument is a directory in which it notes what it was sent. It speaks the era in which it
is spoken to. Each call runs in a thread of its own: `echo` gives its arguments back, `slow` takes
so many `seconds` for its `word`, `hold` waits until it is cancelled, and the other tools go through
the steps in their arguments:

    ["progress", N]       tells how far it is
    ["log", LEVEL, DATA]  writes a log message
    ["shout", N, SIZE]    writes so many long log messages
    ["notify", M, P]      sends any notification
    ["ask", M, P]         asks its caller, and waits for the answer
    ["require", {...}]    answers with questions, unless the call came back from them
    ["meet", NAME, N]     waits until N calls are here
    ["hold"]              waits until it is cancelled, and is never answered then
    ["crash", NAME]       ends the process, the first time that it is told so
    ["line", TEXT]        writes a line, with ID in it replaced by the request's id
    ["big", N]            makes the answer so many bytes longer
    ["error", {...}]      answers with this error
    ["word", TEXT]        does nothing
    ["silence"]           never answers
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import TypeAlias, cast

Message: TypeAlias = dict[str, object]

NOTES = Path(sys.argv[1])
SCHEMA: Message = {"type": "object", "additionalProperties": True}
TOOLS = [
    {"name": name, "inputSchema": SCHEMA}
    for name in ("look", "change", "destroy", "echo", "slow", "hold", "hidden")
]
ABILITIES: Message = {
    "tools": {"listChanged": True},
    "resources": {"listChanged": True, "subscribe": True},
    "prompts": {"listChanged": True},
    "completions": {},
    "logging": {},
}
ABOUT: Message = {"name": "talker", "version": "1"}
STAMP = "io.modelcontextprotocol/subscriptionId"
VERSION = "io.modelcontextprotocol/protocolVersion"
LISTS = {
    "tools/list": ("tools", TOOLS),
    "resources/list": ("resources", [{"uri": f"demo://{n}", "name": n} for n in "abc"]),
    "resources/templates/list": (
        "resourceTemplates",
        [{"uriTemplate": f"demo://{n}/{{x}}", "name": n} for n in "ab"],
    ),
    "prompts/list": ("prompts", [{"name": n} for n in ("greet", "part")]),
}

lock = threading.Lock()
meeting = threading.Condition()
met: dict[str, int] = {}
stopped: dict[object, threading.Event] = {}
answers: dict[object, Message] = {}
answered = threading.Condition()
listens: dict[object, Message] = {}
required: dict[object, object] = {}
crashes_at: object = None


def send(message: Message) -> None:
    """Write one line, in one piece."""
    write(json.dumps({"jsonrpc": "2.0", **message}).encode())


def write(line: bytes) -> None:
    """Write one line, whole before any other."""
    with lock:
        rest = line + b"\n"
        while rest:
            rest = rest[os.write(1, rest) :]


def ask(identity: object, count: int, method: str, params: object) -> object:
    """Ask the caller, and wait for its answer."""
    key = f"{identity}-q{count}"
    send({"id": key, "method": method, "params": params})
    with answered:
        _ = answered.wait_for(lambda: key in answers)
        message = answers.pop(key)
    return message.get("result", {"error": message.get("error")})


def meet(name: str, count: int) -> None:
    """Wait until so many calls are here."""
    with meeting:
        met[name] = met.get(name, 0) + 1
        meeting.notify_all()
        _ = meeting.wait_for(lambda: met[name] >= count)


def play(request: Message) -> None:  # noqa: C901, PLR0912, PLR0915 - one case a step
    """Run one call."""
    identity, params = request["id"], cast("Message", request["params"])
    meta = cast("Message", params.get("_meta") or {})
    arguments = cast("Message", params.get("arguments") or {})
    steps = cast("list[list[object]]", arguments.get("steps") or [])
    heard: list[object] = []
    extra = ""
    round_ = int(str(params.get("requestState", "0")))
    if "inputResponses" in params:
        heard.append(params["inputResponses"])
    for step in steps:
        match step:
            case ["progress", progress]:
                token = meta.get("progressToken")
                told = {"progressToken": token, "progress": progress}
                send({"method": "notifications/progress", "params": told})
            case ["log", level, data]:
                told = {"level": level, "data": data}
                send({"method": "notifications/message", "params": told})
            case ["shout", int(count), int(size)]:
                told = {"level": "info", "data": "x" * size}
                for _ in range(count):
                    send({"method": "notifications/message", "params": told})
            case ["notify", method, told]:
                send({"method": method, "params": told})
            case ["ask", str(method), told]:
                heard.append(ask(identity, len(heard), method, told))
            case ["require", _] if round_ > 0:
                round_ -= 1
            case ["require", asked]:
                state = str(int(str(params.get("requestState", "0"))) + 1)
                result = {"resultType": "input_required", "requestState": state}
                send({"id": identity, "result": {**result, "inputRequests": asked}})
                return
            case ["meet", str(name), int(count)]:
                meet(name, count)
            case ["hold"]:
                _ = stopped[identity].wait()
                return
            case ["crash", str(name)]:
                if not (NOTES / name).exists():
                    (NOTES / name).touch()
                    os._exit(3)
            case ["line", str(text)]:
                write(text.replace("ID", json.dumps(identity)).encode("latin-1"))
            case ["big", int(size)]:
                extra = "x" * size
            case ["error", error]:
                send({"id": identity, "error": error})
                return
            case ["word", _]:
                pass
            case ["silence"]:
                return
            case _:
                raise ValueError(step)
    told = json.dumps({"heard": heard, "params": params if not extra else {}})
    content = [{"type": "text", "text": told}]
    if extra:
        content.append({"type": "text", "text": extra})
    send({"id": identity, "result": {"content": content}})


def arguments_of(request: Message) -> Message:
    """Read the arguments of a call."""
    return cast("Message", cast("Message", request["params"]).get("arguments") or {})


def say(request: Message, text: str) -> None:
    """Answer a call with a text."""
    send({"id": request["id"], "result": {"content": [{"type": "text", "text": text}]}})


def echo(request: Message) -> None:
    """Give the arguments back."""
    say(request, json.dumps(arguments_of(request)))


def slow(request: Message) -> None:
    """Take so many seconds."""
    arguments = arguments_of(request)
    time.sleep(float(str(arguments["seconds"])))
    say(request, str(arguments["word"]))


def hold(request: Message) -> None:
    """Wait until it is cancelled, and note both."""
    (NOTES / "held").touch()
    _ = stopped[request["id"]].wait()
    (NOTES / "cancelled").touch()


def touch(uri: object) -> None:
    """Say that a resource changed, to whoever listens."""
    method = "notifications/resources/updated"
    if not listens:
        send({"method": method, "params": {"uri": uri}})
    for identity, wanted in listens.items():
        if uri in cast("list[object]", wanted.get("resourceSubscriptions", [])):
            send({"method": method, "params": {"uri": uri, "_meta": {STAMP: identity}}})


def answer(request: Message) -> None:  # noqa: C901, PLR0912 - one case a method
    """Answer one request."""
    identity, method = request["id"], str(request["method"])
    params = cast("Message", request.get("params") or {})
    if method == crashes_at:
        os._exit(3)
    if method in required and "inputResponses" not in params:
        told = {"resultType": "input_required", "inputRequests": required.pop(method)}
        send({"id": identity, "result": told})
        return
    match method:
        case "initialize":
            told = {"protocolVersion": "2025-11-25", "serverInfo": ABOUT}
            result: Message = {**told, "capabilities": ABILITIES, "instructions": "Be kind."}
        case "server/discover":
            told = {"supportedVersions": ["2026-07-28"], "ttlMs": 0, "cacheScope": "public"}
            result = {**told, "capabilities": ABILITIES, "instructions": "Be kind."}
        case "subscriptions/listen":
            wanted = cast("Message", params["notifications"])
            listens[identity] = wanted
            told = {"notifications": wanted, "_meta": {STAMP: identity}}
            send({"method": "notifications/subscriptions/acknowledged", "params": told})
            return
        case "tools/call":
            stopped[identity] = threading.Event()
            run = {"echo": echo, "slow": slow, "hold": hold}.get(str(params["name"]), play)
            threading.Thread(target=run, args=(request,), daemon=True).start()
            return
        case _ if method in LISTS:
            key, items = LISTS[method]
            result = {key: items, "_meta": {"kept": 1}}
        case "resources/read":
            result = {"contents": [{"uri": params["uri"], "text": "words"}]}
        case "prompts/get":
            text = {"type": "text", "text": json.dumps(params)}
            result = {"messages": [{"role": "user", "content": text}]}
        case "completion/complete":
            result = {"completion": {"values": ["one", "two"]}}
        case "ping" | "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe":
            result = {}
        case _:
            send({"id": identity, "error": {"code": -32601, "message": "Method not found"}})
            return
    if VERSION in cast("Message", params.get("_meta") or {}):
        result["resultType"] = "complete"
    send({"id": identity, "result": result})


def take(message: Message) -> None:
    """Take one message."""
    global crashes_at  # noqa: PLW0603 - one process, one state
    if "method" not in message:
        with answered:
            answers[message["id"]] = message
            answered.notify_all()
    elif "id" in message:
        answer(message)
    elif message["method"] == "notifications/cancelled":
        identity = cast("Message", message["params"])["requestId"]
        _ = listens.pop(identity, None)
        if identity in stopped:
            stopped[identity].set()
    elif message["method"] == "test/touch":
        touch(cast("Message", message["params"])["uri"])
    elif message["method"] == "test/say":
        said = cast("Message", message["params"])
        for _ in range(int(str(said["times"]))):
            send(cast("Message", said["say"]))
    elif message["method"] == "test/require":
        wanted = cast("Message", message["params"])
        required[wanted["method"]] = wanted["asked"]
    elif message["method"] == "test/crash":
        crashes_at = cast("Message", message["params"])["method"]


def main() -> None:
    """Serve until the end."""
    with (NOTES / "received").open("ab", buffering=0) as notes:
        for line in sys.stdin.buffer:
            if line.strip():
                _ = notes.write(line)
                take(cast("Message", json.loads(line)))


main()
