"""`agents schedule`: what is written where, with stand-ins for systemctl and crontab."""

import json
import os
import pwd
from pathlib import Path
from typing import cast

import pytest

from orchestrator.cli.schedule import install, remove, status
from orchestrator.cli.schedules import Host
from orchestrator.errors import SettingsError

Captured = pytest.CaptureFixture[str]
Object = dict[str, object]
# Each writes down how it was called; the crontab is a file.
SYSTEMCTL = """#!/bin/sh
echo "systemctl $*" >>"$CALLS"
case "$*" in
*enable*) [ ! -e "$CALLS.broken" ] || { echo 'Failed to connect to bus' >&2; exit 1; } ;;
*show*.timer) printf '%s\\n' ActiveState=active 'NextElapseUSecRealtime=Sun 03:33' ;;
*show*.service) printf 'Result=exit-code\\nExecMainStatus=12\\n' ;;
esac
"""
ANALYZE = """#!/bin/sh
echo "systemd-analyze $*" | sed 's#/tmp/[^ ]*/##g' >>"$CALLS"
"""
CRONTAB = """#!/bin/sh
echo "crontab $*" >>"$CALLS"
case "$1" in
-l) [ -e "$CALLS.tab" ] || { echo "no crontab for me" >&2; exit 1; }; cat "$CALLS.tab" ;;
-) cat >"$CALLS.tab" ;;
esac
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the stand-ins on PATH; tell the file of their calls."""
    programs = tmp_path / "bin"
    programs.mkdir()
    named = {"systemctl": SYSTEMCTL, "systemd-analyze": ANALYZE, "crontab": CRONTAB}
    for name, text in named.items():
        _ = (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    _ = (tmp_path / "calls").write_text("")
    return tmp_path / "calls"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Make a machine that systemd runs."""
    made = Host(*(tmp_path / name for name in ("booted", "units", "cron.d", "linger")))
    for place in (made.booted, made.units, made.cron, made.lingers):
        place.mkdir()
    return made


def put(project: Path, host: Host, **options: bool | None) -> None:
    """Install."""
    usual = {"by_cron": False, "is_system": False, "only_print": False, "as_json": False}
    given = cast("dict[str, bool]", {**usual, **options})
    install(project, **given, host=host)


def lines(path: Path) -> list[str]:
    """Read the calls of the stand-ins."""
    return path.read_text().splitlines()


def test_a_users_timer(project: Path, host: Host, calls: Path, capsys: Captured) -> None:
    """Checked by systemd itself, written, switched on; everything that was done is told."""
    put(project, host)
    service, timer = sorted((calls.parent / "config/systemd/user").iterdir())
    name = timer.name
    assert (service.suffix, timer.suffix) == (".service", ".timer")
    assert lines(calls) == [
        f"systemd-analyze --user verify {service.name} {name}",
        "systemctl --user daemon-reload",
        f"systemctl --user enable --now {name}",
    ]
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        f"written: {service}",
        f"written: {timer}",
        "done: systemctl --user daemon-reload",
        f"done: systemctl --user enable --now {name}",
    ]
    assert "enable-linger" in err
    assert f"rotate --due -C {project}\n" in service.read_text()
    (host.lingers / pwd.getpwuid(os.geteuid()).pw_name).touch()
    put(project, host)
    assert capsys.readouterr().err == ""


def test_status_and_removal(project: Path, host: Host, calls: Path, capsys: Captured) -> None:
    """What runs next and how it went last; then all of it is gone, and so is nothing else."""
    put(project, host)
    folder = calls.parent / "config/systemd/user"
    _ = (folder / "other.timer").write_text("[Timer]\n")
    _ = capsys.readouterr()
    status(project, as_json=True, host=host)
    (told,) = cast("dict[str, list[Object]]", json.loads(capsys.readouterr().out))["schedules"]
    assert told["current"] is True
    assert told["active"] is True
    assert (told["next"], told["result"]) == ("Sun 03:33", "exit-code, exit status 12")
    remove(project, as_json=False, host=host)
    assert [path.name for path in folder.iterdir()] == ["other.timer"]
    assert capsys.readouterr().out.count("removed: ") == 2
    assert " disable --now " in lines(calls)[-2]
    assert lines(calls)[-1] == "systemctl --user daemon-reload"
    with pytest.raises(SystemExit) as caught:
        status(project, as_json=False, host=host)
    assert caught.value.code == 10
    remove(project, as_json=False, host=host)
    assert "Nothing is installed" in capsys.readouterr().out.splitlines()[-1]


def test_an_old_installation_is_told(
    project: Path, host: Host, calls: Path, capsys: Captured
) -> None:
    """Units that a version before wrote are known as such, and written anew."""
    put(project, host)
    timer = next((calls.parent / "config/systemd/user").glob("*.timer"))
    _ = timer.write_text(timer.read_text() + "AccuracySec=1h\n")
    _ = capsys.readouterr()
    status(project, as_json=False, host=host)
    assert "differs from what would be written now" in capsys.readouterr().out
    put(project, host)
    assert "AccuracySec" not in timer.read_text()


def test_somebody_elses_file_is_not_touched(project: Path, host: Host, calls: Path) -> None:
    """Neither replaced nor removed, and nothing else is written."""
    put(project, host, by_cron=True, only_print=True)
    put(project, host)
    timer = next((calls.parent / "config/systemd/user").glob("*.timer"))
    service = timer.with_suffix(".service")
    _ = timer.write_text("# mine\n")
    service.unlink()
    with pytest.raises(SettingsError):
        put(project, host)
    assert not service.exists()
    remove(project, as_json=False, host=host)
    assert timer.read_text() == "# mine\n"


def test_printing_writes_nothing(project: Path, host: Host, calls: Path, capsys: Captured) -> None:
    """Not even where systemd does not run the machine."""
    host.booted.rmdir()
    before = sorted(project.rglob("*"))
    for by_cron in (False, True):
        for is_system in (False, True):
            put(project, host, by_cron=by_cron, is_system=is_system, only_print=True)
            put(project, host, by_cron=by_cron, is_system=is_system, only_print=True, as_json=True)
    assert capsys.readouterr().out.count("rotate --due") == 8
    assert (sorted(project.rglob("*")), lines(calls)) == (before, [])
    assert not (calls.parent / "config").exists()


def test_without_systemd(project: Path, host: Host, calls: Path) -> None:
    """The error names the other ways; nothing is written."""
    host.booted.rmdir()
    with pytest.raises(SettingsError) as caught:
        put(project, host)
    assert "--cron" in str(caught.value.hint)
    assert "--print" in str(caught.value.hint)
    assert not (calls.parent / "config").exists()


def test_a_user_without_a_session(
    project: Path, host: Host, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After su or sudo there is no manager to speak to."""
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    with pytest.raises(SettingsError):
        put(project, host)
    assert lines(calls) == []


def test_a_manager_that_refuses(project: Path, host: Host, calls: Path) -> None:
    """Its own words are told."""
    calls.with_name("calls.broken").touch()
    with pytest.raises(SettingsError) as caught:
        put(project, host)
    assert "Failed to connect to bus" in str(caught.value)


def test_a_users_crontab(project: Path, host: Host, calls: Path, capsys: Captured) -> None:
    """Foreign lines stay; a second time changes nothing; the log has a place."""
    tab = calls.with_name("calls.tab")
    _ = tab.write_text("0 1 * * * backup\n")
    put(project, host, by_cron=True)
    text = tab.read_text()
    assert text.startswith("0 1 * * * backup\n# Written by")
    assert f"rotate --due -C {project} >>{project}/.agents/logs/rotate.log 2>&1\n" in text
    assert (project / ".agents" / "logs").is_dir()
    put(project, host, by_cron=True)
    assert tab.read_text() == text
    assert lines(calls).count("crontab -") == 1
    _ = capsys.readouterr()
    status(project, as_json=True, host=host)
    (told,) = cast("dict[str, list[Object]]", json.loads(capsys.readouterr().out))["schedules"]
    assert (told["kind"], told["scope"], told["current"]) == ("cron", "user", True)
    remove(project, as_json=False, host=host)
    assert tab.read_text() == "0 1 * * * backup\n"


def test_a_first_crontab(project: Path, host: Host, calls: Path) -> None:
    """A user without one gets one."""
    put(project, host, by_cron=True)
    assert calls.with_name("calls.tab").read_text().count("\n") == 2


def test_without_cron(
    project: Path, host: Host, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the program nor the directory is there: the error says so."""
    monkeypatch.setenv("PATH", str(calls.parent))
    host.cron.rmdir()
    with pytest.raises(SettingsError):
        put(project, host, by_cron=True)
    if os.geteuid() == 0:
        with pytest.raises(SettingsError):
            put(project, host, by_cron=True, is_system=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root installs for the whole machine")
@pytest.mark.parametrize("by_cron", [False, True])
def test_the_machines_own(
    project: Path, host: Host, calls: Path, capsys: Captured, by_cron: bool
) -> None:
    """It is what root gets unless it says otherwise, runs as the project's owner, and goes away."""
    put(project, host, by_cron=by_cron, is_system=None)
    folder = host.cron if by_cron else host.units
    texts = [path.read_text() for path in folder.iterdir()]
    assert any("User=root\n" in text or " * root /" in text for text in texts)
    assert not [line for line in lines(calls) if "--user" in line]
    _ = capsys.readouterr()
    status(project, as_json=False, host=host)
    assert capsys.readouterr().out.startswith(f"{'cron' if by_cron else 'systemd'}, system\n")
    remove(project, as_json=True, host=host)
    assert list(folder.iterdir()) == []
