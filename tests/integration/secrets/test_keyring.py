"""`keyring://` references, with a real Secret Service on a real session bus."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.integration.secrets.conftest import Project

BUS: Final = "DBUS_SESSION_BUS_ADDRESS"
VALUE: Final = "canary-of-the-keyring"
# Tells the bus's address as soon as somebody keeps secrets there, and lasts as long as its stdin.
SERVICE: Final = """
printf password | gnome-keyring-daemon --foreground --unlock --components=secrets >/dev/null 2>&1 &
gdbus wait --session --timeout 60 org.freedesktop.secrets && echo "$DBUS_SESSION_BUS_ADDRESS"
cat
"""


def python(script: str, environment: dict[str, str]) -> None:
    """Run a script on the bus."""
    words = [sys.executable, "-I", "-c", script]
    _ = subprocess.run(words, env=environment, check=True, timeout=60)


@contextmanager
def running_bus() -> Generator[dict[str, str]]:
    """Run a session bus with an unlocked keyring that has an entry; tell its environment."""
    for program in ("dbus-run-session", "gnome-keyring-daemon", "gdbus"):
        if shutil.which(program) is None:
            if os.environ.get("BANDMASTER_TEST_ALL"):
                pytest.fail(f"scripts/dev-services has not installed {program}")
            pytest.skip(f"{program} is not installed (scripts/dev-services)")
    place = tempfile.mkdtemp(prefix="bm-", dir="/tmp")
    environment = {"PATH": os.environ["PATH"], "HOME": place, "XDG_RUNTIME_DIR": place}
    process = subprocess.Popen(
        ["dbus-run-session", "--", "sh", "-c", SERVICE],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        address = str(process.stdout.readline()).strip()  # pyright: ignore[reportAny] # no type of IO
        assert address, "nobody keeps secrets on the bus"
        environment[BUS] = address
        script = f"import keyring; keyring.set_password('the shop', 'ann@till', {VALUE!r})"
        python(script, environment)
        yield environment
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        _ = process.communicate()
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def bus() -> Generator[dict[str, str]]:
    """Run a keyring that no test locks."""
    with running_bus() as environment:
        yield environment


@pytest.fixture
def another_bus() -> Generator[dict[str, str]]:
    """Run a keyring that a test may lock: nobody could unlock it for the next one."""
    with running_bus() as environment:
        yield environment


def test_an_entry_is_read(project: Project, bus: dict[str, str]) -> None:
    """An entry is found by service and user, and a changed one is seen."""
    reference, where = "keyring://the%20shop/ann@till", {BUS: bus[BUS]}
    assert project.value(reference, where) == VALUE
    script = f"import keyring; keyring.set_password('the shop', 'ann@till', {VALUE + '-2'!r})"
    python(script, bus)
    assert project.value(reference, where) == f"{VALUE}-2"
    python(script.replace("-2", ""), bus)


def test_an_entry_that_is_not_there(project: Project, bus: dict[str, str]) -> None:
    """What the keyring does not have is missing, and is looked for nowhere else."""
    assert project.failure("keyring://the%20shop/bob", {BUS: bus[BUS]}) == (
        "secret.not_found: the keyring has no entry for keyring://the%20shop/bob | None"
    )


def test_a_locked_keyring(project: Project, another_bus: dict[str, str]) -> None:
    """Where nobody can be asked to unlock it, a locked keyring is an error and no wait for ever."""
    script = (
        "import secretstorage as s; c = s.dbus_init(); s.get_default_collection(c).{}(); c.close()"
    )
    python(script.format("lock"), another_bus)
    found = project.failure("keyring://the%20shop/ann@till", {BUS: another_bus[BUS]})
    assert "secret.store: keyring://the%20shop/ann@till: the keyring is locked" in found


def test_no_keyring(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a session bus there is no keyring, whatever backend the user's settings name."""
    home = project.write("home/.config/python_keyring/keyringrc.cfg", "").parents[2]
    _ = project.write(
        "home/.config/python_keyring/keyringrc.cfg",
        "[backend]\ndefault-keyring=keyring.backends.null.Keyring\n",
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    found = project.failure("keyring://the%20shop/ann", {BUS: "unix:path=/nowhere/bus"})
    assert found.startswith(
        "secret.store: keyring://the%20shop/ann: there is no keyring here | Secret Service and"
    )
