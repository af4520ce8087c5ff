"""Frozen data that the layers above exchange, without I/O."""
