"""What is rendered for Docker Compose: as committed, valid, hardened, and without a secret."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import pytest
import yaml

from orchestrator.cli.render_compose import compose_files
from orchestrator.config.project import load_project
from orchestrator.control.stack import stack_of
from orchestrator.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

Object = dict[str, object]
ROOT: Final = Path(__file__).resolve().parents[3]
FILES: Final = ("compose.yaml", "executor.yaml", "monitoring.yaml", "treasury.yaml")
SERVER: Final = """\
server: wallet
description: A server.
owner: tests
source: the tests
launch: {command: [wallet]}
bands: {names: [read]}
tools: {look: {band: read, class: READ}}
"""
CONTAINER: Final = """\
container:
  image: wallet@sha256:0000000000000000000000000000000000000000000000000000000000000000
  command: [wallet, "$HOME"]
  env: {PRICE: "5$"}
"""
ON_PORT: Final = """\
  http: {env: {PORT: "{port}"}, path: /rpc}
"""
ROLE: Final = """\
role: looker
justification: A test.
owner: tests
server: wallet
bands: full
"""


def services(text: str) -> Mapping[str, Object]:
    """Read the services of a file."""
    return cast("Mapping[str, Object]", cast("Object", yaml.safe_load(text))["services"])


def render(place: Path, server: str, role: str = ROLE) -> dict[str, str]:
    """Render a project of one role and one server."""
    (place / "roles" / "servers").mkdir(parents=True)
    _ = (place / "roles" / "servers" / "wallet.yaml").write_text(server)
    _ = (place / "roles" / "looker.yaml").write_text(role)
    return compose_files(load_project(place), (), place / "compose")


def check(*files: Path) -> subprocess.CompletedProcess[str]:
    """Hold files against the schema of the Compose Specification."""
    words = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    return subprocess.run([*words, *map(str, files)], capture_output=True, text=True, check=False)


def test_what_is_committed_is_what_the_roles_render() -> None:
    """The files in the repository differ in nothing from what `agents render compose` writes."""
    rendered = compose_files(load_project(ROOT), (), ROOT / "compose")
    assert {*FILES} <= rendered.keys()
    for name, text in rendered.items():
        assert (ROOT / "compose" / name).read_text() == text, f"run `agents render compose`: {name}"


def test_the_files_fit_the_specification(tmp_path: Path) -> None:
    """All files are valid, and the check finds a misspelt key."""
    assert check(*(ROOT / "compose" / name for name in FILES)).returncode == 0
    wrong = tmp_path / "compose.yaml"
    text = (ROOT / "compose" / "treasury.yaml").read_text()
    _ = wrong.write_text(text.replace("read_only: true\n    tmpfs", "readonly: true\n    tmpfs"))
    done = check(wrong)
    assert done.returncode == 1
    assert "readonly" in done.stdout


@pytest.mark.parametrize("name", FILES)
def test_every_service_is_hardened(name: str) -> None:
    """No container may write its root, has a capability, or more than its share."""
    for service in services((ROOT / "compose" / name).read_text()).values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["user"] == "10001:10001"
        assert service["mem_limit"] == service["memswap_limit"]
        assert cast("int", service["pids_limit"]) <= 256
        assert service["cpus"]
        assert not {"privileged", "cap_add", "devices", "pid", "ipc", "env_file"} & service.keys()


@pytest.mark.parametrize("name", FILES)
def test_only_the_gateway_is_reached_from_this_machine(name: str) -> None:
    """Servers publish nothing, and each is in one network alone, which leads nowhere."""
    text = (ROOT / "compose" / name).read_text()
    body = cast("Mapping[str, Mapping[str, Object]]", yaml.safe_load(text))
    shared: list[object] = []
    for each, service in services(text).items():
        if each.startswith("gateway"):
            ports = cast("list[str]", service["ports"])
            assert all(port.startswith("127.0.0.1:") for port in ports)
            continue
        assert "ports" not in service
        if service.get("network_mode") == "none":
            continue
        [network] = cast("list[str]", service["networks"])
        assert body["networks"][network]["internal"] is True
        shared.append(network)
    assert len(shared) == len(set(map(str, shared)))


@pytest.mark.parametrize("name", FILES)
def test_a_secret_is_a_file_whose_name_has_its_generation(name: str) -> None:
    """Variables name files only, and each file's name ends with a generation."""
    body = cast(
        "Mapping[str, Mapping[str, Object]]", yaml.safe_load((ROOT / "compose" / name).read_text())
    )
    for service in body["services"].values():
        given = cast("Object", service.get("environment", {}))
        assert not {"MPC_AGENT_TOKEN", "WALLETSUITE_PASSPHRASE"} & given.keys()
    for secret in body.get("secrets", {}).values():
        assert [*secret] == ["file"]
        assert re.search(r"/[A-Z_]+\.g(1|\$\{[A-Z_]+_GENERATION:-1\})$", str(secret["file"]))


def test_a_stack_of_one_role_has_that_role_alone() -> None:
    """The gateway of a role's own stack serves no other role."""
    found = services((ROOT / "compose" / "treasury.yaml").read_text())
    assert found.keys() == {"gateway-treasury", "treasury-wallet"}
    command = cast("list[str]", found["gateway-treasury"]["command"])
    assert command[-1] == "treasury"
    assert not {"executor", "monitoring"} & {*command}


def test_what_a_server_needs_is_carried_over(tmp_path: Path) -> None:
    """Words with a dollar sign arrive as they are, and hosts outside are reached by a proxy."""
    _ = tmp_path.joinpath("agents.yaml").write_text(f"docker: {{image: ours@sha256:{'0' * 64}}}\n")
    role = f"{ROLE}runtime: container\negress: [api.example.com:443]\n"
    files = render(tmp_path, f"{SERVER}{CONTAINER}{ON_PORT}", role)
    found = services(files["looker.yaml"])
    server, proxy = found["looker-wallet"], found["looker-egress"]
    assert server["command"] == ["wallet", "$$HOME"]
    given = cast("Object", server["environment"])
    assert (given["PRICE"], given["PORT"]) == ("5$$", "8080")
    assert given["HTTPS_PROXY"] == "http://looker-egress:3128"
    assert server["networks"] == ["role-looker"]
    assert proxy["networks"] == ["role-looker", "outside"]
    assert cast("list[str]", proxy["command"])[-2:] == ["--allow", "api.example.com:443"]
    # The image's own asks a gateway, which a proxy is not.
    assert "3128" in str(proxy["healthcheck"])
    assert server["depends_on"] == {"looker-egress": {"condition": "service_healthy"}}
    assert "http://looker-wallet:8080/rpc" in files["gateway/agents.yaml"]
    # Without it the gateway would refuse a role that lists `egress:`.
    assert "ours@sha256:" in files["gateway/agents.yaml"]
    written = tmp_path / "compose.yaml"
    _ = written.write_text(files["compose.yaml"])
    assert check(written).returncode == 0


@pytest.mark.parametrize(
    ("server", "said"),
    [
        (SERVER, "does not say how the server runs in a container"),
        (f"{SERVER}{CONTAINER}", "listens on no port"),
    ],
)
def test_a_server_that_no_container_can_reach_is_refused(
    tmp_path: Path, server: str, said: str
) -> None:
    """A server without a container, or without a port, is an error that says so."""
    with pytest.raises(SettingsError, match=said):
        _ = render(tmp_path, server)


def test_nothing_of_the_stack_is_about_roles_that_were_not_named() -> None:
    """What a role's own gateway reads does not hold the other roles."""
    stack = stack_of(load_project(ROOT), ("treasury",), name="x", image="y")
    assert stack.files.keys() == {
        "agents.yaml",
        "roles/treasury.yaml",
        "roles/servers/wallet.yaml",
    }
    assert stack.bootstraps == ()
