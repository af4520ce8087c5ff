"""A real MCP server over Streamable HTTP, of both eras, that listens where it is told.

Arguments: `--socket PATH` or `--port PORT`, then `--notes DIRECTORY`, and `--json` for a server
that answers with JSON only. `--delay SECONDS` makes it late. It prints much to its stdout.
"""

import argparse
import os
import time
from pathlib import Path
from typing import cast

import anyio
import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel

server = MCPServer("http-tools", version="1.2.3", instructions="Count carefully.")
notes = Path()


class Answer(BaseModel):
    """What is asked for."""

    colour: str


@server.tool()
def echo(text: str) -> str:
    """Give a text back."""
    return text


@server.tool()
def huge(size: int) -> str:
    """Give a long text."""
    return "x" * size


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
async def hold() -> None:
    """Stay until it is cancelled, and note both."""
    (notes / "held").touch()
    try:
        await anyio.sleep_forever()
    finally:
        (notes / "cancelled").touch()


@server.tool()
async def change(ctx: Context) -> str:
    """Say that the tools changed."""
    await ctx.session.send_tool_list_changed()
    return "said"


@server.tool()
def crash() -> None:
    """End the process."""
    os._exit(3)


def main() -> None:
    """Serve until killed."""
    global notes  # noqa: PLW0603 - set once, before anything runs
    parser = argparse.ArgumentParser()
    place = parser.add_mutually_exclusive_group(required=True)
    _ = place.add_argument("--socket")
    _ = place.add_argument("--port", type=int)
    _ = parser.add_argument("--host", default="127.0.0.1")
    _ = parser.add_argument("--path", default="/mcp")
    _ = parser.add_argument("--notes", type=Path, default=Path())
    _ = parser.add_argument("--json", action="store_true")
    _ = parser.add_argument("--delay", type=float, default=0.0)
    options = cast("dict[str, object]", vars(parser.parse_args()))
    notes = Path(str(options["notes"]))
    print("x" * 200_000, flush=True)  # noqa: T201 - nobody may have to read it
    time.sleep(float(str(options["delay"])))
    app = server.streamable_http_app(
        streamable_http_path=str(options["path"]), json_response=bool(options["json"])
    )
    if options["socket"] is not None:
        uvicorn.run(app, uds=str(options["socket"]), log_level="warning")
    else:
        port = int(str(options["port"]))
        uvicorn.run(app, host=str(options["host"]), port=port, log_level="warning")


if __name__ == "__main__":
    main()
