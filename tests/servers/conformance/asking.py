"""Tools that ask the client something: by a request in the older era, by a result in the newer."""

from collections.abc import Mapping
from typing import Final, TypeAlias

import anyio
import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.shared.message import ServerMessageMetadata
from tool import NOTHING, Result, Tool, argument, register, say, takes

ASKING: Final[list[Tool]] = []
Answers: TypeAlias = dict[str, types.InputResponse]
Schema: TypeAlias = dict[str, object]

DEFAULTS: Final[Schema] = {
    "name": {"type": "string", "default": "John Doe"},
    "age": {"type": "integer", "default": 30},
    "score": {"type": "number", "default": 95.5},
    "status": {
        "type": "string",
        "enum": ["active", "inactive", "pending"],
        "default": "active",
    },
    "verified": {"type": "boolean", "default": True},
}
FIRST_AND_SECOND: Final = [
    {"const": "value1", "title": "First"},
    {"const": "value2", "title": "Second"},
]
ENUMS: Final[Schema] = {
    "untitledSingle": {"type": "string", "enum": ["option1", "option2"]},
    "titledSingle": {"type": "string", "oneOf": FIRST_AND_SECOND},
    "legacyEnum": {"type": "string", "enum": ["opt1", "opt2"], "enumNames": ["One", "Two"]},
    "untitledMulti": {"type": "array", "items": {"type": "string", "enum": ["option1", "option2"]}},
    "titledMulti": {"type": "array", "items": {"anyOf": FIRST_AND_SECOND}},
}


def form(message: str, **properties: object) -> types.ElicitRequest:
    """Ask the user to fill in a form."""
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    params = types.ElicitRequestFormParams(message=message, requested_schema=schema)
    return types.ElicitRequest(params=params)


def sample(prompt: str, most: int = 100) -> types.CreateMessageRequest:
    """Ask the client's model."""
    content = types.TextContent(type="text", text=prompt)
    message = types.SamplingMessage(role="user", content=content)
    params = types.CreateMessageRequestParams(messages=[message], max_tokens=most)
    return types.CreateMessageRequest(params=params)


def expected(request: types.InputRequest) -> type[types.InputResponse]:
    """Tell what an answer to a request looks like."""
    match request:
        case types.ElicitRequest():
            return types.ElicitResult
        case types.CreateMessageRequest():
            return types.CreateMessageResult
        case types.ListRootsRequest():
            return types.ListRootsResult


async def ask(
    ctx: ServerRequestContext,
    params: types.InputResponseRequestParams,
    requests: Mapping[str, types.InputRequest],
    state: str | None = None,
) -> Answers | types.InputRequiredResult:
    """Ask the client, in the way of its era.

    Returns:
        Its answers by the names of the requests, or what has to be returned to get them.
    """
    if ctx.session.can_send_request:
        about = ServerMessageMetadata(related_request_id=ctx.request_id)
        return {
            name: await ctx.session.send_request(request, expected(request), metadata=about)
            for name, request in requests.items()
        }
    await anyio.lowlevel.checkpoint()
    given = params.input_responses or {}
    if all(isinstance(given.get(name), expected(request)) for name, request in requests.items()):
        return {name: given[name] for name in requests}
    return types.InputRequiredResult(input_requests=dict(requests), request_state=state)


def words(answer: types.InputResponse) -> str:
    """Tell an answer in words."""
    match answer:
        case types.ElicitResult():
            return f"action={answer.action}, content={answer.content}"
        case types.ListRootsResult():
            return ", ".join(str(root.uri) for root in answer.roots)
        case types.CreateMessageResult():
            return getattr(answer.content, "text", "no text")
        case _:
            return "something else"


def asks(
    name: str, description: str, state: str | None = None, **requests: types.InputRequest
) -> None:
    """Register a tool that asks the same always and tells what it heard."""

    async def run(ctx: ServerRequestContext, params: types.CallToolRequestParams) -> Result:
        heard = await ask(ctx, params, requests, state)
        if isinstance(heard, types.InputRequiredResult):
            return heard
        return say("; ".join(f"{key}: {words(answer)}" for key, answer in heard.items()))

    ASKING.append(Tool(name, description, run, NOTHING))


TEXT: Final = {"type": "string"}
CONFIRM: Final = form("Please confirm", ok={"type": "boolean"})
NAME: Final = form("What is your name?", name=TEXT)
CAPITAL: Final = sample("What is the capital of France?")
ROOTS: Final = types.ListRootsRequest()

asks(
    "test_elicitation_sep1034_defaults",
    "Asks for values that have defaults.",
    user=form("Please provide user information", **DEFAULTS),
)
asks(
    "test_elicitation_sep1330_enums",
    "Asks for choices of five kinds.",
    choices=form("Please choose", **ENUMS),
)
asks("test_streaming_elicitation", "Asks on the call's own stream.", user_name=NAME)
asks("test_input_required_result_elicitation", "Asks the user.", user_name=NAME)
asks("test_input_required_result_sampling", "Asks the model.", capital_question=CAPITAL)
asks("test_input_required_result_list_roots", "Asks for roots.", client_roots=ROOTS)
asks("test_input_required_result_tampered_state", "Gives a sealed state.", "s", confirm=CONFIRM)
asks(
    "test_input_required_result_multiple_inputs",
    "Asks for three things at once.",
    "three",
    user_name=NAME,
    greeting=sample("Generate a greeting", 50),
    client_roots=ROOTS,
)


@register(ASKING, "test_sampling", "Asks the model.", takes(prompt="What to ask."))
async def sampling(ctx: ServerRequestContext, params: types.CallToolRequestParams) -> Result:
    """Tell what the model said."""
    heard = await ask(ctx, params, {"answer": sample(argument(params, "prompt"))})
    if isinstance(heard, types.InputRequiredResult):
        return heard
    return say(f"LLM response: {words(heard['answer'])}")


@register(ASKING, "test_elicitation", "Asks the user.", takes(message="What to ask."))
async def elicitation(ctx: ServerRequestContext, params: types.CallToolRequestParams) -> Result:
    """Tell what the user said."""
    question = form(argument(params, "message"), username=TEXT, email=TEXT)
    heard = await ask(ctx, params, {"answer": question})
    if isinstance(heard, types.InputRequiredResult):
        return heard
    return say(f"User response: {words(heard['answer'])}")


@register(
    ASKING,
    "test_input_required_result_request_state",
    "Gives a state that has to come back with the answer.",
)
async def request_state(ctx: ServerRequestContext, params: types.CallToolRequestParams) -> Result:
    """Tell whether it came back."""
    heard = await ask(ctx, params, {"confirm": CONFIRM}, "expected")
    if isinstance(heard, types.InputRequiredResult):
        return heard
    back = params.request_state == "expected" or ctx.session.can_send_request
    return say("state-ok" if back else "The state is missing")


@register(ASKING, "test_input_required_result_multi_round", "Asks twice, one after the other.")
async def multi_round(ctx: ServerRequestContext, params: types.CallToolRequestParams) -> Result:
    """Tell that both were answered."""
    if params.request_state != "second":
        step = form("Step 1: What is your name?", name=TEXT)
        first = await ask(ctx, params, {"step1": step}, "first")
        if isinstance(first, types.InputRequiredResult):
            return first
    step = form("Step 2: What is your favorite color?", color=TEXT)
    second = await ask(ctx, params, {"step2": step}, "second")
    if isinstance(second, types.InputRequiredResult):
        return second
    return say(f"Both steps are done: {words(second['step2'])}")


@register(
    ASKING,
    "test_input_required_result_capabilities",
    "Asks in whatever way the client can be asked.",
)
async def capabilities(ctx: ServerRequestContext, params: types.CallToolRequestParams) -> Result:
    """Ask only for what the client declared."""
    able = ctx.session.client_capabilities or types.ClientCapabilities()
    possible: dict[str, types.InputRequest] = {}
    if able.elicitation is not None:
        possible["user_name"] = NAME
    if able.sampling is not None:
        possible["capital_question"] = CAPITAL
    if able.roots is not None:
        possible["client_roots"] = ROOTS
    if not possible:
        return say("The client can be asked nothing")
    heard = await ask(ctx, params, possible)
    return heard if isinstance(heard, types.InputRequiredResult) else say(", ".join(heard))
