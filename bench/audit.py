"""What the record costs, and how fast it is verified.

    python -m bench.audit [--lines 400000] [--calls 20000]

It writes a record of calls as the gateway does, and verifies it: events a second, for one core.
Then it measures the processor time of all of the record for a READ call, from the filter's own
fields to the line in the kernel, and the syncs of calls that 16 callers announce at the same time.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from orchestrator.audit.keys import read_key_file
from orchestrator.audit.log import AuditLog
from orchestrator.audit.record import CallRecord
from orchestrator.audit.verify import verify
from orchestrator.clock import SystemClock
from orchestrator.model.names import AgentName, RoleName, TokenId


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


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    _ = parser.add_argument("--lines", type=int, default=400_000)
    _ = parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    measure_verify(cast("int", options.lines), cast("int", options.rounds))


if __name__ == "__main__":
    main()
