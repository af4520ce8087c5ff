"""`age:` references, with files of pyrage and of Debian's `age`."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.secrets.conftest import Age, Identity, Need, Project

TEXT = "# all of the shop\nTILL=canary-of-the-till\nexport DOOR='canary of the door'\nEMPTY=\n"
WHOLE = "age:{project}/shop.age?identity=file:{state}/age.key"


@pytest.fixture
def identity(project: Project, age: Age) -> Identity:
    """Return an identity, kept as age-keygen writes it."""
    key = age.x25519.Identity.generate()
    text = f"# created: 2026-11-20\n# public key: {key.to_public()}\n{key}\n"
    _ = project.write(".agents/age.key", text)
    return key


@pytest.mark.parametrize("armored", [False, True])
def test_a_file_of_pyrage(project: Project, age: Age, identity: Identity, *, armored: bool) -> None:
    """One line of the decrypted file is the value, or the whole of it, binary or armored."""
    content = age.encrypt(TEXT.encode(), [identity.to_public()], armored=armored)
    _ = project.write("shop.age", content, 0o644)
    assert project.value(f"{WHOLE}#TILL") == "canary-of-the-till"
    assert project.value(f"{WHOLE}#DOOR") == "canary of the door"
    assert project.value(WHOLE) == TEXT.removesuffix("\n")
    assert project.failure(f"{WHOLE}#ROOF") == (
        f"secret.not_found: {project.root}/shop.age does not set ROOF | None"
    )
    assert "is empty" in project.failure(f"{WHOLE}#EMPTY")


def test_a_file_of_the_program(project: Project, need: Need, tmp_path: Path) -> None:
    """A file that age itself encrypted, for an identity that age-keygen made, is read."""
    key, plain = project.state / "age.key", project.write("plain", TEXT)
    _ = subprocess.run([need("age-keygen"), "-o", key], check=True, capture_output=True)
    public = subprocess.run(
        [need("age-keygen"), "-y", key], check=True, capture_output=True, text=True
    ).stdout.strip()
    words = [need("age"), "-r", public, "-o", tmp_path / "shop.age", plain]
    _ = subprocess.run(words, check=True, capture_output=True)
    assert project.value(f"{WHOLE}#TILL") == "canary-of-the-till"


def test_an_identity_of_ssh(project: Project, age: Age) -> None:
    """A key of SSH opens what was encrypted for it."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    recipient = age.ssh.Recipient.from_str(public.decode())
    _ = project.write(".agents/age.key", private)
    _ = project.write("shop.age", age.encrypt(TEXT.encode(), [recipient]))
    assert project.value(f"{WHOLE}#TILL") == "canary-of-the-till"


def test_the_identity_comes_from_any_store(project: Project, age: Age, identity: Identity) -> None:
    """The identity is a reference like others, with the same checks."""
    _ = project.write("shop.age", age.encrypt(TEXT.encode(), [identity.to_public()]))
    _ = project.write("my.env", f"AGE='{identity}'\n")
    inside = "age:{project}/shop.age?identity="
    assert project.value(f"{inside}env:AGE#TILL", {"AGE": str(identity)}) == "canary-of-the-till"
    found = project.value(f"{inside}dotenv:{{project}}/my.env%23AGE#TILL")
    assert found == "canary-of-the-till"
    assert "env:AGE is empty" in project.failure(f"{inside}env:AGE#TILL", {"AGE": ""})
    (project.state / "age.key").chmod(0o644)
    assert "has mode 0644" in project.failure(WHOLE)


def test_identities_that_do_not_fit(project: Project, age: Age) -> None:
    """Another identity, and what is none, are told apart; neither is repeated."""
    _ = project.write(".agents/age.key", str(age.x25519.Identity.generate()))
    other = age.x25519.Identity.generate()
    _ = project.write("shop.age", age.encrypt(TEXT.encode(), [other.to_public()]))
    assert project.failure(WHOLE) == (
        f"secret.store: {project.root}/shop.age cannot be decrypted with the identity of "
        f"file:{project.state}/age.key | "
        "It is damaged, no age file, or was encrypted for somebody else."
    )
    for text in ("AGE-SECRET-KEY-1CANARY", "-----BEGIN OPENSSH PRIVATE KEY-----\ncanary\n", "# no"):
        _ = project.write(".agents/age.key", text + "\n# canary-comment\n")
        assert f"file:{project.state}/age.key holds no identity" in project.failure(WHOLE)


def test_damaged_files(project: Project, age: Age, identity: Identity) -> None:
    """A cut-off, foreign or empty file, and one that others may replace, are refused."""
    content = age.encrypt(TEXT.encode(), [identity.to_public()])
    for damaged in (content[:-1], content[: len(content) // 2], b"canary" * 20, b""):
        _ = project.write("shop.age", damaged)
        assert "cannot be decrypted" in project.failure(WHOLE)
    _ = project.write("shop.age", content, 0o666)
    assert "has mode 0666" in project.failure(WHOLE)
    _ = project.write("shop.age", age.encrypt(b"canary\xff\xfe!", [identity.to_public()]))
    assert "holds no UTF-8 text" in project.failure(WHOLE)
    _ = project.write("shop.age", age.encrypt(b"A='canary\n", [identity.to_public()]))
    assert "line 1 cannot be read" in project.failure(f"{WHOLE}#A")
