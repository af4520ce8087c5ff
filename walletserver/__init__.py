"""A reference wallet MCP server with an embedded development ledger."""
