"""Who makes credentials, one module a kind."""
