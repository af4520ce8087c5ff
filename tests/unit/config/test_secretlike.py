"""What is taken for a secret."""

import pytest

from orchestrator.config.secretlike import (
    is_harmless,
    is_sayable,
    is_secret_name,
    looks_known,
    looks_random,
)

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "value",
    [
        "-----BEGIN EC PRIVATE KEY-----\nabc",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc",
        "sk-abcdefghijklmnopqrst",
        "sk_live_4242424242",
        "ghp_0123456789abcdef0123",
        "AKIAABCDEFGHIJKLMNOP",
        f"0x{HEX}",
        HEX,
        f"mpc_key_{HEX}",
        f"mga_{'a1' * 6}_{'b2' * 24}c",
        "postgresql://me:hunter2@db/x",
        "Bearer abcdefghijklmnop1234",
        " ".join(["legal"] * 12),
        " ".join(["legal"] * 24),
    ],
)
def test_known_formats(value: str) -> None:
    """Secrets of a known format are recognised."""
    assert looks_known(value)
    assert not is_sayable(value)


@pytest.mark.parametrize(
    "value",
    [
        "Zx8Kq2LmN4pR7sTv9WyB1c",
        "dGhpcyBpcyBhIHNlY3JldCB2YWx1ZQ==",
        "a=9f86d081884c7d659a2feaa0c55ad015",
    ],
)
def test_random_words(value: str) -> None:
    """A long word of mixed characters is taken for a secret, whatever its format."""
    assert looks_random(value)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "red",
        "info",
        "https://api.example.com/v1/Some/Path0",
        "/usr/local/lib/python3.11/site-packages/Abc",
        "{state}/wallet/Executor0Audit.jsonl",
        "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
        "123e4567-e89b-12d3-a456-426614174000",
        "Prepares transfers for a person to review; never signs anything at all.",
        "eu-central-1-production-cluster",
        "legal winner",
    ],
)
def test_plain_values(value: str) -> None:
    """Paths, addresses, UUIDs, URLs and sentences are none."""
    assert not looks_random(value)


def test_names() -> None:
    """A name says that its value is a secret, unless it says that it is about one."""
    for name in ("API_KEY", "MPC_AGENT_TOKEN", "WALLETSUITE_PASSPHRASE", "DB_PASSWORD", "MNEMONIC"):
        assert is_secret_name(name)
    for name in ("WALLETSERVER_TOKEN_FILE", "MPC_AUTH_MODE", "MAX_TOKENS", "PUBLIC_KEY", "MONKEY"):
        assert not is_secret_name(name)
    assert is_harmless("4096")
    assert is_harmless("true")
    assert not is_harmless("hunter2")
