"""Texts of a systemd service and of the timer that starts it every day.

Source: systemd 252, systemd.service(5), systemd.syntax(7), systemd.timer(5), systemd.exec(5).
"""

import re
from collections.abc import Sequence
from typing import Final

from orchestrator.render.job import Job, check_job

# These need no privilege, so that they hold in a user's own manager, too. The job speaks to one
# unix socket and reads the project's settings.
_HARDENING: Final = (
    "UMask=0077",
    "NoNewPrivileges=true",
    "LockPersonality=true",
    "RestrictAddressFamilies=AF_UNIX",
    "RestrictNamespaces=true",
    "RestrictRealtime=true",
    "RestrictSUIDSGID=true",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
)
# No PrivateTmp and no ProtectHome=true: the project and its socket may be anywhere.
_HARDENING_OF_SYSTEM: Final = (
    "CapabilityBoundingSet=",
    "ProtectSystem=strict",
    "ProtectHome=read-only",
    "ProtectClock=true",
    "ProtectControlGroups=true",
    "ProtectHostname=true",
    "ProtectKernelLogs=true",
    "ProtectKernelModules=true",
    "ProtectKernelTunables=true",
    "PrivateDevices=true",
)


def service_file(job: Job) -> str:
    """Write the service; it ends with the command's own exit status.

    Raises:
        SettingsError: A path cannot be written.
    """
    check_job(job)
    lines = [
        job.mark,
        "[Unit]",
        f"Description=Replace credentials that are due in {_text(job.project)}",
        "",
        "[Service]",
        "Type=oneshot",
        f"ExecStart={_command(job.argv)}",
        # Waits for the replaced instances to drain, at most until the next run.
        "TimeoutStartSec=12h",
    ]
    if job.user:
        lines += [f"User={_text(job.user)}", *_HARDENING_OF_SYSTEM]
    return "\n".join([*lines, *_HARDENING]) + "\n"


def timer_file(job: Job) -> str:
    """Write the timer; what was missed while the machine was off is made up for.

    Raises:
        SettingsError: A path cannot be written.
    """
    check_job(job)
    lines = [
        job.mark,
        "[Unit]",
        f"Description=Replace credentials that are due in {_text(job.project)}, every day",
        "",
        "[Timer]",
        "OnCalendar=*-*-* 03:17:00",
        "Persistent=true",
        # The delay follows from the machine and the unit's name, which holds the project's hash.
        "RandomizedDelaySec=30m",
        "FixedRandomDelay=true",
        "",
        "[Install]",
        "WantedBy=timers.target",
    ]
    return "\n".join(lines) + "\n"


def _text(text: str) -> str:
    """Write a value in which nothing is filled in; a backslash at the end would join lines."""
    return text.replace("%", "%%").rstrip("\\")


def _command(argv: Sequence[str]) -> str:
    """Write arguments so that systemd gives them back."""
    program, *arguments = argv
    # The program's own path is not searched for variables.
    words = [_quote(program), *(_quote(word).replace("$", "$$") for word in arguments)]
    return " ".join(words)


def _quote(word: str) -> str:
    word = word.replace("%", "%%")
    if re.fullmatch(r"[A-Za-z0-9_./:=,+%$-]+", word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
