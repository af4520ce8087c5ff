"""Wallets: a name, an address, and a sealed key."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from walletserver.codes import Code
from walletserver.custody.vault import SALT_LENGTH, Vault
from walletserver.errors import FlowError
from walletserver.evm.address import Address
from walletserver.ledger.backend import Backend
from walletserver.ledger.store import Store, blob, real, text


@dataclass(frozen=True, slots=True)
class Wallet:
    """One wallet as stored."""

    name: str
    address: Address
    created_at: float
    salt: bytes = field(repr=False)
    sealed: bytes = field(repr=False)


class Wallets:
    """The wallets in the ledger file."""

    def __init__(
        self, store: Store, vault: Vault, backend: Backend, now: Callable[[], float] = time.time
    ) -> None:
        """Keep the parts.

        Args:
            store: The ledger file.
            vault: Seals the keys.
            backend: Is told of new wallets.
            now: Wall clock, in seconds since the epoch.
        """
        self._store = store
        self._vault = vault
        self._backend = backend
        self._now = now

    def create(self, name: str) -> Wallet:
        """Make a wallet with a fresh random key.

        Raises:
            FlowError: The name is taken, or there is no passphrase to seal the key with.
        """
        self._refuse_taken(name)
        # The curve library takes about 0.3 s to load; only this owner tool needs it.
        from eth_keys.datatypes import PrivateKey  # noqa: PLC0415

        key, salt = secrets.token_bytes(32), secrets.token_bytes(SALT_LENGTH)
        address = Address(PrivateKey(key).public_key.to_address())
        self._vault.unlock(salt)
        with self._store.write():
            # Asked a second time, now with the ledger held against other processes.
            self._refuse_taken(name)
            sealed = self._vault.seal(key, salt, _context(name, address))
            wallet = Wallet(name, address, self._now(), salt, sealed)
            self._store.rows(
                "INSERT INTO wallets VALUES (?, ?, ?, ?, ?)",
                name,
                address,
                wallet.created_at,
                salt,
                sealed,
            )
            self._backend.welcome(address)
        return wallet

    def find(self, name: str) -> Wallet:
        """Look a wallet up.

        Raises:
            FlowError: There is none of that name.
        """
        wallet = self._row(name)
        if wallet is None:
            raise FlowError(
                Code.WALLET_NOT_FOUND,
                "There is no wallet of that name.",
                "Have the owner run create_wallet with this walletName first.",
            )
        return wallet

    def unlock(self, wallet: Wallet) -> None:
        """Derive what `open_key` needs, so that it is quick while the ledger is held."""
        self._vault.unlock(wallet.salt)

    def open_key(self, wallet: Wallet) -> bytes:
        """Return the private key, for one signature.

        Raises:
            FlowError: The passphrase is missing or another one.
        """
        return self._vault.open(wallet.sealed, wallet.salt, _context(wallet.name, wallet.address))

    def _refuse_taken(self, name: str) -> None:
        if self._row(name) is not None:
            raise FlowError(
                Code.WALLET_EXISTS,
                "A wallet of that name exists already.",
                "Use the existing wallet, or choose another walletName.",
            )

    def _row(self, name: str) -> Wallet | None:
        row = self._store.row(
            "SELECT name, address, created_at, salt, sealed FROM wallets WHERE name=?", name
        )
        if row is None:
            return None
        return Wallet(text(row[0]), Address(text(row[1])), real(row[2]), blob(row[3]), blob(row[4]))


def _context(name: str, address: Address) -> str:
    # Binds the sealed key to its row: one moved to another wallet does not open.
    return f"walletserver/1/{name}/{address}"
