"""Stores whose libraries are extras, where these are not installed or do not work."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.secrets.conftest import Project


def instead_of_python(project: Project, patch: pytest.MonkeyPatch, body: str) -> None:
    """Have the processes that ask libraries run a script first; `module` is what they ask for."""
    head = f"#!{sys.executable} -I\nimport runpy, sys\nmodule = sys.argv[3]\n"
    program = project.write("bin/python", head + body, 0o700)
    patch.setattr(sys, "executable", str(program))


@pytest.mark.parametrize("extra", ["keyring", "secretspec"])
def test_a_library_is_not_installed(
    project: Project, monkeypatch: pytest.MonkeyPatch, extra: str
) -> None:
    """The error names the extra that brings the library."""
    _ = project.write("secretspec.toml", "")
    body = f"sys.modules[{extra!r}] = None\nrunpy.run_module(module, run_name='__main__')\n"
    instead_of_python(project, monkeypatch, body)
    reference = {"keyring": "keyring://a/b", "secretspec": "secretspec:A"}[extra]
    assert project.failure(reference) == (
        f"secret.store: the library for {extra} is not installed | "
        f"pip install 'bandmaster[{extra}]'"
    )


def test_age_is_not_installed(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where the library would be loaded into this process."""
    monkeypatch.setitem(sys.modules, "pyrage", None)
    _ = project.write("x.age", "x")
    found = project.failure("age:{project}/x.age?identity=env:A", {"A": "canary-identity"})
    assert found.endswith("for age is not installed | pip install 'bandmaster[age]'")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("sys.exit('canary-canary ' * 3)", "ended with status 1"),
        ("print('canary-canary')", "gave no answer"),
        ("print('[\"canary-canary\"]')", "gave no answer"),
        ('print(\'{"value": ["canary-canary"]}\')', "failed"),
        ('print(\'{"problem": "canary-canary"}\')', "failed"),
        ("pass", "gave no answer"),
    ],
)
def test_a_library_that_goes_wrong(
    project: Project, monkeypatch: pytest.MonkeyPatch, body: str, message: str
) -> None:
    """Whatever its process answers or ends with, the error holds none of its values."""
    instead_of_python(project, monkeypatch, body + "\n")
    _ = project.write("secretspec.toml", "")
    for reference in ("keyring://a/b", "secretspec:A"):
        assert message in project.failure(reference)


@pytest.mark.parametrize("name", ["keyring", "secretspec"])
def test_a_library_that_fails_inside(
    project: Project, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """An exception of a library is told as such; its text, and what it prints, goes nowhere."""
    body = f"""
import types
library = types.ModuleType({name!r})
library.__path__ = []
def fail(attribute):
    print("canary-out")
    print("canary-err", file=sys.stderr)
    raise RuntimeError("canary-in-the-library")
library.__getattr__ = fail
sys.modules[{name!r}] = sys.modules[{name + ".backend"!r}] = library
sys.modules[{name + ".errors"!r}] = library
runpy.run_module(module, run_name="__main__")
"""
    instead_of_python(project, monkeypatch, body)
    _ = project.write("secretspec.toml", "")
    reference = {"keyring": "keyring://a/b", "secretspec": "secretspec:A"}[name]
    assert "failed" in project.failure(reference)
