"""`aws-sm://` references, against moto's server.

moto 5.2.5 takes the place of AWS here and differs from it in three ways, each of which has a test
in `tests/integration/rotation/test_aws_sm.py`:

1. `get_secret_value` without a label gives the old value after AWSCURRENT has moved; so nothing
   is ever read without a label or a version.
2. `put_secret_value` with a used token and another content replaces the value; AWS refuses it.
3. `rotate_secret` without a function leaves two versions with AWSCURRENT; it is never used.
"""

from __future__ import annotations

import json
import logging
import secrets
import socket
import sys
import traceback
from collections.abc import Callable, Generator
from pathlib import Path
from typing import cast

import pytest

from orchestrator.errors import SecretError, SecretNotFoundError, SecretStoreUnavailableError
from orchestrator.model.secret import SecretRef
from orchestrator.secrets.aws import AwsStore
from orchestrator.secrets.aws_client import AwsClient

VALUE = "canary-aws-value"

Region = Callable[..., AwsClient]


@pytest.fixture
def kept(region: Region) -> str:
    """Keep a secret with a current and a pending version, and tell its name."""
    client, name = region(), f"app/{secrets.token_hex(4)}"
    text = json.dumps({"key": VALUE, "n": 7})
    assert client.call("create_secret", Name=name, SecretString=text).is_success
    pending = {"VersionStages": ["AWSPENDING"], "ClientRequestToken": "p" * 32}
    answer = client.call("put_secret_value", SecretId=name, SecretString=f"{VALUE}-next", **pending)
    assert answer.is_success
    return name


def read(text: str, **clients: AwsClient) -> str:
    """Read one reference."""
    return AwsStore(clients).read(SecretRef.parse(text)).value.get_secret_value()


def failure(text: str, kind: type[SecretError], **clients: AwsClient) -> str:
    """Read in vain; return the error's words, and make sure that no value is anywhere in it."""
    with pytest.raises(kind) as caught:
        _ = read(text, **clients)
    whole = "".join(traceback.format_exception(caught.value))
    assert VALUE not in whole
    assert "canary-aws-secret" not in whole
    assert text in str(caught.value)
    return f"{caught.value} {caught.value.hint}"


def test_a_secret_is_read_whole_or_by_key_label_and_version(region: Region, kept: str) -> None:
    """What counts now is read unless the reference names another label or a version."""
    client = region()
    assert read(f"aws-sm://{kept}#key", aws=client) == VALUE
    assert json.loads(read(f"aws-sm://{kept}", aws=client)) == {"key": VALUE, "n": 7}
    assert read(f"aws-sm://{kept}?stage=AWSPENDING", aws=client) == f"{VALUE}-next"
    assert read(f"aws-sm://{kept}?version={'p' * 32}", aws=client) == f"{VALUE}-next"
    arn = client.call("describe_secret", SecretId=kept).text("ARN")
    assert read(f"aws-sm://{arn}#key", aws=client) == VALUE


def test_what_is_not_there_is_told_by_its_reference(region: Region, kept: str) -> None:
    """A wrong name, label or key, no JSON, no text: each in words."""
    client = region()
    for text, words in {
        f"aws-sm://{kept}-x": "there is no such secret or version",
        f"aws-sm://{kept}?stage=OTHER": "there is no such secret or version",
        f"aws-sm://{kept}#other": "no such key Keys there: key, n.",
    }.items():
        assert words in failure(text, SecretNotFoundError, aws=client)
    for text, words in {
        f"aws-sm://{kept}#n": "the key holds no text",
        f"aws-sm://{kept}?stage=AWSPENDING#key": "it is no JSON object",
    }.items():
        assert words in failure(text, SecretStoreUnavailableError, aws=client)
    name = f"app/{secrets.token_hex(4)}"
    assert client.call("create_secret", Name=name, SecretBinary=VALUE.encode()).is_success
    problem = failure(f"aws-sm://{name}", SecretStoreUnavailableError, aws=client)
    assert "it is empty, or no text" in problem


def test_a_reference_finds_its_region(region: Region, kept: str) -> None:
    """The only store is meant, or that of the ARN's region, or the one called `default`."""
    here, there = region(), region(region="us-east-1")
    text = f"aws-sm://{kept}#key"
    assert read(text, main=here) == VALUE
    assert read(text, default=here, other=there) == VALUE
    problem = failure(text, SecretStoreUnavailableError, main=here, other=there)
    assert "it could be in any of main, other" in problem
    arn = here.call("describe_secret", SecretId=kept).text("ARN")
    assert read(f"aws-sm://{arn}#key", main=here, other=there) == VALUE
    problem = failure(f"aws-sm://{arn}", SecretStoreUnavailableError, other=there)
    assert "there is no store, or more than one, for the region eu-central-1" in problem
    assert "no store of kind aws" in failure(text, SecretStoreUnavailableError)


def test_a_region_that_is_down_or_silent_is_told_so(
    region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody there, somebody who never answers, and no login: each within its time."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = cast("int", silent.getsockname()[1])
        client = region(endpoint=f"http://127.0.0.1:{port}", timeout="300ms")
        text = "aws-sm://app"
        assert "does not answer" in failure(text, SecretStoreUnavailableError, aws=client)
    assert "cannot be reached" in failure(text, SecretStoreUnavailableError, aws=client)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    client = region(access_key=None, secret_key=None)
    assert "no login is found" in failure(text, SecretStoreUnavailableError, aws=client)
    client = region(access_key=None, secret_key=None, profile="nobody")
    assert "there is no such profile" in failure(text, SecretStoreUnavailableError, aws=client)
    client = region(secret_key="env:MISSING")
    assert "MISSING is not set" in failure(text, SecretStoreUnavailableError, aws=client)


@pytest.fixture
def stranger() -> Generator[socket.socket]:
    """Listen as somebody whom a variable names."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        yield listener


def was_asked(listener: socket.socket) -> bool:
    """Tell whether anybody connected."""
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


@pytest.mark.parametrize(
    "name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SECRETS_MANAGER", "AWS_CONFIG_FILE"]
)
def test_an_endpoint_is_named_by_the_store_alone(
    region: Region,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    stranger: socket.socket,
    name: str,
) -> None:
    """No variable and no configuration file of AWS leads to another address."""
    address = f"http://127.0.0.1:{stranger.getsockname()[1]}"
    file = tmp_path / "config"
    _ = file.write_text(f"[default]\nendpoint_url = {address}\n")
    monkeypatch.setenv(name, str(file) if name == "AWS_CONFIG_FILE" else address)
    # There is no such region, so nobody else is asked either.
    nowhere = region(region="xx-nowhere-1", endpoint=None, timeout="1s")
    answer = nowhere.call("get_secret_value", SecretId="app")
    assert answer.problem == "cannot be reached"
    assert not was_asked(stranger)


def test_no_proxy_of_the_environment_is_used(
    region: Region, monkeypatch: pytest.MonkeyPatch, kept: str, stranger: socket.socket
) -> None:
    """What goes to an address over http is shown to nobody on the way."""
    address = f"http://127.0.0.1:{stranger.getsockname()[1]}"
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, address)
        monkeypatch.setenv(name.lower(), address)
    assert read(f"aws-sm://{kept}#key", aws=region()) == VALUE
    assert not was_asked(stranger)


def test_a_missing_library_is_named_with_its_extra(
    region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without boto3 the error says what to install."""
    monkeypatch.setitem(sys.modules, "boto3.session", None)
    problem = failure("aws-sm://app", SecretStoreUnavailableError, aws=region())
    assert "pip install 'bandmaster[aws]'" in problem


def test_not_even_the_most_talkative_log_holds_a_value(
    region: Region, kept: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The library writes whole requests down at its lowest level, and is not let."""
    caplog.set_level(logging.DEBUG)
    client = region()
    assert read(f"aws-sm://{kept}#key", aws=client) == VALUE
    answer = client.call("put_secret_value", SecretId=kept, SecretString=f"{VALUE}-put")
    assert answer.is_success
    assert VALUE not in caplog.text
    assert "canary-aws-secret" not in caplog.text
