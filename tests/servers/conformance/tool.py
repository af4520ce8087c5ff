"""What a tool of the fixture is made of."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import mcp_types as types
from mcp.server.context import ServerRequestContext

Result: TypeAlias = types.CallToolResult | types.InputRequiredResult
Run: TypeAlias = Callable[[ServerRequestContext, types.CallToolRequestParams], Awaitable[Result]]

NOTHING: Final[dict[str, object]] = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool: its name, what is told of it, and what it does."""

    name: str
    description: str
    run: Run
    schema: Mapping[str, object]

    @property
    def definition(self) -> types.Tool:
        """What clients are shown."""
        schema = dict(self.schema)
        return types.Tool(name=self.name, description=self.description, input_schema=schema)


def register(
    tools: list[Tool], name: str, description: str, schema: Mapping[str, object] = NOTHING
) -> Callable[[Run], Run]:
    """Make a function a tool."""

    def decorate(run: Run) -> Run:
        tools.append(Tool(name, description, run, schema))
        return run

    return decorate


def takes(**names: str) -> dict[str, object]:
    """Write the schema of a tool whose arguments are texts that it must have."""
    properties = {name: {"type": "string", "description": text} for name, text in names.items()}
    return {"type": "object", "properties": properties, "required": list(names)}


def say(text: str) -> types.CallToolResult:
    """Answer with a text."""
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)])


def argument(params: types.CallToolRequestParams, name: str) -> str:
    """Read an argument that is a text."""
    return str(dict[str, object](params.arguments or {})[name])
