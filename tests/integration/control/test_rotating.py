"""A role that gets other credentials under constant calls: none is lost, and none is made twice."""

from __future__ import annotations

import json
import re
import socket
import sys
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, cast

import anyio
import httpx2
import pytest

from orchestrator.clock import SystemClock
from orchestrator.gateway.server import Gateway
from orchestrator.model.names import AgentName, RoleName
from orchestrator.protocol import jsonrpc, mcp
from orchestrator.runtimes.channel import Channel
from orchestrator.tokens.mint import mint
from orchestrator.tokens.record import TokenRecord
from orchestrator.tokens.verify import TokenIndex

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from integration.control.conftest import Control, Project

    from orchestrator.model.base import Json, JsonObject
    from orchestrator.model.snapshot import Era
    from orchestrator.model.workload import WorkloadSpec

pytestmark = pytest.mark.parametrize("kind", ["process", "container"])

TALKER = str(Path(__file__).parents[2] / "servers" / "talker.py")
READER = RoleName("reader")
INFO: JsonObject = {"name": "test", "version": "1"}
ABLE: JsonObject = {"roots": {}}
CLASSES = {
    "look": "READ",
    "echo": "READ",
    "slow": "READ",
    "change": "WRITE",
    "destroy": "DESTRUCTIVE",
}
ROUNDS = 3


@dataclass(slots=True)
class Agent:
    """A caller of one era; a legacy one has opened its session."""

    http: httpx2.AsyncClient
    era: Era
    count: int = 0
    answers: list[str] = field(default_factory=list[str])

    def write(self, method: str, params: JsonObject) -> tuple[JsonObject, dict[str, str]]:
        """Write a request: body and headers."""
        self.count += 1
        if self.era == "legacy":
            return jsonrpc.request_body(self.count, method, params), {}
        headers = {"mcp-protocol-version": mcp.LATEST_MODERN, "mcp-method": method}
        if isinstance(name := params.get("name"), str):
            headers["mcp-name"] = name
        params = {**params, "_meta": mcp.envelope(INFO, ABLE)}
        return jsonrpc.request_body(self.count, method, params), headers

    async def ask(self, method: str, params: JsonObject) -> JsonObject:
        """Make a request, which has to have a result that is no error."""
        body, headers = self.write(method, params)
        response = await self.http.post("/reader/mcp", json=body, headers=headers)
        answer = cast("JsonObject", response.json())
        result = answer.get("result")
        assert isinstance(result, dict), answer
        assert result.get("isError") is not True, answer
        return result

    async def play(self, tool: str, *steps: list[Json], **more: Json) -> JsonObject:
        """Call a tool that plays steps."""
        return await self.ask(
            "tools/call", {"name": tool, "arguments": {"steps": [*steps]}, **more}
        )

    async def listen(self, heard: list[str]) -> None:
        """Listen for changes of a resource until cancelled."""
        filter_: JsonObject = {"resourceSubscriptions": ["demo://a"]}
        body, headers = self.write("subscriptions/listen", {"notifications": filter_})
        modern = self.era == "modern"
        verb, sent = ("POST", body) if modern else ("GET", None)
        async with self.http.stream(verb, "/reader/mcp", json=sent, headers=headers) as response:
            async for line in response.aiter_lines():
                heard += [self.era] * ("notifications/resources/updated" in line)
        raise AssertionError("the stream ended")


def describe(project: Project) -> WorkloadSpec:
    """Describe a role of both eras whose server does what its calls tell it."""
    return project.spec(
        server="talker",
        argv=(sys.executable, "-I", "-S", TALKER, str(project.root)),
        tools=CLASSES,
        known=frozenset({*CLASSES, "hold", "hidden"}),
        cut=True,
        era="auto",
        policy={"resources": "all", "asks": ("roots",)},
        secrets={"UPSTREAM_KEY": "issued:"},
        rotation={"upstream": {"issuer": "shop", "check": {"tool": "echo"}}},
    )


def add_token(tokens: TokenIndex, agent: str) -> str:
    """Issue a token."""
    minted, now = mint(), SystemClock().now()
    tokens.add(
        TokenRecord(
            id=minted.id,
            agent=AgentName(agent),
            role=READER,
            digest=minted.digest,
            state="active",
            created_at=now,
            expires_at=now + timedelta(hours=1),
        )
    )
    return minted.text.get_secret_value()


@dataclass(slots=True)
class Scene:
    """A gateway before real processes."""

    control: Control
    gateway: Gateway
    tokens: TokenIndex
    base: str

    @asynccontextmanager
    async def agent(self, era: Era, name: str) -> AsyncGenerator[Agent]:
        """Come as an agent; a legacy one opens a session."""
        headers = {
            "authorization": f"Bearer {add_token(self.tokens, name)}",
            "accept": "application/json, text/event-stream",
        }
        async with httpx2.AsyncClient(base_url=self.base, headers=headers, timeout=90) as http:
            agent = Agent(http, era)
            if era == "legacy":
                opening: JsonObject = {
                    "protocolVersion": mcp.LATEST_LEGACY,
                    "capabilities": ABLE,
                    "clientInfo": INFO,
                }
                body = jsonrpc.request_body("opening", "initialize", opening)
                response = await http.post("/reader/mcp", json=body)
                http.headers["mcp-session-id"] = response.headers["mcp-session-id"]
                _ = await agent.ask("resources/subscribe", {"uri": "demo://a"})
            yield agent


@asynccontextmanager
async def opened(project: Project) -> AsyncGenerator[Scene]:
    """Run the role behind a gateway on a real port."""
    project.current["reader"] = "v0"
    listener = socket.create_server(("127.0.0.1", 0))
    port = cast("int", listener.getsockname()[1])
    clock = SystemClock()
    tokens = TokenIndex(clock)
    async with (
        Gateway(tokens, clock=clock) as gateway,
        project.control(gateway=gateway) as control,
        anyio.create_task_group() as group,
    ):
        await group.start(gateway.serve, [listener])
        _ = await control.start(describe(project))
        with anyio.fail_after(240):
            yield Scene(control, gateway, tokens, f"http://127.0.0.1:{port}")
        group.cancel_scope.cancel()


def received(project: Project) -> str:
    """Read everything that any of the servers was sent."""
    return (project.root / "received").read_text()


async def say(project: Project, workload: str, message: JsonObject) -> None:
    """Say something to a process directly."""
    directory = next(
        record.directory
        for name, record in project.state().state.processes.items()
        if name == workload
    )
    with Channel(directory) as channel:
        await channel.send(jsonrpc.encode(message))


async def work(agent: Agent, name: str, stop: anyio.Event, stopped: list[str]) -> None:
    """Call without a pause."""
    while not stop.is_set():
        word = f"{name}-{agent.count}-end"
        _ = await agent.play("change", ["word", word])
        agent.answers.append(word)
        _ = await agent.ask(
            "tools/call", {"name": "slow", "arguments": {"seconds": 0.03, "word": word}}
        )
    stopped.append(name)


async def rotate(scene: Scene, version: str) -> None:
    """Replace the credential, from one end to the other."""
    instances = scene.control.instances
    await instances.ready(READER, version)
    await instances.switch(READER, version)
    while (await instances.drain(READER, 0.5)).left:
        pass
    assert set(instances.using(READER).values()) == {version}


async def test_nothing_is_lost_or_doubled(project: Project) -> None:
    """Calls of both eras, listeners, long calls and questions outlive several rotations."""
    async with opened(project) as scene:
        agents: list[Agent] = []
        heard: list[str] = []
        stop = anyio.Event()
        stopped: list[str] = []
        finished: list[JsonObject] = []
        eras: list[Era] = ["legacy", "modern", "legacy", "modern"]
        async with (
            scene.agent("legacy", "a0") as first,
            scene.agent("modern", "a1") as second,
            scene.agent("legacy", "a2") as third,
            scene.agent("modern", "a3") as fourth,
            anyio.create_task_group() as listeners,
            anyio.create_task_group() as workers,
        ):
            agents += [first, second, third, fourth]
            assert [agent.era for agent in agents] == eras
            for number, agent in enumerate(agents):
                workers.start_soon(work, agent, f"w{number}", stop, stopped)
            for agent in (first, second):
                listeners.start_soon(agent.listen, heard)
            asked = await fourth.play(
                "change", ["require", {"r": {"method": "roots/list", "params": {}}}]
            )

            async def destroy() -> None:
                finished.append(await second.play("destroy", ["meet", "the-end", 2]))

            workers.start_soon(destroy)
            await scene.control.until(lambda: "the-end" in received(project))
            # What is in flight keeps the first generation, while calls go to the second one.
            instances = scene.control.instances
            await instances.ready(READER, "v1")
            await instances.switch(READER, "v1")
            # Calls that were under way at the switch end by themselves.
            while (drain := await instances.drain(READER, 0.5)).left > 2:
                pass
            assert drain.left == 2
            assert drain.oldest > 0
            assert set(instances.using(READER).values()) == {"v0", "v1"}
            answer: JsonObject = {
                "inputResponses": {"r": {"roots": []}},
                "requestState": asked["requestState"],
            }
            done = await fourth.play(
                "change", ["require", {"r": {"method": "roots/list", "params": {}}}], **answer
            )
            assert done["resultType"] == "complete"
            assert (await instances.drain(READER, 0.5)).left == 1
            meeting: JsonObject = {"name": "look", "arguments": {"steps": [["meet", "the-end", 2]]}}
            await say(project, "reader.talker.g1", jsonrpc.request_body("x", "tools/call", meeting))
            await scene.control.until(lambda: finished)
            assert (await instances.drain(READER, 30)).left == 0
            for number in range(2, 2 + ROUNDS):
                await rotate(scene, f"v{number}")
            await scene.control.until(lambda: min(len(agent.answers) for agent in agents) > 10)
            # Who listened before everything still does.
            serving = scene.control.role()
            heard.clear()
            touch = jsonrpc.notification_body("test/touch", {"uri": "demo://a"})
            while set(heard) != {"legacy", "modern"}:  # the gateway may just be subscribing
                await say(project, f"reader.talker.g{serving.generation}", touch)
                with anyio.move_on_after(1):
                    await scene.control.until(lambda: set(heard) == {"legacy", "modern"})
            stop.set()
            await scene.control.until(lambda: len(stopped) == len(agents))
            listeners.cancel_scope.cancel()
        words = Counter[str](re.findall(r"w\d-\d+-end", changes(project)))
        assert {word for agent in agents for word in agent.answers} <= words.keys()
        assert set(words.values()) == {1}


def changes(project: Project) -> str:
    """Read the calls that change something."""
    lines = received(project).splitlines()
    return "\n".join(
        line
        for line in lines
        if line.startswith("{")
        and cast("dict[str, dict[str, object]]", json.loads(line)).get("params", {}).get("name")
        == "change"
    )


async def test_an_emergency_under_calls(project: Project) -> None:
    """A role that is closed answers every call, and takes none before it opens."""
    async with opened(project) as scene, scene.agent("modern", "a1") as agent:
        codes: list[Json] = []

        async def call(tool: str) -> None:
            body, headers = agent.write(
                "tools/call", {"name": tool, "arguments": {"steps": [["hold"]]}}
            )
            response = await agent.http.post("/reader/mcp", json=body, headers=headers)
            told = cast("dict[str, dict[str, JsonObject]]", response.json())
            codes.append(told["result"]["structuredContent"]["code"])

        async with anyio.create_task_group() as group:
            for tool in ("destroy", "change"):
                group.start_soon(call, tool)
            await scene.control.until(lambda: received(project).count('"hold"') == 2)
            with anyio.fail_after(30):  # they would be held for ever
                assert await scene.control.instances.close(READER, "it leaked") == 2
                await scene.control.until(lambda: len(codes) == 2)
        assert codes == ["upstream.outcome_unknown"] * 2
        await call("look")
        assert codes[-1] == "upstream.closed"
        await scene.control.instances.reopen(READER)
        _ = await scene.control.until_ready()
        _ = await agent.play("look", ["word", "again"])


async def test_a_hold_under_calls(project: Project) -> None:
    """An issuer that ends the old credential first: calls wait, and all are made with the new."""
    async with opened(project) as scene, scene.agent("modern", "a1") as agent:
        instances = scene.control.instances
        stop, stopped = anyio.Event(), list[str]()
        async with anyio.create_task_group() as group:
            group.start_soon(work, agent, "w0", stop, stopped)
            await scene.control.until(lambda: len(agent.answers) > 3)
            await instances.hold(READER, 80)
            before = len(agent.answers)
            await instances.ready(READER, "v1")
            await instances.switch(READER, "v1")
            assert len(agent.answers) <= before + 1
            await instances.release(READER)
            await scene.control.until(lambda: len(agent.answers) > before + 3)
            assert (await instances.drain(READER, 1)).left == 0
            stop.set()
        assert set(instances.using(READER).values()) == {"v1"}
