"""A stdio MCP server that calls a service with the key in API_KEY; standard library only.

Tools: `use` calls the service once and tells its answer, an error if the key is refused; `slowly`
waits for `seconds` before that; `transfer` does the same and changes something. KEYS is the
service's file, see `keys.py`; EFFECTS the file to which every `transfer` appends a line.
"""

import hashlib
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import cast

Message = dict[str, object]

DIGEST = hashlib.sha256(os.environ["API_KEY"].encode()).hexdigest()
KEYS = Path(os.environ["KEYS"])
TOOLS = [
    {"name": name, "inputSchema": {"type": "object"}} for name in ("use", "slowly", "transfer")
]
INFO = {"name": "keyed", "version": "1"}
writing = threading.Lock()


def send(message_id: object, result: Message) -> None:
    """Answer."""
    line = json.dumps({"jsonrpc": "2.0", "id": message_id, "result": result})
    with writing:
        _ = sys.stdout.write(line + "\n")
        _ = sys.stdout.flush()


def call(message_id: object, name: str, arguments: Message) -> None:
    """Do a tool's work, in a thread of its own."""
    time.sleep(float(cast("float", arguments.get("seconds", 0))))
    keys = cast("dict[str, dict[str, object]]", json.loads(KEYS.read_text()))
    good = any(key["hash"] == DIGEST and not key["over"] for key in keys.values())
    if good and name == "transfer":
        with Path(os.environ["EFFECTS"]).open("a") as effects:
            _ = effects.write(f"{arguments.get('number')}\n")
    text = f"{'accepted' if good else 'refused'} {DIGEST[:8]}"
    content = [{"type": "text", "text": text}]
    send(message_id, {"resultType": "complete", "content": content, "isError": not good})


for line in sys.stdin:
    if not line.strip():  # a new client makes sure that it begins a line of its own
        continue
    message = cast("Message", json.loads(line))
    params = cast("Message", message.get("params") or {})
    match message["method"]:
        case "initialize":
            send(
                message["id"],
                {
                    "protocolVersion": params["protocolVersion"],
                    "capabilities": {"tools": {}},
                    "serverInfo": INFO,
                },
            )
        case "tools/list":
            send(message["id"], {"tools": TOOLS})
        case "tools/call":
            name, arguments = (
                cast("str", params["name"]),
                cast("Message", params.get("arguments") or {}),
            )
            threading.Thread(target=call, args=(message["id"], name, arguments)).start()
        case "ping":
            send(message["id"], {})
        case _:
            pass
