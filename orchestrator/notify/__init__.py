"""Tells people: webhooks, mail, commands."""
