"""Small programs that are no MCP servers; the first argument says which.

echo            gives each line back
silent          reads nothing, says nothing, until it is killed
stubborn        the same, and ignores SIGTERM
rubbish         prints a line that is no MCP, then goes on like silent
exit N          ends at once with that status
family FILE     starts two children that ignore SIGTERM, writes all pids to FILE, ignores SIGTERM
family-polite FILE   the same, but ends at SIGTERM
escape FILE     ends at SIGTERM; leaves a process behind that forked twice, in a session of its own,
                with a child; FILE gets the pids of all
report FILE     writes to FILE what it was started with, as JSON, then goes on like silent
flood N         writes N short lines, then goes on like silent
long N          writes one line of N bytes, then goes on like silent
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

CHILD = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def wait() -> None:
    """Stay until something ends this process."""
    while True:
        signal.pause()


def family(path: Path, *, polite: bool) -> None:
    """Start children in this process's group."""
    if not polite:
        _ = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    children = [subprocess.Popen([sys.executable, "-I", "-S", "-c", CHILD]) for _ in range(2)]
    time.sleep(0.2)  # until they ignore the signal
    pids = [os.getpid(), *(child.pid for child in children)]
    part = path.with_suffix(".part")
    _ = part.write_text(json.dumps(pids))
    _ = part.rename(path)
    wait()


def escape(path: Path) -> None:
    """Leave something behind as a daemon does."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            _ = signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.setsid()
            os.environ.clear()
            child = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", CHILD], start_new_session=True
            )
            _ = path.with_suffix(".left").write_text(json.dumps([os.getpid(), child.pid]))
            wait()
        os._exit(0)
    left = path.with_suffix(".left")
    while not left.exists() or not left.read_text():
        time.sleep(0.01)
    time.sleep(0.2)  # until they ignore the signal
    part = path.with_suffix(".part")
    _ = part.write_text(json.dumps([os.getpid(), *json.loads(left.read_text())]))
    left.unlink()
    _ = part.rename(path)
    wait()


def report(path: Path) -> None:
    """Write down what this process was started with."""
    status = Path("/proc/self/status").read_text()
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    mask = os.umask(0)
    found = {
        "argv": sys.argv,
        "env": {k: v for k, v in os.environ.items() if k != "LC_CTYPE"},
        "cwd": str(Path.cwd()),
        "umask": mask,
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "nofile": resource.getrlimit(resource.RLIMIT_NOFILE),
        "no_new_privileges": facts["NoNewPrivs"],
        "ignored": facts["SigIgn"],
        "blocked": facts["SigBlk"],
        "pid": os.getpid(),
        "group": os.getpgrp(),
        "descriptors": {
            entry.name: str(entry.readlink())
            for entry in Path("/proc/self/fd").iterdir()
            if entry.exists()
        },
    }
    part = path.with_suffix(".part")
    _ = part.write_text(json.dumps(found))
    _ = part.rename(path)
    wait()


def main(kind: str, rest: list[str]) -> int:  # noqa: C901, PLR0912 - one case a program
    """Run one of the programs."""
    match kind, rest:
        case "echo", []:
            for line in sys.stdin.buffer:
                _ = sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()
        case "silent", []:
            wait()
        case "stubborn", []:
            _ = signal.signal(signal.SIGTERM, signal.SIG_IGN)
            wait()
        case "rubbish", []:
            print("Starting \x1b[32mserver\x1b[0m on port 80", flush=True)  # noqa: T201 - its purpose
            wait()
        case "exit", [status]:
            return int(status)
        case "family", [path]:
            family(Path(path), polite=False)
        case "family-polite", [path]:
            family(Path(path), polite=True)
        case "escape", [path]:
            escape(Path(path))
        case "report", [path]:
            report(Path(path))
        case "flood", [number]:
            for count in range(int(number)):
                _ = sys.stdout.write(f'{{"n":{count}}}\n')
            _ = sys.stdout.flush()
            wait()
        case "long", [number]:
            _ = sys.stdout.write("x" * int(number) + "\n")
            _ = sys.stdout.flush()
            wait()
        case _:
            return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], sys.argv[2:]))
