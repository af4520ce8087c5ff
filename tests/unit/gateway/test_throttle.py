"""The throttle: who gets through, who waits, who is told what; and that all places come back."""

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import final

import anyio
import pytest
from typing_extensions import override

from orchestrator.clock import Clock
from orchestrator.errors import (
    ArgumentsRefusedError,
    BusyError,
    RateLimitedError,
    RuleError,
    SecretInArgumentsError,
    TokenRevokedError,
)
from orchestrator.gateway.asgi import Body, Received, Start
from orchestrator.gateway.context import Exchange, Reply
from orchestrator.gateway.filters.throttle import Throttle
from orchestrator.gateway.head import Head
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.names import AgentName, RoleName, TokenId, ToolName
from orchestrator.model.rules import Limit, Limits, RolePolicy, ToolRule
from orchestrator.policy.decide import CompiledPolicy
from orchestrator.protocol import mcp
from orchestrator.protocol.mcp import ToolCall
from orchestrator.tokens.verify import Principal

ROLE, PAY = RoleName("executor"), ToolName("pay")
TOOLS: tuple[JsonObject, ...] = (
    {"name": "pay", "inputSchema": {"type": "object"}},
    {"name": "look", "inputSchema": {"type": "object"}},
)
SECRET = "ghp_0123456789abcdefghij0123456789abcdef"


@final
class Hands(Clock):
    """A clock that a test moves."""

    def __init__(self) -> None:
        """Begin at some time."""
        self.seconds = 1_000.0

    @override
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    @override
    def monotonic(self) -> float:
        return self.seconds


@final
class House:
    """A throttle with an instance behind it that answers when it is told to."""

    def __init__(self, policy: RolePolicy) -> None:
        """Begin with a policy."""
        self.clock = Hands()
        self.policy = CompiledPolicy(policy, TOOLS, {PAY: "WRITE", ToolName("look"): "READ"})
        self.throttle = Throttle(lambda _: self.policy, self.clock, 0.02)
        self.inside: dict[str, asyncio.Event] = {}
        self.done: dict[str, Reply | RuleError] = {}

    def change(self, policy: RolePolicy) -> None:
        """Go by another policy from the next call on."""
        self.policy = CompiledPolicy(policy, TOOLS, {})

    async def call(
        self,
        name: str,
        tool: str = "pay",
        arguments: JsonObject | None = None,
        exchange: Exchange | None = None,
    ) -> None:
        """Make a call of the agent that the name begins with, and keep how it ended."""
        own = exchange or request(name[0], "tools/call", ToolCall(tool, arguments))
        try:
            self.done[name] = await self.throttle(own, then=partial(self._work, name))
        except RuleError as error:
            self.done[name] = error
        finally:
            own.finish()

    async def _work(self, name: str, _exchange: Exchange) -> Reply:
        event = self.inside[name] = asyncio.Event()
        _ = await event.wait()
        return Reply(200)


async def answer(_: Exchange) -> Reply:
    """Answer at once."""
    return Reply(200)


async def hear_nothing() -> Received:
    """Hear nothing more."""
    return Received(type="http.disconnect")


async def say_nothing(_: Start | Body) -> None:
    """Say nothing."""


def request(agent: str, method: str, call: ToolCall | None = None, **params: Json) -> Exchange:
    """Make a request that got as far as its tool."""
    head = Head("POST", [])
    made = Exchange("r1", ROLE, head, receive=hear_nothing, send=say_nothing, started=0.0)
    made.method, made.call, made.params, made.era = method, call, params, "modern"
    made.principal = Principal(
        agent=AgentName(agent),
        token_id=TokenId("t"),
        role=ROLE,
        expires_at=datetime.max.replace(tzinfo=UTC),
    )
    return made


async def settle() -> None:
    """Let everybody go as far as they can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_no_limits() -> None:
    """A role without limits and rules lets everything through, and nothing is counted."""
    house = House(RolePolicy())
    for _ in range(1_000):
        reply = await house.throttle(request("a", "tools/call", ToolCall("pay", {"x": 1})), answer)
        assert reply.status == 200
    assert not vars(house.throttle)["_meters"]


@pytest.mark.parametrize(
    ("policy", "arguments", "kind", "rule"),
    [
        (RolePolicy(), {"a": [SECRET]}, SecretInArgumentsError, "secrets"),
        (
            RolePolicy(tools={PAY: ToolRule(arguments={"properties": {"to": {"const": "ann"}}})}),
            {"to": "eve"},
            ArgumentsRefusedError,
            "tools.pay.arguments",
        ),
    ],
    ids=["secret", "rule"],
)
async def test_refused_by_their_arguments(
    policy: RolePolicy, arguments: JsonObject, kind: type[RuleError], rule: str
) -> None:
    """What the arguments decide is decided here, and the rule's name is kept for the record."""
    house = House(policy)
    exchange = request("a", "tools/call", ToolCall("pay", arguments))
    with pytest.raises(kind):
        _ = await house.throttle(exchange, answer)
    assert exchange.rule == rule


@pytest.mark.parametrize(
    "params",
    [{"_meta": {"com.example/note": SECRET}}, {"inputResponses": {"q1": {"content": [SECRET]}}}],
    ids=["meta", "answer"],
)
@pytest.mark.parametrize("method", ["tools/call", "prompts/get"])
async def test_secrets_beside_the_arguments(method: str, params: JsonObject) -> None:
    """What goes to the instance beside the arguments is looked through as they are."""
    call = ToolCall("pay", {"to": "ann"}) if method == "tools/call" else None
    with pytest.raises(SecretInArgumentsError):
        _ = await House(RolePolicy()).throttle(request("a", method, call, **params), answer)
    about_itself: JsonObject = {mcp.CLIENT_INFO_KEY: SECRET, mcp.PROGRESS_TOKEN_KEY: SECRET}
    exchange = request("a", method, call, _meta=about_itself)  # none of this reaches it
    assert (await House(RolePolicy()).throttle(exchange, answer)).status == 200


async def test_rates_come_first() -> None:
    """A refused call costs its token, so that guessing at arguments is limited, too."""
    house = House(RolePolicy(limits=Limits(calls_per_minute=60, burst=2)))
    for _ in range(2):
        with pytest.raises(SecretInArgumentsError):
            _ = await house.throttle(
                request("a", "tools/call", ToolCall("pay", {"a": SECRET})), answer
            )
    with pytest.raises(RateLimitedError) as caught:
        _ = await house.throttle(request("a", "tools/call", ToolCall("pay", None)), answer)
    assert caught.value.retry_after_ms == 1_001
    house.clock.seconds += 1.001
    reply = await house.throttle(request("a", "tools/call", ToolCall("pay", None)), answer)
    assert reply.status == 200


async def test_what_is_no_tool_counts_too() -> None:
    """Reading resources is limited like calling tools; what the gateway answers itself is not."""
    house = House(RolePolicy(limits=Limits(agent=Limit(calls_per_minute=60, burst=1))))
    assert (
        await house.throttle(request("a", "resources/read", uri="docs://a"), answer)
    ).status == 200
    for method in ("resources/read", "prompts/get", "completion/complete", "resources/list"):
        with pytest.raises(RateLimitedError):
            _ = await house.throttle(request("a", method), answer)
    for method in ("tools/list", "ping", "initialize", "subscriptions/listen"):
        assert (await house.throttle(request("a", method), answer)).status == 200
    house.clock.seconds += 60
    with pytest.raises(SecretInArgumentsError):
        _ = await house.throttle(request("a", "prompts/get", arguments={"a": SECRET}), answer)
    house.clock.seconds += 60
    # A cursor is the server's own, whatever it looks like.
    reply = await house.throttle(request("a", "prompts/list", cursor=SECRET), answer)
    assert reply.status == 200


async def test_a_role_that_is_gone() -> None:
    """A request without a policy goes on: whoever comes next knows why there is none."""
    throttle = Throttle(lambda _: None, Hands(), 0.02)
    assert (await throttle(request("a", "ping"), answer)).status == 200


async def test_places_and_turns() -> None:
    """Calls wait for a place, agents take turns, and each place is given on when a reply is out."""
    house = House(RolePolicy(limits=Limits(concurrency=1, queue_patience=timedelta(hours=1))))
    order: list[str] = []
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            for name in ("a1", "a2", "a3", "b1"):
                group.start_soon(house.call, name)
                await settle()
            for _ in range(4):
                (name,) = house.inside
                order.append(name)
                house.inside.pop(name).set()
                await settle()
    assert order == ["a1", "a2", "b1", "a3"]


async def test_a_full_queue() -> None:
    """Who finds no place in the queue is told at once; so is who loses it to somebody else."""
    house = House(
        RolePolicy(limits=Limits(concurrency=1, queue=2, queue_patience=timedelta(hours=1)))
    )
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            for name in ("a1", "a2", "a3", "a4", "b1"):
                group.start_soon(house.call, name)
                await settle()
            refused = dict(house.done)
            assert refused.keys() == {"a4", "a3"}
            for ended in refused.values():
                assert isinstance(ended, BusyError)
                assert ended.rule == "limits.queue"
            for _ in range(3):
                house.inside.popitem()[1].set()
                await settle()
    assert {name for name, ended in house.done.items() if isinstance(ended, Reply)} == {
        "a1",
        "a2",
        "b1",
    }


async def test_patience() -> None:
    """Nobody waits longer than the role says, and a place that was waited for is not lost."""
    house = House(
        RolePolicy(limits=Limits(concurrency=1, queue_patience=timedelta(milliseconds=20)))
    )
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(house.call, "a1")
            await settle()
            await house.call("a2")
            late = house.done["a2"]
            assert isinstance(late, BusyError)
            assert late.rule == "limits.queue_patience"
            house.inside.pop("a1").set()
            await settle()
            group.start_soon(house.call, "a3")
            await settle()
            house.inside.pop("a3").set()
    assert isinstance(house.done["a3"], Reply)


@pytest.mark.parametrize("how", ["interrupt", "cancel"])
async def test_who_stops_waiting_takes_no_place(how: str) -> None:
    """A call that ends while it waits gives its place in the queue, and no other, away."""
    house = House(RolePolicy(limits=Limits(concurrency=1, queue_patience=timedelta(hours=1))))
    exchange = request("a", "tools/call", ToolCall("pay", None))
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(house.call, "a1")
            await settle()
            waiting = asyncio.ensure_future(house.call("a2", exchange=exchange))
            await settle()
            # It is looked after: its caller may hang up.
            assert exchange.watch_at < asyncio.get_running_loop().time() + 1
            if how == "interrupt":
                exchange.interrupt(TokenRevokedError("revoked"))
                with pytest.raises(TokenRevokedError):
                    await waiting
            else:
                _ = waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
            house.inside.pop("a1").set()
            await settle()
            group.start_soon(house.call, "a3")
            await settle()
            house.inside.pop("a3").set()
    assert house.done.keys() == {"a1", "a3"}


async def test_limits_may_change() -> None:
    """With other limits the next call goes by them, and so do those who wait."""
    house = House(RolePolicy(limits=Limits(concurrency=1, queue_patience=timedelta(hours=1))))
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            for name in ("a1", "a2"):
                group.start_soon(house.call, name)
                await settle()
            house.change(RolePolicy(limits=Limits(concurrency=3)))
            group.start_soon(house.call, "a3")
            await settle()
            assert house.inside.keys() == {"a1", "a2", "a3"}
            for event in house.inside.values():
                event.set()
    assert len(house.done) == 3
