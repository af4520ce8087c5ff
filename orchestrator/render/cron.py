"""Lines of a crontab.

Source: cron 3.0pl1, crontab(5): `%` is a line break unless it is escaped, a line has at most 998
characters, and a line of the machine's own names a user.
"""

import re
import shlex
from typing import Final

from orchestrator.errors import SettingsError
from orchestrator.render.job import Job, check_job

LONGEST_LINE: Final = 998


def cron_lines(job: Job, log: str) -> str:
    """Write the mark and the entry below it.

    What the command says goes to a log, so that no mail is needed to read it; where nothing was
    done it says nothing.

    Args:
        job: The job.
        log: The log file, absolute.

    Raises:
        SettingsError: A path cannot be written, or is too long.
    """
    check_job(job)
    check_job(Job(job.project, [log]))
    command = f"{shlex.join(job.argv)} >>{shlex.quote(log)} 2>&1".replace("%", "\\%")
    user = f"{job.user} " if job.user else ""
    entry = f"{job.minute} 3 * * * {user}{command}"
    if len(entry.encode()) > LONGEST_LINE:
        raise SettingsError(
            f"a line of a crontab has at most {LONGEST_LINE} bytes; these paths are longer"
        )
    return f"{job.mark}\n{entry}\n"


def with_lines(crontab: str, job: Job, log: str) -> str:
    """Write a job into a crontab, in place of what was written for it before."""
    rest = without_lines(crontab, job)
    return rest + ("\n" if rest and not rest.endswith("\n") else "") + cron_lines(job, log)


def without_lines(crontab: str, job: Job) -> str:
    """Take the mark of a job and its entry out of a crontab, and nothing else."""
    return _own(job).sub("", crontab)


def lines_in(crontab: str, job: Job) -> str | None:
    """Tell what is written for a job in a crontab, None if nothing is."""
    found = _own(job).search(crontab)
    return None if found is None else found[0]


def _own(job: Job) -> re.Pattern[str]:
    """Find a mark with the entry below it, whatever time somebody gave that."""
    entry = r"(?:[^#\n][^\n]* rotate --due [^\n]*(?:\n|\Z))?"
    return re.compile(rf"^{re.escape(job.mark)}\n{entry}", re.MULTILINE)
