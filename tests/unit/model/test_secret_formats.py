"""What is recognised as a secret inside arguments, and what is not."""

import base64
import json
import string
import time

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.model.phrase import holds_phrase
from orchestrator.model.secret_formats import find_secret
from orchestrator.tokens.mint import mint

HEX = "0123456789abcdef" * 4
# Source: BIP-39, test vectors.
PHRASE = "legal winner thank year wave sausage worth useful legal winner thank yellow"
LONG_PHRASE = (
    "void come effort suffer camp survey warrior heavy shoot primary clutch crush open amazing "
    "screen patrol group space point ten exist slush involve unfold"
)
SECRETS = {
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl": "a JSON Web Token",
    "AGE-SECRET-KEY-1QQPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L": "an age key",
    "ghp_0123456789abcdefghij0123456789abcdef": "a GitHub token",
    "github_pat_11ABCDEFG0123456789_abcdefghij": "a GitHub token",
    "glpat-0123456789abcdefghij": "a GitLab token",
    "xoxb-0123456789-abcdefghij": "a Slack token",
    "AKIAIOSFODNN7EXAMPLE": "an AWS key",
    "ASIAIOSFODNN7EXAMPLE": "an AWS key",
    "AIzaSyA0123456789abcdefghijklmnopqrstuvw": "a Google key",
    "sk_live_0123456789abcdef": "a Stripe key",
    "whsec_0123456789abcdef0123": "a Stripe key",
    "sk-ant-api03-0123456789": "an Anthropic key",
    "sk-proj-0123456789abcdef": "an API key",
    "sk-0123456789abcdef0123": "an API key",
    "hf_0123456789abcdefghij": "a Hugging Face token",
    "npm_0123456789abcdefghij": "an npm token",
    "pypi-AgEIcHlwaS5vcmcCJDAxMjM0": "a PyPI token",
    f"dop_v1_{HEX}": "a DigitalOcean token",
    "SG.0123456789abcdefghijkl.0123456789abcdefghijkl": "a SendGrid key",
    f"mpc_key_{HEX}": "a wallet token",
    "-----BEGIN PRIVATE KEY-----\nMIIEvQ": "a private key",
    "-----BEGIN OPENSSH PRIVATE KEY-----": "a private key",
    PHRASE: "the recovery phrase of a wallet",
    LONG_PHRASE: "the recovery phrase of a wallet",
}
HARMLESS = [
    "",
    "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
    f"0x{HEX}",
    HEX,
    "123e4567-e89b-12d3-a456-426614174000",
    "eu-central-1-production-cluster",
    "-----BEGIN CERTIFICATE-----\nMIIEvQ",
    "-----BEGIN PUBLIC KEY-----",
    "The quick brown fox jumps over the lazy dog, and then it was more or less the same again.",
    "legal winner thank year wave sausage worth useful legal winner thank thank",
    "abandon ability able about above absent absorb",
    "abandon " * 11 + "about",
    "long/" * 20 + "state",
    "eyJ0eXBlIjoiYmFzZTY0IG9mIGpzb24ifQ==",
    "task-0123456789abcdefghijk",
    "mga_short_1",
    base64.b64encode(bytes(range(256))).decode(),
    "AKIA is how the ids of some keys begin",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "around",
    [
        "{}",
        "Bearer {}",
        "token={}",
        "line\n{}",
        "\t{}\t",
        '{{"key":"{}"}}',
        "x/{}",
        "é{}é",
        "%20{}",
    ],
)
def test_secrets_are_found(secret: str, around: str) -> None:
    """Each format is found inside a longer text, in an object inside an object, and by its name."""
    text = around.format(secret)
    for arguments in ({"a": text}, {"a": [{"b": text}]}, {text: 1}):
        assert find_secret(orjson.dumps(arguments)) == SECRETS[secret]
        assert find_secret(json.dumps(arguments).encode()) == SECRETS[secret]


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_texts(text: str) -> None:
    """Addresses, hashes, UUIDs, prose, certificates and other base64 are none."""
    assert find_secret(orjson.dumps({"a": text, "b": [text]})) is None


@given(st.text(string.printable, max_size=20), st.text(string.printable, max_size=20))
def test_our_own_tokens_wherever_they_stand(before: str, after: str) -> None:
    """A token of an agent is found between any texts."""
    token = mint().text.get_secret_value()
    assert find_secret(orjson.dumps({"a": before + token + after})) == "a token of an agent"


def test_keys_by_their_names() -> None:
    """A key of 32 bytes is known by its name only, as a hash looks the same."""
    for name in ("privateKey", "private_key", "secret-key", "SIGNING_KEY", "walletPrivateKey"):
        for value in (HEX, f"0x{HEX}"):
            assert find_secret(orjson.dumps({name: value})) == "a private key"
            assert find_secret(f"{name}={value}".encode()) == "a private key"
    for name in ("txHash", "key", "privacy", "hash"):
        assert find_secret(orjson.dumps({name: f"0x{HEX}"})) is None


@pytest.mark.parametrize("between", [" ", "\n", ", ", "  ", "\n1. "])
def test_phrases_however_they_are_written(between: str) -> None:
    """A phrase is found whatever stands between its words, and in a list."""
    words = PHRASE.split()
    assert holds_phrase(f"my words: {between.join(words)} ok?".encode())
    assert find_secret(orjson.dumps({"words": words})) == "the recovery phrase of a wallet"


def test_lists_of_words() -> None:
    """A long list of words is no phrase, though some twelve of them would do as one."""
    assert not holds_phrase(b" ".join([b"abandon"] * 80))
    assert not holds_phrase(b" ".join([b"abandon"] * 11 + [b"zzz"] + [b"abandon"] * 11))


@pytest.mark.parametrize(
    "piece",
    [
        "eyJ", "eyJ.", "eyJaaaaaaaaaaaaa.", "sk-", "gh", "mga_", "mga_0123456789ab_", "SG.", "AKIA",
        "abandon ", "a ", '"', "\\", "\n", "%20", "%", "-----BEGIN ", "PRIVATE KEY", "privatekey",
        f"{'x' * 16} ", f"{HEX} ", "\u0001", "é",
    ],
)  # fmt: skip
def test_no_text_takes_long(piece: str) -> None:
    """The time grows with the size alone, whatever a text is made of."""
    data = orjson.dumps({"a": piece * (1_000_000 // len(piece))})
    begin = time.process_time()
    _ = find_secret(data)
    # A search that begins again at each letter would take minutes.
    assert time.process_time() - begin < 3.0
