"""Transports from the gateway to a target."""
