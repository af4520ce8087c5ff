"""What a role's calls may do: decisions without I/O, over an injected time."""
