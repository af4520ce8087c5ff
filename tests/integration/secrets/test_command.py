"""`command` references, with real programs."""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.secrets.conftest import Project

VALUE = "canary-of-a-program"
WAIT_SECONDS = 60.0


def shell(script: str, **more: object) -> dict[str, object]:
    """Write a reference to a shell script."""
    return {"command": ["/bin/sh", "-c", script], **more}


def python(script: str, **more: object) -> dict[str, object]:
    """Write a reference to a Python script."""
    return {"command": [sys.executable, "-I", "-c", script], **more}


def ended(pid: int) -> bool:
    """Wait until a process has ended; False if it does not."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], WAIT_SECONDS)[0])
    finally:
        os.close(process)


def test_plain_text(project: Project) -> None:
    """What a program writes is the value, without one newline at its end."""
    assert project.value(shell(f"printf '%s' {VALUE}")) == VALUE
    assert project.value(shell(f"echo {VALUE}")) == VALUE
    assert project.value(shell(f"printf '{VALUE}\\r\\n'")) == VALUE
    assert project.value(shell(f"printf 'one\\n{VALUE}\\n\\n'")) == f"one\n{VALUE}\n"


def test_json_of_version_1(project: Project) -> None:
    """An answer in JSON tells the value's version, lease and end."""
    answer = (
        f'{{"version": 1, "value": "{VALUE}", "version_id": "v7", "lease_id": "l/1", '
        '"expires_at": "2100-01-01T02:00:00+02:00"}'
    )
    secret = project.look_up(shell(f"echo '{answer}'"))
    assert secret.value.get_secret_value() == VALUE
    assert (secret.version_id, secret.lease_id) == ("v7", "l/1")
    assert secret.expires_at is not None
    assert secret.expires_at.isoformat() == "2100-01-01T00:00:00+00:00"
    assert len(secret.fingerprint) == 8
    assert project.value(shell(f"""echo '{{"version":1,"value":"{VALUE}"}}'""")) == VALUE


@pytest.mark.parametrize(
    "text",
    [f'{{"key": "{VALUE}"}}', f'{{"version": 1, "key": "{VALUE}"}}', f"{{{VALUE}", "[1, 2, 3]"],
)
def test_other_json_is_plain_text(project: Project, text: str) -> None:
    """A secret that is itself JSON, such as a key file, is taken whole."""
    assert project.value(shell(f"echo '{text}'")) == text


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (f'{{"version": 2, "value": "{VALUE}"}}', "version"),
        ('{"version": 1, "value": ["canary-canary"]}', "value"),
        (f'{{"version": 1, "value": "{VALUE}", "expires_at": "tomorrow"}}', "expires_at"),
        (
            f'{{"version": 1, "value": "{VALUE}", "expires_at": "2100-01-01T00:00:00"}}',
            "expires_at",
        ),
        (f'{{"version": 1, "value": "{VALUE}", "canary": 1}}', ""),
    ],
)
def test_json_with_a_mistake(project: Project, text: str, wrong: str) -> None:
    """An answer that is nearly in the form is refused; its words are not repeated."""
    found = project.failure(shell(f"echo '{text}'"))
    assert found.startswith(
        "secret.store: command:/bin/sh answers in JSON, but not in the form of version 1"
        + (f": {wrong} |" if wrong else " |")
    )


def test_an_expired_value_is_refused(project: Project) -> None:
    """A value whose time is over is none."""
    text = f'{{"version":1,"value":"{VALUE}","expires_at":"2020-01-01T00:00:00Z"}}'
    assert project.failure(shell(f"echo '{text}'")) == (
        "secret.store: command:/bin/sh expired at 2020-01-01 00:00:00 UTC | None"
    )


def test_answers_that_are_no_secret(project: Project) -> None:
    """Nothing, too little, a NUL character and what is no text are refused."""
    assert project.failure(shell("true")).startswith("secret.not_found: command:/bin/sh is empty")
    assert "is empty" in project.failure(shell("echo"))
    assert "too short" in project.failure(shell("echo 1234567"))
    assert "NUL" in project.failure(shell(f"printf '{VALUE}\\000x'"))
    assert "wrote no UTF-8 text" in project.failure(shell(f"printf '{VALUE}\\377'"))
    text = f'{{"version":1,"value":"{VALUE}\\ud800"}}'
    assert "secret.store" in project.failure(shell(f"printf '%s' '{text}'"))


def test_a_secret_goes_in_by_stdin_only(project: Project) -> None:
    """The input is another reference's value; arguments and environment hold nothing of ours."""
    _ = project.write(".agents/pin", "canary-pin\n")
    script = (
        "read pin; tr '\\0' '\\n' </proc/self/environ >env; "
        "cat /proc/$$/cmdline >words; echo is $pin"
    )
    found = project.value(
        shell(script, stdin="file:{state}/pin", env={"PLAIN": "yes"}), {"OTHER": "canary-other"}
    )
    assert found == "is canary-pin"
    names = {line.partition("=")[0] for line in (project.root / "env").read_text().splitlines()}
    assert names - {"PWD", "SHLVL", "_", "OLDPWD"} == {"PATH", "HOME", "LANG", "TZ", "PLAIN"}
    assert "canary" not in (project.root / "words").read_text()
    assert project.value(shell(f"cat; echo {VALUE}")) == VALUE


def test_a_large_input_and_a_program_that_does_not_want_it(project: Project) -> None:
    """An input larger than a pipe is written as it is read; not reading it is no error."""
    _ = project.write("large", "canary!!" * 8000)
    assert project.value(shell("wc -c; echo padding", stdin=f"file:{project.root}/large")) == (
        "64000\npadding"
    )
    assert (
        project.value(shell(f"exec <&-; echo {VALUE}", stdin=f"file:{project.root}/large")) == VALUE
    )


def test_the_input_is_missing(project: Project) -> None:
    """Where the input cannot be had, the program is not started."""
    reference = shell("touch started", stdin="file:{state}/none")
    assert "does not exist" in project.failure(reference)
    assert not (project.root / "started").exists()


def test_an_error_quotes_the_last_words_without_secrets(project: Project) -> None:
    """The last line of stderr is in the error, without secrets, the program's own included."""
    _ = project.write(".agents/pin", "canary-pin\n")
    script = (
        "read pin; echo answer=canary-answer; echo first >&2; "
        "printf 'no access for %s with canary-answer\\033[31m\\n' $pin >&2; exit 3"
    )
    found = project.failure(shell(script, stdin="file:{state}/pin"))
    assert found == (
        "secret.store: command:/bin/sh ended with status 3: "
        "no access for [hidden] with [hidden] [31m | None"
    )
    assert project.failure(shell("exit 4")) == (
        "secret.store: command:/bin/sh ended with status 4 | None"
    )
    assert "was ended by signal 9" in project.failure(shell("kill -9 $$"))


def test_a_line_whose_beginning_is_lost_is_not_quoted(project: Project) -> None:
    """Of what a program wrote only the end is kept; it may begin in the middle of a secret."""
    secret = "".join(f"{number:04}-" for number in range(1200))
    _ = project.write(".agents/pin", f"{secret}\n")
    script = "import sys; sys.exit('no access for ' + sys.stdin.read())"
    found = project.failure(python(script, stdin="file:{state}/pin"))
    assert found.endswith("ended with status 1 | None")


def test_values_that_were_resolved_before_are_hidden_too(project: Project) -> None:
    """A program may know a value that another reference gave; it is hidden in its last words."""
    assert project.value("env:A", {"A": "canary-from-elsewhere"})
    script = "printf canary-from-elsewhere | base64 >&2; exit 1"
    assert project.failure(shell(script)).endswith("status 1: [hidden] | None")


def test_too_much(project: Project) -> None:
    """An answer of more than 64 KiB ends the program; any amount of stderr is read and dropped."""
    assert "wrote more than 64 KiB" in project.failure(shell("yes canary"))
    large = python("import sys; sys.stdout.write('x' * 65537)")
    assert "wrote more than 64 KiB" in project.failure(large)
    assert project.value(python("import sys; sys.stdout.write('x' * 65536)")) == "x" * 65536
    flood = python(f"import sys; sys.stderr.write('x' * 10**7); print({VALUE!r})")
    assert project.value(flood) == VALUE


def test_a_program_that_takes_too_long(project: Project) -> None:
    """At the end of its time the whole process group is killed, and its last words are told."""
    script = (
        "echo canary-half; sleep 600 & echo $! >child; echo $$ >self; echo asking >&2; sleep 600"
    )
    begun = time.monotonic()
    found = project.failure(shell(script, timeout="3s"))
    assert found == "secret.store: command:/bin/sh did not end within 3 s: asking | None"
    assert time.monotonic() - begun < WAIT_SECONDS
    for name in ("child", "self"):
        assert ended(int((project.root / name).read_text()))


def test_what_a_program_leaves_running_is_ended(project: Project) -> None:
    """A child that holds the pipes open delays nothing, and ends with the program."""
    script = f"trap '' HUP TERM; sleep 600 & echo $! >child; echo {VALUE}"
    begun = time.monotonic()
    assert project.value(shell(script, timeout="60s")) == VALUE
    assert time.monotonic() - begun < 50
    assert ended(int((project.root / "child").read_text()))


def test_programs_that_cannot_be_run(project: Project) -> None:
    """A program that is none, or that somebody else could replace, is not started."""
    root = project.root
    _ = project.write("bin/plain", "#!/bin/sh\n", 0o600)
    _ = project.write("bin/open", "#!/bin/sh\n", 0o777)
    _ = project.write("wide/tool", "#!/bin/sh\n", 0o755)
    (root / "wide").chmod(0o777)
    (root / "wide/link").symlink_to("/bin/echo")
    _ = project.write("wide/inside/tool", "#!/bin/sh\n", 0o755)
    _ = project.write("bin/foreign", "#!/nowhere/interpreter\n", 0o755)
    for name, message in {
        "bin/none": f"{root}/bin/none cannot be run: no such file or directory",
        "bin": f"{root}/bin cannot be run: not a program",
        "bin/plain": f"{root}/bin/plain cannot be run: not a program",
        "bin/open": f"{root}/bin/open could be replaced: everybody may write {root}/bin/open",
        "wide/tool": f"{root}/wide/tool could be replaced: everybody may write {root}/wide",
        "wide/inside/tool": (
            f"{root}/wide/inside/tool could be replaced: everybody may write {root}/wide"
        ),
        "wide/link": f"{root}/wide/link could be replaced: everybody may write {root}/wide",
        "bin/foreign": "cannot be started: no such file or directory",
    }.items():
        assert message in project.failure({"command": [f"{{project}}/{name}"]})


def test_a_program_of_the_project(project: Project) -> None:
    """The program may be named by its place in the project, and runs there."""
    _ = project.write("bin/tell", f"#!/bin/sh\necho {VALUE} $1 $(pwd)\n", 0o700)
    found = project.value({"command": ["{project}/bin/tell", "a b"]})
    assert found == f"{VALUE} a b {project.root}"
    script = "import sys; print('canary ' + sys.executable)"
    found = project.value({"command": ["{python}", "-I", "-c", script, "{state}/x"]})
    assert found == f"canary {sys.executable}"


def test_no_shell_looks_at_the_arguments(project: Project) -> None:
    """Arguments reach the program as they stand."""
    reference = {"command": ["/bin/echo", "$HOME", "`id`", "a;b", "*"]}
    assert project.value(reference) == "$HOME `id` a;b *"


def test_programs_are_asked_at_the_same_time(project: Project, tmp_path: Path) -> None:
    """Secrets of one role are resolved together: two programs that wait for each other end."""
    os.mkfifo(tmp_path / "pipe")
    one = shell(f"echo canary-one >{tmp_path}/pipe; echo canary-left")
    two = shell(f"cat {tmp_path}/pipe")
    before = threading.active_count()
    values = project.values({"A": one, "B": two})
    assert values == {"A": "canary-left", "B": "canary-one"}
    assert threading.active_count() < before + 40
