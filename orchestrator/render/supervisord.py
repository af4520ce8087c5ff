"""Texts of the engine's configuration: one main file, one file a workload.

supervisord reads them with `%` expansion and with `;` and `#` as comments wherever a blank stands
before them, so every value goes through `_value` or `_command`.

Source: supervisor 4.3.0, options.py (UnhosedConfigParser, expand) and process.py (shlex.split).
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.errors import SettingsError

CONTROL_PROGRAM = "agentsd"
PROGRAM_FILES = "conf.d/*.conf"

# The engine never gives up by itself; when to stop trying is decided above it.
_RETRIES = 1_000_000
_LINE = re.compile(r"[^\x00-\x1f\x7f]*")


@dataclass(frozen=True, slots=True)
class ControlProgram:
    """The control plane, as a program of the engine.

    Attributes:
        argv: Absolute program and arguments.
        log: File for its output.
        stop_seconds: How long it may take to end.
    """

    argv: Sequence[str]
    log: str
    stop_seconds: int = 40


@dataclass(frozen=True, slots=True)
class WorkloadProgram:
    """A workload's seat, as a program of the engine.

    Attributes:
        name: The workload.
        argv: Absolute program and arguments of the seat.
        log: File for the server's stderr.
        stop_seconds: How long it may take to end before its process group is killed.
    """

    name: str
    argv: Sequence[str]
    log: str
    stop_seconds: int


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What the engine itself is told.

    Attributes:
        run: The run directory, where the main file will stand; absolute.
        log: The engine's own log.
        user: User name of the engine's socket.
        password_sha1: SHA-1 of its password, in hexadecimal.
        root: Whether the engine will run as root.
        descriptors: How many it may open: three a workload, and some.
    """

    run: str
    log: str
    user: str
    password_sha1: str
    root: bool
    descriptors: int = 1024


def main_file(engine: EngineFacts, control: ControlProgram | None) -> str:
    """Write the main file.

    Args:
        engine: What the engine itself is told.
        control: The control plane, None for an engine without one.

    Raises:
        SettingsError: A path cannot be written in the engine's configuration.
    """
    run = engine.run
    if any(mark in run for mark in "*?["):
        raise SettingsError(f"{run} cannot be the run directory: it contains *, ? or [")
    lines = [
        "[supervisord]",
        "nodaemon=true",
        "silent=true",
        f"logfile={_value(engine.log)}",
        "logfile_maxbytes=5MB",
        "logfile_backups=2",
        "loglevel=info",
        f"pidfile={_value(run + '/supervisord.pid')}",
        f"childlogdir={_value(run)}",
        "nocleanup=true",
        "umask=077",
        f"minfds={engine.descriptors}",
        *(["user=root"] if engine.root else []),
        "",
        "[unix_http_server]",
        f"file={_value(run + '/supervisor.sock')}",
        "chmod=0600",
        f"username={_value(engine.user)}",
        f"password={{SHA}}{_value(engine.password_sha1)}",
        "",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
        "",
        "[rpcinterface:agents]",
        "supervisor.rpcinterface_factory=orchestrator.runtimes.supervisord_plugin:make",
        "",
        "[include]",
        f"files={PROGRAM_FILES}",
    ]
    if control is not None:
        lines += ["", *_section(CONTROL_PROGRAM, control.argv, control.stop_seconds)]
        lines += ["priority=1", "redirect_stderr=true"]
        lines += _log("stdout", control.log)
    return "\n".join(lines) + "\n"


def program_file(program: WorkloadProgram) -> str:
    """Write the file of one workload.

    Raises:
        SettingsError: A path cannot be written in the engine's configuration.
    """
    lines = _section(program.name, program.argv, program.stop_seconds)
    # stdout is replaced by a FIFO before the server runs, so the engine keeps no log of it.
    lines += ["redirect_stderr=false", "stdout_logfile=NONE", *_log("stderr", program.log)]
    return "\n".join(lines) + "\n"


def _section(name: str, argv: Sequence[str], stop_seconds: int) -> list[str]:
    return [
        f"[program:{_value(name)}]",
        f"command={_command(argv)}",
        "autostart=true",
        "autorestart=true",
        "startsecs=1",
        f"startretries={_RETRIES}",
        "stopsignal=TERM",
        f"stopwaitsecs={stop_seconds}",
        "stopasgroup=true",
        "killasgroup=true",
        "umask=077",
    ]


def _log(stream: str, path: str) -> list[str]:
    return [
        # This key alone is expanded twice.
        f"{stream}_logfile={_value(path).replace('%', '%%')}",
        f"{stream}_logfile_maxbytes=10MB",
        f"{stream}_logfile_backups=3",
    ]


def _value(text: str) -> str:
    """Write a value that has no way to quote a comment mark."""
    # supervisord puts its own directory for %(here)s before it looks at doubled signs.
    cut = re.search(r"\s[;#]|%\(here\)s", text)
    if not _LINE.fullmatch(text) or text != text.strip() or cut:
        raise SettingsError(
            f"{text!r} cannot be written in the engine's configuration",
            hint='Use a path without control characters, %(here)s, or a blank before ";" or "#".',
        )
    return text.replace("%", "%%")


def _command(argv: Sequence[str]) -> str:
    """Write arguments so that the engine's shlex gives them back."""
    if not all(_LINE.fullmatch(part) for part in argv):
        raise SettingsError("an argument with a control character in the engine's configuration")
    # Quoted parts stand in single quotes; leaving and entering them parts what must not meet.
    text = re.sub(r"(\s)([;#])", r"\1''\2", shlex.join(argv)).replace("%(here)s", "%''(here)s")
    return text.replace("%", "%%")
