"""The agents command."""
