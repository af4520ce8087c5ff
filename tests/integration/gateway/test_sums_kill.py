"""Sums survive the death of the process that counted them."""

import asyncio
import signal
import sys
import tempfile
from decimal import Decimal
from pathlib import Path

import anyio

from orchestrator.clock import SystemClock
from orchestrator.gateway.sums import SumStore
from orchestrator.model.names import RoleName, ToolName
from orchestrator.model.rules import Sum
from orchestrator.policy.sums import Excess, bounds_of

PROGRAM = """
import asyncio, sys
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from orchestrator.clock import SystemClock
from orchestrator.gateway.sums import SumStore
from orchestrator.policy.sums import Bound

async def main():
    store = SumStore(Path(sys.argv[1]), SystemClock())
    bound = Bound("sums[0]", "amount", timedelta(days=1), Decimal(1000))
    while True:
        _, durable = store.reserve("executor", "pay", [(bound, Decimal(1))])
        await durable
        print("sent", flush=True)

asyncio.run(main())
"""


async def test_kill() -> None:
    """After a SIGKILL in the middle of calls every call that was sent is counted."""
    with tempfile.TemporaryDirectory(prefix="bm-", dir="/tmp") as parent:
        directory = Path(parent) / "sums"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, str(directory), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        with anyio.fail_after(30):
            for _ in range(20):
                assert await process.stdout.readline() == b"sent\n"
            process.send_signal(signal.SIGKILL)
            sent = 20 + (await process.stdout.read()).count(b"sent\n")
            _ = await process.wait()
        store = SumStore(directory, SystemClock())
        told = {"tool": "pay", "argument": "amount", "window": "1d", "max": 1000}
        (bound,) = bounds_of([Sum.model_validate(told)])[ToolName("pay")]
        needs = [(bound, Decimal(1000))]
        counted = store.reserve(RoleName("executor"), ToolName("pay"), needs)
        assert isinstance(counted, Excess)
        # The last one may have been counted and not sent.
        assert counted.left in {Decimal(1000 - sent), Decimal(999 - sent)}
        store.close()
