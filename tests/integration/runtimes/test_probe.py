"""Readiness of real stdio servers."""

import json
import os
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import cast

import anyio
import pytest

from orchestrator.errors import UpstreamProtocolError, WorkloadNotReadyError
from orchestrator.model.base import JsonObject
from orchestrator.model.server import EraChoice
from orchestrator.runtimes.channel import Channel
from orchestrator.runtimes.probe import LEGACY, MODERN, Attested, EraRefusedError, probe

Starter = Callable[..., subprocess.Popen[bytes]]
SILENCE = timedelta(seconds=0.3)
PREFIX = "b7-"


async def run_probe(
    directory: Path,
    era: EraChoice = "auto",
    startup: float = 20.0,
    silence: timedelta = timedelta(seconds=5),
) -> Attested:
    """Probe what runs on the directory's FIFOs."""
    with anyio.fail_after(30), Channel(directory) as channel:
        patience = timedelta(seconds=startup)
        return await probe(channel, era, prefix=PREFIX, startup=patience, silence=silence)


def names(attested: Attested) -> list[object]:
    """List the names of tools."""
    return [tool["name"] for tool in attested.tools]


@pytest.mark.parametrize("era", ["auto", "modern"])
async def test_a_server_of_both_eras_is_opened_modern(
    directory: Path, stdio: Starter, era: EraChoice
) -> None:
    """An SDK server answers server/discover, and its tools come as it described them."""
    _ = stdio("stdio_dual.py", isolated=False)
    found = await run_probe(directory, era)
    assert (found.era, found.protocol_version) == ("modern", MODERN)
    assert found.server_info["name"] == "dual"
    assert names(found) == ["echo", "add"]
    assert found.tools[0]["description"] == "Give a text back."
    assert found.rubbish == ""


async def test_a_server_of_both_eras_can_be_opened_legacy(directory: Path, stdio: Starter) -> None:
    """When the older era is asked for, the newer one is not tried."""
    _ = stdio("stdio_dual.py", isolated=False)
    found = await run_probe(directory, "legacy")
    assert (found.era, found.protocol_version) == ("legacy", LEGACY)
    assert names(found) == ["echo", "add"]


@pytest.mark.parametrize("era", ["auto", "legacy"])
async def test_a_server_of_the_older_era(directory: Path, stdio: Starter, era: EraChoice) -> None:
    """A server that knows no server/discover is initialized at once, without waiting."""
    _ = stdio("stdio_legacy.py")
    found = await run_probe(directory, era, silence=timedelta(minutes=5))
    assert (found.era, found.protocol_version) == ("legacy", LEGACY)
    assert names(found) == [f"tool_{number}" for number in range(6)]


async def test_modern_does_not_fall_back(directory: Path, stdio: Starter) -> None:
    """A server that must be modern and is not is an error with the server's reason."""
    _ = stdio("stdio_legacy.py")
    with pytest.raises(EraRefusedError, match="-32601 Method not found"):
        _ = await run_probe(directory, "modern")


async def test_all_pages_are_read(directory: Path, stdio: Starter) -> None:
    """Tools of all pages are listed, in order."""
    _ = stdio("stdio_legacy.py", "--pages", "3")
    assert names(await run_probe(directory)) == [f"tool_{number}" for number in range(6)]


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--twice", "lists tool_0 twice"),
        ("--circle", "lists tool_0 twice|lead in a circle"),
        ("--bare", "tool_0 has no inputSchema"),
    ],
)
async def test_a_malformed_list_is_refused(
    directory: Path, stdio: Starter, option: str, words: str
) -> None:
    """A list that names a tool twice, never ends, or lacks a schema is no list."""
    _ = stdio("stdio_legacy.py", option)
    with pytest.raises(UpstreamProtocolError, match=words):
        _ = await run_probe(directory)


async def test_requests_of_the_server_are_answered(directory: Path, stdio: Starter) -> None:
    """A ping is answered, anything else is refused, and neither disturbs the handshake."""
    _ = stdio("stdio_legacy.py", "--asks")
    with anyio.fail_after(30), Channel(directory) as channel:
        _ = await probe(channel, "legacy", prefix=PREFIX)
        await channel.send(b'{"jsonrpc":"2.0","id":"x","method":"tools/list"}')
        reply = cast("JsonObject", json.loads(await channel.receive()))
    result = reply["result"]
    assert isinstance(result, dict)
    assert result["answered"] == [
        {"jsonrpc": "2.0", "id": "s1", "result": {}},
        {"jsonrpc": "2.0", "id": 2, "error": {"code": -32601, "message": "Method not found"}},
    ]


async def test_a_list_that_changed_meanwhile_is_read_again(directory: Path, stdio: Starter) -> None:
    """Tools that change while they are listed are listed again; without end is an error."""
    process = stdio("stdio_legacy.py", "--changes", "2")
    assert len((await run_probe(directory)).tools) == 6
    process.kill()
    _ = process.wait(30)
    _ = stdio("stdio_legacy.py", "--changes", "99")
    with pytest.raises(UpstreamProtocolError, match="without end"):
        _ = await run_probe(directory)


async def test_a_banner_is_kept_and_forgiven(directory: Path, stdio: Starter) -> None:
    """A line that is no MCP is remembered, escaped, when the server answers all the same."""
    _ = stdio("stdio_legacy.py", "--banner")
    found = await run_probe(directory)
    assert found.rubbish == r"Welcome to \x1b[1mlegacy\x1b[0m!"
    assert len(found.tools) == 6


async def test_rubbish_alone_is_the_error(directory: Path, stdio: Starter) -> None:
    """A program that writes something else and never answers fails soon, with what it wrote."""
    _ = stdio("program.py", "rubbish")
    with pytest.raises(WorkloadNotReadyError, match=r"Starting .*server.* on port 80") as caught:
        _ = await run_probe(directory, startup=600, silence=SILENCE)
    assert "\x1b" not in str(caught.value)
    assert "stderr" in str(caught.value.hint)


@pytest.mark.parametrize("era", ["auto", "modern", "legacy"])
async def test_silence_is_an_error_in_time(directory: Path, stdio: Starter, era: EraChoice) -> None:
    """A program that never answers fails when its time is up, with the unanswered request."""
    _ = stdio("program.py", "silent")
    method = "server/discover" if era == "modern" else "initialize"
    with pytest.raises(WorkloadNotReadyError, match=f"did not answer {method} within 1 s"):
        _ = await run_probe(directory, era, startup=1.0, silence=SILENCE)


async def test_an_echo_is_no_server(directory: Path, stdio: Starter) -> None:
    """A program that gives every line back is not taken for a server."""
    _ = stdio("program.py", "echo")
    with pytest.raises(WorkloadNotReadyError):
        _ = await run_probe(directory, startup=1.0, silence=SILENCE)


async def test_a_program_that_ended_does_not_answer(directory: Path, stdio: Starter) -> None:
    """The FIFOs of a program that ended are silent; its exit is seen elsewhere."""
    process = stdio("program.py", "exit", "3")
    assert process.wait(30) == 3
    with pytest.raises(WorkloadNotReadyError):
        _ = await run_probe(directory, startup=0.5, silence=SILENCE)


# --- a server whose every line the test writes -------------------------------------------------


class Script:
    """The server's side of two FIFOs."""

    def __init__(self, directory: Path) -> None:
        """Open them."""
        for name in ("in", "out"):
            os.mkfifo(directory / name, 0o600)
        self.inlet: int = os.open(directory / "in", os.O_RDWR | os.O_NONBLOCK)
        self.outlet: int = os.open(directory / "out", os.O_RDWR)
        self.read: bytes = b""

    async def next(self) -> JsonObject:
        """Read one message."""
        while b"\n" not in self.read:
            try:
                self.read += os.read(self.inlet, 65536)
            except BlockingIOError:
                await anyio.wait_readable(self.inlet)
        line, _, self.read = self.read.partition(b"\n")
        return cast("JsonObject", json.loads(line))

    def write(self, message: object) -> None:
        """Write one message."""
        _ = os.write(self.outlet, json.dumps(message).encode() + b"\n")

    def result(self, request: JsonObject, result: object) -> None:
        """Answer one request."""
        self.write({"jsonrpc": "2.0", "id": request["id"], "result": result})

    def close(self) -> None:
        """Close both."""
        os.close(self.inlet)
        os.close(self.outlet)


TOOLS: dict[str, object] = {"tools": {}}
NONE: list[object] = []
NOTHING: dict[str, object] = {}
DISCOVERED: dict[str, object] = {
    "supportedVersions": [MODERN],
    "capabilities": TOOLS,
    "resultType": "complete",
    "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "script"}},
}


async def test_a_slow_modern_server_is_not_taken_for_legacy(directory: Path) -> None:
    """An answer to server/discover that comes after the handshake was tried still counts."""
    script = Script(directory)
    found: list[Attested] = []

    async def run() -> None:
        found.append(await run_probe(directory, silence=SILENCE))

    try:
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                _ = tasks.start_soon(run)
                discover = await script.next()
                initialize = await script.next()
                assert (discover["method"], initialize["method"]) == (
                    "server/discover",
                    "initialize",
                )
                error = {"code": -32022, "message": "wrong era"}
                script.write({"jsonrpc": "2.0", "id": initialize["id"], "error": error})
                script.result(discover, DISCOVERED)
                listing = await script.next()
                assert listing["method"] == "tools/list"
                params = listing["params"]
                assert isinstance(params, dict)
                assert "_meta" in params
                script.result(listing, {"tools": NONE, "resultType": "complete"})
    finally:
        script.close()
    assert (found[0].era, found[0].server_info) == ("modern", {"name": "script"})


async def test_request_ids_and_envelope(directory: Path) -> None:
    """Ids are texts that begin with the caller's prefix; no client capability is declared."""
    script = Script(directory)
    try:
        with anyio.fail_after(30), Channel(directory) as channel:
            async with anyio.create_task_group() as tasks:
                _ = tasks.start_soon(lambda: probe(channel, "modern", prefix=PREFIX))
                discover = await script.next()
                script.result(discover, {**DISCOVERED, "capabilities": NOTHING})  # no tools at all
                assert str(discover["id"]).startswith(PREFIX)
                params = discover["params"]
                assert isinstance(params, dict)
                meta = params["_meta"]
                assert isinstance(meta, dict)
                assert meta["io.modelcontextprotocol/protocolVersion"] == MODERN
                assert meta["io.modelcontextprotocol/clientCapabilities"] == {}
    finally:
        script.close()


@pytest.mark.parametrize(
    ("discovered", "listed", "words"),
    [
        (
            {**DISCOVERED, "resultType": "input_required"},
            NOTHING,
            "server/discover is not complete",
        ),
        ({**DISCOVERED, "capabilities": []}, NOTHING, "capabilities is no object"),
        (7, NOTHING, "result is no object"),
        (DISCOVERED, {"tools": NONE, "resultType": "task"}, "tools/list is not complete"),
        (DISCOVERED, {"tools": NOTHING}, "no list of tools"),
        (DISCOVERED, {"tools": ["a"]}, "no object"),
        (DISCOVERED, {"tools": [{"name": ""}]}, "without a name"),
        (DISCOVERED, {"tools": [{"name": 1}]}, "without a name"),
        (DISCOVERED, {"tools": NONE, "nextCursor": 1}, "in a circle"),
    ],
)
async def test_answers_against_the_protocol(
    directory: Path, discovered: object, listed: object, words: str
) -> None:
    """What breaks the protocol is an error that says what."""
    script = Script(directory)
    try:
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:

                async def serve() -> None:
                    script.result(await script.next(), discovered)
                    script.result(await script.next(), listed)

                _ = tasks.start_soon(serve)
                with pytest.raises(UpstreamProtocolError, match=words):
                    _ = await run_probe(directory, "modern")
                tasks.cancel_scope.cancel()
    finally:
        script.close()


async def test_pages_have_an_end(directory: Path) -> None:
    """A server with ever new pages is given up."""
    script = Script(directory)
    try:
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:

                async def serve() -> None:
                    script.result(await script.next(), DISCOVERED)
                    number = 0
                    while True:
                        number += 1
                        request = await script.next()
                        script.result(request, {"tools": NONE, "nextCursor": str(number)})

                _ = tasks.start_soon(serve)
                with pytest.raises(UpstreamProtocolError, match="more than 100 pages"):
                    _ = await run_probe(directory, "modern")
                tasks.cancel_scope.cancel()
    finally:
        script.close()


@pytest.mark.parametrize("version", ["2030-01-01", 7, None])
async def test_a_revision_that_we_do_not_speak(directory: Path, version: object) -> None:
    """A server that insists on an unknown revision is refused."""
    script = Script(directory)
    try:
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:

                async def serve() -> None:
                    request = await script.next()
                    script.result(request, {"protocolVersion": version, "capabilities": NOTHING})

                _ = tasks.start_soon(serve)
                with pytest.raises(EraRefusedError, match="no protocol revision"):
                    _ = await run_probe(directory, "legacy")
    finally:
        script.close()


async def test_a_refused_handshake(directory: Path) -> None:
    """A server that refuses both ways of opening is an error with its own words, escaped."""
    script = Script(directory)
    try:
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:

                async def serve() -> None:
                    for _ in range(2):
                        request = await script.next()
                        error = {"code": -32600, "message": "no\x1b[0m" + "x" * 500}
                        script.write({"jsonrpc": "2.0", "id": request["id"], "error": error})

                _ = tasks.start_soon(serve)
                with pytest.raises(EraRefusedError, match=r"-32600 no\\x1b") as caught:
                    _ = await run_probe(directory)
                assert len(str(caught.value)) < 300
    finally:
        script.close()


async def test_another_revision_of_the_newer_era(directory: Path) -> None:
    """A server that knows server/discover and not our revision refuses the era."""
    script = Script(directory)
    try:
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:

                async def serve() -> None:
                    discovered = {**DISCOVERED, "supportedVersions": ["2030-01-01"]}
                    script.result(await script.next(), discovered)

                _ = tasks.start_soon(serve)
                with pytest.raises(EraRefusedError, match="does not speak"):
                    _ = await run_probe(directory, "modern")
    finally:
        script.close()


async def test_what_a_server_may_ask_is_declared(directory: Path) -> None:
    """A legacy server hears of exactly the capabilities that let it ask what it may."""
    script = Script(directory)
    opened = {"protocolVersion": "2025-11-25", "capabilities": NOTHING, "serverInfo": NOTHING}
    found: list[JsonObject] = []
    try:
        with anyio.fail_after(30), Channel(directory) as channel:
            async with anyio.create_task_group() as tasks:

                async def serve() -> None:
                    found.append(await script.next())
                    script.result(found[0], opened)

                _ = tasks.start_soon(serve)
                _ = await probe(channel, "legacy", prefix=PREFIX, asks=("elicitation", "sampling"))
    finally:
        script.close()
    params = found[0]["params"]
    assert isinstance(params, dict)
    assert params["capabilities"] == {"elicitation": {"form": {}, "url": {}}, "sampling": {}}


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_claims_are_cut_to_what_is_relayed(directory: Path, era: EraChoice) -> None:
    """Of its capabilities only known ones with their flags are kept, of its instructions a part."""
    script = Script(directory)
    claimed: dict[str, object] = {
        "resources": {"listChanged": True, "subscribe": 1, "deep": NONE},
        "prompts": {"listChanged": True},
        "logging": NOTHING,
        "completions": 7,
        "tasks": {"list": {}},
        "experimental": {"x": NOTHING},
    }
    said: dict[str, object] = {"capabilities": claimed, "instructions": "x" * 20_000}
    answers: dict[str, dict[str, object]] = {
        "legacy": {"protocolVersion": "2025-11-25", "serverInfo": NOTHING, **said},
        "modern": {**DISCOVERED, **said},
    }
    told: list[Attested] = []
    try:
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:

                async def serve() -> None:
                    script.result(await script.next(), answers[era])

                _ = tasks.start_soon(serve)
                told.append(await run_probe(directory, era))
    finally:
        script.close()
    (found,) = told
    assert found.capabilities == {
        "resources": {"listChanged": True},
        "prompts": {"listChanged": True},
        "logging": {},
    }
    assert len(found.instructions) == 16_384


async def test_what_a_server_nests_or_repeats_harms_nobody(directory: Path) -> None:
    """Ids that are no ids are passed over, and of its claims only short texts are kept."""
    script = Script(directory)
    deep: object = []
    for _ in range(500):
        deep = [deep]
    try:
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:

                async def serve() -> None:
                    request = await script.next()
                    for identity in ({"a": 1}, [1], deep):
                        script.write({"jsonrpc": "2.0", "id": identity, "method": "ping"})
                        script.write({"jsonrpc": "2.0", "id": identity, "result": NOTHING})
                    info = {"name": "n" * 5000, "version": "1\x1b[0m", "title": 7, "x": deep}
                    opened = {"protocolVersion": "2025-11-25", "capabilities": NOTHING}
                    script.result(request, {**opened, "serverInfo": info})

                _ = tasks.start_soon(serve)
                told = (await run_probe(directory, "legacy")).server_info
                assert told.keys() == {"name", "version"}
                assert told["version"] == "1\\x1b[0m"
                assert len(str(told)) < 300
    finally:
        script.close()
