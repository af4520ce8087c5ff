"""Agent tokens: their bytes, their records, their verification."""
