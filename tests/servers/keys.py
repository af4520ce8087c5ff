"""A service that gives out keys and takes them back, as an issuer's program; standard library only.

KEYS    the file that it keeps: names of keys, the hashes of their texts, whether they are over
MADE    a file to which the text of each key is appended, for a test that looks where it gets to
ALONE   if set, each new key ends the other ones of its role
KILL    a verb: the process of the file DAEMON is killed before it is done; `VERB-after`: after it
DAEMON  a file with the id of that process; it is removed, so that this happens once
"""

import fcntl
import hashlib
import json
import os
import secrets
import signal
import sys
from pathlib import Path
from typing import cast

Keys = dict[str, dict[str, object]]

store = Path(os.environ["KEYS"])
question = cast("dict[str, str]", json.load(sys.stdin))
verb = question["verb"]


def read() -> Keys:
    """Read what is known."""
    return cast("Keys", json.loads(store.read_text())) if store.exists() else {}


def write(keys: Keys) -> None:
    """Replace what is known."""
    temporary = store.with_suffix(".new")
    _ = temporary.write_text(json.dumps(keys))
    _ = temporary.replace(store)


def kill(when: str) -> None:
    """End the daemon, if that is asked for here."""
    daemon = Path(os.environ.get("DAEMON", "/nowhere"))
    if os.environ.get("KILL") == when and daemon.exists():
        pid = int(daemon.read_text())
        daemon.unlink()
        os.kill(pid, signal.SIGKILL)


def answer() -> dict[str, object]:
    """Do what is asked."""
    keys = read()
    match verb:
        case "mint":
            text = "key-" + secrets.token_urlsafe(24)
            digest = hashlib.sha256(text.encode()).hexdigest()
            if os.environ.get("ALONE"):
                for name, key in keys.items():
                    key["over"] = (
                        key["over"] or name.split("-")[1] == question["name"].split("-")[1]
                    )
            write({**keys, question["name"]: {"hash": digest, "over": False}})
            with Path(os.environ["MADE"]).open("a") as made:
                _ = made.write(text + "\n")
            return {"secret": text, "handle": {"key": question["name"]}}
        case "probe":
            digest = hashlib.sha256(question["secret"].encode()).hexdigest()
            good = any(key["hash"] == digest and not key["over"] for key in keys.values())
            return {"verdict": "accepted" if good else "refused"}
        case "revoke":
            if question["name"] in keys:
                keys[question["name"]]["over"] = True
                write(keys)
            return {"ending": "asked"}
        case _:
            made = {name: {"key": name} for name, key in keys.items() if not key["over"]}
            return {
                "made": {
                    name: at for name, at in made.items() if name.startswith(question["prefix"])
                }
            }


with Path(f"{store}.lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    kill(verb)
    told = answer()
    kill(f"{verb}-after")
    json.dump(told, sys.stdout)
