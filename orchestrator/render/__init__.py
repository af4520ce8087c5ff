"""Pure text of the files that the orchestrator writes for its engines."""
