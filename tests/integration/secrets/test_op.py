"""`op://` references, with a program of the same contract in place of 1Password's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from orchestrator.errors import SecretError
from orchestrator.model.secret import SecretRef
from orchestrator.secrets import op
from orchestrator.secrets.env import EnvironmentStore
from orchestrator.secrets.op import OnePasswordStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.secrets.conftest import Project

SERVERS = Path(__file__).parents[2] / "servers"
LOGIN = {"OP_SERVICE_ACCOUNT_TOKEN": "ops_canary-service-account"}
CONNECT = {"OP_CONNECT_HOST": "http://localhost:8080", "OP_CONNECT_TOKEN": "canary-connect-token"}


@pytest.fixture
def path(project: Project) -> str:
    """Return a directory with the program `op`."""
    body = f"import runpy; runpy.run_path({str(SERVERS / 'op.py')!r}, run_name='__main__')"
    _ = project.write("bin/op", f"#!{sys.executable} -I\n{body}\n", 0o755)
    return str(project.root / "bin")


def read(project: Project, path: str, text: str, login: dict[str, str]) -> str:
    """Read a reference with a login."""
    given = {name: SecretStr(value) for name, value in login.items()}
    store = OnePasswordStore(EnvironmentStore(given, project.root / ".env"), path)
    return store.read(SecretRef.parse(text)).value.get_secret_value()


@pytest.mark.parametrize("login", [LOGIN, CONNECT])
def test_a_field_is_read(project: Project, path: str, login: dict[str, str]) -> None:
    """The reference reaches op unchanged, and what it writes is the value, to the last newline."""
    assert read(project, path, "op://Shop/Till/password", login) == "canary-of-the-till"
    assert read(project, path, "op://Shop/Till/two lines/key", login).endswith("canary-line-2\n")
    assert read(project, path, "op://Shop/Till/empty", login) == ""


def test_the_login_may_stand_in_dotenv(project: Project, path: str) -> None:
    """The login is looked for where `env:` looks."""
    _ = project.write(".env", "OP_SERVICE_ACCOUNT_TOKEN=ops_canary-service-account\n")
    assert read(project, path, "op://Shop/Till/password", {}) == "canary-of-the-till"


@pytest.mark.parametrize(
    ("item", "login", "code", "message"),
    [
        ("Roof", LOGIN, "secret.not_found", "isn't an item in the vault"),
        ("Till", {}, "secret.store", "needs a login of its own"),
        ("Till", {**LOGIN, **CONNECT}, "secret.store", "are both set"),
        (
            "Till",
            {"OP_SERVICE_ACCOUNT_TOKEN": "ops_canary-wrong"},
            "secret.store",
            "failed to deserialize service account token [hidden]: invalid",
        ),
        (
            "Till",
            {**CONNECT, "OP_CONNECT_TOKEN": "canary-wrong"},
            "secret.store",
            "ended with status 1: [ERROR] 2026/11/20 12:00:00 could not read secret: status 401",
        ),
    ],
)
def test_what_op_refuses(  # noqa: PLR0917  fixtures and parameters have names
    project: Project,
    path: str,
    left_of: Callable[[BaseException], set[str]],
    item: str,
    login: dict[str, str],
    code: str,
    message: str,
) -> None:
    """The words of op are in the error, without the login; what is not there is told apart."""
    with pytest.raises(SecretError, match=f"{item}|1Password|OP_SERVICE") as caught:
        _ = read(project, path, f"op://Shop/{item}/password", login)
    assert caught.value.code == code
    assert message in str(caught.value)
    assert left_of(caught.value) == set()


def test_op_that_waits_for_somebody(
    project: Project, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that does not answer is ended."""
    monkeypatch.setattr(op, "TIMEOUT_SECONDS", 0.5)
    with pytest.raises(SecretError, match=r"op read did not end within 0\.5 s"):
        _ = read(project, path, "op://Shop/Slow/password", LOGIN)


def test_no_op(project: Project) -> None:
    """Without the program the error says where it was looked for."""
    with pytest.raises(SecretError, match="op of 1Password is not installed") as caught:
        _ = read(project, "/nowhere:/elsewhere", "op://Shop/Till/password", LOGIN)
    assert caught.value.hint == "Put it into one of /nowhere, /elsewhere."
