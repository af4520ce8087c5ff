"""The fixed facts of the embedded ledger: chains, assets, prices, fees and demo funds."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from walletserver.codes import Code
from walletserver.errors import InvalidInputError, NotAvailableError
from walletserver.evm.address import Address


@dataclass(frozen=True, slots=True)
class Asset:
    """One native coin or test token."""

    symbol: str
    name: str
    decimals: int
    contract: Address | None
    usd: Decimal
    demo_units: int
    """Smallest units granted to each new wallet."""

    @property
    def asset_id(self) -> str:
        """The contract, or `native`."""
        return self.contract or "native"


@dataclass(frozen=True, slots=True)
class Chain:
    """One chain; its first asset is the native coin."""

    name: str
    chain_id: int
    is_eip1559: bool
    base_fee: int
    priority_fee: int
    first_block: int
    assets: tuple[Asset, ...]

    @property
    def caip2(self) -> str:
        """The chain's CAIP-2 name, as audit receipts use it."""
        return f"eip155:{self.chain_id}"

    @property
    def native(self) -> Asset:
        """The coin fees are paid in."""
        return self.assets[0]

    def token(self, contract: Address) -> Asset:
        """Look up a token.

        Raises:
            InvalidInputError: No token of this chain has that contract.
        """
        for asset in self.assets[1:]:
            if asset.contract == contract:
                return asset
        raise InvalidInputError(
            Code.UNKNOWN_TOKEN, "No known token on this chain has that contract."
        )


NATIVE_GAS: Final = 21_000
TOKEN_GAS: Final = 46_251
TOKEN_GAS_LIMIT: Final = 65_000

_ONE: Final = 10**18
_GWEI: Final = 10**9

ETHEREUM: Final = Chain(
    name="ethereum",
    chain_id=1,
    is_eip1559=True,
    base_fee=_GWEI,
    priority_fee=_GWEI // 10,
    first_block=20_000_000,
    assets=(
        Asset("ETH", "Ether", 18, None, Decimal(3000), 10 * _ONE),
        Asset(
            "USDC",
            "USD Coin",
            6,
            Address("0xa0b86991c6218b36c1d19d4a2e9eb0ce3606eb48"),
            Decimal(1),
            1_000 * 10**6,
        ),
        Asset(
            "USDT",
            "Tether USD",
            6,
            Address("0xdac17f958d2ee523a2206206994597c13d831ec7"),
            Decimal(1),
            1_000 * 10**6,
        ),
    ),
)

BNB: Final = Chain(
    name="bnb",
    chain_id=56,
    is_eip1559=False,
    base_fee=_GWEI,
    priority_fee=0,
    first_block=40_000_000,
    assets=(
        Asset("BNB", "BNB", 18, None, Decimal(600), 10 * _ONE),
        Asset(
            "USDC",
            "USD Coin",
            18,
            Address("0x8ac76a51cc950d9822d68b83fe1ad97b32cd580d"),
            Decimal(1),
            1_000 * _ONE,
        ),
        Asset(
            "USDT",
            "Tether USD",
            18,
            Address("0x55d398326f99059ff775485246999027b3197955"),
            Decimal(1),
            1_000 * _ONE,
        ),
    ),
)

CHAINS: Final = {chain.name: chain for chain in (ETHEREUM, BNB)}
FIAT_PER_USD: Final = {"USD": Decimal(1), "EUR": Decimal("0.9"), "GBP": Decimal("0.8")}


def chain_named(name: str) -> Chain:
    """Look up a chain.

    Raises:
        NotAvailableError: The word is known (`tron`), but this ledger does not carry that chain.
    """
    chain = CHAINS.get(name)
    if chain is None:
        raise NotAvailableError(
            Code.CHAIN_NOT_AVAILABLE, "The embedded ledger does not carry this chain."
        )
    return chain


def caip2_of(name: str) -> str:
    """Return the CAIP-2 name of a chain word, also of one this ledger does not carry."""
    chain = CHAINS.get(name)
    return "tron:mainnet" if chain is None else chain.caip2


def price(asset: Asset, fiat: str) -> Decimal:
    """Return what one whole unit costs in a currency of `FIAT_PER_USD`."""
    return asset.usd * FIAT_PER_USD[fiat]


def price_text(asset: Asset, fiat: str) -> str:
    """Return the price as a plain decimal string."""
    return f"{price(asset, fiat).normalize():f}"


def fiat_value(asset: Asset, units: int, fiat: str) -> str:
    """Return the worth of some smallest units, rounded down to cents."""
    worth = Decimal(units).scaleb(-asset.decimals) * price(asset, fiat)
    cents = int(worth * 100)
    return f"{cents // 100}.{cents % 100:02d}"
