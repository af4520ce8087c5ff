"""Wallet keys, policies, agent tokens, signing and the audit trail."""
