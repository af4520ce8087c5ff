"""The embedded development ledger behind its seam."""
