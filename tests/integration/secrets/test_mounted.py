"""Secrets that somebody else mounts: Kubernetes volumes, Docker, systemd."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from orchestrator.errors import SecretError
from orchestrator.model.secret import SecretRef
from orchestrator.secrets.docker_secret import PLACE, DockerSecretStore

if TYPE_CHECKING:
    from tests.integration.secrets.conftest import Need, Project

VALUE = "canary-mounted"


@pytest.fixture
def volume(project: Project) -> Path:
    """Lay a Kubernetes volume out as kubelet does: by two links, in a directory with a date."""
    place = project.root / "volume"
    _ = project.write("volume/..2026_11_20/token", f"{VALUE}-1\n", 0o400)
    (place / "..data").symlink_to("..2026_11_20")
    (place / "token").symlink_to("..data/token")
    return place


def test_a_kubernetes_volume(project: Project, volume: Path) -> None:
    """Links are followed where the reference says so, and a swapped volume is seen."""
    reference = f"file:{volume}/token"
    assert project.failure(reference) == (
        f"secret.store: {volume}/token is a symbolic link | "
        f"Name the file itself, or write file:{volume}/token?follow=true."
    )
    assert project.value(f"{reference}?follow=true") == f"{VALUE}-1"
    _ = project.write("volume/..2026_11_21/token", f"{VALUE}-2\n", 0o440)
    (volume / "..new").symlink_to("..2026_11_21")
    (volume / "..new").rename(volume / "..data")
    assert project.value(f"{reference}?follow=true") == f"{VALUE}-2"


def test_a_followed_link_is_checked_at_its_end(project: Project, volume: Path) -> None:
    """What a link leads to is held to the rules of any file with secrets, its directory too."""
    reference, target = f"file:{volume}/token?follow=true", volume / "..2026_11_20"
    for mode in (0o404, 0o420, 0o402, 0o401):
        (target / "token").chmod(mode)
        assert f"has mode 0{mode:o}" in project.failure(reference)
    (target / "token").chmod(0o400)
    target.chmod(0o777)
    assert "could be replaced: everybody may write its directory" in project.failure(reference)
    target.chmod(0o700)
    volume.chmod(0o777)
    assert f"chmod go-w {volume}" in project.failure(reference)
    volume.chmod(0o1777)
    assert project.value(reference) == f"{VALUE}-1"
    (volume / "..data").unlink()
    assert "does not exist" in project.failure(reference)


def docker(project: Project, name: str) -> str:
    """Read a Docker secret of a directory that stands for /run/secrets."""
    store = DockerSecretStore(project.root / "secrets")
    return store.read(SecretRef.parse(f"docker-secret:{name}")).value.get_secret_value()


def test_docker_secrets(project: Project) -> None:
    """A secret is a file of the container that all inside may read, and nobody may write."""
    _ = project.write("secrets/db", f"{VALUE}\n", 0o444)
    (project.root / "secrets").chmod(0o755)
    assert Path("/run/secrets") == PLACE
    assert docker(project, "db") == VALUE
    (project.root / "secrets/db").chmod(0o446)
    with pytest.raises(SecretError, match="has mode 0446"):
        _ = docker(project, "db")
    with pytest.raises(SecretError, match="does not exist") as caught:
        _ = docker(project, "other")
    assert caught.value.hint == "Give the container the secret other."
    (project.root / "secrets/link").symlink_to("db")
    with pytest.raises(SecretError, match="is a symbolic link"):
        _ = docker(project, "link")


def test_docker_secrets_outside_of_a_container(project: Project) -> None:
    """Where nothing is mounted the secret is missing."""
    assert "secret.not_found" in project.failure("docker-secret:no-such-secret-here")


def test_systemd_credentials(project: Project) -> None:
    """A credential is a file of the directory that systemd names, readable by an access list."""
    place = {"CREDENTIALS_DIRECTORY": str(project.root / "creds")}
    _ = project.write("creds/db", f"{VALUE}\n", 0o440)
    assert project.value("systemd-cred:db", place) == VALUE
    (project.root / "creds/db").chmod(0o444)
    assert "has mode 0444" in project.failure("systemd-cred:db", place)
    assert project.failure("systemd-cred:other", place).endswith(
        "does not exist | Add LoadCredential=other:/some/file to the service."
    )
    assert "CREDENTIALS_DIRECTORY is not set" in project.failure("systemd-cred:db")
    assert "is no absolute path" in project.failure(
        "systemd-cred:db", {"CREDENTIALS_DIRECTORY": "creds"}
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="the key of the machine belongs to root")
def test_an_encrypted_credential_of_systemd(project: Project, need: Need) -> None:
    """What systemd encrypted with the key of the machine and decrypts for a service is found."""
    program, root = need("systemd-creds"), project.root
    if not Path("/var/lib/systemd/credential.secret").exists():
        _ = subprocess.run([program, "setup"], check=True, capture_output=True)
    plain = project.write("plain", VALUE)
    words = [program, "encrypt", "--with-key=host", "--name=db", plain, root / "db.cred"]
    _ = subprocess.run(words, check=True, capture_output=True)
    assert VALUE.encode() not in (root / "db.cred").read_bytes()
    (root / "creds").mkdir(mode=0o500)
    words = [program, "decrypt", "--name=db", root / "db.cred", root / "creds/db"]
    _ = subprocess.run(words, check=True, capture_output=True)
    (root / "creds/db").chmod(stat.S_IRUSR)
    assert project.value("systemd-cred:db", {"CREDENTIALS_DIRECTORY": f"{root}/creds"}) == VALUE


def test_a_value_of_an_issued_credential(project: Project) -> None:
    """`issued:` is a field of what the rotation engine hands over, and of nothing else."""
    fields = {"": SecretStr(f"{VALUE}-whole"), "user": SecretStr(f"{VALUE}-user")}
    found = project.values(
        {"A": "issued:", "B": "issued:user", "C": "vault-lease:///db/creds/x#user"}, issued=fields
    )
    assert found == {"A": f"{VALUE}-whole", "B": f"{VALUE}-user", "C": f"{VALUE}-user"}
    with pytest.raises(SecretError) as caught:
        _ = project.values({"A": "issued:password"}, issued=fields)
    assert caught.value.code == "secret.not_found"
    assert str(caught.value) == "A: issued:password: the role's credential has no such field"
    assert caught.value.hint == "It has: the whole, user."
    with pytest.raises(SecretError, match="too short"):
        _ = project.values({"A": "issued:"}, issued={"": SecretStr("short")})
    assert "known to the daemon only" in project.failure("issued:")
