"""Keccak-256, loaded at the first use."""


def keccak256(data: bytes) -> bytes:
    """Return the 32-byte Keccak-256 digest."""
    # Loading the hash library takes about 0.07 s, which a start should not wait for.
    from eth_hash.auto import keccak  # noqa: PLC0415

    return keccak(data)
