"""The official client with all that it can do: through the gateway, and through shims before it.

Roles `older` and `newer` have a server of one era only: clients of the other era reach it by the
gateway's translation.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import anyio
import httpx2
import mcp_types as types
import pytest
from mcp import Client, StdioServerParameters
from mcp.client import ClientRequestContext, IncomingMessage, Transport
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from pydantic import FileUrl

if TYPE_CHECKING:
    from tests.e2e.conformance.conftest import Direct
    from tests.e2e.conftest import Object, Project

AGENTS: Final = str(Path(sys.executable).with_name("agents"))
MODES: Final = ("auto", "legacy", "2026-07-28")
ROLES: Final = ("stdio", "http", "older", "newer")
LONGEST: Final = 180
# Whoever opens a stream for news only after the news missed it, and has them made again.
NEWS_SECONDS: Final = 1
DYNAMIC: Final = {"test_dynamic_tool", "test_dynamic_prompt"}
WATCHED: Final = "test://watched-resource"


@dataclass(frozen=True, slots=True)
class Stage:
    """What a test works with.

    Attributes:
        project: The running project.
        direct: Its server without it.
        scratch: A directory for files that the server makes.
    """

    project: Project
    direct: Direct
    scratch: Path


@pytest.fixture
def stage(project: Project, direct: Direct, tmp_path: Path) -> Stage:
    """Put it together."""
    return Stage(project, direct, tmp_path)


@dataclass(slots=True)
class Session:
    """A connected client, and what it was told and asked meanwhile."""

    client: Client
    stage: Stage
    role: str
    logs: list[object] = field(default_factory=list[object])
    news: set[str] = field(default_factory=set[str])
    heard: anyio.Event = field(default_factory=anyio.Event)

    @property
    def modern(self) -> bool:
        """Whether it speaks the newer era."""
        return self.client.protocol_version == "2026-07-28"

    async def say(self, tool: str, **arguments: str) -> str:
        """Call a tool that answers with a text."""
        return text(await self.client.call_tool(tool, dict[str, object](arguments)))


def text(result: types.CallToolResult) -> str:
    """Read the text of a result."""
    block = result.content[0]
    assert isinstance(block, types.TextContent)
    return block.text


async def elicit(_: ClientRequestContext, params: types.ElicitRequestParams) -> types.ElicitResult:
    """Answer as a user: with what is told to be the default, or with a yes, or with a word."""
    await anyio.lowlevel.checkpoint()
    assert isinstance(params, types.ElicitRequestFormParams)
    properties = cast("dict[str, Object]", params.requested_schema["properties"])
    words = {name: about.get("default", params.message) for name, about in properties.items()}
    return types.ElicitResult.model_validate({"action": "accept", "content": words})


async def sample(
    _: ClientRequestContext, __: types.CreateMessageRequestParams
) -> types.CreateMessageResult:
    """Answer as a model."""
    await anyio.lowlevel.checkpoint()
    content = types.TextContent(type="text", text="Paris")
    return types.CreateMessageResult(role="assistant", content=content, model="none")


async def list_roots(_: ClientRequestContext) -> types.ListRootsResult:
    """Tell the client's roots."""
    await anyio.lowlevel.checkpoint()
    return types.ListRootsResult(roots=[types.Root(uri=FileUrl("file:///the/root"))])


@asynccontextmanager
async def open_session(
    transport: Transport, mode: str, stage: Stage, role: str
) -> AsyncGenerator[Session]:
    """Connect a client that can do everything."""
    session: Session

    async def hear(message: IncomingMessage) -> None:
        await anyio.lowlevel.checkpoint()
        if not isinstance(message, Exception):
            session.news.add(message.method)
            session.heard.set()

    async def hear_log(params: types.LoggingMessageNotificationParams) -> None:
        await anyio.lowlevel.checkpoint()
        session.logs.append(cast("object", params.data))

    make = cast("Callable[..., Client]", Client)  # its callbacks' types have names for arguments
    client = make(
        transport,
        mode=mode,
        cache=None,
        log_level="info",
        elicitation_callback=elicit,
        sampling_callback=sample,
        list_roots_callback=list_roots,
        logging_callback=hear_log,
        message_handler=hear,
    )
    session = Session(client, stage, role)
    with anyio.fail_after(LONGEST):
        async with client:
            yield session


async def lists_what_the_server_lists(session: Session) -> None:
    """Every tool is shown as the server shows it, schemas and all, in its order."""
    listed = (await session.client.list_tools()).tools
    shown = [tool.model_dump(by_alias=True, exclude_none=True, mode="json") for tool in listed]
    promised = [tool for tool in session.stage.direct.tools if tool["name"] not in DYNAMIC]
    assert [tool for tool in shown if tool["name"] not in DYNAMIC] == promised


async def calls_tools(session: Session) -> None:
    """Content of every kind arrives; errors of tools are results, unknown tools are none."""
    expected = "This is a simple text response for testing."
    assert await session.say("test_simple_text") == expected
    mixed = await session.client.call_tool("test_multiple_content_types", {})
    assert [block.type for block in mixed.content] == ["text", "image", "resource"]
    assert (await session.client.call_tool("test_error_handling", {})).is_error
    with pytest.raises(MCPError, match="Unknown tool: no_such_tool") as unknown:
        _ = await session.client.call_tool("no_such_tool", {})
    assert unknown.value.error.code == types.INVALID_PARAMS


async def repeats_arguments_in_headers(session: Session) -> None:
    """A tool that wants an argument in a header, too, can be called."""
    assert await session.say("test_x_mcp_header", region="süd") == "Region: süd"


async def hears_progress(session: Session) -> None:
    """Progress arrives before the answer, in order."""
    steps: list[tuple[float, float | None, str | None]] = []

    async def step(progress: float, total: float | None, message: str | None) -> None:
        await anyio.lowlevel.checkpoint()
        steps.append((progress, total, message))

    _ = await session.client.call_tool("test_tool_with_progress", {}, progress_callback=step)
    assert steps == [(n, 100, f"Completed step {n} of 100") for n in (0, 50, 100)]


async def hears_logs(session: Session) -> None:
    """What a tool logs arrives, at the level that was asked for."""
    if not session.modern:
        level = types.SetLevelRequest(params=types.SetLevelRequestParams(level="info"))
        _ = await session.client.session.send_request(level, types.EmptyResult)
    _ = await session.say("test_tool_with_logging")
    parts = ["Tool execution started", "Tool processing data", "Tool execution completed"]
    assert session.logs == parts


async def is_asked(session: Session) -> None:
    """The server's questions reach the user, the model and the roots, and their answers it."""
    told = await session.say("test_elicitation", message="Who are you?")
    assert "action=accept" in told
    assert "Who are you?" in told
    assert await session.say("test_sampling", prompt="Which city?") == "LLM response: Paris"
    told = await session.say("test_input_required_result_list_roots")
    assert told == "client_roots: file:///the/root"
    told = await session.say("test_elicitation_sep1034_defaults")
    assert "John Doe" in told
    assert "95.5" in told


async def is_asked_in_turn(session: Session) -> None:
    """Several questions at once, one after the other, and with a state, are all answered."""
    told = await session.say("test_input_required_result_multiple_inputs")
    assert "What is your name?" in told
    assert "greeting: Paris" in told
    assert "file:///the/root" in told
    told = await session.say("test_input_required_result_multi_round")
    assert "What is your favorite color?" in told
    assert await session.say("test_input_required_result_request_state") == "state-ok"
    told = await session.say("test_input_required_result_capabilities")
    assert told == "user_name, capital_question, client_roots"


async def reads_resources(session: Session) -> None:
    """Resources and templates are listed and read; a missing one is told by its URI."""
    client = session.client
    uris = [str(each.uri) for each in (await client.list_resources()).resources]
    assert uris == ["test://static-text", WATCHED, "test://static-binary"]
    (template,) = (await client.list_resource_templates()).resource_templates
    assert template.uri_template == "test://template/{id}/data"
    (found,) = (await client.read_resource("test://template/seven/data")).contents
    assert isinstance(found, types.TextResourceContents)
    assert "Data for ID: seven" in found.text
    (image,) = (await client.read_resource("test://static-binary")).contents
    assert isinstance(image, types.BlobResourceContents)
    with pytest.raises(MCPError) as missing:
        _ = await client.read_resource("test://nothing")
    assert missing.value.error.code == types.INVALID_PARAMS
    assert cast("object", missing.value.error.data) == {"uri": "test://nothing"}


async def gets_prompts(session: Session) -> None:
    """Prompts are listed, filled in, completed, and may ask first."""
    client = session.client
    names = [each.name for each in (await client.list_prompts()).prompts]
    assert names[:2] == ["test_simple_prompt", "test_prompt_with_arguments"]
    arguments = {"arg1": "one", "arg2": "two"}
    (message,) = (await client.get_prompt("test_prompt_with_arguments", arguments)).messages
    assert isinstance(message.content, types.TextContent)
    assert message.content.text == "Prompt with arguments: arg1='one', arg2='two'"
    (message,) = (await client.get_prompt("test_input_required_result_prompt")).messages
    assert isinstance(message.content, types.TextContent)
    assert "What context should the prompt use?" in message.content.text
    reference = types.PromptReference(name="test_prompt_with_arguments")
    completed = await client.complete(reference, {"name": "arg1", "value": "par"})
    assert completed.completion.values == ["paris", "park", "party"]


async def cancels(session: Session) -> None:
    """A call that is given up is given up at the server."""
    file = session.stage.scratch / "cancelled"
    began = anyio.Event()

    async def step(
        progress: float,  # noqa: ARG001  the client's signature
        total: float | None,  # noqa: ARG001
        message: str | None,  # noqa: ARG001
    ) -> None:
        await anyio.lowlevel.checkpoint()
        began.set()

    async def hold() -> None:
        arguments: Object = {"path": str(file)}
        _ = await session.client.call_tool("test_cancellation", arguments, progress_callback=step)

    async with anyio.create_task_group() as group:
        group.start_soon(hold)
        await began.wait()
        group.cancel_scope.cancel()
    while not file.exists():  # noqa: ASYNC110  another process makes it
        await anyio.sleep(0.005)
    file.unlink()


async def hears_news(session: Session) -> None:
    """Changes of lists, and updates of a resource, that another agent causes are told."""
    triggers = {
        "test_trigger_resource_update": "notifications/resources/updated",
        "test_trigger_tool_change": "notifications/tools/list_changed",
        "test_trigger_prompt_change": "notifications/prompts/list_changed",
    }
    stage = session.stage
    async with (
        straight(stage.project, session.role) as transport,
        open_session(transport, "2026-07-28", stage, session.role) as other,
    ):
        if session.modern:
            async with session.client.listen(
                tools_list_changed=True, prompts_list_changed=True, resource_subscriptions=[WATCHED]
            ) as news:
                for tool in triggers:
                    _ = await other.say(tool)
                kinds = {type(await anext(news)).__name__ for _ in triggers}
            assert kinds == {"ToolsListChanged", "PromptsListChanged", "ResourceUpdated"}
            return
        wish = types.SubscribeRequest(params=types.SubscribeRequestParams(uri=WATCHED))
        _ = await session.client.session.send_request(wish, types.EmptyResult)
        for tool, method in triggers.items():
            while method not in session.news:
                session.heard = anyio.Event()
                _ = await other.say(tool)
                with anyio.move_on_after(NEWS_SECONDS):
                    await session.heard.wait()


ACTS: Final = (
    lists_what_the_server_lists,
    calls_tools,
    repeats_arguments_in_headers,
    hears_progress,
    hears_logs,
    is_asked,
    is_asked_in_turn,
    reads_resources,
    gets_prompts,
    cancels,
    hears_news,
)


@asynccontextmanager
async def straight(project: Project, role: str) -> AsyncGenerator[Transport]:
    """Reach a role over HTTP."""
    headers = {"Authorization": f"Bearer {project.token(role)}"}
    async with httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(LONGEST)) as http:
        yield streamable_http_client(project.url(role), http_client=http)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("role", ROLES)
async def test_the_client_loses_nothing(stage: Stage, role: str, mode: str) -> None:
    """In every mode, in front of every kind of process, all works as it does directly."""
    async with (
        straight(stage.project, role) as transport,
        open_session(transport, mode, stage, role) as session,
    ):
        for act in ACTS:
            await act(session)


@pytest.mark.parametrize("mode", MODES)
async def test_our_shim_loses_nothing(stage: Stage, mode: str) -> None:
    """The same over stdio, by `agents connect`."""
    transport = start(stage.project, AGENTS, "connect", "stdio", "-C", str(stage.project.root))
    async with open_session(transport, mode, stage, "stdio") as session:
        for act in ACTS:
            await act(session)


@pytest.mark.node
@pytest.mark.parametrize("mode", MODES)
async def test_mcp_remote_loses_nothing(stage: Stage, node: Mapping[str, str], mode: str) -> None:
    """The same over stdio, by the shim that most users have."""
    url = stage.project.url("stdio")
    words = ("--allow-http", "--transport", "http-only", "--header", "Authorization:${BEARER}")
    transport = start(stage.project, node["node"], node["remote"], url, *words)
    async with open_session(transport, mode, stage, "stdio") as session:
        # It does neither for clients of the newer era, in front of any server.
        left_out = (repeats_arguments_in_headers, cancels) if session.modern else ()
        for act in ACTS:
            if act not in left_out:
                await act(session)


def start(project: Project, *command: str) -> Transport:
    """Run a program that speaks over its input and output."""
    environment = {**project.env, "BEARER": f"Bearer {project.token('stdio')}"}
    parameters = StdioServerParameters(command=command[0], args=list(command[1:]), env=environment)
    return stdio_client(parameters)
