"""A program that makes credentials, as its variables say; standard library only.

HOW     `slow`: waits for ever; `silent`: answers nothing; `rubbish`: no JSON; `list`: a JSON list;
        `flood`: more than anybody reads; `fails`: status 1; `refuses`: status 75;
        `answers`: what ANSWER holds; `child`: leaves a child that holds stdout, then waits;
        `deaf`: closes its stdin unread and answers ANSWER
NOTES   a file; it appends its pid, arguments, variables and what it read, as one JSON line
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

HOW = os.environ["HOW"]
if HOW == "deaf":
    os.close(0)
    text = ""
else:
    text = sys.stdin.read()
known = dict(os.environ)
with Path(os.environ["NOTES"]).open("a") as notes:
    line = {"pid": os.getpid(), "argv": sys.argv[1:], "env": known, "read": text}
    _ = notes.write(json.dumps(line) + "\n")
_ = sys.stderr.write(f"noise {text}\n")
match HOW:
    case "slow":
        time.sleep(600)
    case "child":
        child = subprocess.Popen(["sleep", "600"])
        with Path(os.environ["NOTES"]).open("a") as notes:
            _ = notes.write(json.dumps({"pid": child.pid}) + "\n")
        time.sleep(600)
    case "rubbish":
        _ = sys.stdout.write("key: abc\n" + text)
    case "list":
        _ = sys.stdout.write("[1]")
    case "flood":
        _ = sys.stdout.write(" " * 10_000_000)
    case "fails":
        _ = sys.stdout.write(text)
        sys.exit(1)
    case "refuses":
        sys.exit(75)
    case "answers" | "deaf":
        _ = sys.stdout.write(os.environ["ANSWER"])
    case _:
        pass
