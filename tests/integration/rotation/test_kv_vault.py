"""Made credentials in a KV store, against a real OpenBao server."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import pytest
from pydantic import SecretStr

from orchestrator.errors import (
    SecretNotFoundError,
    SecretRefError,
    SecretStoreUnavailableError,
)
from orchestrator.model.names import RoleName
from orchestrator.rotation.ports import WHOLE, Credential
from orchestrator.rotation.vaults.elsewhere import vault_elsewhere
from orchestrator.rotation.vaults.kv import KvVault
from orchestrator.rotation.vaults.secrets_manager import AwsVault
from orchestrator.secrets.vault import KvPlace

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.secrets.aws_client import AwsClient
    from tests.conftest import Bao, Object, OpenStore

ROLE = RoleName("treasury")
FIRST, SECOND = "bm-treasury-0123456789ab-1", "bm-treasury-ba9876543210-1"

PAGE: Final = (Path(__file__).parents[3] / "docs/how-to/vault-and-aws.md").read_text()
RULES: Final = cast(
    "list[str]", re.findall(r"^```hcl\n([^`]*secret/destroy[^`]*)^```$", PAGE, re.MULTILINE)
)[0]


def credential(word: str) -> Credential:
    """Make a credential with two fields."""
    return Credential({"username": SecretStr(f"user-{word}"), "password": SecretStr(f"pw-{word}")})


def texts(made: Credential) -> dict[str, str]:
    """Tell what a credential holds."""
    return {name: value.get_secret_value() for name, value in made.fields.items()}


@pytest.fixture
def place() -> str:
    """Name a path that no other test uses."""
    return f"bandmaster-{secrets.token_hex(4)}"


@pytest.fixture
def vault(bao: Bao, open_store: OpenStore, place: str) -> KvVault:
    """Open a path with the smallest login that will do."""
    token = bao.token(RULES.replace("bandmaster", place))
    client = open_store(bao.address, variables={"T": token}, token="env:T")
    return KvVault(client, KvPlace("secret", place))


def shown(bao: Bao, place: str) -> object:
    """Tell what others read."""
    _, answer = bao.ask("GET", f"secret/data/{place}/treasury")
    return cast("Object", answer.get("data") or {}).get("data")


async def test_a_rotation_leaves_one_readable_credential(
    bao: Bao, vault: KvVault, place: str
) -> None:
    """Two are kept side by side, one is shown to others, and the dropped one is destroyed."""
    await vault.put(ROLE, FIRST, credential("one"))
    await vault.promote(ROLE, FIRST)
    assert shown(bao, place) == {"username": "user-one", "password": "pw-one"}
    await vault.put(ROLE, SECOND, credential("two"))
    assert shown(bao, place) == {"username": "user-one", "password": "pw-one"}
    assert texts(await vault.get(ROLE, FIRST)) == texts(credential("one"))
    await vault.promote(ROLE, SECOND)
    assert shown(bao, place) == {"username": "user-two", "password": "pw-two"}
    await vault.drop(ROLE, FIRST)
    with pytest.raises(SecretNotFoundError, match=FIRST):
        _ = await vault.get(ROLE, FIRST)
    assert texts(await vault.get(ROLE, SECOND)) == texts(credential("two"))
    status, answer = bao.ask("GET", f"secret/data/{place}/treasury?version=1")
    about = cast("dict[str, Object]", answer["data"])["metadata"]
    assert (status, about["destroyed"]) == (404, True)
    # The last one of an emergency is shown no longer, either.
    await vault.drop(ROLE, SECOND)
    assert shown(bao, place) is None
    assert bao.ask("LIST", f"secret/metadata/{place}")[0] == 404


async def test_every_verb_may_be_called_again(vault: KvVault, bao: Bao, place: str) -> None:
    """A repeated verb changes nothing; another content under the same name is refused."""
    for _ in range(2):
        await vault.put(ROLE, FIRST, credential("one"))
    with pytest.raises(SecretStoreUnavailableError, match="somebody else wrote there"):
        await vault.put(ROLE, FIRST, credential("other"))
    for _ in range(2):
        await vault.promote(ROLE, FIRST)
    _, about = bao.ask("GET", f"secret/metadata/{place}/treasury")
    assert cast("Object", about["data"])["current_version"] == 1
    for _ in range(2):
        await vault.drop(ROLE, FIRST)
    with pytest.raises(SecretStoreUnavailableError, match="keeps no credential"):
        await vault.promote(ROLE, FIRST)


async def test_rolling_back_shows_the_old_one_again(bao: Bao, vault: KvVault, place: str) -> None:
    """The old credential can be promoted again, and the new one dropped."""
    for version, word in ((FIRST, "one"), (SECOND, "two")):
        await vault.put(ROLE, version, credential(word))
        await vault.promote(ROLE, version)
    await vault.promote(ROLE, FIRST)
    await vault.drop(ROLE, SECOND)
    assert shown(bao, place) == {"username": "user-one", "password": "pw-one"}
    status, _ = bao.ask("GET", f"secret/data/{place}/treasury?version=2")
    assert status == 404


async def test_a_credential_of_one_text_keeps_its_form(
    bao: Bao, vault: KvVault, place: str
) -> None:
    """A text without a name comes back without one; others read it as `value`."""
    for field, version in ((WHOLE, FIRST), ("value", SECOND)):
        made = Credential({field: SecretStr("canary-whole-text")})
        await vault.put(ROLE, version, made)
        assert texts(await vault.get(ROLE, version)) == {field: "canary-whole-text"}
        await vault.promote(ROLE, version)
        assert shown(bao, place) == {"value": "canary-whole-text"}


async def test_a_server_that_is_down_is_told_without_values(open_store: OpenStore) -> None:
    """Nothing is kept while the server is down, and the error holds no value."""
    client = open_store("http://127.0.0.1:9", variables={"T": "canary-token"}, token="env:T")
    vault = KvVault(client, KvPlace("secret", "x"))
    for work in (
        vault.put(ROLE, FIRST, credential("canary")),
        vault.get(ROLE, FIRST),
        vault.promote(ROLE, FIRST),
        vault.drop(ROLE, FIRST),
    ):
        with pytest.raises(SecretStoreUnavailableError, match="cannot be reached") as caught:
            _ = await work
        assert "canary" not in repr(caught.value)


def test_an_issuer_names_where_its_credentials_are_kept(
    open_store: OpenStore, region: Callable[..., AwsClient]
) -> None:
    """`keep:` is a path of a KV store or the name of a secret, in a store that there is."""
    server = open_store("http://127.0.0.1:9", variables={}, token="env:T")
    servers, regions = {"default": server, "main": server}, {"aws": region()}
    for keep in ("vault:///secret/app", "vault://main/team%2Fkv/app/one"):
        assert isinstance(vault_elsewhere(keep, servers, regions), KvVault)
    kept = vault_elsewhere("aws-sm://prod/app", servers, regions)
    assert isinstance(kept, AwsVault)
    assert kept.secret(ROLE) == "prod/app/treasury"
    for keep in ("vault://other/secret/app", "aws-sm://prod/app"):
        with pytest.raises(SecretStoreUnavailableError, match="there is no such store"):
            _ = vault_elsewhere(keep, servers, {})
    arn = "aws-sm://arn:aws:secretsmanager:eu-central-1:123456789012:secret:app-AbCdEf"
    for keep in ("file:///secret", arn, "vault://main/secret/../app"):
        with pytest.raises(SecretRefError):
            _ = vault_elsewhere(keep, servers, regions)
