"""Issuers, and rotations of roles: every mistake has its place and our words."""

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.config.project import load_project
from orchestrator.config.rotationcheck import rotation_notes
from orchestrator.model.issuers import CommandIssuer, lease_issuer
from orchestrator.model.names import RoleName

Complaints = Callable[[], list[str]]
Replace = Callable[[str, str], None]

# One issuer, named `x`, that is written on one line: what is said about it.
ISSUERS = {
    "{kind: command, overlap: true, revoke: api, run: [program]}": [
        (
            "run[0]: the program has to be named by its whole path; "
            "begin it with /, {project}/ or {state}/, or write {python}"
        )
    ],
    "{kind: command, overlap: true, revoke: api, run: [/usr/bin/npx, keys]}": [
        (
            "run[0]: npx fetches code when it starts, and would run it with this environment; "
            "install the package at a fixed version, and name its program here"
        )
    ],
    "{kind: command, overlap: true, revoke: api, run: [/bin/sh, -c, 'echo {}']}": [
        (
            "run[0]: sh -c hides what is started with these secrets; "
            "name the program itself, or a script of your own"
        )
    ],
    "{kind: command, overlap: true, revoke: api, run: ['{project}/k', '{role}']}": [
        "run[1]: unknown placeholder `role`; known: {python}, {project}, {state}"
    ],
    "{kind: command, overlap: true, revoke: api, run: [/k, --token=abcdef]}": [
        (
            "run[1]: looks like a secret, and every user of the machine can read a program's "
            "arguments; put it under `secrets:` as a reference, such as env:NAME"
        )
    ],
    "{kind: command, overlap: true, revoke: manual}": [
        "no program is there for mint; add `run:`, or `verbs: mint:`"
    ],
    "{kind: command, overlap: true, revoke: disable, probes: true, lists: true, "
    "verbs: {mint: [/k]}}": [
        "no program is there for probe; add `run:`, or `verbs: probe:`",
        "no program is there for revoke; add `run:`, or `verbs: revoke:`",
        "no program is there for list; add `run:`, or `verbs: list:`",
    ],
    "{kind: command, overlap: true, revoke: manual, run: [/k], verbs: {revoke: [/k]}}": [
        "verbs.revoke: is never asked for; add `revoke: api`, or remove it"
    ],
    "{kind: command, overlap: true, revoke: manual, run: [/k], verbs: {probe: [k]}}": [
        "verbs.probe: is never asked for; add `probes: true`, or remove it",
        (
            "verbs.probe[0]: the program has to be named by its whole path; "
            "begin it with /, {project}/ or {state}/, or write {python}"
        ),
    ],
    "{kind: command, overlap: true, revoke: manual, run: [/k], verbs: {make: [/k]}}": [
        "verbs.make: `make` is not a name that can stand here; known: list, mint, probe, revoke"
    ],
    "{kind: command, overlap: true, revoke: expiry, run: [/k]}": [
        "revoke: a credential that ends by its time alone needs one; add `max_life:`"
    ],
    "{kind: command, overlap: true, revoke: api, run: [/k], timeout: 0s}": [
        "timeout: this duration has to be longer than nothing"
    ],
    "{kind: command, overlap: true, revoke: api, run: [/k], env: {API_TOKEN: abcdefgh}}": [
        (
            "env.API_TOKEN: looks like a secret; "
            "put it under `secrets:` as a reference, such as env:NAME"
        )
    ],
    "{kind: command, overlap: true, revoke: api, run: [/k], env: {A: '{role}'}}": [
        "env.A: unknown placeholder `role`; known: {python}, {project}, {state}"
    ],
    "{kind: command, overlap: true, revoke: api, run: [/k], env: {A: b}, secrets: {A: env:A}}": [
        "env.A: stands under `secrets:` too; keep one"
    ],
    "{kind: command, overlap: true, revoke: api, run: [/k], secrets: {A: 'issued:'}}": [
        "secrets.A: is for the secrets of a role; name another place"
    ],
    "{kind: command, overlap: true, revoke: api, run: [/k], keep: 'vault://main/kv/made'}": [
        "keep: there is no store `main` of kind vault under `stores:`; known: none"
    ],
    "{kind: command, overlap: true, revoke: api, run: [/k], keep: 'aws-sm://made'}": [
        "keep: there is no store `default` of kind aws under `stores:`; known: none"
    ],
    "{kind: manual, overlap: true, instructions: Make a key., probe: [k]}": [
        (
            "probe[0]: the program has to be named by its whole path; "
            "begin it with /, {project}/ or {state}/, or write {python}"
        )
    ],
    "{kind: walletsuite, wallet: w, arguments: {key: ghp_0123456789abcdefghij0123456789abcdef}}": [
        "arguments.key: looks like a secret; no secret is an argument"
    ],
    "{kind: vault-lease, path: database/creds/app}": [
        "there is no store `default` of kind vault under `stores:`; known: none"
    ],
    "{kind: aws-sm, secret: app, overlap: false, store: main}": [
        "store: there is no store `main` of kind aws under `stores:`; known: none"
    ],
    "{kind: manuel}": [
        (
            "kind: `manuel` is not possible here; did you mean `manual`? "
            "known: aws-sm, command, manual, vault-lease, walletsuite"
        )
    ],
    "{wallet: w}": ["kind: is missing; known: aws-sm, command, manual, vault-lease, walletsuite"],
    "[manual]": ["has to be a mapping, not a list; write `key: value` lines"],
    "{kind: manual, overlap: true}": [
        "instructions: is missing; what the person has to do; shown each time"
    ],
    "{kind: manual, instructions: Make a key.}": [
        (
            "overlap: is missing; whether a new credential works beside the old one. "
            "If not, calls wait while it is replaced"
        )
    ],
    "{kind: walletsuite, walet: w}": [
        "wallet: is missing; the wallet that the tokens are bound to",
        (
            "walet: unknown key; did you mean `wallet`? known: arguments, env, keep, kind, "
            "max_life, omit, overlap, secrets, user, wallet"
        ),
    ],
}


@pytest.mark.parametrize("issuer", ISSUERS)
def test_each_mistake_in_an_issuer(root: Path, complaints: Complaints, issuer: str) -> None:
    """A mistake in an issuer is told with its place, its key, and what would be right."""
    (root / "agents.yaml").write_text(f"issuers:\n  x: {issuer}\n")
    told = [line.partition(" ")[2] for line in complaints()]
    assert [line.removeprefix("issuers.x").lstrip(".: ") for line in told] == ISSUERS[issuer]
    assert all(line.startswith("agents.yaml:2:") for line in complaints())


def test_names_and_the_vault(root: Path, complaints: Complaints) -> None:
    """Names that stand for leases are taken, and the vault's key cannot come from an issuer."""
    (root / "agents.yaml").write_text(
        "issuers:\n"
        "  lease-a: {kind: manual, overlap: true, instructions: Make a key.}\n"
        "  Big: {kind: manual, overlap: true, instructions: Make a key.}\n"
        "vault: {key: 'issued:'}\n"
    )
    found = complaints()
    assert found[0].startswith("agents.yaml:3:3: issuers.Big: `Big` is not a name")
    text = (root / "agents.yaml").read_text().replace("Big", "big")
    (root / "agents.yaml").write_text(text)
    assert complaints() == [
        (
            "agents.yaml:2:3: issuers.lease-a: names that begin with lease- stand for leases of "
            "roles; take another name"
        ),
        "agents.yaml:4:14: vault.key: is for the secrets of a role; name another place",
    ]


SETTINGS = """\
issuers:
  keys: {kind: command, overlap: false, revoke: api, run: [/k]}
  person: {kind: manual, overlap: true, instructions: Make a key.}
  wallet: {kind: walletsuite, wallet: w}
stores:
  default: {kind: vault, address: "https://vault.example.com", token: env:VAULT_TOKEN}
"""
# What stands in place of the role's secret, and what is added to it.
ROLES: dict[tuple[str, str], list[str]] = {
    ("issued:", "rotation: {upstream: {issuer: kees}}"): [
        (
            "rotation.upstream.issuer: agents.yaml has no issuer `kees`; did you mean `keys`? "
            "known: keys, person, wallet"
        )
    ],
    ("issued:", ""): ["secrets.SHOP_TOKEN: nothing issues it; add `rotation: upstream: issuer:`"],
    ("issued:", "rotation: {upstream: {every: 30d}}"): [
        "rotation.upstream: says not who makes the credential; add `issuer:`"
    ],
    ("env:SHOP_TOKEN", "rotation: {upstream: {issuer: keys}}"): [
        (
            "rotation.upstream: no secret of this role would be replaced; "
            "write `issued:` as the reference of one under `secrets:`"
        )
    ],
    ("issued:", "rotation: {upstream: {issuer: keys, check: {tool: list_goods}}}"): [],
    ("issued:", "rotation: {upstream: {issuer: keys, check: {tool: list_good}}}"): [
        (
            "rotation.upstream.check.tool: the server has no tool `list_good`; "
            "did you mean `list_goods`? known: list_goods"
        )
    ],
    ("issued:", "rotation: {upstream: {issuer: keys, check: {tool: pay_bill}}}"): [
        "rotation.upstream.check.tool: the role has no tool `pay_bill`; it needs the band pay"
    ],
    ("issued:", "rotation: {upstream: {issuer: keys, check: {tool: order_goods}}}"): [
        (
            "rotation.upstream.check.tool: `order_goods` is of class WRITE; "
            "a check changes nothing: name one of class READ; known: list_goods"
        )
    ],
    ("issued:", "rotation: {upstream: {issuer: keys, every: 91d}}"): [
        "rotation.upstream.every: no credential grows older than 90 days; at most 90d"
    ],
    ("issued:", "rotation: {upstream: {issuer: wallet}}"): [
        (
            "rotation.upstream.issuer: the server shop has no tool create_agent_api_key for "
            "owners; such an issuer is for roles of a wallet server"
        )
    ],
    ("issued:name", "rotation: {upstream: {issuer: wallet}}"): [
        "secrets.SHOP_TOKEN: a wallet's token has no fields; write `issued:`",
        (
            "rotation.upstream.issuer: the server shop has no tool create_agent_api_key for "
            "owners; such an issuer is for roles of a wallet server"
        ),
    ],
    ("env:SHOP_TOKEN", "rotation: {agent: {every: 100d}}"): [
        "rotation.agent.every: no credential grows older than 90 days; at most 90d"
    ],
    ("env:SHOP_TOKEN", "rotation: {agent: {every: 12h}}"): [
        "rotation.agent.overlap: has to be shorter than `every`; less than 12h"
    ],
    ("env:SHOP_TOKEN", "rotation: {agent: {overlap: 1m}}"): [
        "rotation.agent.quiet: is longer than the old token works; at most 1m, as `overlap`"
    ],
    ("env:SHOP_TOKEN", "rotation: {agent: {deliver: {ann: {}}}}"): [
        "rotation.agent.deliver.ann: needs one place; write either `file:` or `command:`"
    ],
    ("env:SHOP_TOKEN", "rotation: {agent: {deliver: {ann: {file: /a/b, command: [/c]}}}}"): [
        "rotation.agent.deliver.ann: needs one place; write either `file:` or `command:`"
    ],
    ("env:SHOP_TOKEN", "rotation: {agent: {deliver: {ann: {file: a/b}}}}"): [
        (
            "rotation.agent.deliver.ann.file: has to be a file with its whole path; "
            "begin it with /, {state}/ or {project}/"
        )
    ],
    ("env:SHOP_TOKEN", "rotation: {agent: {deliver: {ann: {file: '{state}/../b'}}}}"): [
        (
            "rotation.agent.deliver.ann.file: has to be a file with its whole path; "
            "begin it with /, {state}/ or {project}/"
        )
    ],
    ("env:SHOP_TOKEN", "rotation: {agent: {deliver: {ann: {command: []}}}}"): [
        "rotation.agent.deliver.ann.command: names no program; write [/path/program]"
    ],
    ("env:SHOP_TOKEN", "rotation: {agent: {deliver: {ann: {command: [put]}}}}"): [
        (
            "rotation.agent.deliver.ann.command[0]: the program has to be named by its whole path; "
            "begin it with /, {project}/ or {state}/, or write {python}"
        )
    ],
    ("vault-lease:///database/creds/app#password", ""): [],
    ("vault-lease:///database/creds/app#password", "rotation: {upstream: {every: 1d}}"): [],
    ("vault-lease:///database/creds/app#password", "rotation: {upstream: {issuer: keys}}"): [
        "rotation.upstream.issuer: the references to a lease are the issuer already; remove it"
    ],
    ("vault-lease://other/database/creds/app#password", ""): [
        (
            "secrets.SHOP_TOKEN: there is no store `other` of kind vault under `stores:`; "
            "known: default"
        )
    ],
    ("vault-lease:///database/creds/a%20b#password", ""): [
        "secrets.SHOP_TOKEN: is no path of a lease; write it without %-codes"
    ],
    ("env:SHOP_TOKEN", "user: Root"): [
        (
            "user: `Root` is not a proper name; a user's name is up to 32 of a-z, 0-9, _ and -, "
            "and begins with a letter or _"
        )
    ],
}


@pytest.mark.parametrize("case", ROLES, ids=" ".join)
def test_each_mistake_in_a_rotation(
    root: Path, role: Replace, complaints: Complaints, case: tuple[str, str]
) -> None:
    """A mistake in what a role says of its credentials is told with its place."""
    (root / "agents.yaml").write_text(SETTINGS)
    role("  SHOP_TOKEN: env:SHOP_TOKEN\n", f"  SHOP_TOKEN: {case[0]!r}\n{case[1]}\n")
    told = complaints()
    assert [line.partition(" ")[2] for line in told] == ROLES[case]
    assert all(line.startswith("roles/clerk.yaml:") for line in told)


def test_a_role_has_one_lease(
    root: Path, role: Replace, server: Replace, complaints: Complaints
) -> None:
    """All references to leases are to one, and nothing else is issued beside it."""
    (root / "agents.yaml").write_text(SETTINGS)
    server("    SHOP_TOKEN: Opens", "    A: One.\n    B: Two.\n    SHOP_TOKEN: Opens")
    role(
        "  SHOP_TOKEN: env:SHOP_TOKEN\n",
        "  SHOP_TOKEN: vault-lease:///database/creds/app#password\n"
        "  A: vault-lease:///database/creds/other#password\n"
        "  B: 'issued:'\n",
    )
    assert [line.partition(" ")[2] for line in complaints()] == [
        (
            "secrets.A: is another lease than the first one; a role has one lease; "
            "take its fields by #FIELD"
        ),
        "secrets.B: stands beside a lease; a role has one credential that rotates",
    ]


def test_a_bootstrap_has_no_issuer(server: Replace, complaints: Complaints) -> None:
    """What is done once has no credential that rotates."""
    server('secrets: {SHOP_TOKEN: "file:{state}/shop/token"}', 'secrets: {SHOP_TOKEN: "issued:"}')
    (line,) = complaints()
    assert line.endswith(
        "bootstrap.secrets.SHOP_TOKEN: is for the secrets of a role; name another place"
    )


def test_settings_with_mistakes_do_not_blame_the_roles(
    root: Path, role: Replace, complaints: Complaints
) -> None:
    """An issuer that cannot be read is told once, where it stands."""
    (root / "agents.yaml").write_text("issuers: {keys: {kind: nothing}}\n")
    role("env:SHOP_TOKEN\n", "'issued:'\nrotation: {upstream: {issuer: keys}}\n")
    (line,) = complaints()
    assert line.startswith("agents.yaml:1:24: issuers.keys.kind:")


def test_what_follows_from_an_issuer_is_told(root: Path, role: Replace) -> None:
    """What a sound plan asks of people and of callers is said, and nothing else."""
    (root / "agents.yaml").write_text(SETTINGS)
    role("env:SHOP_TOKEN\n", "'issued:'\nrotation: {upstream: {issuer: keys}}\n")
    project = load_project(root)
    clerk = project.roles[RoleName("clerk")]
    assert rotation_notes(clerk, project.settings.issuers) == (
        "clerk: issuer keys knows no overlap: calls wait, up to 20s, at each rotation",
        (
            "clerk: issuer keys cannot tell what is accepted: old ones are ended, "
            "and not proved dead"
        ),
    )
    able = CommandIssuer(kind="command", run=("/k",), overlap=True, revoke="api", probes=True)
    assert rotation_notes(clerk, {"keys": able}) == ()
    by_hand = able.model_copy(update={"revoke": "manual"})
    (told,) = rotation_notes(clerk, {"keys": by_hand})
    assert told.endswith("a person has to end each old credential")
    blind = by_hand.model_copy(update={"probes": False})
    (told,) = rotation_notes(clerk, {"keys": blind})
    assert told.endswith("end each old credential, and to confirm it: nobody else can tell")


def test_roles_do_not_share_a_secret_of_aws(root: Path, complaints: Complaints) -> None:
    """Two roles whose issuer keeps one secret are refused, unless its name has `{role}` in it."""
    settings = """\
issuers:
  both: {kind: aws-sm, secret: SECRET, overlap: false}
stores:
  default: {kind: aws, region: eu-central-1}
"""
    text = (root / "roles" / "clerk.yaml").read_text()
    text = text.replace("env:SHOP_TOKEN", "'issued:'\nrotation: {upstream: {issuer: both}}")
    (root / "roles" / "clerk.yaml").write_text(text)
    (root / "roles" / "other.yaml").write_text(text.replace("role: clerk", "role: other"))
    (root / "agents.yaml").write_text(settings.replace("SECRET", "app"))
    (line,) = complaints()
    assert line.startswith("roles/other.yaml:")
    assert "replaces the secret app, as the role clerk does" in line
    (root / "agents.yaml").write_text(settings.replace("SECRET", "'app/{role}'"))
    assert complaints() == []


def test_names_of_implied_issuers_fit() -> None:
    """However long a role's name is, the issuer of its leases has one, and one of its own."""
    names = {lease_issuer(RoleName(name)) for name in ("a", "r" * 32, "r" * 31 + "s")}
    assert len(names) == 3
    assert all(len(name) <= 32 for name in names)
