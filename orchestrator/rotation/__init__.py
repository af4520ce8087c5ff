"""Credentials that are replaced before they grow old, with proof that the old ones are dead."""
