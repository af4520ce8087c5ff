"""A real MCP server over Streamable HTTP, of both eras: sessions, progress, questions.

Its argument is the path; it prints the port that it took.
"""

import socket
import sys
from pathlib import Path
from typing import cast

import anyio
import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel

server = MCPServer("streaming", version="1")


class Answer(BaseModel):
    """What is asked for."""

    colour: str


@server.tool()
async def count(ctx: Context, to: int) -> str:
    """Report progress on the way."""
    for number in range(1, to + 1):
        await ctx.report_progress(number, to, f"ünï {number}")
    return f"counted to {to}"


@server.tool()
async def ask(ctx: Context) -> str:
    """Ask the caller something; legacy callers only."""
    answer = await ctx.elicit("Which colour?", Answer)
    return answer.data.colour if answer.action == "accept" else answer.action


@server.tool()
async def hold(ctx: Context, fifo: str) -> None:
    """Tell that it began, then stay until it is cancelled, and tell that through a FIFO."""
    await ctx.report_progress(1, 2)
    try:
        await anyio.sleep_forever()
    finally:
        _ = Path(fifo).write_text("cancelled")  # noqa: ASYNC240  the test reads at once


def main() -> None:
    """Serve until killed."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = server.streamable_http_app(streamable_http_path=sys.argv[1])
    port = cast("int", listener.getsockname()[1])
    print(port, flush=True)  # noqa: T201  whoever started it reads this
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])


if __name__ == "__main__":
    main()
