"""Stores that are reached over the network, and issuers that are services, in `agents.yaml`."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator.config.settings import load_settings
from orchestrator.model.issuers_cloud import VaultLeaseIssuer
from orchestrator.model.stores import AwsAccount, VaultAccount, aws_store

Complaints = Callable[[], list[str]]

ADDRESS = "an address is https://, a host and maybe a port, and nothing else"
MISTAKES = {
    "main: {kind: vault, token: 'env:T'}": "3:3: stores.main.address: is missing; the server; "
    "`http` on this machine only. No proxy and no redirect is followed",
    "main: {kind: vault, address: 'https://x'}": "3:9: stores.main: needs a login: either `token` "
    "or `approle`",
    "main: {kind: vault, address: 'http://x', token: 'env:T'}": "3:32: stores.main.address: over "
    "http everybody on the way reads the secrets: write https",
    "main: {kind: vault, address: 'https://x/v1', token: 'env:T'}": "3:32: stores.main.address: "
    f"{ADDRESS}",
    "main: {kind: vault, address: 'https://a:b@x', token: 'env:T'}": "3:32: stores.main.address: "
    f"{ADDRESS}",
    "main: {kind: vault, address: 'https://x:0', token: 'env:T'}": "3:32: stores.main.address: a "
    "port is a number from 1 to 65535",
    "main: {kind: vault, address: 'https://x:99999', token: 'env:T'}": "3:32: "
    "stores.main.address: a port is a number from 1 to 65535",
    "main: {kind: aws, region: Frankfurt}": "3:29: stores.main.region: `Frankfurt` is not a "
    "proper name; a region is such as eu-central-1",
    "main: {kind: vault, address: 'https://x', token: 'vault:///a/b#c'}": "3:52: "
    "stores.main.token: what opens a store cannot be kept in a store",
    "main: {kind: vault, address: 'https://x', token: 'env:T', timeout: 2m}": "3:70: "
    "stores.main.timeout: a store that takes longer than 60s holds up every start",
    "main: {kind: vault, address: 'https://x', token: {command: [/bin/x, --token=canary]}}": "3:"
    "71: stores.main.token.command[1]: looks like a secret, and every user of the machine can read "
    "a command's arguments; put it under `secrets:` as a reference, such as env:NAME",
    "main: {kind: aws}": "3:3: stores.main.region: is missing; the region, such as `eu-central-1`",
    "main: {kind: aws, region: eu-central-1, access_key: 'env:K'}": "3:9: stores.main: "
    "`access_key` and `secret_key` go together",
    "main: {kind: aws, region: eu-central-1, profile: p, access_key: 'env:K', "
    "secret_key: 'env:S'}": "3:9: stores.main: either `profile` or `access_key`",
    "main: {kind: aws, region: eu-central-1, session_token: 'env:K'}": "3:9: stores.main: "
    "`session_token` goes with `access_key` and `secret_key`",
    "main: {kind: gcp}": "3:16: stores.main.kind: `gcp` is not possible here; known: aws, vault",
    "main: {region: eu-central-1}": "3:3: stores.main.kind: is missing; known: aws, vault",
    "main: {kind: aws, region: eu-central-1, token: 'env:T'}": "3:43: stores.main.token: unknown "
    "key; known: access_key, endpoint, kind, profile, region, secret_key, session_token, timeout",
    "Main: {kind: aws, region: eu-central-1}": "3:3: stores.Main: `Main` is not a name that can "
    "stand here; a name is up to 32 of a-z, 0-9 and -, and begins with a letter",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_each_mistake_of_a_store_is_told_with_its_place(
    text: str, root: Path, complaints: Complaints
) -> None:
    """Each mistake has one message, with line and column, and without the value."""
    (root / "agents.yaml").write_text(f"log_level: info\nstores:\n  {text}\n")
    assert complaints() == [f"agents.yaml:{MISTAKES[text]}"]


def test_a_token_in_the_file_is_not_repeated(root: Path, complaints: Complaints) -> None:
    """A login itself in the place of a reference is refused, and never shown."""
    text = "stores:\n  main: {kind: vault, address: 'https://x', token: s.canarytoken}\n"
    (root / "agents.yaml").write_text(text)
    [problem] = complaints()
    assert problem.startswith("agents.yaml:2:52: stores.main.token: not a secret reference")
    assert "canary" not in problem


def test_stores_are_read_whole(root: Path) -> None:
    """Everything that a store may say is understood."""
    (root / "agents.yaml").write_text("""
stores:
  default:
    kind: vault
    address: http://127.0.0.1:8200/
    approle: {role_id: agents, secret_id: 'file:{state}/secret-id', mount: machines}
    namespace: team/one
    ca: certs/vault.pem
    timeout: 20s
  local: {kind: vault, address: 'http://[::1]:8200', token: {command: [/usr/bin/token]}}
  aws:
    kind: aws
    region: us-gov-west-1
    endpoint: http://localhost:5000
    access_key: env:AWS_KEY
    secret_key: env:AWS_SECRET
issuers:
  database: {kind: vault-lease, path: database/creds/app, probe: lease}
  tokens: {kind: vault-lease, path: auth/token/create, sweep: true}
  password: {kind: aws-sm, store: aws, secret: 'prod/{role}', field: password, overlap: false}
""")
    settings = load_settings(root)
    main, aws = settings.stores["default"], settings.stores["aws"]
    assert isinstance(main, VaultAccount)
    assert isinstance(aws, AwsAccount)
    assert (main.address, main.timeout) == ("http://127.0.0.1:8200", timedelta(seconds=20))
    assert main.approle is not None
    assert str(main.approle.secret_id) == "file:{state}/secret-id"
    database, tokens = settings.issuers["database"], settings.issuers["tokens"]
    assert isinstance(database, VaultLeaseIssuer)
    assert isinstance(tokens, VaultLeaseIssuer)
    assert (database.makes_tokens, tokens.makes_tokens) == (False, True)


@pytest.mark.parametrize(
    "path", ["database", "/database/creds/app", "database/../sys/seal", "a//b", "a/b/", "a/b?c"]
)
def test_the_path_of_a_lease_means_what_it_says(
    path: str, root: Path, complaints: Complaints
) -> None:
    """A path that an HTTP library would turn into another one is refused."""
    text = f"issuers:\n  x: {{kind: vault-lease, path: '{path}'}}\n"
    (root / "agents.yaml").write_text(
        f"{text}stores:\n  default: {{kind: vault, address: 'https://x', token: 'env:T'}}\n"
    )
    [problem] = complaints()
    assert problem.startswith("agents.yaml:2:32: issuers.x.path: ")
    assert problem.endswith("no part of it is empty or dots")


def test_an_aws_reference_finds_its_store() -> None:
    """The only store, that of the ARN's region, or the default one; otherwise none."""
    arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:app-AbCdEf"
    two = {"one": "eu-central-1", "two": "us-east-1"}
    assert aws_store("app", {"one": "eu-central-1"}) == "one"
    assert aws_store("app", {**two, "default": "us-east-1"}) == "default"
    assert aws_store(arn, two) == "two"
    assert aws_store("app", two) is None
    assert aws_store(arn, {"one": "eu-central-1"}) is None
    assert aws_store("app", {}) is None
