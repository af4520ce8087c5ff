"""EVM addresses, amounts and transactions, without I/O."""
