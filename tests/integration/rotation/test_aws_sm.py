"""Credentials in AWS Secrets Manager and their four steps, against moto's server.

moto 5.2.5 differs from AWS in three ways; the first tests here say which, and that nothing of ours
depends on them.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from orchestrator.errors import (
    IssuerError,
    IssuerUncertainError,
    SecretNotFoundError,
    SecretStoreUnavailableError,
)
from orchestrator.model.names import RoleName
from orchestrator.rotation.ports import WHOLE, Credential, Ending, Verdict
from orchestrator.rotation.vaults.secrets_manager import AwsVault, version_id, version_name
from orchestrator.secrets.aws_client import AwsClient

if TYPE_CHECKING:
    from tests.integration.rotation.conftest import Service

Region = Callable[..., AwsClient]

ROLE = RoleName("treasury")
FIRST, SECOND = "bm-treasury-0123456789ab-1", "bm-treasury-ba9876543210-12"
DAY = timedelta(days=1)


def credential(word: str) -> Credential:
    """Make a credential with two fields."""
    return Credential({"username": SecretStr("app"), "password": SecretStr(f"canary-{word}")})


def texts(made: Credential | None) -> dict[str, str]:
    """Tell what a credential holds."""
    assert made is not None
    return {name: value.get_secret_value() for name, value in made.fields.items()}


def stages(client: AwsClient, secret: str) -> dict[str, set[str]]:
    """Tell the labels of our own versions, by our names for them."""
    found = client.call("describe_secret", SecretId=secret).stages()
    return {name: set(labels) for key, labels in found.items() if (name := version_name(key))}


@pytest.fixture
def client(region: Region) -> AwsClient:
    """Open the region."""
    return region()


@pytest.fixture
def secret() -> str:
    """Name a secret that no other test uses."""
    return f"bandmaster-{secrets.token_hex(4)}"


@pytest.fixture
def vault(client: AwsClient, secret: str) -> AwsVault:
    """Keep credentials in that secret."""
    return AwsVault(client, secret)


# What moto does otherwise than AWS.


async def test_moto_gives_an_old_value_to_whoever_names_no_label(
    client: AwsClient, vault: AwsVault, secret: str
) -> None:
    """Deviation 1; what is read with its label is right."""
    for version, word in ((FIRST, "one"), (SECOND, "two")):
        await vault.put(ROLE, version, credential(word))
        await vault.promote(ROLE, version)
    assert "two" not in client.call("get_secret_value", SecretId=secret).text("SecretString")
    labelled = client.call("get_secret_value", SecretId=secret, VersionStage="AWSCURRENT")
    assert "canary-two" in labelled.text("SecretString")
    assert texts(await vault.current(ROLE))["password"] == "canary-two"


async def test_moto_replaces_what_was_put_under_the_same_token(
    client: AwsClient, vault: AwsVault, secret: str
) -> None:
    """Deviation 2: AWS refuses it. An issuer adopts what is there, and never puts another value."""
    await vault.put(ROLE, FIRST, credential("one"))
    answer = client.call(
        "put_secret_value",
        SecretId=secret,
        ClientRequestToken=version_id(FIRST),
        SecretString="other",
        VersionStages=["AWSPENDING"],
    )
    assert answer.is_success


def test_moto_leaves_two_current_versions_when_it_rotates_by_itself() -> None:
    """Deviation 3: so AWS's own rotation is not among what is ever asked."""
    from orchestrator.secrets import aws_client  # noqa: PLC0415 # its text is what is looked at

    assert "rotate_secret" not in Path(aws_client.__file__).read_text()


# The vault.


def test_an_id_of_a_version_tells_its_name() -> None:
    """Ids have 32 to 64 characters, hold our name, and no foreign id looks like one."""
    for name in (FIRST, SECOND, "bm-a-0123456789ab-1", f"bm-{'r' * 32}-0123456789ab-99"):
        assert 32 <= len(version_id(name)) <= 64
        assert version_name(version_id(name)) == name
    assert version_name("8c3a1f9e-1111-2222-3333-444455556666") is None
    assert version_name(FIRST) is None
    with pytest.raises(SecretStoreUnavailableError, match="too long"):
        _ = version_id("x" * 53)


async def test_a_rotation_moves_the_labels(client: AwsClient, vault: AwsVault, secret: str) -> None:
    """Pending, current and previous are the labels of AWS; nothing stays pending."""
    await vault.put(ROLE, FIRST, credential("one"))
    assert await vault.current(ROLE) is None
    await vault.promote(ROLE, FIRST)
    assert stages(client, secret) == {FIRST: {"AWSCURRENT"}}
    await vault.put(ROLE, SECOND, credential("two"))
    assert stages(client, secret) == {FIRST: {"AWSCURRENT"}, SECOND: {"AWSPENDING"}}
    assert texts(await vault.get(ROLE, FIRST)) == texts(credential("one"))
    assert texts(await vault.get(ROLE, SECOND)) == texts(credential("two"))
    await vault.promote(ROLE, SECOND)
    assert stages(client, secret) == {FIRST: {"AWSPREVIOUS"}, SECOND: {"AWSCURRENT"}}
    await vault.drop(ROLE, FIRST)
    assert stages(client, secret).get(FIRST, set()) == set()
    assert await vault.names(ROLE) >= {SECOND}


async def test_every_verb_may_be_called_again(
    client: AwsClient, vault: AwsVault, secret: str
) -> None:
    """A repeated verb changes nothing, and a roll-back is a promotion of the old one."""
    for version in (FIRST, SECOND):
        for _ in range(2):
            await vault.put(ROLE, version, credential("one"))
        for _ in range(2):
            await vault.promote(ROLE, version)
    await vault.promote(ROLE, FIRST)
    assert stages(client, secret) == {FIRST: {"AWSCURRENT"}, SECOND: {"AWSPREVIOUS"}}
    for _ in range(2):
        await vault.drop(ROLE, SECOND)
    assert texts(await vault.current(ROLE)) == texts(credential("one"))


async def test_a_new_pending_one_takes_the_label_of_a_lost_one(
    client: AwsClient, vault: AwsVault, secret: str
) -> None:
    """A version that a crash left pending blocks nobody."""
    await vault.put(ROLE, FIRST, credential("lost"))
    await vault.put(ROLE, SECOND, credential("two"))
    assert stages(client, secret)[SECOND] == {"AWSPENDING"}
    await vault.drop(ROLE, SECOND)
    assert not any("AWSPENDING" in labels for labels in stages(client, secret).values())


async def test_the_last_credential_can_be_dropped(
    client: AwsClient, vault: AwsVault, secret: str
) -> None:
    """In an emergency nothing counts any more, and the next one can be promoted."""
    await vault.put(ROLE, FIRST, credential("one"))
    await vault.promote(ROLE, FIRST)
    for _ in range(2):
        await vault.drop(ROLE, FIRST)
    assert await vault.current(ROLE) is None
    assert stages(client, secret).get(FIRST, set()) == set()
    await vault.put(ROLE, SECOND, credential("two"))
    await vault.promote(ROLE, SECOND)
    assert texts(await vault.current(ROLE)) == texts(credential("two"))


@pytest.mark.parametrize("text", ["plain-text-1", '{"type": "key", "id": "1"}', "[1]", '"x"', "{}"])
async def test_a_credential_of_one_text_keeps_its_form(vault: AwsVault, text: str) -> None:
    """A text without a name comes back as it was, even one that looks like fields."""
    made = Credential({WHOLE: SecretStr(text)})
    await vault.put(ROLE, FIRST, made)
    assert texts(await vault.get(ROLE, FIRST)) == {WHOLE: text}


async def test_what_is_not_there_is_told(vault: AwsVault, region: Region, secret: str) -> None:
    """An unknown version, and a region that is down; no error holds a value."""
    with pytest.raises(SecretNotFoundError, match=FIRST):
        _ = await vault.get(ROLE, FIRST)
    with pytest.raises(SecretStoreUnavailableError, match=FIRST):
        await vault.promote(ROLE, FIRST)
    await vault.drop(ROLE, FIRST)
    down = AwsVault(region(endpoint="http://127.0.0.1:9"), secret)
    for work in (
        down.put(ROLE, FIRST, credential("x")),
        down.get(ROLE, FIRST),
        down.promote(ROLE, FIRST),
        down.drop(ROLE, FIRST),
    ):
        with pytest.raises(SecretStoreUnavailableError, match="cannot be reached") as caught:
            _ = await work
        assert "canary" not in repr(caught.value)


# The issuer.


async def test_a_password_is_replaced_in_four_steps(service: Service) -> None:
    """Made and set, tested, promoted, revoked: the old one is refused, other fields stay."""
    name = f"{service.secret}/treasury"
    text = json.dumps({"username": "app", "password": "old-password"})
    assert service.client.call("create_secret", Name=name, SecretString=text).is_success
    issuer = service.issuer("set", "test", "revoke", field="password", max_life="90d")
    assert issuer.capabilities.revoke == "api"
    made = await issuer.mint(FIRST, ROLE, DAY)
    assert texts(made.credential)["username"] == "app"
    assert len(texts(made.credential)["password"]) == 32
    assert made.expires_at is not None
    assert timedelta(days=89) < made.expires_at - datetime.now(UTC) <= timedelta(days=90)
    assert await issuer.probe(made.credential) is Verdict.ACCEPTED
    await issuer.vault.put(ROLE, FIRST, made.credential)
    await issuer.vault.promote(ROLE, FIRST)
    new = await issuer.mint(SECOND, ROLE, DAY)
    assert await issuer.probe(made.credential) is Verdict.ACCEPTED
    await issuer.vault.promote(ROLE, SECOND)
    for _ in range(2):
        assert await issuer.revoke(FIRST, made.handle) is Ending.ASKED
    assert await issuer.probe(made.credential) is Verdict.REFUSED
    assert await issuer.probe(new.credential) is Verdict.ACCEPTED
    await issuer.vault.drop(ROLE, FIRST)
    assert stages(service.client, name) == {FIRST: set(), SECOND: {"AWSCURRENT"}}


async def test_what_a_crash_left_is_adopted_or_found(service: Service) -> None:
    """The same name gives the same value again; a lost one is found by name and ended."""
    issuer = service.issuer("set", "test", "revoke")
    first = await issuer.mint(FIRST, ROLE, DAY)
    again = await issuer.mint(FIRST, ROLE, DAY)
    assert texts(first.credential) == texts(again.credential)
    assert await issuer.list("bm-treasury-") == {FIRST: first.handle}
    assert await issuer.list("bm-treasury-ff") == {}
    assert await issuer.revoke(FIRST, {}) is Ending.ASKED
    assert await issuer.probe(first.credential) is Verdict.REFUSED
    labels = stages(service.client, f"{service.secret}/treasury")
    assert not any("AWSPENDING" in each for each in labels.values())


async def test_a_service_that_refuses_leaves_nothing_pending(service: Service) -> None:
    """A program that did nothing takes the version back; one that broke leaves it to be found."""
    issuer = service.issuer("set", "test")
    service.knows("broken")
    with pytest.raises(IssuerError, match="status 75"):
        _ = await issuer.mint(FIRST, ROLE, DAY)
    labels = stages(service.client, f"{service.secret}/treasury")
    assert not any("AWSPENDING" in each for each in labels.values())
    service.knows("lost")
    with pytest.raises(IssuerUncertainError, match="status 1"):
        _ = await issuer.mint(SECOND, ROLE, DAY)
    assert SECOND in await issuer.list("bm-treasury-")


async def test_without_overlap_the_service_ends_the_old_one_itself(service: Service) -> None:
    """A new password replaces the old one; ending the last one needs a person all the same."""
    issuer = service.issuer("set", "test", overlap=False)
    assert (issuer.capabilities.overlap, issuer.capabilities.revoke) == (False, "manual")
    first = await issuer.mint(FIRST, ROLE, DAY)
    second = await issuer.mint(SECOND, ROLE, DAY)
    assert await issuer.probe(first.credential) is Verdict.REFUSED
    assert await issuer.probe(second.credential) is Verdict.ACCEPTED


async def test_without_programs_a_person_ends_and_confirms(service: Service) -> None:
    """Nothing in the scheme of AWS ends the value before: so it is said."""
    issuer = service.issuer()
    assert (issuer.capabilities.revoke, issuer.capabilities.probes) == ("manual", False)
    made = await issuer.mint(FIRST, ROLE, DAY)
    assert set(made.credential.fields) == {WHOLE}
    assert await issuer.probe(made.credential) is Verdict.UNKNOWN
    assert await issuer.revoke(FIRST, made.handle) is Ending.BY_PERSON


async def test_a_program_may_make_the_credential(service: Service) -> None:
    """What `mint` prints is kept as it is, with its end; a failure is told from a doubt."""
    issuer = service.issuer("mint", "set", "revoke")
    assert not issuer.capabilities.lists
    made = await issuer.mint(FIRST, ROLE, DAY)
    assert texts(made.credential) == {"username": FIRST, "password": "made-by-program-1"}
    assert made.expires_at == datetime(2030, 1, 1, tzinfo=UTC)
    found = await issuer.vault.find(ROLE, version_id(FIRST))
    assert texts(found) == texts(made.credential)
    for answer, kind in (
        ("75", IssuerError),
        ("1", IssuerUncertainError),
        ("empty", IssuerUncertainError),
    ):
        service.knows(answer)
        with pytest.raises(kind):
            _ = await issuer.mint(SECOND, ROLE, DAY)
    # What is not kept here is ended by its name alone.
    assert await issuer.revoke(SECOND, {}) is Ending.ASKED


async def test_a_region_that_is_down_makes_nothing(service: Service, region: Region) -> None:
    """An issuer that cannot be reached is told so by every verb."""
    issuer = service.issuer("set", client=region(endpoint="http://127.0.0.1:9"))
    verbs: tuple[Awaitable[object], ...] = (
        issuer.mint(FIRST, ROLE, DAY),
        issuer.list("bm-treasury-"),
        issuer.revoke(FIRST, {}),
    )
    for verb in verbs:
        with pytest.raises(IssuerError, match="cannot be reached"):
            _ = await verb
    with pytest.raises(IssuerError, match="nothing is known"):
        _ = await issuer.revoke("other", {})
