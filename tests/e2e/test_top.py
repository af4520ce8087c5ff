"""`agents top` on a real terminal: what it shows, and what its keys do."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast, final

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    from collections.abc import Generator

    from mcp import Client

    from tests.e2e.conftest import Object, Project

AGENTS: Final = str(Path(sys.executable).parent / "agents")
RECIPIENT: Final = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
PATIENCE: Final = 60.0


@final
class Terminal:
    """The other side of a terminal."""

    def __init__(self, descriptor: int) -> None:
        """Read and write here."""
        self._descriptor = descriptor
        self._seen = ""

    def press(self, keys: str) -> None:
        """Type, as if nothing had been shown before."""
        self._seen = ""
        _ = os.write(self._descriptor, keys.encode())

    async def see(self, text: str) -> None:
        """Wait for a text on the screen."""
        await anyio.to_thread.run_sync(self._see, text)

    def _see(self, text: str) -> None:
        give_up = time.monotonic() + PATIENCE
        while text not in self._seen:
            ready, _, _ = select.select([self._descriptor], [], [], give_up - time.monotonic())
            assert ready, self._seen
            self._seen += os.read(self._descriptor, 65536).decode("utf-8", "replace")


@contextmanager
def top(project: Project) -> Generator[tuple[Terminal, subprocess.Popen[bytes]]]:
    """Run `agents top` on a terminal of 40 lines and 140 columns."""
    ours, theirs = pty.openpty()
    _ = fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 140, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "NO_COLOR": "1"}
    with subprocess.Popen(
        [AGENTS, "top", "-C", str(project.root)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        start_new_session=True,
    ) as running:
        os.close(theirs)
        try:
            yield Terminal(ours), running
        finally:
            running.kill()
            os.close(ours)


async def call(client: Client, tool: str, **arguments: object) -> Object:
    """Call a tool and read its JSON answer."""
    with anyio.fail_after(30):
        result = await client.call_tool(tool, arguments)
    return cast("Object", json.loads(str(getattr(result.content[0], "text", ""))))


async def ask(executor: Client) -> dict[str, object]:
    """Have the executor wait for a person; tell the arguments of its call."""
    wallet = await call(executor, "get_wallet_address", walletName="treasury", chain="ethereum")
    transfer = {"chain": "ethereum", "from": wallet["address"], "to": RECIPIENT, "amount": "0.25"}
    prepared = await call(executor, "prepare_serialized_unsigned_tx", **transfer)
    arguments: dict[str, object] = {
        "walletName": "treasury",
        "chain": "ethereum",
        "unsignedTx": prepared["unsignedTx"],
        "confirmBroadcast": True,
    }
    asked = await call(executor, "send_transaction", **arguments)
    return {"id": asked["approvalId"], "arguments": arguments}


async def test_a_person_approves_on_the_screen(running: Project) -> None:
    """The waiting call is shown with what it does, and is made after `a` and `y`."""
    async with running.client("executor") as executor:
        asked = await ask(executor)
        with top(running) as (terminal, process):
            await terminal.see(str(asked["id"]))
            terminal.press("j")
            await terminal.see(f">  {asked['id']}")
            terminal.press("a")
            await terminal.see("y, or any other key for no")
            terminal.press("y")
            await terminal.see(f"{asked['id']} is approved")
            terminal.press("q")
            with anyio.fail_after(PATIENCE):
                assert await anyio.to_thread.run_sync(process.wait) == 0
        arguments = cast("dict[str, object]", asked["arguments"])
        sent = await call(executor, "send_transaction", **arguments)
        assert sent["status"] == "SUCCEEDED"


async def test_anything_but_yes_is_no(running: Project) -> None:
    """A call stays as it was when the person hesitates, and a role can be frozen and thawed."""
    async with running.client("executor") as executor:
        asked = await ask(executor)
        with top(running) as (terminal, _):
            await terminal.see(str(asked["id"]))
            terminal.press("j")
            await terminal.see(f">  {asked['id']}")
            terminal.press("a")
            await terminal.see("y, or any other key for no")
            terminal.press("n")
            await terminal.see("esc back")
            terminal.press("\x1b")
            await terminal.see("1 waiting for a person")
            terminal.press("j")
            await terminal.see(">  executor")
            terminal.press("f")
            await terminal.see("freeze executor?")
            terminal.press("y")
            await terminal.see("executor is frozen")
            frozen = await call(executor, "get_wallet_address", walletName="treasury")
            assert frozen["code"] == "role.frozen"
            terminal.press("f")
            await terminal.see("thaw executor?")
            terminal.press("y")
            await terminal.see("executor is thawed")
        shown = running.json("approvals", "show", str(asked["id"]))
        assert shown["state"] == "pending"


def test_one_moment_for_programs(running: Project) -> None:
    """Without a terminal it shows one moment and ends; as JSON it tells the same."""
    shown = running.agents("top")
    assert shown.returncode == 0
    assert "monitoring" in shown.stdout
    assert "nothing waits for a person" in shown.stdout
    assert running.json("top")["waiting"] == []
