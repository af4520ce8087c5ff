"""The data plane: agents' calls to their own instances."""
