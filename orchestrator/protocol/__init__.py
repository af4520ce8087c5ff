"""MCP on the wire, without I/O."""
