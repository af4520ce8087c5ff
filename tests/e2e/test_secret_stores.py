"""Secrets of several stores on their way into one process, and nowhere else."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pyrage

if TYPE_CHECKING:
    from tests.e2e.conftest import Project

SERVERS = Path(__file__).parents[1] / "servers"
SERVER = """\
server: shop
description: A shop.
owner: me@example.com
source: tests
launch:
  command: ["{python}", SERVERS/scripted.py, --tools, echo]
  accepts: {TILL: Opens the till., DOOR: Opens the door., ROOF: Opens the roof.}
bands: {names: [look], variable: BANDS}
tools: {echo: {band: look, class: READ}}
"""
ROLE = """\
role: clerk
justification: Sells goods.
owner: me@example.com
server: shop
bands: [look]
secrets:
  TILL: {command: ["{project}/tell"], stdin: "env:PIN", timeout: 60s}
  DOOR: age:{project}/shop.age?identity=file:{project}/age.key#DOOR
  ROOF: file:{project}/volume/roof?follow=true
"""


def prepare(project: Project) -> None:
    """Write the files of a role with secrets in three stores."""
    _ = project.write("roles/servers/shop.yaml", SERVER.replace("SERVERS", str(SERVERS)))
    _ = project.write("roles/clerk.yaml", ROLE)
    tell = project.write("tell", "#!/bin/sh\nread pin\necho canary-till-$pin\n")
    tell.chmod(0o700)
    project.write(".env", "PIN=canary-of-the-pin\n").chmod(0o600)
    key = cast("object", pyrage.x25519.Identity.generate())  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType] # no types
    project.write("age.key", f"{key}\n").chmod(0o600)
    sealed = cast("bytes", pyrage.encrypt(b"DOOR=canary-door\n", [key.to_public()]))  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType] # no types
    _ = (project.root / "shop.age").write_bytes(sealed)
    project.write("volume/..1/roof", "canary-roof\n").chmod(0o600)
    for name, target in (("..data", "..1"), ("roof", "..data/roof")):
        link = project.root / "volume" / name
        link.unlink(missing_ok=True)
        link.symlink_to(target)


def test_secrets_reach_one_process_alone(bare: Project) -> None:
    """Values of all stores are in the server's environment, and in nothing that is kept."""
    prepare(bare)
    checked = bare.agents("secrets", "check")
    assert checked.stdout.count(" found ") == 3
    _ = bare.agents("up", "-d")
    environ = Path(f"/proc/{bare.pid('clerk')}/environ").read_bytes().split(b"\0")
    for variable in (
        b"TILL=canary-till-canary-of-the-pin",
        b"DOOR=canary-door",
        b"ROOF=canary-roof",
    ):
        assert variable in environ
    assert not [variable for variable in environ if variable.startswith(b"PIN=")]
    for path in bare.state.rglob("*"):
        assert not path.is_file() or b"canary" not in path.read_bytes(), path
    for pid, words in bare.processes().items():
        assert "canary" not in words, pid
    assert "canary" not in checked.stdout + bare.agents("status").stdout


def test_a_store_in_trouble_starts_nothing(bare: Project) -> None:
    """A reference that does not resolve keeps a role from starting, and an old one running."""
    prepare(bare)
    (bare.root / "tell").write_text(f"#!{sys.executable}\nimport sys; sys.exit('no: ' + input())\n")
    failed = bare.agents("up", "-d", check=3)
    assert "clerk: TILL: command:" in failed.stderr
    assert "ended with status 1: no: [hidden]" in failed.stderr
    assert "Nothing was started." in failed.stderr
    assert bare.agents("secrets", "check", check=3).stdout.count(" untrusted ") == 1
    prepare(bare)
    _ = bare.agents("up", "-d")
    pid = bare.pid("clerk")
    (bare.root / "tell").chmod(0o777)
    refused = bare.agents("restart", "clerk", check=6)
    assert "could be replaced" in refused.stderr
    assert bare.pid("clerk") == pid
