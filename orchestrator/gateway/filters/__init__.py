"""Duties on a call's way, one a module."""
