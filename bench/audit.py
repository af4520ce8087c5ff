"""What the record costs, and how fast it is verified.

    python -m bench.audit [--lines 400000] [--calls 20000]

It writes a record of calls as the gateway does, and verifies it: events a second, for one core.
Then it measures the processor time of all of the record for a READ call, from the filter's own
fields to the line in the kernel, and the syncs of calls that 16 callers announce at the same time.
"""

import argparse
import asyncio
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import anyio
from typing_extensions import override

from orchestrator.audit.keys import read_key_file
from orchestrator.audit.log import AuditLog
from orchestrator.audit.record import CallRecord
from orchestrator.audit.verify import verify
from orchestrator.clock import SystemClock
from orchestrator.gateway.asgi import Body, Received, Start
from orchestrator.gateway.context import Exchange, Reply
from orchestrator.gateway.filters.record import Record, Recorder
from orchestrator.gateway.head import Head
from orchestrator.model.base import JsonObject
from orchestrator.model.names import AgentName, RoleName, TokenId
from orchestrator.protocol.mcp import ToolCall
from orchestrator.tokens.verify import Principal

if TYPE_CHECKING:
    from orchestrator.gateway.sessions import Session
    from orchestrator.gateway.table import Place
    from orchestrator.gateway.target import Target


@contextmanager
def place() -> Generator[Path]:
    """Make a directory on a real disk."""
    path = Path(tempfile.mkdtemp(prefix="bm-", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def entry(number: int) -> CallRecord:
    """Make a record of a call as most are."""
    return CallRecord(
        "outcome",
        f"{number:016x}",
        RoleName("treasury"),
        AgentName("workstation"),
        TokenId("a1b2c3d4e5f6"),
        session="0123456789abcdef",
        method="tools/call",
        tool="get_price",
        kind="READ",
        category="ok",
        status=200,
        duration_us=900 + number % 100,
        policy="0123456789ab",
        workload="treasury.wallet.g1",
        pid=4242,
        arguments_sha256=f"{number:064x}",
    )


def measure_verify(lines: int, rounds: int) -> None:
    """Write a record, and verify it some times."""
    with place() as home:
        log = AuditLog(home / "audit", home / "audit.key", SystemClock(), "bench")
        begun = time.process_time()
        for number in range(lines):
            log.record(entry(number))
        cost = (time.process_time() - begun) / lines * 1e6
        log.close()
        size = sum(path.stat().st_size for path in (home / "audit").iterdir())
        print(f"written: {lines} lines of {size / lines:.0f} bytes, {cost:.1f} us each")
        keys = read_key_file(home / "audit" / "audit.pub")
        speeds: list[float] = []
        for _ in range(rounds):
            begun = time.perf_counter()
            report = verify(home / "audit", keys)
            speeds.append(report.lines / (time.perf_counter() - begun))
            if report.count:
                raise SystemExit(f"a record that nobody touched is said to be changed: {report}")
        each = ", ".join(f"{speed:,.0f}" for speed in speeds)
        print(f"verified: {statistics.median(speeds):,.0f} lines a second ({each})")


async def hear() -> Received:
    """Hear nothing."""
    return Received(type="http.disconnect")


async def send(_: Start | Body) -> None:
    """Send nowhere."""


class Gateway:
    """The outermost filter, and the least behind it that a READ call is."""

    def __init__(self, recorder: Recorder) -> None:
        """Record with `recorder`."""
        self.filter = Record(recorder, SystemClock())
        self.head = Head("POST", [])
        agent = AgentName("workstation")
        until = datetime.now(UTC) + timedelta(days=1)
        self.principal = Principal(agent, RoleName("treasury"), TokenId("a1b2c3d4e5f6"), until)
        policy = SimpleNamespace(
            revision="0123456789ab",
            policy=SimpleNamespace(identifies={"get_balance": ("address", "chain")}),
        )
        self.place = cast("Place", SimpleNamespace(policy=policy))
        ref = SimpleNamespace(workload="treasury.wallet.g1", pid=4242)
        self.target = cast("Target", SimpleNamespace(ref=ref))
        self.session = cast("Session", SimpleNamespace(key="0123456789abcdef", client="cli/1.0"))
        self.reply = Reply(200, b"{}")

    def exchange(self, number: int) -> Exchange:
        """Make a request, with all that the filters learn of it."""
        made = Exchange(
            f"{number:016x}", RoleName("treasury"), self.head, hear, send, time.monotonic()
        )
        arguments: JsonObject = {"address": f"0x{number:040x}", "chain": "ethereum"}
        made.principal, made.place, made.session = self.principal, self.place, self.session
        made.method, made.kind, made.target = "tools/call", "READ", self.target
        made.call = ToolCall("get_balance", arguments)
        return made

    async def answer(self, _: Exchange, /) -> Reply:
        """Answer at once."""
        return self.reply


class Nothing(Recorder):
    """Keeps nothing."""

    @property
    @override
    def reads_on(self) -> bool:
        return False

    @override
    def admit(self) -> None:
        """Let everything in."""

    @override
    def intend(self, entry: CallRecord) -> "asyncio.Future[None]":
        raise NotImplementedError(entry)

    @override
    def record(self, entry: CallRecord) -> None:
        """Keep nothing."""


async def measure_read(calls: int, rounds: int) -> None:
    """Measure all that the record costs a READ call, and of it what the disk's part is."""
    with place() as home:
        log = AuditLog(home / "audit", home / "audit.key", SystemClock(), "bench")
        whole, fields = Gateway(log), Gateway(Nothing())
        costs: dict[str, list[float]] = {"none": [], "fields": [], "whole": []}
        for _ in range(rounds):
            asked = [whole.exchange(number) for number in range(calls)]
            begun = time.process_time()
            for one in asked:
                _ = await whole.answer(one)
            costs["none"].append(time.process_time() - begun)
            for name, way in (("fields", fields), ("whole", whole)):
                asked = [way.exchange(number) for number in range(calls)]
                begun = time.process_time()
                for one in asked:
                    _ = await way.filter(one, way.answer)
                costs[name].append(time.process_time() - begun)
        log.close()
        none, part, all_of_it = (
            statistics.median(costs[name]) / calls * 1e6 for name in ("none", "fields", "whole")
        )
        print(f"a READ call: {all_of_it - none:.1f} us of processor time for all of the record,")
        print(f"  of which {part - none:.1f} us are fields and hash of the arguments")


async def measure_syncs(callers: int, calls: int) -> None:
    """Count the syncs of calls that are announced and recorded by many callers."""
    syncs = 0
    real = os.fdatasync

    def count(descriptor: int) -> None:
        nonlocal syncs
        syncs += 1
        real(descriptor)

    with place() as home:
        log = AuditLog(home / "audit", home / "audit.key", SystemClock(), "bench")
        os.fdatasync = count
        begun = time.perf_counter()

        async def call(first: int) -> None:
            for number in range(first, first + calls):
                await log.intend(entry(number))
                log.record(entry(number))

        async with anyio.create_task_group() as group:
            group.start_soon(log.keep)
            async with anyio.create_task_group() as work:
                for caller in range(callers):
                    work.start_soon(call, caller * calls)
            group.cancel_scope.cancel()
        took = time.perf_counter() - begun
        os.fdatasync = real
        log.close()
    each = syncs / (callers * calls / 8)
    print(
        f"{callers} callers, {callers * calls} calls in {took:.2f} s: {each:.2f} syncs for 8 calls"
    )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    _ = parser.add_argument("--lines", type=int, default=400_000)
    _ = parser.add_argument("--calls", type=int, default=20_000)
    _ = parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rounds = cast("int", options.rounds)
    asyncio.run(measure_read(cast("int", options.calls), rounds))
    asyncio.run(measure_syncs(16, 250))
    measure_verify(cast("int", options.lines), rounds)


if __name__ == "__main__":
    main()
