"""Which tools exist under which bands and mode.

Bands are cumulative. A tool outside the active set is never registered, so this table is the
only place that decides what a role can see.

Source: fact sheet sections 5 and 6 (Band Filtering page).
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from walletserver.errors import SettingsError


class Band(StrEnum):
    """One step of the ladder, lowest first."""

    READ = "read"
    PREPARE = "prepare"
    SIGN = "sign"
    BROADCAST = "broadcast"


class AuthMode(StrEnum):
    """Whether the process acts for the owner of the wallets or for one agent."""

    OWNER = "owner"
    AGENT = "agent"


@dataclass(frozen=True, slots=True)
class Hints:
    """The advisory annotations all tools of one band share."""

    read_only: bool
    destructive: bool
    idempotent: bool
    open_world: bool


LADDER: Final = tuple(Band)

HINTS: Final = {
    Band.READ: Hints(read_only=True, destructive=False, idempotent=True, open_world=True),
    Band.PREPARE: Hints(read_only=False, destructive=False, idempotent=False, open_world=True),
    Band.SIGN: Hints(read_only=False, destructive=False, idempotent=True, open_world=False),
    Band.BROADCAST: Hints(read_only=False, destructive=True, idempotent=False, open_world=True),
}

TOOL_BANDS: Final = {
    "get_balance": Band.READ,
    "get_all_balances": Band.READ,
    "get_price": Band.READ,
    "get_fee_quote": Band.READ,
    "resolve_asset": Band.READ,
    "get_tx_status": Band.READ,
    "get_tx_history": Band.READ,
    "prepare_transfer": Band.PREPARE,
    "prepare_serialized_unsigned_tx": Band.PREPARE,
    "prepare_onramp": Band.PREPARE,
    "get_wallet_address": Band.SIGN,
    "sign_transaction": Band.SIGN,
    "create_wallet": Band.SIGN,
    "create_agent_api_key": Band.SIGN,
    "create_custom_policy": Band.SIGN,
    "send_transaction": Band.BROADCAST,
}

OWNER_ONLY: Final = frozenset({"create_wallet", "create_agent_api_key", "create_custom_policy"})

_VARIABLE: Final = "MCP_BANDS"
# "full" is the documented word for all four; "broadcast" names its top band.
_WORDS: Final = {**{band.value: band for band in LADDER}, "full": Band.BROADCAST}


def parse_bands(text: str | None) -> tuple[Band, ...]:
    """Read `MCP_BANDS` into the cumulative set of bands.

    Args:
        text: Comma-separated words, or None when the variable is not set.

    Returns:
        The bands from `read` up to the highest one named, lowest first.

    Raises:
        SettingsError: A word is unknown or missing.
    """
    if text is None:
        return (Band.READ,)
    named: list[Band] = []
    for word in text.split(","):
        band = _WORDS.get(word.strip().lower())
        if band is None:
            problem = "use read, prepare, sign, broadcast or full, separated by commas"
            raise SettingsError(_VARIABLE, problem)
        named.append(band)
    top = max(LADDER.index(band) for band in named)
    return LADDER[: top + 1]


def tool_names(bands: tuple[Band, ...], mode: AuthMode) -> tuple[str, ...]:
    """List the tools to register, in table order.

    Args:
        bands: The cumulative set from `parse_bands`.
        mode: Owner mode alone sees the owner's three tools.
    """
    return tuple(
        name
        for name, band in TOOL_BANDS.items()
        if band in bands and (mode is AuthMode.OWNER or name not in OWNER_ONLY)
    )
