"""A program that finds out what its user can do, by trying; standard library only.

    spy.py REPORT [--socket PATH] [--read PATH]... [--write PATH]... [--signal PID]

It writes a JSON object to the file REPORT: who it is, which capabilities and limits it has, and for
each thing that it was told to try `ok` or the name of the error. Then it waits until it is ended.
"""

import argparse
import errno
import json
import os
import resource
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path


class Options(argparse.Namespace):
    """What it was told to try."""

    report: str
    socket: str | None
    read: list[str]
    write: list[str]
    signal: int | None


def attempt(work: Callable[[], object]) -> str:
    """Try something and tell how that went."""
    try:
        _ = work()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "unknown")
    return "ok"


def status() -> dict[str, str]:
    """Tell what the kernel says of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def inherited() -> dict[str, str]:
    """Tell which inherited descriptors beyond the usual three can be written to."""
    found: dict[str, str] = {}
    for entry in list(Path("/proc/self/fd").iterdir()):
        if int(entry.name) > 2 and entry.exists():  # the listing's own is closed again
            write = partial(os.pwrite, int(entry.name), b"x", 0)
            found[str(entry.readlink())] = attempt(write)
    return found


def open_once(path: str, flags: int = os.O_RDONLY) -> None:
    """Open a file and close it again."""
    os.close(os.open(path, flags))


def reopen(number: int, flags: int) -> str:
    """Open an inherited descriptor once more, by its name."""
    return attempt(partial(open_once, f"/dev/fd/{number}", flags | os.O_NONBLOCK))


def main() -> None:
    """Find out, report, wait."""
    parser = argparse.ArgumentParser()
    parser.add_argument("report")
    parser.add_argument("--socket")
    parser.add_argument("--read", action="append", default=[])
    parser.add_argument("--write", action="append", default=[])
    parser.add_argument("--signal", type=int)
    options = parser.parse_args(namespace=Options())
    facts = status()
    report = {
        "uid": os.getresuid(),
        "gid": os.getresgid(),
        "groups": os.getgroups(),
        "capabilities": [facts[name] for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")],
        "no_new_privs": facts["NoNewPrivs"],
        "umask": facts["Umask"],
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "home": os.environ["HOME"],
        "cwd": str(Path.cwd()),
        "inherited": inherited(),
        "stdin": reopen(0, os.O_RDONLY),
        "read": {path: attempt(partial(open_once, path)) for path in options.read},
        "content": {path: attempt(Path(path).read_bytes) for path in options.read},
        "write": {path: attempt(partial(Path(path).write_text, "x")) for path in options.write},
        "signal": attempt(partial(os.kill, options.signal, 0)) if options.signal else None,
    }
    listener = None
    if options.socket:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(options.socket)
        listener.listen()
    path = Path(options.report)
    path.with_suffix(".part").write_text(json.dumps(report))
    path.with_suffix(".part").rename(path)
    while True:
        _ = os.read(0, 65536) if listener is None else listener.accept()


main()
