"""Calls that a person has to approve: who asked for what, who decided, and whether it was used."""
