"""The daily job as units of systemd and as lines of a crontab, read back by their readers."""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import SettingsError
from orchestrator.render.cron import LONGEST_LINE, cron_lines, lines_in, with_lines, without_lines
from orchestrator.render.job import Job
from orchestrator.render.systemd import service_file, timer_file

JOB = Job("/srv/my project", ["/opt/venv/bin/agents", "rotate", "--due", "-C", "/srv/my project"])
LOG = "/srv/my project/.agents/logs/rotate.log"
LETTERS = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"])
PATHS = st.text(LETTERS | st.sampled_from(" ;#%'\"\\$"), max_size=30).map(lambda text: f"/{text}")
AWKWARD = "/srv/50% \"of\" 'it' $HOME ${x} \\n;#"


def job_of(path: str, user: str = "") -> Job:
    """Make the job of a project."""
    return Job(path, ["/opt/agents", "rotate", "--due", "-C", path], user)


def program_of(name: str) -> str:
    """Find a program; skips where there is none."""
    program = shutil.which(name)
    if program is None:
        if os.environ.get("BANDMASTER_TEST_ALL"):
            pytest.fail(f"scripts/dev-services has not installed {name}")
        pytest.skip(f"{name} is not installed (scripts/dev-services)")
    return program


def systemd(*words: str) -> subprocess.CompletedProcess[str]:
    """Run `systemd-analyze`."""
    program = program_of("systemd-analyze")
    with tempfile.TemporaryDirectory() as runtime:
        return subprocess.run(
            [program, *words],
            env={**os.environ, "XDG_RUNTIME_DIR": runtime},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


# Names.


def test_names_tell_projects_apart() -> None:
    """The directory's own name makes it readable, the hash of the whole path makes it unique."""
    assert job_of("/srv/Wallet_Bot").name.startswith("agents-rotate-wallet-bot-")
    assert job_of("/a/x").name != job_of("/b/x").name
    assert re.fullmatch(r"agents-rotate-project-[0-9a-f]{8}", job_of("/").name)


@given(PATHS)
def test_any_path_makes_a_name(path: str) -> None:
    """It is good as a unit and as a file of cron, which takes no dots; the minute is one."""
    job = job_of(path)
    assert re.fullmatch(r"[a-z0-9-]{1,60}", job.name)
    assert 17 <= job.minute <= 46


@pytest.mark.parametrize("path", ["/a\nb", "/a\x7f", "/a\udcff"])
def test_what_cannot_stand_on_a_line(path: str) -> None:
    """Line breaks, control characters and broken names are refused in every form."""
    for write in (service_file, timer_file):
        with pytest.raises(SettingsError):
            _ = write(job_of(path))
    with pytest.raises(SettingsError):
        _ = cron_lines(job_of(path), "/log")
    with pytest.raises(SettingsError):
        _ = cron_lines(JOB, "/lo\ng")
    with pytest.raises(SettingsError):
        _ = service_file(Job("/a", ["agents"]))


# systemd.


def value(key: str, text: str) -> str:
    """Read the only value of a key."""
    lines = [line for line in text.splitlines() if line.startswith(f"{key}=")]
    assert len(lines) == 1
    return lines[0].removeprefix(f"{key}=")


def unquote(line: str) -> list[str]:
    """Read a command line as systemd does. Source: systemd.service(5), systemd.syntax(7)."""
    words: list[str] = []
    for word in re.finditer(r'"((?:[^"\\]|\\.)*)"|[^\s"]+', line):
        text = word[0] if word[1] is None else re.sub(r"\\(.)", r"\1", word[1])
        text = text.replace("%%", "%")
        words.append(text.replace("$$", "$") if words else text)
    return words


@given(PATHS)
def test_arguments_survive(path: str) -> None:
    """Whatever a directory is called, the command gets it as it is."""
    job = job_of(path)
    assert unquote(value("ExecStart", service_file(job))) == list(job.argv)


@pytest.mark.parametrize("user", ["", "root"])
@pytest.mark.parametrize("path", ["/srv/plain", "/srv/my project", AWKWARD])
def test_systemd_takes_the_units(tmp_path: Path, path: str, user: str) -> None:
    """`systemd-analyze verify` has nothing to say, for a user's manager and the machine's."""
    argv = [shutil.which("true") or "/bin/true", "rotate", "--due", "-C", path]
    job = Job(path, argv, user)
    service, timer = tmp_path / f"{job.name}.service", tmp_path / f"{job.name}.timer"
    _ = service.write_text(service_file(job))
    _ = timer.write_text(timer_file(job))
    scope = [] if user else ["--user"]
    done = systemd(*scope, "verify", str(service), str(timer))
    told = [line for line in done.stderr.splitlines() if job.name in line]
    assert (done.returncode, told) == (0, []), done.stderr


def test_systemd_finds_what_is_wrong(tmp_path: Path) -> None:
    """The check of the units is one: a program that is not there is found."""
    service = tmp_path / f"{JOB.name}.service"
    _ = service.write_text(service_file(Job("/srv/x", ["/nowhere/agents", "rotate"])))
    assert systemd("--user", "verify", str(service)).returncode != 0


def test_the_calendar() -> None:
    """Once a day, at seventeen past three."""
    when = value("OnCalendar", timer_file(JOB))
    done = systemd("calendar", "--base-time=2026-11-21 12:00:00 UTC", "--iterations=2", when)
    assert done.returncode == 0
    assert "2026-11-22 03:17:00" in done.stdout
    assert "2026-11-23 03:17:00" in done.stdout


def test_units_are_marked_and_staggered() -> None:
    """Each begins with the mark; missed runs are made up for, at a moment of the unit's own."""
    for text in (service_file(JOB), timer_file(JOB)):
        assert text.startswith(f"{JOB.mark}\n")
    for line in ("Persistent=true", "RandomizedDelaySec=30m", "FixedRandomDelay=true"):
        assert line in timer_file(JOB).splitlines()


def test_the_machines_own_runs_as_the_owner() -> None:
    """A user's unit names nobody and asks for nothing that takes privileges."""
    assert "User=wallet" in service_file(job_of("/srv/x", "wallet")).splitlines()
    own = service_file(job_of("/srv/x"))
    assert "User=" not in own
    assert "ProtectSystem=" not in own


# cron.


def read_cron(text: str, *, has_user: bool = False) -> tuple[list[str], str, list[str]]:
    """Read an entry as cron and then its shell do: times, user, words."""
    entry = next(line for line in text.splitlines() if line and not line.startswith("#"))
    fields = re.split(r"[ \t]+", entry, maxsplit=6 if has_user else 5)
    command = fields[-1]
    # A percent sign that is not escaped ends the command.
    assert not re.search(r"(?<!\\)%", command)
    command = command.replace("\\%", "%")
    return fields[:5], fields[5] if has_user else "", shlex.split(command)


@given(PATHS)
def test_words_survive_cron_and_its_shell(path: str) -> None:
    """Whatever a directory is called, the command and its log are those."""
    job, log = job_of(path), f"{path}/rotate.log"
    times, _, words = read_cron(cron_lines(job, log))
    assert times == [str(job.minute), "3", "*", "*", "*"]
    assert words == [*job.argv, f">>{log}", "2>&1"]
    times, user, again = read_cron(cron_lines(job_of(path, "wallet"), log), has_user=True)
    assert (user, again) == ("wallet", words)


def test_the_shell_itself_runs_it(tmp_path: Path) -> None:
    """An awkward directory gets to the program, and what it says to the log."""
    program, log = tmp_path / "agents", tmp_path / "100% log"
    _ = program.write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    program.chmod(0o755)
    job = Job(AWKWARD, [str(program), "rotate", "--due", "-C", AWKWARD])
    entry = cron_lines(job, str(log)).splitlines()[1].split(None, 5)[5].replace("\\%", "%")
    _ = subprocess.run(["/bin/sh", "-c", entry], check=True)
    assert log.read_text() == f"rotate|--due|-C|{AWKWARD}|"


@pytest.mark.parametrize(("path", "status"), [("/srv/my project", 0), (AWKWARD, 0), (None, 1)])
def test_cron_takes_the_lines(tmp_path: Path, path: str | None, status: int) -> None:
    """`crontab -n`, which only checks, has nothing to say; to what is no entry it has."""
    text = "61 3 * * * true\n" if path is None else cron_lines(job_of(path), f"{path}/log")
    file = tmp_path / "crontab"
    _ = file.write_text(text)
    done = subprocess.run(
        [program_of("crontab"), "-n", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr


def test_too_long_a_line() -> None:
    """A line that cron would cut is not written."""
    with pytest.raises(SettingsError):
        _ = cron_lines(job_of("/" + "x" * LONGEST_LINE), "/log")


@pytest.mark.parametrize(
    "crontab",
    ["", "# mine\n", "MAILTO=me\n0 1 * * * backup\n", "0 1 * * * without-a-line-break"],
)
def test_a_crontab_is_given_back_as_it_was(crontab: str) -> None:
    """Written, written again, and taken away: foreign lines stay what they were."""
    once = with_lines(crontab, JOB, LOG)
    assert lines_in(once, JOB) == cron_lines(JOB, LOG)
    assert with_lines(once, JOB, LOG) == once
    assert without_lines(once, JOB).removesuffix("\n") == crontab.removesuffix("\n")
    other = job_of("/srv/other")
    both = with_lines(once, other, LOG)
    assert without_lines(both, JOB) == with_lines(without_lines(once, JOB), other, LOG)


def test_what_a_person_did_to_the_lines() -> None:
    """Another time is still ours; a line of somebody else's below the mark is not."""
    entry = cron_lines(JOB, LOG)
    changed = entry.replace(f"{JOB.minute} 3", "5 4")
    assert without_lines(f"{changed}0 1 * * * backup\n", JOB) == "0 1 * * * backup\n"
    assert without_lines(f"{JOB.mark}\n0 1 * * * backup\n", JOB) == "0 1 * * * backup\n"
    assert without_lines(f"{JOB.mark}\n", JOB) == ""
    assert lines_in("0 1 * * * backup\n", JOB) is None
