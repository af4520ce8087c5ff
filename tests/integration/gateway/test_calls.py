"""The life of a call: what happens when its caller, its instance, its token or its gateway ends."""

from __future__ import annotations

import json
import os
import signal
import tracemalloc
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import anyio
import pytest

from orchestrator.errors import TargetUnavailableError
from orchestrator.gateway.settings import GatewaySettings
from orchestrator.model.names import TokenId, WorkloadName
from orchestrator.protocol import jsonrpc
from orchestrator.runtimes.channel import Channel

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    import httpx2
    from integration.gateway.conftest import MovedClock, OpenRig, Rig

    from orchestrator.model.base import JsonObject

    ModernRequest = Callable[..., tuple[JsonObject, dict[str, str]]]

URL = "/treasury/mcp"
WORKLOAD = WorkloadName("treasury.tools.g1")


def call(tool: str, **arguments: object) -> dict[str, object]:
    """Write a legacy call."""
    params = {"name": tool, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}


def result_of(response: httpx2.Response) -> dict[str, object]:
    """Read the result of a reply."""
    body = cast("dict[str, object]", response.json())
    assert (response.status_code, body["id"]) == (200, 7), body
    return cast("dict[str, object]", body["result"])


def failure_of(response: httpx2.Response) -> dict[str, object]:
    """Read what a tool's error result tells the model, which is the same in both forms."""
    result = result_of(response)
    assert result["isError"] is True
    (block,) = cast("list[dict[str, str]]", result["content"])
    told = cast("dict[str, object]", result["structuredContent"])
    assert json.loads(block["text"]) == told
    assert told["requestId"] == response.headers["x-request-id"]
    return told


async def until(is_true: Callable[[], object]) -> None:
    """Wait for something that only another process, or the inside of the gateway, knows."""
    with anyio.fail_after(30):
        while not is_true():  # noqa: ASYNC110 - nobody there sets an event for us
            await anyio.sleep(0.01)


async def until_in_flight(rig: Rig, count: int) -> None:
    """Wait until so many calls are with the instance."""

    def is_so() -> bool:
        pulse = rig.gateway.pulse(WORKLOAD)
        return pulse is not None and pulse.in_flight == count

    await until(is_so)


async def test_death_of_the_instance_is_told(open_rig: OpenRig) -> None:
    """Calls with an instance that is killed end at once: the outcome is unknown."""
    async with open_rig() as rig:
        instance = await rig.start("talker.py")
        rig.publish("treasury", instance)
        answers: list[dict[str, object]] = []

        async def hold() -> None:
            async with rig.session(rig.token("treasury")) as http:
                answers.append(failure_of(await http.post(URL, json=call("hold"))))

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(hold)
            await until_in_flight(rig, 3)
            instance.process.send_signal(signal.SIGKILL)
            _ = await anyio.to_thread.run_sync(instance.process.wait)
            rig.gateway.lose(WORKLOAD, instance.process.pid + 1, "somebody else's end")
            await until_in_flight(rig, 3)
            rig.gateway.lose(WORKLOAD, instance.process.pid, "killed")
        assert [answer["code"] for answer in answers] == ["upstream.outcome_unknown"] * 3
        assert {answer["category"] for answer in answers} == {"upstream"}
        assert all("requiredAction" in answer for answer in answers)
        assert "killed" not in repr(answers)
        async with rig.http() as http:
            assert (await http.get("/ready")).status_code == 503


async def test_hang_up_of_a_modern_caller_cancels(
    open_rig: OpenRig, modern_request: ModernRequest
) -> None:
    """The server hears that a modern caller closed its connection, and serves the next call."""
    async with open_rig() as rig:
        instance = await rig.start("talker.py")
        rig.publish("treasury", instance)
        body, headers = modern_request("tools/call", {"name": "hold"})
        async with rig.session(rig.token("treasury")) as http:
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: http.post(URL, json=body, headers=headers))
                await until((instance.directory / "held").exists)
                group.cancel_scope.cancel()
            await until((instance.directory / "cancelled").exists)
            await until_in_flight(rig, 0)
            assert rig.recorder.records[-1].code == "upstream.cancelled"
            assert result_of(await http.post(URL, json=call("echo")))


async def test_call_has_a_deadline(open_rig: OpenRig) -> None:
    """A call that takes too long ends as a timeout, its server is told, and the next one works."""
    async with open_rig(GatewaySettings(call_seconds=0.3)) as rig:
        instance = await rig.start("talker.py")
        rig.publish("treasury", instance)
        async with rig.session(rig.token("treasury")) as http:
            assert failure_of(await http.post(URL, json=call("hold")))["code"] == "upstream.timeout"
            await until((instance.directory / "cancelled").exists)
            assert result_of(await http.post(URL, json=call("echo")))


async def test_revocation_cuts_a_running_call(open_rig: OpenRig) -> None:
    """A revoked token ends its own running calls with 401, and nobody else's."""
    async with open_rig() as rig:
        instance = await rig.talker("modern")
        revoked, kept = rig.token("treasury"), rig.token("treasury")
        statuses: dict[str, int] = {}

        async def wait(name: str, token: str) -> None:
            async with rig.session(token) as http:
                response = await http.post(URL, json=call("look", steps=[["meet", name, 2]]))
                statuses[name] = response.status_code

        async with anyio.create_task_group() as group:
            group.start_soon(wait, "revoked", revoked)
            group.start_soon(wait, "kept", kept)
            await until_in_flight(rig, 2)
            # As the desk does it: from another thread.
            await anyio.to_thread.run_sync(rig.tokens.remove, TokenId(revoked.split("_")[1]))
            await rig.until(lambda: statuses)
            await rig.meet(instance, "kept")
        assert statuses == {"revoked": 401, "kept": 200}


async def test_expiry_cuts_a_running_call(open_rig: OpenRig, moved_clock: MovedClock) -> None:
    """A call does not outlive its caller's token."""
    async with open_rig(clock=moved_clock) as rig:
        rig.publish("treasury", await rig.start("talker.py"))
        async with (
            rig.session(rig.token("treasury", ttl=3600)) as http,
            anyio.create_task_group() as group,
        ):

            async def hold() -> None:
                assert (await http.post(URL, json=call("hold"))).status_code == 401

            group.start_soon(hold)
            await until_in_flight(rig, 1)
            moved_clock.ahead = timedelta(hours=2)
        assert rig.recorder.records[-1].code == "token.expired"


async def test_drain_waits_for_calls(open_rig: OpenRig) -> None:
    """A replaced instance finishes its calls, takes no new ones, and tells how many were left."""
    async with open_rig() as rig:
        first = await rig.start("talker.py")
        rig.publish("treasury", first)
        words: list[str] = []

        async def slow(word: str) -> None:
            async with rig.session(rig.token("treasury")) as http:
                result = result_of(await http.post(URL, json=call("slow", seconds=1, word=word)))
                (block,) = cast("list[dict[str, str]]", result["content"])
                words.append(block["text"])

        async with anyio.create_task_group() as group:
            group.start_soon(slow, "old")
            await until_in_flight(rig, 1)
            assert await rig.gateway.drain(WORKLOAD, 0.01) == 1
            # It drains before the next one is published: this call waits for that.
            group.start_soon(slow, "new")
            rig.publish("treasury", await rig.start("talker.py"), generation=2)
            assert await rig.gateway.drain(WORKLOAD, 30) == 0
            first.stop()
        assert words == ["old", "new"]


async def test_call_waits_for_an_instance_on_its_way(open_rig: OpenRig) -> None:
    """While an instance is replaced, agents open, list, and their calls wait for the next one."""
    async with open_rig() as rig:
        first = await rig.start("talker.py")
        rig.publish("treasury", first)
        first.stop()
        rig.gateway.lose(WORKLOAD, first.process.pid, "killed")
        second = await rig.start("talker.py")
        async with rig.session(rig.token("treasury")) as http, anyio.create_task_group() as group:
            answers: list[dict[str, object]] = []

            async def echo() -> None:
                answers.append(result_of(await http.post(URL, json=call("echo"))))

            group.start_soon(echo)
            rig.publish("treasury", None, waits=True)
            listed = {"jsonrpc": "2.0", "id": 7, "method": "tools/list"}
            assert result_of(await http.post(URL, json=listed))["tools"]
            assert not answers
            rig.publish("treasury", second)
            await until(lambda: answers)
            assert answers[0]["content"] == [{"type": "text", "text": "{}"}]


async def test_waiting_is_bounded(open_rig: OpenRig) -> None:
    """Calls wait only so long and only so many; then nothing was done and a retry is suggested."""
    settings = GatewaySettings(target_patience_seconds=0.3, max_waiting=1)
    async with open_rig(settings) as rig:
        instance = await rig.start("legacy.py", "legacy")
        rig.publish("treasury", instance)
        rig.publish("treasury", None, waits=True)
        async with rig.session(rig.token("treasury")) as http:
            answers: list[dict[str, object]] = []

            async def echo() -> None:
                answers.append(failure_of(await http.post(URL, json=call("echo"))))

            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(echo)
            rig.publish("treasury", None, waits=False)
            await echo()
        assert [answer["code"] for answer in answers] == ["upstream.unavailable"] * 4
        assert all(answer["retryAfterMs"] == 2000 for answer in answers)


async def test_waiting_call_is_decided_again(open_rig: OpenRig) -> None:
    """A call that waited is refused if the next instance's role has lost the tool."""
    async with open_rig() as rig:
        instance = await rig.start("legacy.py", "legacy")
        rig.publish("treasury", instance)
        rig.publish("treasury", None, waits=True)
        answers: list[httpx2.Response] = []
        async with rig.session(rig.token("treasury")) as http, anyio.create_task_group() as group:

            async def echo() -> None:
                answers.append(await http.post(URL, json=call("echo")))

            group.start_soon(echo)
            await until(lambda: rig.gateway._table._waiting)
            rig.publish("treasury", instance, hide=frozenset({"echo"}))
        assert "Unknown tool: echo" in answers[0].text
        assert '"echo"' not in (instance.directory / "received").read_text()


async def test_role_without_tools_yet(open_rig: OpenRig) -> None:
    """Before the first attestation lists and calls are unavailable, and opening works."""
    async with open_rig() as rig:
        rig.publish("treasury", None)
        async with rig.session(rig.token("treasury")) as http:
            listed = {"jsonrpc": "2.0", "id": 7, "method": "tools/list"}
            error = cast("dict[str, object]", (await http.post(URL, json=listed)).json()["error"])
            assert error["code"] == -31001
            assert failure_of(await http.post(URL, json=call("echo")))["category"] == "upstream"
            assert result_of(await http.post(URL, json=listed | {"method": "ping"})) == {}


@pytest.mark.parametrize("tool", ["rubbish", "twice", "stranger", "asks"])
async def test_odd_servers_do_no_harm(open_rig: OpenRig, tool: str) -> None:
    """Prints, second answers, strange ids and questions of a server disturb no call."""
    async with open_rig() as rig:
        instance = await rig.start("legacy.py", "legacy")
        rig.publish("treasury", instance)
        async with rig.session(rig.token("treasury")) as http:
            for _ in range(3):
                text = json.dumps(result_of(await http.post(URL, json=call(tool))))
                assert "not yours" not in text
                assert "second" not in text
            assert "echo" in json.dumps(result_of(await http.post(URL, json=call("echo"))))
        if tool == "asks":
            received = (instance.directory / "received").read_text()
            assert '"id":"q1","result":{}' in received
            assert '"id":"q2","error":{"code":-32601' in received


async def test_unusable_answer_ends_the_call(open_rig: OpenRig) -> None:
    """An answer that is no JSON fails its call at once instead of letting it wait."""
    async with open_rig() as rig:
        rig.publish("treasury", await rig.start("legacy.py", "legacy"))
        async with rig.session(rig.token("treasury")) as http:
            assert result_of(await http.post(URL, json=call("echo")))
            assert failure_of(await http.post(URL, json=call("nan")))["code"] == "upstream.protocol"


async def test_large_numbers_keep_their_value(open_rig: OpenRig) -> None:
    """An integer beyond 64 bits passes in both directions as what it is."""
    async with open_rig() as rig:
        instance = await rig.start("legacy.py", "legacy")
        rig.publish("treasury", instance)
        async with rig.session(rig.token("treasury")) as http:
            result = result_of(await http.post(URL, json=call("big", amount=2**77 + 3)))
            assert result["structuredContent"] == {"wei": 2**80 + 1}
        assert f'"amount":{2**77 + 3}' in (instance.directory / "received").read_text()


async def test_server_that_does_not_read(open_rig: OpenRig) -> None:
    """Large calls to a stopped server end in time, and other roles are not held up."""
    async with open_rig(GatewaySettings(call_seconds=0.5)) as rig:
        stopped = await rig.start("legacy.py", "legacy")
        rig.publish("treasury", stopped)
        rig.publish("monitoring", await rig.start("legacy.py", "legacy"))
        stopped.process.send_signal(signal.SIGSTOP)
        codes: list[object] = []

        async def send() -> None:
            async with rig.session(rig.token("treasury")) as http:
                response = await http.post(URL, json=call("echo", text="x" * 1_500_000))
                codes.append(failure_of(response)["code"])

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(send)
            async with rig.session(rig.token("monitoring"), "monitoring") as http:
                assert result_of(await http.post("/monitoring/mcp", json=call("echo")))
        assert codes == ["upstream.timeout"] * 3
        stopped.process.send_signal(signal.SIGCONT)
        async with rig.session(rig.token("treasury")) as http:
            with anyio.fail_after(30):
                while "isError" in result_of(await http.post(URL, json=call("echo"))):
                    pass


async def test_open_requests_of_a_token_are_bounded(open_rig: OpenRig) -> None:
    """One more is refused before its body is read; other tokens, and later ones, are served."""
    async with open_rig(GatewaySettings(max_open=3)) as rig:
        rig.publish("treasury", await rig.start("talker.py"))
        token = rig.token("treasury")

        async def hold() -> None:
            async with rig.session(token) as http:
                _ = await http.post(URL, json=call("hold"))

        async with rig.session(token) as http, rig.session(rig.token("treasury")) as other:
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(hold)
                await until_in_flight(rig, 3)
                with anyio.fail_after(30):
                    refused = await without_body(rig, token)
                assert refused.startswith(b"HTTP/1.1 429 ")
                body = cast("dict[str, object]", json.loads(refused.partition(b"\r\n\r\n")[2]))
                error = cast("dict[str, object]", body["error"])
                data = cast("dict[str, object]", error["data"])
                assert (body["id"], data["category"], data["retryAfterMs"]) == (None, "limit", 1000)
                last = rig.recorder.records[-1]
                assert (last.status, last.category, last.code, last.agent) == (
                    429,
                    "limit",
                    "policy.too_many_calls",
                    "agent",
                )
                assert result_of(await other.post(URL, json=call("echo")))
                assert (await http.post(URL, json=call("echo"))).status_code == 429
                rig.gateway.lose(WORKLOAD, rig.instances[0].process.pid, "it is enough")
            rig.publish("treasury", await rig.start("talker.py"), generation=2)
            assert result_of(await http.post(URL, json=call("echo")))


async def without_body(rig: Rig, token: str) -> bytes:
    """Send the head of a call and nothing else, and read the reply."""
    port = int(rig.base.rpartition(":")[2])
    head = (
        f"POST {URL} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: 900\r\n"
        "Content-Type: application/json\r\nAccept: */*\r\n\r\n"
    )
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(head.encode())
        told = b""
        while not told.endswith(b"}"):
            told += await stream.receive()
        return told


async def test_held_bodies_of_a_token_are_bounded(open_rig: OpenRig) -> None:
    """Bodies that wait count together; one that an instance was sent does not count any more."""
    settings = GatewaySettings(max_held_bytes=250_000)
    async with open_rig(settings) as rig:
        instance = await rig.start("talker.py")
        rig.publish("treasury", instance)
        token, answers = rig.token("treasury"), list[int]()

        async def send(tool: str) -> None:
            async with rig.session(token) as http:
                response = await http.post(URL, json=call(tool, text="x" * 100_000))
                answers.append(response.status_code)

        async with anyio.create_task_group() as group:
            for number in range(4):  # far more than the bound, but with the instance
                group.start_soon(send, "hold")
                await until_in_flight(rig, number + 1)
            rig.gateway.lose(WORKLOAD, instance.process.pid, "it is enough")
        assert answers == [200] * 4

        rig.publish("treasury", None, waits=True)
        answers.clear()
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(send, "echo")
            await until(lambda: len(answers) == 2)
            assert answers == [429] * 2
            rig.publish("treasury", await rig.start("talker.py"), generation=2)
        assert answers == [429, 429, 200, 200]
        await send("echo")
        assert answers[-1] == 200


async def test_a_waiting_call_keeps_nothing_of_its_body(open_rig: OpenRig) -> None:
    """Once a call is with its instance, its body lives there only."""
    async with open_rig(GatewaySettings(shutdown_seconds=0.1)) as rig:
        rig.publish("treasury", await rig.start("talker.py"))
        size = 3_000_000

        async def body() -> AsyncGenerator[bytes]:
            yield json.dumps(call("hold", text="?")).encode().partition(b"?")[0]
            for _ in range(size // 10_000):
                yield b"x" * 10_000
            yield b'"}}}'

        async def hold() -> None:
            headers = {"content-type": "application/json"}
            async with rig.session(rig.token("treasury")) as http:
                _ = await http.post(URL, content=body(), headers=headers)

        peak = 0
        tracemalloc.start()
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(hold)
                await until((rig.instances[0].directory / "held").exists)
                await until(lambda: tracemalloc.get_traced_memory()[0] < size // 3)
                _, peak = tracemalloc.get_traced_memory()
                group.cancel_scope.cancel()
        finally:
            tracemalloc.stop()
        assert peak > size  # so that it was seen at all


async def test_signs_of_life(open_rig: OpenRig) -> None:
    """Ping, pulse and the paged list work in both eras, and fail without a target."""
    async with open_rig() as rig:
        for script, era in (("talker.py", "modern"), ("legacy.py", "legacy")):
            instance = await rig.start(script, "modern" if era == "modern" else "legacy")
            rig.publish("treasury", instance)
            before = rig.gateway.pulse(WORKLOAD)
            await rig.gateway.ping(WORKLOAD)
            after = rig.gateway.pulse(WORKLOAD)
            assert before is not None
            assert after is not None
            assert after.heard > before.heard
            assert (after.in_flight, after.oldest_call) == (0, None)
            tools = await rig.gateway.list_tools(WORKLOAD)
            assert len(tools) == (7 if era == "modern" else 9)
        nobody = WorkloadName("nobody.tools.g1")
        assert rig.gateway.pulse(nobody) is None
        assert await rig.gateway.drain(nobody, 1) == 0
        with pytest.raises(TargetUnavailableError):
            await rig.gateway.ping(nobody)


async def test_change_of_tools_is_told(open_rig: OpenRig) -> None:
    """A server's list_changed reaches whoever owns the gateway, with the workload's name."""
    async with open_rig() as rig:
        rig.publish("treasury", await rig.start("legacy.py", "legacy"))
        told: list[WorkloadName] = []
        rig.gateway.on_tools_changed = told.append
        async with rig.session(rig.token("treasury")) as http:
            _ = await http.post(URL, json=call("changed"))
        assert told == [WORKLOAD]


async def test_next_gateway_takes_over(open_rig: OpenRig) -> None:
    """A second gateway finds the running server, and ignores answers to the first one's calls."""
    async with open_rig() as rig:
        instance = await rig.start("legacy.py", "legacy")
        with Channel(instance.directory) as channel:
            params: JsonObject = {"name": "echo"}
            await channel.send(jsonrpc.encode(jsonrpc.request_body("old-1", "tools/call", params)))
            os.write(os.open(instance.directory / "in", os.O_WRONLY), b'{"half": ')
        rig.publish("treasury", instance)
        async with rig.session(rig.token("treasury")) as http:
            for number in range(5):
                assert str(number) in repr(
                    result_of(await http.post(URL, json=call("echo", n=number)))
                )


async def test_unreachable_process_is_not_ready(open_rig: OpenRig) -> None:
    """A target whose FIFOs are gone makes the role unavailable, not the gateway."""
    async with open_rig() as rig:
        instance = await rig.start("legacy.py", "legacy")
        for name in ("in", "out"):
            (instance.directory / name).unlink()
        rig.publish("treasury", instance)
        async with rig.session(rig.token("treasury")) as http:
            assert (await http.get("/ready")).status_code == 503
            told = failure_of(await http.post(URL, json=call("echo")))
            assert told["code"] == "upstream.unavailable"


async def test_shutdown_answers_what_is_in_flight(open_rig: OpenRig) -> None:
    """A gateway that ends answers its running calls in bounded time."""
    answers: list[dict[str, object]] = []
    settings = GatewaySettings(shutdown_seconds=0.3)
    async with open_rig(settings) as rig, rig.session(rig.token("treasury")) as http:
        rig.publish("treasury", await rig.start("talker.py"))

        async def hold() -> None:
            with anyio.CancelScope(shield=True):
                answers.append(failure_of(await http.post(URL, json=call("hold"))))

        async with anyio.create_task_group() as group:
            group.start_soon(hold)
            await until_in_flight(rig, 1)
            rig.stop_serving()
    assert [answer["code"] for answer in answers] == ["upstream.outcome_unknown"]
