"""The official client, in every mode, through the gateway, to servers of either era."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

import anyio
import pytest
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitResult

from orchestrator.gateway.settings import GatewaySettings
from orchestrator.model.rules import RolePolicy

if TYPE_CHECKING:
    from integration.gateway.conftest import Instance, OpenRig
    from mcp_types import (
        CallToolResult,
        ElicitRequestParams,
        LoggingMessageNotificationParams,
        RequestParamsMeta,
    )

    Servers = dict[str, Instance]

MODES = ["auto", "legacy", "2026-07-28"]
PAIRS = [(mode, era) for mode in MODES for era in ("modern", "legacy")]


def said(result: CallToolResult) -> str:
    """Read the text of a result."""
    (block,) = result.content
    assert block.type == "text"
    return block.text


@pytest.mark.parametrize(("mode", "era"), PAIRS)
async def test_client_lists_and_calls(
    open_rig: OpenRig, sdk_servers: Servers, mode: str, era: str
) -> None:
    """Every pair of eras lists the role's tools in order, and calls them."""
    async with open_rig() as rig:
        rig.publish("treasury", sdk_servers[era])
        async with rig.client("treasury", rig.token("treasury"), mode) as client:
            names = [tool.name for tool in (await client.list_tools()).tools]
            assert names[:3] == ["echo", "slow", "hold"]
            assert "hidden" not in names
            result = await client.call_tool("echo", {"ö": [1, None, 2.5]})
            assert json.loads(said(result)) == {"ö": [1, None, 2.5]}
            assert not result.is_error
            expected = "2025-11-25" if mode == "legacy" else "2026-07-28"
            assert client.protocol_version == expected
            capabilities = client.server_capabilities
            if mode != "2026-07-28":
                assert capabilities is not None
                assert capabilities.tools is not None
                assert capabilities.resources is None
                assert capabilities.tools.list_changed


@pytest.mark.parametrize(("mode", "era"), PAIRS)
async def test_errors_of_the_server_pass(
    open_rig: OpenRig, sdk_servers: Servers, mode: str, era: str
) -> None:
    """A tool's error result and a server's JSON-RPC error reach the agent untouched."""
    async with open_rig() as rig:
        rig.publish("treasury", sdk_servers[era])
        async with rig.client("treasury", rig.token("treasury"), mode) as client:
            result = await client.call_tool("fail", {})
            assert result.is_error
            assert said(result) == "it went wrong"
            with pytest.raises(MCPError) as refused:
                _ = await client.call_tool("refuse", {})
            error = refused.value.error
            assert (error.code, error.message, cast("object", error.data)) == (
                -31999,
                "no such thing",
                {"why": "because"},
            )


@pytest.mark.parametrize("mode", MODES)
async def test_unknown_and_hidden_tools_look_alike(
    open_rig: OpenRig, sdk_servers: Servers, mode: str
) -> None:
    """A tool outside the role and a tool that never was are refused in the same words."""
    async with open_rig() as rig:
        rig.publish("treasury", sdk_servers["modern"])
        async with rig.client("treasury", rig.token("treasury"), mode) as client:
            for name in ("hidden", "absent"):
                with pytest.raises(MCPError) as refused:
                    _ = await client.call_tool(name, {})
                assert refused.value.error.code == -32602
                assert refused.value.error.message == f"Unknown tool: {name}"


@pytest.mark.parametrize(("mode", "era"), PAIRS)
async def test_large_result_arrives_whole(
    open_rig: OpenRig, sdk_servers: Servers, mode: str, era: str
) -> None:
    """A result of 2 MB arrives whole in every mode."""
    async with open_rig() as rig:
        rig.publish("treasury", sdk_servers[era])
        async with rig.client("treasury", rig.token("treasury"), mode) as client:
            result = await client.call_tool("huge", {"size": 2_000_000})
            assert len(said(result)) == 2_000_000


@pytest.mark.parametrize("mode", MODES)
async def test_concurrent_calls_are_not_mixed_up(
    open_rig: OpenRig, sdk_servers: Servers, mode: str
) -> None:
    """Twenty slow calls of two roles' agents at once each get their own answer."""
    async with open_rig() as rig:
        rig.publish("treasury", sdk_servers["modern"])
        rig.publish("monitoring", sdk_servers["legacy"])
        answers: dict[str, str] = {}

        async def one(role: str, number: int) -> None:
            async with rig.client(role, rig.token(role, f"agent{number}"), mode) as client:
                word = f"{role}-{number}"
                seconds = 0.3 - number * 0.02
                result = await client.call_tool("slow", {"seconds": seconds, "word": word})
                answers[word] = said(result)

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(one, "treasury", number)
                group.start_soon(one, "monitoring", number)
        assert len(answers) == 20
        assert all(word == answer for word, answer in answers.items())


@pytest.mark.parametrize(("mode", "era"), PAIRS)
async def test_request_id_crosses_every_hop(
    open_rig: OpenRig, sdk_servers: Servers, mode: str, era: str
) -> None:
    """The server sees the gateway's id and the caller's trace, and no other connection's facts."""
    async with open_rig() as rig:
        rig.publish("treasury", sdk_servers[era])
        async with rig.client("treasury", rig.token("treasury"), mode) as client:
            result = await client.call_tool("meta", {}, meta={"traceparent": "00-ab-cd-01"})
        seen = cast("dict[str, dict[str, object]]", json.loads(said(result)))
        meta = seen["meta"]
        (record,) = [record for record in rig.recorder.records if record.tool == "meta"]
        assert meta["dev.bandmaster/requestId"] == record.request_id
        assert meta["traceparent"] == "00-ab-cd-01"
        assert "progressToken" not in meta
        told = meta.get("io.modelcontextprotocol/clientInfo")
        assert told == (None if era == "legacy" else {"name": "bandmaster", "version": "0"})


@pytest.mark.parametrize("mode", MODES)
async def test_wrong_token_is_told(open_rig: OpenRig, sdk_servers: Servers, mode: str) -> None:
    """A client with a token of another role learns that its token is not valid."""
    async with open_rig() as rig:
        rig.publish("treasury", sdk_servers["modern"])
        told = pytest.RaisesExc(MCPError, match="token is not valid here")
        with pytest.RaisesGroup(told, flatten_subgroups=True):
            async with rig.client("treasury", rig.token("monitoring"), mode) as client:
                _ = await client.list_tools()


@pytest.mark.parametrize("mode", MODES)
async def test_limit_is_told(open_rig: OpenRig, mode: str) -> None:
    """A client whose token has as much open as it may learns that."""
    async with open_rig(GatewaySettings(max_open=1, shutdown_seconds=0.1)) as rig:
        instance = await rig.start()
        rig.publish("treasury", instance)
        token = rig.token("treasury")
        async with (
            rig.client("treasury", token, mode) as client,
            anyio.create_task_group() as group,
        ):
            group.start_soon(client.call_tool, "hold")
            with anyio.fail_after(30):
                while not (instance.directory / "held").exists():  # noqa: ASYNC110 - of another process
                    await anyio.sleep(0.01)
            with pytest.raises(MCPError, match="Too much is under way with this token"):
                _ = await client.list_tools()
            group.cancel_scope.cancel()


async def test_legacy_client_survives_a_restart_of_the_instance(open_rig: OpenRig) -> None:
    """A client opened before a change of the instance goes on without opening again."""
    async with open_rig() as rig:
        first = await rig.start()
        rig.publish("treasury", first)
        async with rig.client("treasury", rig.token("treasury"), "legacy") as client:
            _ = await client.call_tool("echo", {})
            first.stop()
            rig.gateway.lose(first.ref("treasury.tools.g1").workload, first.process.pid, "killed")
            rig.publish("treasury", await rig.start())
            assert said(await client.call_tool("echo", {"again": 1})) == '{"again": 1}'


ASKED = {"asks": ("elicitation", "sampling", "roots")}


@pytest.mark.parametrize(("mode", "era"), PAIRS)
async def test_questions_reach_the_person_behind_the_client(
    open_rig: OpenRig, sdk_servers: Servers, mode: str, era: str
) -> None:
    """A server's question in the middle of a call is answered by the client's own callback."""
    asked: list[str] = []

    async def elicit(context: object, params: ElicitRequestParams) -> ElicitResult:
        del context
        asked.append(params.message)
        return ElicitResult(action="accept", content={"color": "green"})

    async with open_rig() as rig:
        policy = RolePolicy.model_validate(ASKED)
        rig.publish("treasury", sdk_servers[era], policy=policy)
        async with rig.client(
            "treasury", rig.token("treasury"), mode, elicitation_callback=elicit
        ) as client:
            for _ in range(2):
                assert said(await client.call_tool("elicit", {})) == "green"
    assert asked == ["Which color?"] * 2


@pytest.mark.parametrize("mode", MODES)
async def test_what_the_role_may_not_ask_is_told(
    open_rig: OpenRig, sdk_servers: Servers, mode: str
) -> None:
    """A server whose role may ask nothing is told so by what its caller declares."""

    async def elicit(context: object, params: object) -> ElicitResult:
        del context, params
        raise AssertionError("nobody may be asked")

    async with open_rig() as rig:
        rig.publish("treasury", sdk_servers["modern"])
        async with rig.client(
            "treasury", rig.token("treasury"), mode, elicitation_callback=elicit
        ) as client:
            result = await client.call_tool("elicit", {})
            assert said(result) == "nobody to ask"


@pytest.mark.parametrize(("mode", "era"), PAIRS)
async def test_progress_and_logs_reach_the_client(
    open_rig: OpenRig, sdk_servers: Servers, mode: str, era: str
) -> None:
    """What a tool tells on its way arrives at the client's callbacks, in its order."""
    told: list[float] = []
    logged: list[object] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        del total, message
        told.append(progress)

    async def log(params: LoggingMessageNotificationParams) -> None:
        logged.append(cast("object", params.data))

    async with open_rig() as rig:
        rig.publish("treasury", sdk_servers[era])
        async with rig.client(
            "treasury", rig.token("treasury"), mode, logging_callback=log
        ) as client:
            meta: RequestParamsMeta = {"io.modelcontextprotocol/logLevel": "info"}
            result = await client.call_tool("tell", {}, progress_callback=note, meta=meta)
            assert said(result) == "told"
    assert told == [0.25, 0.5]
    assert logged == ["half of it"]
