"""What is told to an engine for containers, and what its answers mean; without an engine."""

from __future__ import annotations

import errno
import io
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import ContainerEngineError, ContainerError
from orchestrator.model.container import ContainerSpec
from orchestrator.model.workload import WorkloadSpec
from orchestrator.runtimes.docker_client import DockerClient
from orchestrator.runtimes.docker_container import (
    HostPlaces,
    configuration,
    container_name,
    environment,
    version_of,
)
from orchestrator.runtimes.docker_events import exit_of
from orchestrator.runtimes.docker_files import InsideUser, user_in
from orchestrator.runtimes.docker_trouble import cause_of, cure_of, unreachable

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.model.base import JsonObject

IMAGE = "sha256:" + 64 * "0"
PLACES = HostPlaces("/p/run/containers/x", "/p/logs/reader.log")


def spec(**fields: object) -> WorkloadSpec:
    """Describe a workload in a container."""
    container = {
        "image": IMAGE, "user": "mcp", "keep": {"/p/state/kept": "/kept"}, "memory": "64MiB",
        "cpus": 0.5, "pids": 9, "tmp": "1MiB", "engine": "/e.sock",
    }  # fmt: skip
    usual: dict[str, object] = {
        "role": "reader", "server": "shop", "bands": ("look",), "mode": "agent", "argv": ("shop",),
        "directory": "", "env": {"PLAIN": "canary-1"}, "secrets": {}, "tools": {},
        "known": frozenset[str](), "cut": False, "era": "auto", "restart": {}, "probe": {},
        "stop": {}, "container": container,
    }  # fmt: skip
    return WorkloadSpec.model_validate({**usual, **fields})


def described(network: str = "none", **fields: object) -> JsonObject:
    """Describe its container."""
    wanted = spec(**fields)
    assert isinstance(wanted.container, ContainerSpec)
    return configuration(
        "/p/run", wanted, wanted.container, PLACES,
        image=IMAGE, program=wanted.argv, network=network, volumes=("/data", "/kept"),
    )  # fmt: skip


def test_no_value_of_a_variable_is_told() -> None:
    """What the engine is told holds no variable, plain or secret."""
    assert "canary" not in str(described())
    assert "Env" not in described()


def test_a_description_is_known_again() -> None:
    """The same description has the same version, another one another version."""
    assert version_of(described()) == version_of(described())
    others = {version_of(described(network="n")), version_of(described(argv=("shop", "-v")))}
    assert len(others | {version_of(described())}) == 3


def test_what_an_image_wants_to_write_is_in_memory() -> None:
    """A directory that an image calls a volume is in memory, unless it is kept."""
    host = described()["HostConfig"]
    assert isinstance(host, dict)
    assert isinstance(host["Tmpfs"], dict)
    assert list(host["Tmpfs"]) == ["/tmp", "/data"]  # noqa: S108 - inside


def test_two_projects_have_two_names() -> None:
    """The same workload of two projects has two containers."""
    assert container_name("/a", "x.y.g1") != container_name("/b", "x.y.g1")
    assert container_name("/a", "x.y.g1").endswith("-x.y.g1")


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_any_value_survives_the_shell(value: str) -> None:
    """A shell reads every value as it is."""
    text = environment({"A": value}) + b'printf %s "$A"; printf %s "$BANDMASTER_LAUNCH"'
    done = subprocess.run(["/bin/sh"], input=text, check=True, capture_output=True)
    assert done.stdout == value.encode() + b"whole"


def test_a_value_with_a_nul() -> None:
    """A NUL character has no place in an environment; the value is not repeated."""
    with pytest.raises(
        ContainerError, match="a NUL character in the server's variable A"
    ) as caught:
        _ = environment({"A": "canary\0"})
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(("told", "meant"), [(0, 0), (3, 3), (137, -9), (143, -15), (255, 255)])
def test_exit_codes(told: int, meant: int) -> None:
    """The engine's own way to tell a signal becomes ours."""
    assert exit_of(told) == meant


def box(text: str) -> bytes:
    """Put a file into an archive, as the engine gives it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo("passwd")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text.encode()))
    return out.getvalue()


def test_users_of_an_image() -> None:
    """A user is found by name; root under another name, and none at all, are refused."""
    users = box("root:x:0:0::/:\nmcp:x:10:11::/:\ntoor:x:0:0::/:\nwheel:x:5:0::/:\nbad\n")
    assert user_in(users, "mcp", "i") == InsideUser(10, 11)
    for name in ("root", "toor", "wheel"):
        with pytest.raises(ContainerError, match="is root, or in its group"):
            _ = user_in(users, name, "i")
    for archive in (users, None):
        with pytest.raises(ContainerError, match="has no user nobody"):
            _ = user_in(archive, "nobody", "i")


def test_a_socket_that_may_not_be_used(tmp_path: Path) -> None:
    """That this user may not use the engine is told apart from an engine that is not there."""
    client = DockerClient(str(tmp_path / "none"))
    with pytest.raises(ContainerEngineError, match="there is no container engine"):
        _ = client.version()
    refused = unreachable("/s", PermissionError(errno.EACCES, "no"))
    assert "this user may not use the container engine" in str(refused)
    assert "member of the socket's group" in (refused.hint or "")
    assert "does not answer" in str(unreachable("/s", TimeoutError()))


def test_the_cause_inside_of_a_cause() -> None:
    """The system's own error is found under those of libraries."""
    inner = ConnectionRefusedError(errno.ECONNREFUSED, "no")
    assert cause_of(RuntimeError("a", RuntimeError(inner))) == errno.ECONNREFUSED
    assert cause_of(RuntimeError("a")) is None


@pytest.mark.parametrize(
    ("said", "cure"),
    [
        ("write /x: no space left on device", "disk of the engine is full"),
        ('The container name "/x" is already in use', "Nothing of it was touched"),
        ("exec: x: executable file not found in $PATH", "container: command:"),
        ("something else", "engine's log"),
    ],
)
def test_cures(said: str, cure: str) -> None:
    """A refusal of the engine comes with what to do about it."""
    assert cure in cure_of(said)
