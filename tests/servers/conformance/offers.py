"""Resources, prompts and completions."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import anyio
import mcp_types as types
from asking import TEXT, ask, form, words
from lists import DYNAMIC_PROMPT, WATCHED
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from media import IMAGE, text_resource

PromptResult: TypeAlias = types.GetPromptResult | types.InputRequiredResult
RunPrompt: TypeAlias = Callable[
    [ServerRequestContext, types.GetPromptRequestParams], Awaitable[PromptResult]
]
BEFORE, AFTER = "test://template/", "/data"
CITIES: Final = ("paris", "park", "party")

TEXTS: Final = {
    "test://static-text": "This is the content of the static text resource.",
    WATCHED: "Watched resource content",
}
BINARY: Final = "test://static-binary"


async def list_resources(
    _: ServerRequestContext, __: types.PaginatedRequestParams | None
) -> types.ListResourcesResult:
    """List what can be read."""
    await anyio.lowlevel.checkpoint()
    kinds = {**dict.fromkeys(TEXTS, "text/plain"), BINARY: "image/png"}
    resources = [
        types.Resource(
            uri=uri, name=uri.removeprefix("test://"), description="For tests.", mime_type=kind
        )
        for uri, kind in kinds.items()
    ]
    return types.ListResourcesResult(resources=resources)


async def list_templates(
    _: ServerRequestContext, __: types.PaginatedRequestParams | None
) -> types.ListResourceTemplatesResult:
    """List what can be read with a name filled in."""
    await anyio.lowlevel.checkpoint()
    template = types.ResourceTemplate(
        uri_template=f"{BEFORE}{{id}}{AFTER}",
        name="template",
        description="For tests.",
        mime_type="application/json",
    )
    return types.ListResourceTemplatesResult(resource_templates=[template])


async def read_resource(
    _: ServerRequestContext, params: types.ReadResourceRequestParams
) -> types.ReadResourceResult:
    """Read one."""
    await anyio.lowlevel.checkpoint()
    uri = params.uri
    if uri in TEXTS:
        found: types.ResourceContents = types.TextResourceContents(
            uri=uri, mime_type="text/plain", text=TEXTS[uri]
        )
    elif uri == BINARY:
        found = types.BlobResourceContents(uri=uri, mime_type="image/png", blob=IMAGE.data)
    elif uri.startswith(BEFORE) and uri.endswith(AFTER):
        number = uri.removeprefix(BEFORE).removesuffix(AFTER)
        data = {"id": number, "templateTest": True, "data": f"Data for ID: {number}"}
        found = types.TextResourceContents(
            uri=uri, mime_type="application/json", text=json.dumps(data)
        )
    else:
        raise MCPError(types.INVALID_PARAMS, "Resource not found", {"uri": uri})
    return types.ReadResourceResult(contents=[found])


async def complete(
    _: ServerRequestContext, params: types.CompleteRequestParams
) -> types.CompleteResult:
    """Complete an argument."""
    await anyio.lowlevel.checkpoint()
    values = [city for city in CITIES if city.startswith(params.argument.value)]
    return types.CompleteResult(
        completion=types.Completion(values=values, total=len(values), has_more=False)
    )


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt: what is told of it, and what it gives."""

    definition: types.Prompt
    run: RunPrompt


PROMPTS: Final[dict[str, Prompt]] = {}


def prompt(name: str, *arguments: str) -> Callable[[RunPrompt], RunPrompt]:
    """Make a function a prompt."""

    def decorate(run: RunPrompt) -> RunPrompt:
        wanted = [types.PromptArgument(name=each, required=True) for each in arguments]
        definition = types.Prompt(name=name, description="For tests.", arguments=wanted)
        PROMPTS[name] = Prompt(definition, run)
        return run

    return decorate


def said(*contents: types.ContentBlock) -> types.GetPromptResult:
    """Give messages of the user."""
    messages = [types.PromptMessage(role="user", content=content) for content in contents]
    return types.GetPromptResult(messages=messages)


def text(words: str) -> types.TextContent:
    """Wrap a text."""
    return types.TextContent(type="text", text=words)


@prompt("test_simple_prompt")
async def simple(_: ServerRequestContext, __: types.GetPromptRequestParams) -> PromptResult:
    """Give a text."""
    await anyio.lowlevel.checkpoint()
    return said(text("This is a simple prompt for testing."))


@prompt("test_prompt_with_arguments", "arg1", "arg2")
async def with_arguments(
    _: ServerRequestContext, params: types.GetPromptRequestParams
) -> PromptResult:
    """Give a text with the arguments in it."""
    await anyio.lowlevel.checkpoint()
    given = params.arguments or {}
    return said(text(f"Prompt with arguments: arg1='{given['arg1']}', arg2='{given['arg2']}'"))


@prompt("test_prompt_with_embedded_resource", "resourceUri")
async def with_resource(
    _: ServerRequestContext, params: types.GetPromptRequestParams
) -> PromptResult:
    """Give a resource and a text."""
    await anyio.lowlevel.checkpoint()
    uri = (params.arguments or {})["resourceUri"]
    resource = text_resource(uri, "text/plain", "Embedded resource content for testing.")
    return said(resource, text("Please process the embedded resource above."))


@prompt("test_prompt_with_image")
async def with_image(_: ServerRequestContext, __: types.GetPromptRequestParams) -> PromptResult:
    """Give an image and a text."""
    await anyio.lowlevel.checkpoint()
    return said(IMAGE, text("Please analyze the image above."))


@prompt("test_input_required_result_prompt")
async def asking(ctx: ServerRequestContext, params: types.GetPromptRequestParams) -> PromptResult:
    """Ask the user first."""
    question = form("What context should the prompt use?", context=TEXT)
    heard = await ask(ctx, params, {"user_context": question})
    if isinstance(heard, types.InputRequiredResult):
        return heard
    return said(text(f"Prompt with context: {words(heard['user_context'])}"))


@prompt(DYNAMIC_PROMPT)
async def dynamic(_: ServerRequestContext, __: types.GetPromptRequestParams) -> PromptResult:
    """Be there."""
    await anyio.lowlevel.checkpoint()
    return said(text("It is there."))
