"""What the gateway has to know of a role whose server somebody else runs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from orchestrator.config.project import load_project
from orchestrator.control.attach import attach
from orchestrator.control.stack import secrets_of
from orchestrator.errors import SettingsError, TargetUnavailableError
from orchestrator.model.names import RoleName
from orchestrator.model.settings import Settings, check_attach
from orchestrator.runtimes.address import Address

ROOT: Final = Path(__file__).resolve().parents[3]
URL: Final = "http://executor-wallet:8080/mcp"


def test_nothing_of_the_servers_own_is_kept() -> None:
    """Secrets, variables, programs and bootstraps are whoever's who starts the servers."""
    wanted = secrets_of(load_project(ROOT), ("executor",), Path("/nowhere"))
    assert wanted.bootstraps
    [spec] = attach(wanted, {RoleName("executor"): URL}).roles.values()
    assert (spec.secrets, spec.env, spec.container, spec.user) == ({}, {}, None, "")
    assert spec.tools == wanted.roles[RoleName("executor")].tools
    assert spec.attached == URL
    assert spec.http is not None
    assert attach(wanted, {RoleName("executor"): URL}).bootstraps == {}


def test_a_role_without_an_address_is_refused() -> None:
    """The error names each role that has none."""
    wanted = secrets_of(load_project(ROOT), (), Path("/nowhere"))
    with pytest.raises(SettingsError, match="monitoring and of treasury"):
        _ = attach(wanted, {RoleName("executor"): URL})


@pytest.mark.parametrize(
    "text",
    [
        "elsewhere:http://wallet:8080/mcp",
        "elsewhere:http://172.18.0.3:1/",
        "elsewhere:http://[fd00::2]:65535/a/b",
        "http://127.0.0.1:8080/mcp",
        "unix:/run/x/http.sock:/mcp",
    ],
)
def test_an_address_is_read_as_it_is_written(text: str) -> None:
    """Every form of an address comes back as it was."""
    assert str(Address.parse(text)) == text


def test_an_address_elsewhere_names_its_host() -> None:
    """The host of a server elsewhere is in the request's own `Host`."""
    found = Address.parse("elsewhere:http://[fd00::2]:8080/mcp")
    assert (found.host, found.port, found.path) == ("fd00::2", 8080, "/mcp")
    assert found.authority == "[fd00::2]:8080"


@pytest.mark.parametrize(
    "text",
    ["elsewhere:http://wallet/mcp", "elsewhere:http://wallet:0/mcp", "elsewhere:https://w:1/mcp",
     "elsewhere:http://wallet:8080", "http://wallet:8080/mcp", "http://10.0.0.1:8080/mcp"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    """A host of somebody else counts only where it is said to be one."""
    with pytest.raises(TargetUnavailableError):
        _ = Address.parse(text)


@pytest.mark.parametrize(
    "url",
    ["https://wallet:8080/mcp", "http://wallet/mcp", "http://wallet:8080", "http://w:99999/mcp",
     "http://user:pass@wallet:8080/mcp", "http://wallet:8080/a b", "wallet:8080/mcp"],
)  # fmt: skip
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    """Settings take plain HTTP with a port, and nothing that holds a password."""
    with pytest.raises(ValueError, match="the address of a server"):
        _ = check_attach(url)
    with pytest.raises(ValueError, match="attach"):
        _ = Settings.model_validate({"attach": {"reader": url}})
