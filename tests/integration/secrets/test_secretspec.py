"""`secretspec:` references, with the real library."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.secrets.conftest import Project

MANIFEST = """\
[project]
name = "shop"
revision = "1.0"
[profiles.default]
TILL = { description = "Opens the till.", required = true }
DOOR = { description = "Opens the door.", required = false }
SIGN = { description = "No secret.", required = false, default = "canary-default" }
[profiles.strict]
ROOF = { description = "Opens the roof.", required = true }
[profiles.files]
CERT = { description = "A file.", required = false, as_path = true }
[scopes.till]
secrets = ["TILL"]
"""


@pytest.fixture
def home(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Declare secrets, keep some in the store of the user's settings, and return the home."""
    home = tmp_path_factory.mktemp("home")
    kept = project.write("store.env", "TILL=canary-of-the-till\nCERT=canary-of-the-cert\n")
    _ = project.write("secretspec.toml", MANIFEST)
    settings = home / ".config/secretspec/config.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text(f'[defaults]\nprovider = "dotenv://{kept}"\n')
    return home


@pytest.fixture(autouse=True)
def at_home(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Live in that home."""
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def left(home: Path) -> set[str]:
    """Tell the files below a home."""
    return {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}


def test_a_declared_secret(project: Project, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The value comes from the store of the user's settings, and no trace is left of it."""
    assert project.value("secretspec:TILL") == "canary-of-the-till"
    assert left(home) == {".config/secretspec/config.toml"}
    assert capfd.readouterr() == ("", "")


def test_a_record_that_the_user_asked_for(project: Project, home: Path) -> None:
    """Who sets SecretSpec's own record up has it, still without values."""
    settings = home / ".config/secretspec/config.toml"
    settings.write_text(settings.read_text() + f'[audit]\npath = "{home}/record"\n')
    assert project.value("secretspec:TILL") == "canary-of-the-till"
    assert "canary" not in (home / "record").read_text()


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("secretspec:WALL", "secret.not_found: secretspec:WALL: FILE does not declare it | None"),
        ("secretspec:DOOR", "secret.not_found: secretspec:DOOR: no store of SecretSpec has it"),
        ("secretspec:SIGN", "secret.store: secretspec:SIGN stands in FILE as a default"),
        ("secretspec:TILL?profile=strict", "others of the profile are missing: ROOF"),
        ("secretspec:TILL?profile=files", "would write others of the profile into files: CERT"),
        ("secretspec:CERT?profile=files", "would write others of the profile into files: CERT"),
        ("secretspec:TILL?profile=none", "SecretSpec failed: invalid profile"),
        ("secretspec:TILL?scope=none", "SecretSpec failed: invalid scope"),
    ],
)
def test_what_is_refused(project: Project, home: Path, reference: str, message: str) -> None:
    """What is missing, stands in a file, or would be written into one, is told."""
    found = project.failure(reference).replace(f"{project.root}/secretspec.toml", "FILE")
    assert message in found
    assert left(home) == {".config/secretspec/config.toml"}
    assert not [each for each in project.root.iterdir() if each.name.startswith((".tmp", "bm-"))]


def test_a_scope_asks_for_less(project: Project) -> None:
    """With a scope only its secrets have to be there."""
    assert project.value("secretspec:TILL?profile=strict&scope=till") == "canary-of-the-till"
    assert project.value("secretspec:TILL?profile=files&scope=till") == "canary-of-the-till"


def test_files_with_mistakes(project: Project, home: Path) -> None:
    """A missing or damaged declaration, and damaged settings, are errors without their words."""
    _ = project.write("secretspec.toml", "canary = [")
    assert "SecretSpec failed" in project.failure("secretspec:TILL")
    (project.root / "secretspec.toml").unlink()
    assert project.failure("secretspec:TILL").endswith("| Declare TILL in it.")
    _ = project.write("secretspec.toml", MANIFEST)
    (home / ".config/secretspec/config.toml").write_text("canary = [")
    assert "SecretSpec failed" in project.failure("secretspec:TILL")
