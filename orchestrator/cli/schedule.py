"""`agents schedule`: a daily `agents rotate --due`, by systemd or by cron."""

import os
import pwd
import sys
from pathlib import Path
from typing import Final, cast

from orchestrator.cli.output import note, say, say_json
from orchestrator.cli.places import find_paths
from orchestrator.cli.schedules import CronFile, Crontab, Host, Schedule, SystemdUnits
from orchestrator.errors import SettingsError
from orchestrator.files import make_private_directory
from orchestrator.paths import Paths
from orchestrator.render.job import Job

LOG_NAME: Final = "rotate.log"


def install(  # noqa: PLR0913  one for each option
    project: Path | None,
    *,
    by_cron: bool,
    is_system: bool | None,
    only_print: bool,
    as_json: bool,
    host: Host | None = None,
) -> None:
    """Write the daily job down and switch it on.

    Args:
        project: The project.
        by_cron: Whether cron runs it, in place of systemd.
        is_system: Whether the machine runs it, in place of this user; None decides by who asks.
        only_print: Whether nothing is written.
        as_json: Whether a program reads.
        host: Where things are on this machine.

    Raises:
        SettingsError: This machine or this user cannot have it; nothing was written.
    """
    paths, host = find_paths(project), host or Host()
    system = os.geteuid() == 0 if is_system is None else is_system
    schedule = _schedule(paths, host, by_cron=by_cron, system=system)
    files, commands = schedule.files(), schedule.commands()
    if not only_print:
        if system and os.geteuid() != 0:
            raise SettingsError(
                "only root installs what the whole machine runs; nothing was written",
                hint="Leave out --system, or see what root would write with --print.",
            )
        if by_cron:
            # The log's directory: the shell that cron starts makes none.
            for place in (paths.state, paths.logs):
                make_private_directory(place)
        schedule.install()
    if as_json:
        shown = [{"path": path, "content": text} for path, text in files]
        say_json({"installed": not only_print, "files": shown, "commands": commands})
        return
    for path, text in files:
        if only_print:
            say(f"# {path}\n{text}")
        else:
            say(f"written: {path}")
    for command in commands:
        say(f"{'# then: ' if only_print else 'done: '}{command}")
    for hint in [] if only_print else schedule.hints():
        note(hint)


def remove(project: Path | None, *, as_json: bool, host: Host | None = None) -> None:
    """Take away what was installed for this project, wherever it is.

    Raises:
        SettingsError: Something is there that this user cannot take away.
    """
    found = [one for one in _all(find_paths(project), host or Host()) if one.is_installed()]
    for one in found:
        one.remove()
    places = [path for one in found for path, _ in one.files()]
    if as_json:
        say_json({"removed": places})
    elif places:
        for place in places:
            say(f"removed: {place}")
    else:
        say("Nothing is installed for this project.")


def status(project: Path | None, *, as_json: bool, host: Host | None = None) -> None:
    """Show what is installed; exits with 10 when nothing is."""
    found = [one for one in _all(find_paths(project), host or Host()) if one.is_installed()]
    told = [one.describe() for one in found]
    if as_json:
        say_json({"schedules": told})
    elif not told:
        say("Nothing is installed for this project. `agents schedule install` does it.")
    for one in [] if as_json else told:
        say(f"{one['kind']}, {one['scope']}")
        for path in cast("list[str]", one["files"]):
            say(f"  {path}")
        for key in ("next", "last", "result"):
            if one.get(key):
                say(f"  {key}: {one[key]}")
        if not one["current"]:
            say("  differs from what would be written now: `agents schedule install` again")
    if not told:
        sys.exit(NOTHING_INSTALLED)


NOTHING_INSTALLED: Final = 10


def _all(paths: Paths, host: Host) -> list[Schedule]:
    """Give every way in which the job can be installed."""
    return [
        _schedule(paths, host, by_cron=by_cron, system=system)
        for by_cron in (False, True)
        for system in (False, True)
    ]


def _schedule(paths: Paths, host: Host, *, by_cron: bool, system: bool) -> Schedule:
    argv = [*_program(), "rotate", "--due", "-C", str(paths.root)]
    job = Job(str(paths.root), argv, _owner(paths) if system else "")
    log = str(paths.logs / LOG_NAME)
    if not by_cron:
        return SystemdUnits(job, host)
    return CronFile(job, host, log) if system else Crontab(job, host, log)


def _program() -> list[str]:
    """Tell how this very program is started again, by absolute paths."""
    program = Path(sys.executable).absolute().with_name("agents")
    if program.exists():
        return [str(program)]
    return [str(Path(sys.executable).absolute()), "-I", "-m", "orchestrator.cli.main"]


def _owner(paths: Paths) -> str:
    """Tell whose the project is: the control socket serves nobody else."""
    place = paths.state if paths.state.exists() else paths.root
    uid = place.stat().st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
