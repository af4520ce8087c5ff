"""Secret references."""

import re
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from orchestrator.errors import SecretRefError
from orchestrator.model.reference import SecretRefField
from orchestrator.model.secret import (
    SCHEMES,
    TEXT_PATTERN,
    Program,
    SecretRef,
    inner_reference,
    variables_of,
)

ARN = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:prod/db-AbCdEf"
VERSION = "01234567-89ab-cdef-0123-456789abcdef"
KEY = SecretRef("file", "/srv/age.key", "")
REFERENCES = {
    "env:API_KEY": SecretRef("env", "", "API_KEY"),
    "file:/run/key": SecretRef("file", "/run/key", ""),
    "file:///run/key": SecretRef("file", "/run/key", ""),
    "file:{state}/wallet/x": SecretRef("file", "{state}/wallet/x", ""),
    "file:/run/a b?c": SecretRef("file", "/run/a b?c", ""),
    "file:/v/token?follow=true": SecretRef("file", "/v/token", "", options=(("follow", "true"),)),
    "file:/v/x?follow=true?follow=false": SecretRef("file", "/v/x?follow=true", ""),
    "dotenv:/a/.env#B": SecretRef("dotenv", "/a/.env", "B"),
    "dotenv:{project}/.env.prod#B": SecretRef("dotenv", "{project}/.env.prod", "B"),
    "docker-secret:db_password": SecretRef("docker-secret", "", "db_password"),
    "systemd-cred:db.password": SecretRef("systemd-cred", "", "db.password"),
    "keyring://my%20shop/ann@example.com": SecretRef("keyring", "my%20shop", "ann@example.com"),
    "vault:///secret/shop#token": SecretRef("vault", "secret/shop", "token"),
    "vault://prod/team%2Fkv/a/b?version=3#api key": SecretRef(
        "vault", "team%2Fkv/a/b", "api key", "prod", (("version", "3"),)
    ),
    "vault-lease://prod/database/creds/shop#password": SecretRef(
        "vault-lease", "database/creds/shop", "password", "prod"
    ),
    "aws-sm://prod/shop": SecretRef("aws-sm", "prod/shop", ""),
    f"aws-sm://{ARN}?stage=AWSPREVIOUS#password": SecretRef(
        "aws-sm", ARN, "password", options=(("stage", "AWSPREVIOUS"),)
    ),
    f"aws-sm://x?version={VERSION}": SecretRef("aws-sm", "x", "", options=(("version", VERSION),)),
    "op://My Vault/Shop/section 1/password": SecretRef(
        "op", "My Vault/Shop/section 1/password", ""
    ),
    "op://v/i/f?attribute=otp": SecretRef("op", "v/i/f", "", options=(("attribute", "otp"),)),
    "age:/s/x.age?identity=file:/srv/age.key#API_KEY": SecretRef(
        "age", "/s/x.age", "API_KEY", inner=KEY
    ),
    "age:///s/x.age?identity=file:/srv/age.key": SecretRef("age", "/s/x.age", "", inner=KEY),
    "age:{project}/x.age?identity=dotenv:/a/.env%23K": SecretRef(
        "age", "{project}/x.age", "", inner=SecretRef("dotenv", "/a/.env", "K")
    ),
    "secretspec:API_KEY": SecretRef("secretspec", "", "API_KEY"),
    "secretspec:API_KEY?profile=production&scope=shop": SecretRef(
        "secretspec", "", "API_KEY", options=(("profile", "production"), ("scope", "shop"))
    ),
    "issued:": SecretRef("issued", "", ""),
    "issued:username": SecretRef("issued", "", "username"),
}
MALFORMED = [
    "env:", "env:A-B", "env:A#B", "env:A?b=c", "env: A",
    "dotenv:/a", "dotenv:a#B", "dotenv:/a#1",
    "file:", "file:a", "file:~/a", "file:/a?follow=yes", "file:/a?folow=true",
    "docker-secret:", "docker-secret:../a", "docker-secret:a/b", "docker-secret:.a",
    "systemd-cred:", "systemd-cred:a/b", "systemd-cred:..",
    "keyring:a/b", "keyring://a", "keyring://a/b/c", "keyring:///b", "keyring://a b/c",
    "vault:secret/a#b", "vault:///secret#b", "vault:///secret/a", "vault://Prod/secret/a#b",
    "vault:///secret/a?version=0#b", "vault:///secret/a?versions=1#b", "vault:///a//b#c",
    "vault:///secret/a?version=1&version=2#b", "vault:///secret/a?version#b",
    "vault-lease:///database#b", "vault-lease:///a/b", "vault-lease:///a/b?version=1#c",
    "aws-sm://", "aws-sm:x", "aws-sm://x?stage=", f"aws-sm://x?stage=A&version={VERSION}",
    "op://v/i", "op://v//f", "op:v/i/f", "op://v/i/f/g/h", "op://v/i/f#x",
    "age:/x.age", "age:/x.age#K", "age:x.age?identity=env:A", "age:/x.age?identity=",
    "age:/x?identity=secret", "age:/x?identity=issued:", "age:/x?identity=vault-lease:///a/b%23c",
    "age:/x?identity=age:/y%3Fidentity=env:A", "age:/x?identity=command:",
    "secretspec:", "secretspec:A?provider=env", "secretspec:A#b",
    "issued", "issued:a/b", "issued:-",
    "command:", "command:/usr/bin/pass",
]  # fmt: skip


@pytest.mark.parametrize("text", REFERENCES)
def test_references_are_read_and_written(text: str) -> None:
    """Each scheme is read, and written so that it reads back; editors are told the same form."""
    reference = SecretRef.parse(text)
    assert reference == REFERENCES[text]
    assert SecretRef.parse(str(reference)) == reference
    assert reference.data() == str(reference)
    assert re.fullmatch(TEXT_PATTERN, text)
    assert re.fullmatch(TEXT_PATTERN, str(reference))


def test_every_scheme_is_tried() -> None:
    """The table above names each scheme that is a text."""
    assert {*(each.scheme for each in REFERENCES.values()), "command"} == set(SCHEMES)


@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_references_are_refused(text: str) -> None:
    """A mistake is an error that names the scheme and the right form, and repeats nothing."""
    with pytest.raises(SecretRefError) as caught:
        SecretRef.parse(text)
    scheme = text.partition(":")[0]
    assert ":" not in text or scheme in str(caught.value)
    assert (
        "Write " in str(caught.value.hint)
        or "Take " in str(caught.value.hint)
        or ("Name one" in str(caught.value.hint))
    )


@given(st.text(max_size=60))
def test_any_other_text_is_refused_without_its_words(text: str) -> None:
    """A text that is no reference may be the secret itself, and is not repeated."""
    with pytest.raises(SecretRefError) as caught:
        SecretRef.parse(f"canary{text}")
    assert "canary" not in str(caught.value) + str(caught.value.hint)


@given(st.sampled_from(SCHEMES), st.text(max_size=60))
def test_no_scheme_repeats_what_stands_behind_it(scheme: str, text: str) -> None:
    """The same for a text that begins like a reference; one that is taken is written back."""
    try:
        reference = SecretRef.parse(f"{scheme}:canary{text}")
    except SecretRefError as error:
        told = f"{error} {error.hint} {error.__cause__} {error.__context__}"
    else:
        told = ""
        assert SecretRef.parse(str(reference)) == reference
    assert "canary" not in told


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0\n"), min_size=1, max_size=20))
def test_any_file_may_hold_secrets(name: str) -> None:
    """References of files read back, whatever the files are called."""
    path = f"/srv/{name}"
    identity = SecretRef("file", path, "")
    for reference in (
        identity,
        SecretRef("file", path, "", options=(("follow", "true"),)),
        SecretRef("dotenv", path, "A"),
        SecretRef("age", path, "A", inner=identity),
        SecretRef("age", path, "", inner=SecretRef("dotenv", path, "A")),
    ):
        assert SecretRef.parse(str(reference)) == reference


def test_a_command_is_a_mapping() -> None:
    """`command` is read and written as a mapping; its text for people tells the program alone."""
    fields = TypeAdapter(dict[str, SecretRefField])
    table = {"command": ["/usr/bin/pass", "show", "shop"], "env": {"B": "2", "A": "1"}}
    table |= {"timeout": "3s", "stdin": "env:PIN"}
    reference = fields.validate_python({"X": table})["X"]
    assert reference.program == Program(
        ("/usr/bin/pass", "show", "shop"), timedelta(seconds=3), (("A", "1"), ("B", "2"))
    )
    assert reference.inner == SecretRef("env", "", "PIN")
    assert str(reference) == "command:/usr/bin/pass"
    assert fields.dump_python({"X": reference}, mode="json") == {"X": table}
    assert fields.validate_json(fields.dump_json({"X": reference})) == {"X": reference}
    short = fields.validate_python({"X": {"command": ["/bin/x"]}})["X"]
    assert short.data() == {"command": ["/bin/x"], "timeout": "10s", "env": {}}


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"command": []},
        {"command": "/usr/bin/canary"},
        {"command": ["canary"]},
        {"command": ["./canary"]},
        {"command": ["~/canary"]},
        {"command": ["/x", "canary\0"]},
        {"command": ["/x", ""]},
        {"command": ["/x", 1]},
        {"command": ["/x"], "timeout": "0s"},
        {"command": ["/x"], "timeout": "61s"},
        {"command": ["/x"], "timeout": 5},
        {"command": ["/x"], "env": {"a-canary": "1"}},
        {"command": ["/x"], "stdin": "canary"},
        {"command": ["/x"], "stdin": "issued:"},
        {"command": ["/x"], "stdin": {"command": ["/y"]}},
        {"command": ["/x"], "shell": True},
        ["/x"],
        12,
        None,
    ],
)
def test_malformed_commands_are_refused(table: object) -> None:
    """A mistake in a mapping is an error that does not repeat what stands there."""
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(dict[str, SecretRefField]).validate_python({"X": table})
    details = caught.value.errors(include_input=False, include_url=False)
    assert "canary" not in str([each["msg"] for each in details])


def test_placeholders_are_filled_everywhere() -> None:
    """Paths, arguments and inner references have their placeholders filled."""

    def fill(text: str) -> str:
        return text.replace("{state}", "/srv/state")

    reference = SecretRef.parse("age:{state}/x.age?identity=file:{state}/key#A").filled(fill)
    assert str(reference) == "age:/srv/state/x.age?identity=file:/srv/state/key#A"
    inner = SecretRef("file", "{state}/pin", "")
    command = SecretRef("command", "", "", inner=inner, program=Program(("{state}/bin/x", "a")))
    assert command.filled(fill).data() == {
        "command": ["/srv/state/bin/x", "a"],
        "timeout": "10s",
        "env": {},
        "stdin": "file:/srv/state/pin",
    }
    assert [each.path for each in command.chain()] == ["", "{state}/pin"]


def test_the_variables_that_references_need() -> None:
    """What has to be taken along from the environment is told, inner references included."""
    needed = {
        "env:A": ["A"],
        "file:/x": [],
        "age:/x?identity=env:AGE_KEY#A": ["AGE_KEY"],
        "systemd-cred:x": ["CREDENTIALS_DIRECTORY"],
        "op://v/i/f": ["OP_SERVICE_ACCOUNT_TOKEN", "OP_CONNECT_HOST", "OP_CONNECT_TOKEN"],
    }
    for text, names in needed.items():
        assert list(variables_of(SecretRef.parse(text))) == names


def test_what_may_stand_inside_a_reference() -> None:
    """An identity or an input is kept in a store that needs nothing else."""
    assert inner_reference("keyring://a/b").scheme == "keyring"
    for text in ("issued:", "age:/x?identity=env:A", "vault-lease:///a/b#c"):
        with pytest.raises(SecretRefError, match="cannot stand inside another"):
            inner_reference(text)


def test_options_are_told_by_name() -> None:
    """An option that is not given is empty."""
    reference = SecretRef.parse("vault:///secret/a?version=7#b")
    assert (reference.option("version"), reference.option("stage")) == ("7", "")
