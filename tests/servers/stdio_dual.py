"""A stdio MCP server of both eras, on the SDK."""

from mcp.server.mcpserver import MCPServer

server = MCPServer("dual", version="1.2.3")


@server.tool()
def echo(text: str) -> str:
    """Give a text back."""
    return text


@server.tool()
def add(first: int, second: int) -> int:
    """Add two numbers."""
    return first + second


if __name__ == "__main__":
    server.run("stdio")
