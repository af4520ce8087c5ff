"""Small programs beside the daemon."""
