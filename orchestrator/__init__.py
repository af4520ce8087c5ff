"""Runs many AI agents against MCP servers, each role with the least power it needs."""
