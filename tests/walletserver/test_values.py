"""Addresses, amounts, bands and settings."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walletserver.bands import AuthMode, Band, parse_bands, tool_names
from walletserver.errors import InvalidInputError, SettingsError
from walletserver.evm.address import checksum, parse_address
from walletserver.evm.units import format_units, parse_smallest, parse_units
from walletserver.settings import HttpMode, Transport, load_settings

# Source: EIP-55, test cases.
CHECKSUMMED = [
    "0x52908400098527886E0F7030069857D2E4169EE7",
    "0xde709f2102306220921060314715629080e2fb77",
    "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
    "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
    "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
    "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
]


@pytest.mark.parametrize("text", CHECKSUMMED)
def test_checksum(text: str) -> None:
    """Published checksum addresses are accepted and written the same way."""
    assert checksum(parse_address(text)) == text
    assert checksum(parse_address(text.lower())) == text


@pytest.mark.parametrize(
    "text", ["", "0x", CHECKSUMMED[2].replace("A", "a", 1), CHECKSUMMED[0] + "0", "T" + "A" * 33]
)
def test_bad_address(text: str) -> None:
    """A malformed address or a wrong checksum is refused."""
    with pytest.raises(InvalidInputError) as caught:
        parse_address(text)
    assert caught.value.code == "INVALID_ADDRESS"


@given(st.integers(1, 10**39), st.integers(0, 18))
def test_amount_round_trip(units: int, decimals: int) -> None:
    """A formatted amount is read back as the same number of units."""
    assert parse_units(format_units(units, decimals), decimals) == units


@pytest.mark.parametrize(
    "text", ["0", "-1", "1e3", "+1", "01", ".5", "1.", "1.1234567", "\u0661", "1 "]
)
def test_bad_amount(text: str) -> None:
    """An amount that is not positive, not plain, or too fine is refused."""
    with pytest.raises(InvalidInputError) as caught:
        parse_units(text, 6)
    assert caught.value.code == "INVALID_AMOUNT"


@pytest.mark.parametrize("text", ["0", "1.0", "-1", "0x1", str(2**256), "1\n"])
def test_bad_smallest(text: str) -> None:
    """A smallest-unit amount that is not a positive 256-bit whole number is refused."""
    with pytest.raises(InvalidInputError) as caught:
        parse_smallest(text)
    assert caught.value.code == "INVALID_AMOUNT_WEI"


@pytest.mark.parametrize(
    ("text", "agent", "owner"),
    [
        (None, 7, 7),
        ("read", 7, 7),
        ("read,prepare", 10, 10),
        ("read,prepare,sign", 12, 15),
        ("full", 13, 16),
    ],
)
def test_tool_counts(text: str | None, agent: int, owner: int) -> None:
    """Each documented band set has the documented number of tools in each mode."""
    bands = parse_bands(text)
    assert len(tool_names(bands, AuthMode.AGENT)) == agent
    assert len(tool_names(bands, AuthMode.OWNER)) == owner


@pytest.mark.parametrize(
    ("text", "top"),
    [
        (" Read , PREPARE ", Band.PREPARE),
        ("sign", Band.SIGN),
        ("broadcast", Band.BROADCAST),
        ("read,broadcast", Band.BROADCAST),
        ("FULL,read", Band.BROADCAST),
    ],
)
def test_odd_bands(text: str, top: Band) -> None:
    """Spaces and case do not matter, and a band brings all bands below it."""
    bands = parse_bands(text)
    assert bands == tuple(Band)[: len(bands)]
    assert bands[-1] is top


@pytest.mark.parametrize("text", ["", " ", "read,", "admin", "read;prepare"])
def test_unknown_band(text: str) -> None:
    """An unknown or missing word is an error rather than a guess."""
    with pytest.raises(SettingsError):
        parse_bands(text)


def test_default_settings() -> None:
    """An empty environment means read band, agent mode, stdio, loopback, private files at home."""
    settings = load_settings({"HOME": "/home/someone"})
    assert settings.bands == (Band.READ,)
    assert settings.auth_mode is AuthMode.AGENT
    assert settings.transport is Transport.STDIO
    assert (settings.http.mode, settings.http.host) == (HttpMode.STATELESS, "127.0.0.1")
    assert settings.ledger_path == Path("/home/someone/.walletsuite/ledger.sqlite3")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MPC_AUTH_MODE", "admin"),
        ("MCP_TRANSPORT", "sse"),
        ("MCP_HTTP_MODE", "x"),
        ("PORT", "70000"),
        ("PORT", "\u0663"),
        ("PORT", "9" * 5000),
        ("PORT", "0" * 12 + "99999"),
        ("MCP_MAX_SESSIONS", "0"),
        ("MCP_ALLOWED_HOSTS", "http://wallet"),
        ("MCP_ALLOWED_HOSTS", "wallet:port"),
        ("MCP_SHUTDOWN_TIMEOUT_MS", "-1"),
        ("WALLETSERVER_LEDGER", "relative.sqlite3"),
    ],
)
def test_bad_setting(name: str, value: str) -> None:
    """A bad value is refused by the name of its variable, without repeating it."""
    with pytest.raises(SettingsError) as caught:
        load_settings({name: value})
    assert caught.value.variable == name
    assert repr(value) not in repr(caught.value)


def test_secrets_stay_out_of_repr() -> None:
    """Printing the settings shows neither secret."""
    settings = load_settings({"MPC_AGENT_TOKEN": "canary-1", "WALLETSUITE_PASSPHRASE": "canary-2"})
    assert "canary" not in repr(settings)
