"""Name and version, as told to clients and by the health route."""

from typing import Final

SERVER_NAME: Final = "walletserver"
SERVER_TITLE: Final = "Reference wallet server (development signer)"
VERSION: Final = "0.1.0"
INSTRUCTIONS: Final = (
    "Wallet tools over an embedded development ledger with demo funds. "
    "Amounts are decimal strings. A failed call carries category, code, message and, "
    "where something can be done about it, requiredAction."
)
