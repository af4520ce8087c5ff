"""`agents render kubernetes` and `swarm` on a project of files."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import pytest
import yaml
from typer.testing import CliRunner

from orchestrator.cli.main import app
from orchestrator.errors import AgentsError, RoleFileError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Generator

ROOT: Final = Path(__file__).parents[3]


@pytest.fixture
def project() -> Generator[Path]:
    """Copy the stock roles."""
    place = Path(tempfile.mkdtemp(prefix="bm-", dir="/tmp"))
    shutil.copytree(ROOT / "roles", place / "project/roles")
    yield place / "project"
    shutil.rmtree(place)


def render(project: Path, *words: str) -> str:
    """Run the command; give what it printed."""
    result = CliRunner().invoke(app, ["render", *words, "--project", str(project)])
    if isinstance(result.exception, AgentsError):
        raise result.exception
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return f"{result.exit_code} {result.output}"


@pytest.mark.parametrize("engine", ["kubernetes", "swarm"])
def test_the_stock_roles_render_and_are_compared(project: Path, engine: str) -> None:
    """What was written is as it would be; a change of a role file is told with status 2."""
    assert render(project, engine).startswith("0 ")
    place = project / engine
    texts = {path: path.read_text() for path in place.rglob("*") if path.is_file()}
    assert texts
    for path, text in texts.items():
        if path.suffix == ".yaml":
            _ = list(yaml.safe_load_all(text))
        else:
            assert path.name == "wallet.sh"
            _ = subprocess.run(["sh", "-n", path], check=True)
    assert render(project, engine, "--check").startswith("0 ")
    role = project / "roles/monitoring.yaml"
    _ = role.write_text(role.read_text().replace("bands: [read]", "bands: [read, prepare]"))
    assert render(project, engine, "--check").startswith("2 ")
    assert texts == {path: path.read_text() for path in texts}


def test_the_name_of_the_project_and_of_its_image_are_written(project: Path) -> None:
    """Both can be told, and the gateway serves just the roles that were named."""
    image = "registry.example/bandmaster@sha256:" + "0" * 64
    _ = render(project, "kubernetes", "monitoring", "--name", "desk", "--image", image)
    text = (project / "kubernetes/gateway.yaml").read_text()
    assert f"image: {image}" in text
    assert "app.kubernetes.io/instance: desk" in text
    assert "roles/monitoring.yaml" in text
    assert "roles/executor.yaml" not in text


def test_files_of_roles_that_are_gone_are_removed(project: Path) -> None:
    """An engine takes a directory as a whole: nothing of ours may stay, what is not ours does."""
    _ = render(project, "kubernetes")
    place = project / "kubernetes"
    _ = (place / "own.yaml").write_text("kind: Own\n")
    (project / "roles/treasury.yaml").unlink()
    with pytest.raises(SettingsError, match=r"treasury-wallet\.yaml is not what the roles say"):
        _ = render(project, "kubernetes", "--check")
    _ = render(project, "kubernetes")
    names = {path.name for path in place.iterdir()}
    assert "treasury-wallet.yaml" not in names
    assert {"executor-wallet.yaml", "own.yaml"} <= names


def test_a_generation_is_part_of_the_secrets_name(project: Path) -> None:
    """It is told for each role; a role without it has the first."""
    _ = render(project, "kubernetes", "--generation", "executor=7")
    assert "executor-wallet-g7" in (project / "kubernetes/executor-wallet.yaml").read_text()
    for wrong in ("executor", "executor=0", "executor=x", "nobody=2"):
        with pytest.raises(SettingsError, match="--generation"):
            _ = render(project, "kubernetes", "--generation", wrong)


def test_a_project_whose_directory_is_no_name_is_given_one(project: Path) -> None:
    """The name becomes a label, so not every directory's will do."""
    odd = project.rename(project.parent / "My Agents")
    with pytest.raises(SettingsError, match="my agents"):
        _ = render(odd, "swarm")
    assert render(odd, "swarm", "--name", "my-agents").startswith("0 ")


def test_nothing_is_written_for_what_cannot_run_so(project: Path) -> None:
    """A mistake in a file, or a server without a container, leaves nothing half made."""
    server = project / "roles/servers/wallet.yaml"
    text = server.read_text()
    _ = server.write_text(text.replace("container:\n", "kontainer:\n"))
    with pytest.raises(RoleFileError):
        _ = render(project, "swarm")
    said = cast("dict[str, dict[str, object]]", yaml.safe_load(text))
    del said["container"], said["bootstrap"]["keep"]
    _ = server.write_text(yaml.safe_dump(said))
    with pytest.raises(SettingsError, match="container"):
        _ = render(project, "swarm")
    assert not (project / "swarm").exists()


OAUTH: Final = """\
auth:
  mode: oauth
  issuer: {issuer}
  base: https://agents.example.com
  agents: [{{subject: someone, agent: alice, roles: [monitoring]}}]
"""


def test_the_gateway_gets_out_to_the_identity_provider(project: Path) -> None:
    """Where it asks for keys follows from the settings; this machine is none that it reaches."""
    settings = project / "agents.yaml"
    _ = settings.write_text(OAUTH.format(issuer="https://idp.example.com:8443/realm"))
    _ = render(project, "kubernetes")
    assert "port: 8443" in (project / "kubernetes/gateway.yaml").read_text()
    _ = settings.write_text(OAUTH.format(issuer="http://127.0.0.1:9000/realm"))
    with pytest.raises(SettingsError, match="is this machine"):
        _ = render(project, "kubernetes")


@pytest.mark.parametrize("engine", ["kubernetes", "swarm"])
def test_what_nobody_there_does_once_is_told(project: Path, engine: str) -> None:
    """The script for it is named, and goes away with the last role that needs it."""
    script = project / engine / "once/wallet.sh"
    assert f"{script} does it" in render(project, engine)
    assert re.search(r"MPC_AGENT_TOKEN[ =]\.agents/\S+/executor\.token", script.read_text())
    (project / "roles/executor.yaml").unlink()
    assert "once" not in render(project, engine)
    assert not script.exists()
