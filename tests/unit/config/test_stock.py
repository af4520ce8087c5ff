"""The stock files, their schemas and the reference made from the same models."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import JsonValue, TypeAdapter

from orchestrator.config.project import Project, load_project
from orchestrator.config.schema import schemas
from orchestrator.config.stock import stock_files
from orchestrator.model.names import RoleName, ServerName

ROOT = Path(__file__).parents[3]
DATA = TypeAdapter(dict[str, JsonValue])
YAML_FILES = sorted(name for name in stock_files() if name.endswith(".yaml"))


def treasury(**more: JsonValue) -> dict[str, JsonValue]:
    """Return the content of a stock role, with changes."""
    text = (ROOT / "roles/treasury.yaml").read_text()
    return {**DATA.validate_python(yaml.safe_load(text)), **more}


def is_valid(schema: dict[str, JsonValue], content: JsonValue) -> bool:
    """Ask a validator that had no part in making the schema."""
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    return validator.is_valid(content)  # pyright: ignore[reportUnknownMemberType] # half typed


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Unpack and load the stock project."""
    for name, content in stock_files().items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return load_project(tmp_path)


def test_a_new_project_is_complete(project: Project) -> None:
    """The stock files alone are a sound project, each role with its promised number of tools."""
    counts = {
        name: len(project.servers[role.server].tools_of(role.band_names, role.mode))
        for name, role in project.roles.items()
    }
    assert counts == {"monitoring": 7, "treasury": 10, "executor": 13}
    assert (project.root / ".gitignore").read_text().splitlines() == ["/.env", "/.agents/"]
    assert (project.root / ".env.example").is_file()


def test_only_the_role_that_signs_has_secrets(project: Project) -> None:
    """Roles that only look or prepare could not sign even if their server were taken over."""
    assert {name for name, role in project.roles.items() if role.secrets} == {"executor"}
    secrets = project.roles[RoleName("executor")].secrets
    assert {name: str(reference) for name, reference in secrets.items()} == {
        "MPC_AGENT_TOKEN": "file:{state}/wallet-owner/executor.token",
        "WALLETSUITE_PASSPHRASE": "file:{state}/wallet-owner/passphrase",
    }


def test_both_wallet_servers_have_the_same_tools(project: Project) -> None:
    """Roles can move from the reference server to the real one by one word."""
    reference, real = (project.servers[ServerName(name)] for name in ("wallet", "walletsuite"))
    assert reference.tools == real.tools
    assert (reference.bands, reference.modes) == (real.bands, real.modes)
    assert len(real.tools_of(None, "agent")) == 13
    assert len(real.tools_of(None, "owner")) == 16


@pytest.mark.parametrize("name", YAML_FILES)
def test_stock_files_match_their_schema(name: str) -> None:
    """Each stock file names its schema, relative to itself, and is valid under it."""
    text = stock_files()[name].decode()
    first = text.splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    path = (ROOT / name).parent / first.partition("=")[2]
    schema = DATA.validate_json(path.resolve().read_text())
    assert is_valid(schema, DATA.validate_python(yaml.safe_load(text)))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("role", {"role": "x"}),
        ("role", treasury(baands=1)),
        ("role", treasury(env={"a": "b"})),
        ("role", treasury(secrets={"A": "b"})),
        ("agents", {"log_level": "loud"}),
        ("agents", {"hosts": ["*"]}),
    ],
)
def test_schemas_refuse_mistakes(file: str, content: JsonValue) -> None:
    """An editor marks unknown keys, improper names and literal secrets."""
    assert not is_valid(schemas()[f"{file}.schema.json"], content)


def test_schemas_take_references_in_both_forms() -> None:
    """An editor takes references as texts and commands as mappings, and marks mistakes in both."""
    stock = DATA.validate_python(yaml.safe_load(stock_files()["roles/executor.yaml"]))
    assert isinstance(stock, dict)
    references: list[tuple[JsonValue, bool]] = [
        ("vault:///secret/a#b", True),
        ("vault:///secret/a", False),
        ({"command": ["/bin/x"], "timeout": "5s", "stdin": "env:A"}, True),
        ({"command": []}, False),
        ({"command": ["/bin/x"], "shell": True}, False),
    ]
    for reference, is_right in references:
        role = DATA.validate_python({**stock, "secrets": {"A": reference}})
        assert is_valid(schemas()["role.schema.json"], role) == is_right


def test_every_key_is_described() -> None:
    """No key of any file lacks its meaning."""

    def keys(value: JsonValue) -> list[JsonValue]:
        if not isinstance(value, dict):
            return []
        properties = value.get("properties", {})
        own = list(properties.values()) if isinstance(properties, dict) else []
        return own + [key for inner in value.values() for key in keys(inner)]

    found = [key for schema in schemas().values() for key in keys(schema)]
    assert len(found) > 50
    assert [key for key in found if not (isinstance(key, dict) and key.get("description"))] == []


def test_generated_files_are_up_to_date() -> None:
    """`scripts/schemas --check` finds schemas and reference as the models make them."""
    result = subprocess.run(
        [sys.executable, ROOT / "scripts/schemas", "--check"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_an_installed_package_carries_the_stock_files() -> None:
    """The build puts everything that `stock_files` reads into the wheel."""
    wheel: JsonValue = DATA.validate_python(tomllib.loads((ROOT / "pyproject.toml").read_text()))
    for key in ("tool", "hatch", "build", "targets", "wheel", "force-include"):
        assert isinstance(wheel, dict)
        wheel = wheel.get(key)
    assert wheel == {
        "roles": "orchestrator/stock/roles",
        ".env.example": "orchestrator/stock/.env.example",
    }
