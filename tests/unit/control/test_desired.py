"""From the stock files of the checkout to what has to run."""

import re
import sys
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest
from pydantic import TypeAdapter

from orchestrator.cli.project import Checked, check_project
from orchestrator.control.desired import SYSTEM_PATH
from orchestrator.model.base import JsonObject
from orchestrator.model.desired import Desired
from orchestrator.model.issuers_cloud import VaultLeaseIssuer
from orchestrator.model.names import RoleName, SecretName, ServerName
from orchestrator.model.workload import WorkloadSpec

CHECKOUT: Final = Path(__file__).parents[3]
READ = {
    "get_balance",
    "get_all_balances",
    "get_price",
    "get_fee_quote",
    "resolve_asset",
    "get_tx_status",
    "get_tx_history",
}
PREPARE = {"prepare_transfer", "prepare_serialized_unsigned_tx", "prepare_onramp"}
FULL = {"get_wallet_address", "sign_transaction", "send_transaction"}


@pytest.fixture
def checked(root: Path) -> Checked:
    """Check a project that has the checkout's own role files."""
    (root / "roles").symlink_to(CHECKOUT / "roles")
    return check_project(root, None, ())


def baseline(root: Path, role: str) -> dict[str, str]:
    """Tell the variables that every instance has."""
    return {
        "HOME": f"{root}/.agents/homes/{role}",
        "LANG": "C.UTF-8",
        "PATH": SYSTEM_PATH,
        "TMPDIR": f"{root}/.agents/tmp/{role}",
        "TZ": "UTC",
        "WALLETSERVER_LEDGER": f"{root}/.agents/wallet/ledger.sqlite3",
    }


def spec_of(checked: Checked, role: str) -> WorkloadSpec:
    """Find a role's spec."""
    return checked.desired.roles[RoleName(role)]


@pytest.mark.parametrize(
    ("role", "bands", "own", "tools"),
    [
        ("monitoring", ("read",), {"MCP_BANDS": "read"}, READ),
        ("treasury", ("read", "prepare"), {"MCP_BANDS": "read,prepare"}, READ | PREPARE),
        (
            "executor",
            ("read", "prepare", "sign", "broadcast"),
            {"MCP_BANDS": "full", "MPC_AUTH_MODE": "agent"},
            READ | PREPARE | FULL,
        ),
    ],
)
def test_stock_roles_get_exactly_this(
    checked: Checked, role: str, bands: tuple[str, ...], own: dict[str, str], tools: set[str]
) -> None:
    """Each role's environment and tools are these and no others; the mode is set from sign on."""
    root, spec = checked.paths.root, spec_of(checked, role)
    if role == "executor":
        own = {**own, "WALLETSUITE_AUDIT_PATH": f"{root}/.agents/wallet/executor-audit.jsonl"}
    assert spec.env == {**baseline(root, role), **own}
    assert list(spec.env) == sorted(spec.env)
    assert spec.bands == bands
    assert spec.tools.keys() == tools
    assert len(spec.known) == 16
    assert not spec.cut
    assert spec.directory == f"{root}/.agents/homes/{role}"
    assert spec.argv == (sys.executable, "-I", "-m", "walletserver")
    assert (spec.name, spec.generation) == (f"{role}.wallet.g1", 1)


def test_only_the_one_that_signs_has_secrets(checked: Checked) -> None:
    """References are filled in and absolute; nobody else has any."""
    state = checked.paths.state
    found = {
        role: {name: str(reference) for name, reference in spec.secrets.items()}
        for role, spec in checked.desired.roles.items()
    }
    assert found == {
        "monitoring": {},
        "treasury": {},
        "executor": {
            "MPC_AGENT_TOKEN": f"file:{state}/wallet-owner/executor.token",
            "WALLETSUITE_PASSPHRASE": f"file:{state}/wallet-owner/passphrase",
        },
    }
    assert checked.variables == frozenset()


def test_classes_come_from_the_server_file(checked: Checked) -> None:
    """What a call does to the world is known for every promised tool."""
    tools: dict[str, str] = {**spec_of(checked, "executor").tools}
    assert {name for name, kind in tools.items() if kind == "DESTRUCTIVE"} == {"send_transaction"}
    assert {tools[name] for name in READ} == {"READ"}


def test_the_bootstrap_is_filled_in(checked: Checked) -> None:
    """It runs in owner mode, in a home of its own, and every place in it is absolute."""
    root, state = checked.paths.root, checked.paths.state
    assert checked.desired.bootstraps.keys() == {"wallet"}
    bootstrap = checked.desired.bootstraps[ServerName("wallet")]
    assert bootstrap.spec.name == "bootstrap.wallet.g1"
    assert bootstrap.spec.env == {
        **baseline(root, "bootstrap-wallet"),
        "MCP_BANDS": "read,prepare,sign",
        "MPC_AUTH_MODE": "owner",
        "WALLETSERVER_TOKEN_FILE": f"{state}/wallet-owner/executor.token",
    }
    assert {name: str(ref) for name, ref in bootstrap.spec.secrets.items()} == {
        "WALLETSUITE_PASSPHRASE": f"file:{state}/wallet-owner/passphrase"
    }
    assert bootstrap.generate == {f"{state}/wallet-owner/passphrase": 32}
    assert bootstrap.produces == (f"{state}/wallet-owner/executor.token",)
    assert bootstrap.files == {
        f"{state}/wallet-owner/passphrase",
        f"{state}/wallet-owner/executor.token",
    }
    assert [call.tool for call in bootstrap.calls] == [
        "create_wallet",
        "create_custom_policy",
        "create_agent_api_key",
    ]
    assert bootstrap.calls[0].accept == ("WALLET_EXISTS",)


def test_no_value_of_a_secret_is_anywhere(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept on disk and sent over the socket has references only."""
    canary = "canary-5dd1a2"
    (root / "roles").mkdir()
    (root / "roles/servers").symlink_to(CHECKOUT / "roles/servers")
    text = (CHECKOUT / "roles/executor.yaml").read_text()
    text = re.sub(r"file:\{state\}/wallet-owner/passphrase", "env:PASSPHRASE", text)
    _ = (root / "roles/executor.yaml").write_text(text)
    (root / ".env").write_text(f"PASSPHRASE={canary}\n")
    (root / ".env").chmod(0o600)
    (root / ".agents/wallet-owner").mkdir(parents=True)
    (root / ".agents/wallet-owner/passphrase").write_text(canary)
    monkeypatch.setenv("PASSPHRASE", canary)
    checked = check_project(root, None, ())
    assert checked.variables == {"PASSPHRASE"}
    assert canary not in checked.desired.model_dump_json(by_alias=True)
    assert canary not in repr(checked)


def test_what_should_run_survives_the_socket(checked: Checked) -> None:
    """The daemon reads exactly what the command wrote."""
    sent: JsonObject = TypeAdapter(JsonObject).validate_json(
        checked.desired.model_dump_json(by_alias=True)
    )
    assert Desired.model_validate(sent, strict=False) == checked.desired


def test_a_role_is_planned_alone(root: Path) -> None:
    """Only the roles that were asked for run, and only their servers' bootstraps."""
    (root / "roles").symlink_to(CHECKOUT / "roles")
    wanted = check_project(root, None, ("treasury",)).desired
    assert wanted.roles.keys() == {"treasury"}
    assert wanted.bootstraps.keys() == {"wallet"}


# A server without bands and modes of its own.

SERVER = """\
server: plain
description: A server that knows nothing of bands.
owner: me@example.com
source: here
launch:
  command: ["{python}", -V]
  directory: "{project}"
  env: {PLACE: "{role} in {project}"}
  accepts: {COLOUR: Colour of it all.}
bands: {names: [look, touch], cumulative: false}
tools:
  see: {band: look, class: READ}
  push: {band: touch, class: WRITE}
"""
ROLE = """\
role: NAME
justification: Because of a test.
owner: me@example.com
server: plain
bands: [touch]
env: {COLOUR: "{role}-red"}
"""


def test_a_server_without_bands_is_cut(root: Path) -> None:
    """No variable tells it its bands or mode; the gateway cuts, and placeholders are filled."""
    (root / "roles/servers").mkdir(parents=True)
    _ = (root / "roles/servers/plain.yaml").write_text(SERVER)
    _ = (root / "roles/hand.yaml").write_text(ROLE.replace("NAME", "hand"))
    wanted = check_project(root, None, ()).desired
    spec = wanted.roles[RoleName("hand")]
    assert (spec.cut, spec.tools, spec.known) == (True, {"push": "WRITE"}, {"see", "push"})
    assert spec.directory == str(root)
    own = baseline(root, "hand") | {"PLACE": f"hand in {root}", "COLOUR": "hand-red"}
    del own["WALLETSERVER_LEDGER"]
    assert spec.env == own
    assert wanted.bootstraps == {}


def test_what_a_role_says_of_its_processes_and_calls(root: Path) -> None:
    """Who shares, who stands by and what calls may do is part of the spec; usually it is little."""
    (root / "roles/servers").mkdir(parents=True)
    _ = (root / "roles/servers/plain.yaml").write_text(SERVER + "asks: [elicitation]\n")
    role = ROLE + "limits: {concurrency: 3}\nresources: [plain://a]\n"
    _ = (root / "roles/hand.yaml").write_text(role.replace("NAME", "hand") + "standby: 1\n")
    own = role.replace("NAME", "own") + "instances: per-agent\n"
    _ = (root / "roles/own.yaml").write_text(own)
    checked = check_project(root, None, ())
    hand, own_spec = spec_of(checked, "hand"), spec_of(checked, "own")
    assert (hand.sharing, hand.standby) == ("per-role", 1)
    assert (own_spec.sharing, own_spec.standby) == ("per-agent", 0)
    assert hand.policy == own_spec.policy
    assert hand.policy.limits.concurrency == 3
    assert (hand.policy.resources, hand.policy.prompts) == (("plain://a",), ())
    assert hand.policy.asks == ("elicitation",)


OTHER_SERVER = """
server: other
description: A server whose mode counts from the first band on.
owner: tests
source: tests
launch: {command: ["{python}", -c, pass]}
bands: {names: [read, write]}
modes: {variable: OTHER_MODE}
tools: {look: {band: read, class: READ}, "make": {band: write, class: WRITE}}
bootstrap:
  bands: full
  mode: owner
  calls:
    - tool: make
      arguments: {paths: ["{state}/a", {b: "{project}/b"}], count: 3, yes: true}
"""
OTHER_ROLE = """
role: reader
justification: A test.
owner: tests
server: other
bands: [read]
mode: owner
"""


def test_placeholders_are_filled_in_wherever_they_stand(root: Path) -> None:
    """Arguments of a bootstrap are filled in at any depth, and what is no text stays as it is."""
    (root / "roles" / "servers").mkdir(parents=True)
    _ = (root / "roles" / "servers" / "other.yaml").write_text(OTHER_SERVER)
    _ = (root / "roles" / "reader.yaml").write_text(OTHER_ROLE)

    checked = check_project(root, None, ())

    spec = spec_of(checked, "reader")
    assert spec.env[SecretName("OTHER_MODE")] == "owner"
    assert spec.cut
    bootstrap = checked.desired.bootstraps[ServerName("other")]
    assert bootstrap.spec.bands == ("read", "write")
    assert bootstrap.calls[0].arguments == {
        "paths": [f"{root}/.agents/a", {"b": f"{root}/b"}],
        "count": 3,
        "yes": True,
    }


# What issuers make.

WALLET = """\
issuers:
  wallet: {kind: walletsuite, wallet: treasury, env: {WALLETSUITE_AUDIT_PATH: "{state}/audit"},
    secrets: {WALLETSUITE_PASSPHRASE: env:OWNERS_PASSPHRASE}}
stores:
  default: {kind: vault, address: "https://vault.example.com", token: env:VAULT_TOKEN}
vault: {key: env:VAULT_KEY}
"""


def write_issued(root: Path, reference: str, rotation: str) -> Desired:
    """Plan the role that signs with a token that somebody issues."""
    (root / "roles").mkdir()
    (root / "roles/servers").symlink_to(CHECKOUT / "roles/servers")
    text = (CHECKOUT / "roles/executor.yaml").read_text()
    text = text.replace("file:{state}/wallet-owner/executor.token", f"'{reference}'")
    _ = (root / "roles/executor.yaml").write_text(f"{text}\n{rotation}\n")
    _ = (root / "agents.yaml").write_text(WALLET)
    checked = check_project(root, None, ())
    # The daemon needs the variables of issuers, stores and the vault, too.
    assert {"OWNERS_PASSPHRASE", "VAULT_TOKEN", "VAULT_KEY"} <= checked.variables
    return checked.desired


def test_the_owners_instance_is_planned(root: Path) -> None:
    """It has just the bands that making a token takes, and a home apart from its role's."""
    wanted = write_issued(root, "issued:", "rotation: {upstream: {issuer: wallet}}")
    assert wanted.credentials.owners.keys() == {"executor"}
    owner = wanted.credentials.owners[RoleName("executor")]
    state = root / ".agents"
    assert (owner.role, owner.mode, owner.bands) == (
        "bootstrap", "owner", ("read", "prepare", "sign")
    )  # fmt: skip
    env: dict[str, str] = {**owner.env}
    assert env["MCP_BANDS"] == "read,prepare,sign"
    assert env["MPC_AUTH_MODE"] == "owner"
    assert env["WALLETSUITE_AUDIT_PATH"] == f"{state}/audit"
    assert env["HOME"] == f"{state}/homes/bootstrap.owner.executor"
    assert {name: str(ref) for name, ref in owner.secrets.items()} == {
        "WALLETSUITE_PASSPHRASE": "env:OWNERS_PASSPHRASE"
    }
    assert "create_agent_api_key" in owner.tools
    role = wanted.roles[RoleName("executor")]
    assert str(role.secrets[SecretName("MPC_AGENT_TOKEN")]) == "issued:"
    names = {owner.name, role.name, wanted.bootstraps[ServerName("wallet")].spec.name}
    assert len(names) == 3
    assert str(wanted.credentials.vault.key) == "env:VAULT_KEY"


def test_a_lease_is_an_issuer_of_its_own(root: Path) -> None:
    """References to a lease become what an implied issuer makes, with the rule of the role."""
    rotation = "rotation: {upstream: {every: 30d}}"
    wanted = write_issued(root, "vault-lease:///database/creds/app#password", rotation)
    role = wanted.roles[RoleName("executor")]
    assert str(role.secrets[SecretName("MPC_AGENT_TOKEN")]) == "issued:password"
    assert role.rotation.upstream is not None
    assert role.rotation.upstream.issuer == "lease-executor"
    assert role.rotation.upstream.every == timedelta(days=30)
    lease = wanted.credentials.issuers["lease-executor"]
    assert lease == VaultLeaseIssuer(kind="vault-lease", path="database/creds/app")
    assert wanted.credentials.owners == {}
