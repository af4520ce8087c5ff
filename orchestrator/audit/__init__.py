"""The record: what was called, by whom, and how it ended; one writer, lines that stay."""
