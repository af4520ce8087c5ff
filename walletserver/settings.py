"""The environment, read once at the start."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

from walletserver.bands import AuthMode, Band, parse_bands
from walletserver.errors import SettingsError

_HOME_DIRECTORY: Final = ".walletsuite"
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?:[0-9]{1,5}|\*))?")
_MAX_DIGITS: Final = 12
_MAX_PORT: Final = 65_535
_MAX_TTL_MS: Final = 7 * 24 * 3600 * 1000
_MAX_SESSIONS: Final = 100_000
_MAX_SHUTDOWN_MS: Final = 10 * 60 * 1000

_WordT = TypeVar("_WordT", bound=StrEnum)


class Transport(StrEnum):
    """How the server is reached."""

    STDIO = "stdio"
    HTTP = "http"


class HttpMode(StrEnum):
    """Whether HTTP mode keeps sessions."""

    STATELESS = "stateless"
    STATEFUL = "stateful"


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """What only HTTP mode needs."""

    mode: HttpMode
    host: str
    port: int
    allowed_hosts: tuple[str, ...]
    session_ttl_seconds: float
    max_sessions: int


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the process was told, with the two secrets kept out of `repr`."""

    bands: tuple[Band, ...]
    auth_mode: AuthMode
    transport: Transport
    http: HttpSettings
    shutdown_seconds: float
    ledger_path: Path
    audit_path: Path
    token_file: Path
    agent_token: str | None = field(repr=False)
    passphrase: str | None = field(repr=False)


def load_settings(env: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings.

    Args:
        env: The environment; an empty value counts as not set, except for `MCP_BANDS`.

    Raises:
        SettingsError: A value is not understood. Its text names the variable only.
    """
    home = Path(env.get("HOME") or Path.home()) / _HOME_DIRECTORY
    return Settings(
        bands=parse_bands(env.get("MCP_BANDS")),
        auth_mode=_word(env, "MPC_AUTH_MODE", AuthMode.AGENT),
        transport=_word(env, "MCP_TRANSPORT", Transport.STDIO),
        http=HttpSettings(
            mode=_word(env, "MCP_HTTP_MODE", HttpMode.STATELESS),
            host=env.get("HOST") or "127.0.0.1",
            port=_number(env, "PORT", 3000, low=0, high=_MAX_PORT),
            allowed_hosts=_hosts(env, "MCP_ALLOWED_HOSTS"),
            session_ttl_seconds=_number(
                env, "MCP_SESSION_TTL_MS", 1_800_000, low=1000, high=_MAX_TTL_MS
            )
            / 1000,
            max_sessions=_number(env, "MCP_MAX_SESSIONS", 1000, low=1, high=_MAX_SESSIONS),
        ),
        shutdown_seconds=_number(env, "MCP_SHUTDOWN_TIMEOUT_MS", 5000, low=0, high=_MAX_SHUTDOWN_MS)
        / 1000,
        ledger_path=_path(env, "WALLETSERVER_LEDGER", home / "ledger.sqlite3"),
        audit_path=_path(env, "WALLETSUITE_AUDIT_PATH", home / "audit-trail.jsonl"),
        token_file=_path(env, "WALLETSERVER_TOKEN_FILE", home / "mpc-agent-token"),
        agent_token=env.get("MPC_AGENT_TOKEN") or None,
        passphrase=env.get("WALLETSUITE_PASSPHRASE") or None,
    )


def _word(env: Mapping[str, str], name: str, default: _WordT) -> _WordT:
    text = (env.get(name) or default.value).strip().lower()
    for member in type(default):
        if member.value == text:
            return member
    words = " or ".join(member.value for member in type(default))
    raise SettingsError(name, f"use {words}")


def _number(env: Mapping[str, str], name: str, default: int, *, low: int, high: int) -> int:
    text = (env.get(name) or str(default)).strip()
    # isascii first: isdecimal alone takes digits of every script.
    if not (
        text.isascii()
        and text.isdecimal()
        and len(text) <= _MAX_DIGITS
        and low <= int(text) <= high
    ):
        raise SettingsError(name, f"use a whole number from {low} to {high}")
    return int(text)


def _hosts(env: Mapping[str, str], name: str) -> tuple[str, ...]:
    hosts = tuple(word.strip() for word in (env.get(name) or "").split(",") if word.strip())
    if not all(_HOST.fullmatch(host) for host in hosts):
        raise SettingsError(
            name, "use names as in the Host header, with commas: wallet:8080,wallet"
        )
    return hosts


def _path(env: Mapping[str, str], name: str, default: Path) -> Path:
    text = env.get(name)
    if not text:
        return default
    path = Path(text).expanduser()
    if not path.is_absolute():
        raise SettingsError(name, "use an absolute path")
    return path
