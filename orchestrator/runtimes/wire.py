"""How a process is talked to before the gateway does: over its FIFOs, or over HTTP."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Protocol

from orchestrator.runtimes.address import Address
from orchestrator.runtimes.base import Process
from orchestrator.runtimes.channel import Channel
from orchestrator.runtimes.http_wire import HttpWire


class Wire(Protocol):
    """Messages to and from one process, each without its line's end."""

    async def send(self, line: bytes, /) -> None:
        """Send one message."""
        ...

    async def receive(self) -> bytes:
        """Take the next message."""
        ...


@asynccontextmanager
async def open_wire(process: Process, *, resume: bool) -> AsyncGenerator[Wire]:
    """Talk to a process for the length of a block.

    Args:
        process: The process.
        resume: Whether somebody else talked to it before. Over HTTP that is of no concern: each
            conversation stands for itself, and has to be opened.

    Raises:
        TargetUnavailableError: It cannot be talked to.
        WorkloadNotReadyError: It did not listen while the block wanted to talk.
    """
    if process.address:
        async with HttpWire(Address.parse(process.address), process.pid) as wire:
            yield wire
    else:
        with Channel(process.directory, resume=resume) as channel:
            yield channel
