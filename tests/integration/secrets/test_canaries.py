"""No value gets out of any store's troubles: the hunt over every scheme, and that it finds."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, get_args

import pytest

from orchestrator.errors import SecretError
from orchestrator.model.secret import Scheme

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.secrets.conftest import Age, Project

VALUE = "canary-value-of-a-store"
ROOT = "@root"
# Filled in by the test: keys of age, and what is encrypted for the first of them.
KEY, OTHER_KEY, SEALED, DAMAGED = "@key", "@other-key", "@sealed", "@damaged"


@dataclass(frozen=True)
class Trouble:
    """One way in which a reference does not resolve.

    Attributes:
        reference: The reference, as it stands in a file.
        environment: Variables.
        files: Files of the project, with their content and mode.
    """

    reference: object
    environment: dict[str, str] = field(default_factory=dict)
    files: dict[str, tuple[str | bytes, int]] = field(default_factory=dict)


def sh(script: str, **more: object) -> dict[str, object]:
    """Write a reference to a shell script."""
    return {"command": ["/bin/sh", "-c", script], **more}


SPEC = (
    '[project]\nname = "x"\nrevision = "1.0"\n[profiles.default]\n'
    f'A = {{ description = "x", default = "{VALUE}" }}\nB = {{ description = "x" }}\n'
)
TROUBLES = {
    "env: missing": Trouble("env:A", {"B": VALUE}),
    "env: empty": Trouble("env:A", {"A": "", "B": VALUE}),
    "env: a NUL character": Trouble("env:A", {"A": f"{VALUE}\0"}),
    "env: bytes that are no text": Trouble("env:A", {"A": f"{VALUE}\udcff"}),
    "env: too short": Trouble("env:A", {"A": "canary"}),
    "env: a broken .env": Trouble("env:A", {}, {".env": (f"A='{VALUE}\n", 0o600)}),
    "env: an open .env": Trouble("env:A", {}, {".env": (f"A={VALUE}\n", 0o644)}),
    "dotenv: missing": Trouble("dotenv:{project}/x#A", {}, {"x": (f"B={VALUE}\n", 0o600)}),
    "dotenv: broken": Trouble("dotenv:{project}/x#A", {}, {"x": (f"A='{VALUE}\n", 0o600)}),
    "dotenv: binary": Trouble("dotenv:{project}/x#A", {}, {"x": (VALUE.encode() + b"\xff", 0o600)}),
    "file: open": Trouble("file:{project}/x", {}, {"x": (VALUE, 0o644)}),
    "file: binary": Trouble("file:{project}/x", {}, {"x": (VALUE.encode() + b"\xff", 0o600)}),
    "file: huge": Trouble("file:{project}/x", {}, {"x": (VALUE * 9000, 0o600)}),
    "docker-secret: missing": Trouble("docker-secret:no-such-secret"),
    "systemd-cred: open": Trouble(
        "systemd-cred:x", {"CREDENTIALS_DIRECTORY": ROOT}, {"x": (VALUE, 0o604)}
    ),
    "systemd-cred: binary": Trouble(
        "systemd-cred:x",
        {"CREDENTIALS_DIRECTORY": ROOT},
        {"x": (VALUE.encode() + b"\xff", 0o400)},
    ),
    "keyring: no bus": Trouble("keyring://a/b", {"DBUS_SESSION_BUS_ADDRESS": "unix:path=/no"}),
    "keyring: a bus of another kind": Trouble(
        "keyring://a/b", {"DBUS_SESSION_BUS_ADDRESS": f"{VALUE}:"}
    ),
    "op: no login": Trouble("op://a/b/c"),
    "op: two logins": Trouble(
        "op://a/b/c", {"OP_SERVICE_ACCOUNT_TOKEN": VALUE, "OP_CONNECT_TOKEN": VALUE}
    ),
    "age: another identity": Trouble(
        "age:{project}/x?identity=env:K#A",
        {"K": OTHER_KEY},
        {"x": (SEALED, 0o600)},
    ),
    "age: no identity": Trouble(
        "age:{project}/x?identity=env:K#A", {"K": VALUE}, {"x": (SEALED, 0o600)}
    ),
    "age: a broken line": Trouble(
        "age:{project}/x?identity=env:K#A", {"K": KEY}, {"x": (SEALED, 0o600)}
    ),
    "age: damaged": Trouble("age:{project}/x?identity=env:K", {"K": KEY}, {"x": (DAMAGED, 0o600)}),
    "command: fails": Trouble(sh(f"echo {VALUE}; echo {VALUE} >&2; exit 1")),
    "command: fails in Base64": Trouble(
        sh(f"printf {VALUE}; printf x{VALUE} | base64 >&2; exit 1")
    ),
    "command: fails with its input": Trouble(sh("cat >&2; exit 1", stdin="env:A"), {"A": VALUE}),
    "command: hangs": Trouble(sh(f"echo {VALUE}; echo {VALUE} >&2; sleep 60", timeout="200ms")),
    "command: wrong JSON": Trouble(sh(f"""echo '{{"version":9,"value":"{VALUE}"}}'""")),
    "command: no text": Trouble(sh(f"printf '{VALUE}\\377'")),
    "command: too much": Trouble(sh(f"yes {VALUE}")),
    "command: no input": Trouble(sh("cat", stdin="env:A"), {"B": VALUE}),
    "secretspec: a default": Trouble("secretspec:A", {}, {"secretspec.toml": (SPEC, 0o600)}),
    "secretspec: broken": Trouble("secretspec:A", {}, {"secretspec.toml": (SPEC[:-9], 0o600)}),
    "issued: not here": Trouble("issued:A", {"A": VALUE}),
    "vault-lease: not here": Trouble("vault-lease:///a/b#c", {"A": VALUE}),
    "vault: no such store": Trouble("vault:///secret/a#b", {"A": VALUE}),
    "aws-sm: no such store": Trouble("aws-sm://a#b", {"A": VALUE}),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_no_trouble_tells_a_value(
    project: Project,
    age: Age,
    name: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither message nor hint, cause, traceback, log line nor output of it holds a value."""
    trouble = TROUBLES[name]
    monkeypatch.setenv("HOME", str(project.root))
    key = age.x25519.Identity.generate()
    sealed = age.encrypt(f"A={VALUE}\nB='{VALUE}\n".encode(), [key.to_public()])
    contents = {SEALED: sealed, DAMAGED: sealed[:-9]}
    texts = {KEY: str(key), OTHER_KEY: str(age.x25519.Identity.generate()), ROOT: str(project.root)}
    for path, (content, mode) in trouble.files.items():
        given = contents.get(content, content) if isinstance(content, str) else content
        _ = project.write(path, given, mode)
    environment = {name: texts.get(value, value) for name, value in trouble.environment.items()}
    assert project.failure(trouble.reference, environment).startswith("secret.")
    told = "".join(capfd.readouterr())
    assert "canary" not in told


def test_every_scheme_has_its_troubles() -> None:
    """No scheme is left out of the table above."""
    tried = {name.partition(":")[0] for name in TROUBLES}
    assert tried == set(get_args(Scheme))


@pytest.mark.parametrize(
    "form",
    [
        VALUE,
        VALUE[::-1],
        VALUE.encode().hex(),
        VALUE.encode().hex().upper(),
        "".join(f"%{byte:02X}" for byte in VALUE.encode()),
        base64.b64encode(VALUE.encode()).decode(),
        base64.b64encode(b"." + VALUE.encode()).decode(),
        base64.b64encode(b".." + VALUE.encode()).decode(),
    ],
)
def test_the_hunt_finds(left_of: Callable[[BaseException], set[str]], form: str) -> None:
    """A value that was planted on purpose is found, in each form and at each place."""

    def planted(place: str) -> SecretError:
        error = SecretError("nothing", hint="nothing")
        match place:
            case "message":
                return SecretError(f"it is {form}")
            case "hint":
                return SecretError("nothing", hint=f"try {form}")
            case "cause":
                error.__cause__ = ValueError(form)
            case "context":
                error.__context__ = ValueError(form)
            case _:
                error.add_note(form)
        return error

    assert left_of(planted("nowhere at all")) != set()  # the note
    for place in ("message", "hint", "cause", "context"):
        assert left_of(planted(place)) != set(), place
    assert left_of(SecretError("nothing")) == set()


def test_a_log_line_holds_no_value(project: Project) -> None:
    """Whatever is logged, a value that was resolved is in no line of the daemon's log."""
    program = """
import sys
from pathlib import Path
import structlog
from pydantic import SecretStr
from orchestrator.cli.daemon_log import configure_log
from orchestrator.model.secret import SecretRef
from orchestrator.secrets.resolve import SecretResolver

configure_log("info", Path(sys.argv[1]) / "log")
log = structlog.get_logger("test")
value = sys.stdin.read()
log.info("planted", value=value)
root = Path(sys.argv[1])
resolver = SecretResolver(root, root, {"A": SecretStr(value)})
secret = resolver.look_up(SecretRef.parse("env:A"))
log.info("plain", value=value, bytes=value.encode().hex(), secret=secret, json={"x": [value]})
try:
    local = value
    raise ValueError(f"{local} is wrong")
except ValueError:
    log.exception("failed")
"""
    words = [sys.executable, "-c", program, str(project.root)]
    environment = {"PATH": os.environ["PATH"]}
    value = 'canary "quoted" value'
    done = subprocess.run(
        words, input=value, capture_output=True, text=True, env=environment, timeout=30, check=True
    )
    planted, *rest = done.stderr.splitlines()
    assert "canary" in planted
    assert [line.partition('"event": "')[2][:6] for line in rest] == ['plain"', "failed"]
    assert "canary" not in "".join(rest)
    assert value.encode().hex() not in "".join(rest)
