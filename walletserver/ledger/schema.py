"""The tables of the ledger file.

Amounts are decimal text, as they outgrow SQLite's 64-bit integers; times are seconds since the
epoch; addresses are lower case.
"""

from typing import Final

SCHEMA_VERSION: Final = 1

STATEMENTS: Final = (
    """CREATE TABLE chains (
        chain TEXT PRIMARY KEY, height INTEGER NOT NULL, fees TEXT NOT NULL) STRICT""",
    """CREATE TABLE accounts (
        chain TEXT NOT NULL, address TEXT NOT NULL, nonce INTEGER NOT NULL,
        PRIMARY KEY (chain, address)) STRICT""",
    """CREATE TABLE balances (
        chain TEXT NOT NULL, address TEXT NOT NULL, asset TEXT NOT NULL, units TEXT NOT NULL,
        PRIMARY KEY (chain, address, asset)) STRICT""",
    # The unique key is the last line of defence against two transactions with one nonce.
    """CREATE TABLE transactions (
        chain TEXT NOT NULL, hash TEXT NOT NULL, block INTEGER NOT NULL, at INTEGER NOT NULL,
        sender TEXT NOT NULL, nonce INTEGER NOT NULL, envelope TEXT NOT NULL,
        recipient TEXT NOT NULL, token TEXT, units TEXT NOT NULL,
        gas_used INTEGER NOT NULL, fee TEXT NOT NULL,
        PRIMARY KEY (chain, hash), UNIQUE (chain, sender, nonce)) STRICT""",
    "CREATE INDEX transactions_sender ON transactions (chain, sender, block)",
    "CREATE INDEX transactions_recipient ON transactions (chain, recipient, block)",
    """CREATE TABLE wallets (
        name TEXT PRIMARY KEY, address TEXT NOT NULL UNIQUE, created_at REAL NOT NULL,
        salt BLOB NOT NULL, sealed BLOB NOT NULL) STRICT""",
    """CREATE TABLE policies (
        id TEXT PRIMARY KEY, wallet TEXT NOT NULL REFERENCES wallets (name),
        fingerprint TEXT NOT NULL, allowlist TEXT, max_value TEXT, rate INTEGER,
        applied_at REAL NOT NULL, UNIQUE (wallet, fingerprint)) STRICT""",
    """CREATE TABLE agent_tokens (
        id TEXT PRIMARY KEY, wallet TEXT NOT NULL REFERENCES wallets (name),
        hash TEXT NOT NULL UNIQUE, label TEXT, created_at REAL NOT NULL,
        expires_at REAL NOT NULL, revoked_at REAL) STRICT""",
    """CREATE TABLE signatures (
        wallet TEXT NOT NULL, payload TEXT NOT NULL, at REAL NOT NULL) STRICT""",
    "CREATE INDEX signatures_wallet ON signatures (wallet, at)",
)
