"""The places where a daily job can be written down: units of systemd, crontabs."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final

from typing_extensions import override

from orchestrator.errors import SettingsError
from orchestrator.files import write_atomically
from orchestrator.render.cron import cron_lines, lines_in, with_lines, without_lines
from orchestrator.render.job import Job
from orchestrator.render.systemd import service_file, timer_file

_READABLE = 0o644
_SECONDS = 60
_NO_SYSTEMD = (
    "`--cron` takes a crontab instead; `--print` prints the units, to be taken elsewhere. Without "
    "either, the daemon itself looks every hour while it runs."
)


@dataclass(frozen=True, slots=True)
class Host:
    """Where things are on this machine.

    Attributes:
        booted: There only where systemd runs the machine. Source: sd_booted(3).
        units: The machine's own units.
        cron: The machine's own crontabs.
        lingers: Users whose managers run while they are not logged in.
    """

    booted: Path = Path("/run/systemd/system")
    units: Path = Path("/etc/systemd/system")
    cron: Path = Path("/etc/cron.d")
    lingers: Path = Path("/var/lib/systemd/linger")

    @property
    def own_units(self) -> Path:
        """This user's units. Source: systemd.unit(5)."""
        base = os.environ.get("XDG_CONFIG_HOME") or ""
        config = Path(base) if base.startswith("/") else Path.home() / ".config"
        return config / "systemd" / "user"


class Schedule(Protocol):
    """One way to have a job run."""

    def files(self) -> list[tuple[str, str]]:
        """Tell what is written, and where."""
        ...

    def commands(self) -> list[str]:
        """Tell the commands that switch it on."""
        ...

    def install(self) -> None:
        """Write it and switch it on. Raises SettingsError."""
        ...

    def is_installed(self) -> bool:
        """Whether there is something that was written for this project."""
        ...

    def remove(self) -> None:
        """Switch it off and take away what was written. Raises SettingsError."""
        ...

    def describe(self) -> dict[str, object]:
        """Tell where it is, whether it is up to date, and how it runs."""
        ...

    def hints(self) -> list[str]:
        """Tell what a person should know after the installation."""
        ...


@final
class SystemdUnits(Schedule):
    """A service and its timer."""

    def __init__(self, job: Job, host: Host) -> None:
        """Prepare; a job with a user is the machine's."""
        self._job = job
        self._host = host
        self._folder = host.units if job.user else host.own_units
        self._timer = f"{job.name}.timer"
        self._scope: tuple[str, ...] = () if job.user else ("--user",)

    @override
    def files(self) -> list[tuple[str, str]]:
        return [
            (str(self._folder / f"{self._job.name}.service"), service_file(self._job)),
            (str(self._folder / self._timer), timer_file(self._job)),
        ]

    @override
    def commands(self) -> list[str]:
        return [" ".join(command) for command in self._commands()]

    def _commands(self) -> list[list[str]]:
        program = ["systemctl", *self._scope]
        return [[*program, "daemon-reload"], [*program, "enable", "--now", self._timer]]

    @override
    def install(self) -> None:
        if not self._host.booted.is_dir():
            raise SettingsError(
                "systemd does not run this machine; nothing was written", hint=_NO_SYSTEMD
            )
        if self._scope and not os.environ.get("XDG_RUNTIME_DIR"):
            raise SettingsError(
                "this user's own systemd cannot be reached; nothing was written",
                hint="Log in as this user, not by su or sudo; or take `--system` as root, or "
                "`--cron`.",
            )
        for path, _ in self.files():
            _check_own(Path(path), self._job)
        self._verify()
        self._folder.mkdir(parents=True, exist_ok=True)
        for path, text in self.files():
            write_atomically(Path(path), text.encode(), _READABLE)
        for command in self._commands():
            _ = _run(command)

    def _verify(self) -> None:
        """Have systemd itself read the units before they are where it finds them."""
        program = shutil.which("systemd-analyze")
        if program is None:
            return
        with tempfile.TemporaryDirectory(prefix="agents-") as folder:
            places = [Path(folder) / Path(path).name for path, _ in self.files()]
            for place, (_, text) in zip(places, self.files(), strict=True):
                _ = place.write_text(text)
            _ = _run([program, *self._scope, "verify", *map(str, places)])

    @override
    def is_installed(self) -> bool:
        return any(_is_own(Path(path), self._job) for path, _ in self.files())

    @override
    def remove(self) -> None:
        places = [Path(path) for path, _ in self.files() if _is_own(Path(path), self._job)]
        _check_writable(self._folder)
        program = ["systemctl", *self._scope]
        if self._host.booted.is_dir():
            _ = _run([*program, "disable", "--now", self._timer])
        for place in places:
            place.unlink()
        if self._host.booted.is_dir():
            _ = _run([*program, "daemon-reload"])

    @override
    def describe(self) -> dict[str, object]:
        return {
            "kind": "systemd",
            "scope": "system" if self._job.user else "user",
            "files": [path for path, _ in self.files()],
            "current": all(_read(Path(path)) == text for path, text in self.files()),
            **self._facts(),
        }

    def _facts(self) -> dict[str, object]:
        if not self._host.booted.is_dir():
            return {"result": "systemd does not run this machine"}
        show = ["systemctl", *self._scope, "show"]
        keys = "--property=ActiveState,NextElapseUSecRealtime,LastTriggerUSec"
        try:
            timer = _pairs(_run([*show, keys, self._timer]))
            service = _pairs(
                _run([*show, "--property=Result,ExecMainStatus", f"{self._job.name}.service"])
            )
        except SettingsError as error:
            return {"result": str(error)}
        return {
            "active": timer.get("ActiveState") == "active",
            "next": timer.get("NextElapseUSecRealtime", ""),
            "last": timer.get("LastTriggerUSec", ""),
            "result": f"{service.get('Result')}, exit status {service.get('ExecMainStatus')}",
        }

    @override
    def hints(self) -> list[str]:
        import pwd

        user = pwd.getpwuid(os.geteuid()).pw_name
        if self._job.user or (self._host.lingers / user).exists():
            return []
        return [
            f"It runs while {user} is logged in; `loginctl enable-linger {user}` has it run always."
        ]


@final
class Crontab(Schedule):
    """Two lines of this user's crontab."""

    def __init__(self, job: Job, host: Host, log: str) -> None:
        """Prepare."""
        self._job = job
        self._host = host
        self._log = log

    @override
    def files(self) -> list[tuple[str, str]]:
        return [("crontab", cron_lines(self._job, self._log))]

    @override
    def commands(self) -> list[str]:
        return []

    @override
    def install(self) -> None:
        if shutil.which("crontab") is None:
            raise SettingsError(
                "there is no `crontab` here; nothing was written",
                hint="Install cron, or take `--systemd`; `--print` prints the lines.",
            )
        before = self._load()
        after = with_lines(before, self._job, self._log)
        if after != before:
            _ = _run(["crontab", "-"], after)

    def _load(self) -> str:
        """Read the crontab; a user without one has an empty one."""
        if shutil.which("crontab") is None:
            return ""
        return _run(["crontab", "-l"], may_fail_with="no crontab")

    @override
    def is_installed(self) -> bool:
        return lines_in(self._load(), self._job) is not None

    @override
    def remove(self) -> None:
        _ = _run(["crontab", "-"], without_lines(self._load(), self._job))

    @override
    def describe(self) -> dict[str, object]:
        found = lines_in(self._load(), self._job)
        return {
            "kind": "cron",
            "scope": "user",
            "files": ["crontab"],
            "current": found == cron_lines(self._job, self._log),
            "next": _daily(self._job),
        }

    @override
    def hints(self) -> list[str]:
        return [f"What it says is in {self._log}. cron does not make up for days that it missed."]


@final
class CronFile(Schedule):
    """A crontab of the machine's own."""

    def __init__(self, job: Job, host: Host, log: str) -> None:
        """Prepare."""
        self._job = job
        self._path = host.cron / job.name
        self._log = log

    @override
    def files(self) -> list[tuple[str, str]]:
        return [(str(self._path), cron_lines(self._job, self._log))]

    @override
    def commands(self) -> list[str]:
        return []

    @override
    def install(self) -> None:
        if not self._path.parent.is_dir():
            raise SettingsError(
                f"there is no {self._path.parent}; nothing was written",
                hint="Install cron, or take `--systemd`; `--print` prints the lines.",
            )
        _check_own(self._path, self._job)
        write_atomically(self._path, cron_lines(self._job, self._log).encode(), _READABLE)

    @override
    def is_installed(self) -> bool:
        return _is_own(self._path, self._job)

    @override
    def remove(self) -> None:
        _check_writable(self._path.parent)
        self._path.unlink()

    @override
    def describe(self) -> dict[str, object]:
        return {
            "kind": "cron",
            "scope": "system",
            "files": [str(self._path)],
            "current": _read(self._path) == cron_lines(self._job, self._log),
            "next": _daily(self._job),
        }

    @override
    def hints(self) -> list[str]:
        return [f"What it says is in {self._log}. cron does not make up for days that it missed."]


def _daily(job: Job) -> str:
    return f"every day at 03:{job.minute:02}"


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return None


def _is_own(path: Path, job: Job) -> bool:
    """Whether a file was written for this project."""
    return (_read(path) or "").startswith(f"{job.mark}\n")


def _check_own(path: Path, job: Job) -> None:
    if os.path.lexists(path) and not _is_own(path, job):
        raise SettingsError(
            f"{path} is there and was not written by `agents schedule`; nothing was written",
            hint="Move it away.",
        )


def _check_writable(folder: Path) -> None:
    if not os.access(folder, os.W_OK):
        raise SettingsError(f"{folder} cannot be written; nothing was removed", hint="As root.")


def _pairs(text: str) -> dict[str, str]:
    return {key: value for key, _, value in (line.partition("=") for line in text.splitlines())}


def _run(command: Sequence[str], text: str = "", *, may_fail_with: str | None = None) -> str:
    """Run a program and give what it printed.

    Args:
        command: Program and arguments.
        text: What it reads.
        may_fail_with: Words of a complaint that means that there is nothing to print.

    Raises:
        SettingsError: It is not there, or failed.
    """
    shown = " ".join(command)
    try:
        done = subprocess.run(  # noqa: S603  no shell, and every word is ours
            command,
            input=text,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SettingsError(f"`{shown}` cannot be run: {type(error).__name__}") from error
    if done.returncode == 0:
        return done.stdout
    if may_fail_with is not None and may_fail_with in done.stderr:
        return ""
    complaint = done.stderr.strip() or f"exit status {done.returncode}"
    raise SettingsError(f"`{shown}` failed: {complaint}")
