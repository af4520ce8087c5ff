"""A process that is killed in the middle of approved calls makes none of them twice."""

import random
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, cast

import pytest

from orchestrator.approvals.store import ApprovalStore
from orchestrator.database import Database

PROGRAM = Path(__file__).parents[2] / "servers" / "approver.py"
KILLS = 6


@pytest.mark.parametrize("seed", [1, 2])
def test_a_killed_process_makes_no_call_twice(seed: int) -> None:
    """Over many kills each approval is used by one call at most, and by none that was not told."""
    chance = random.Random(seed)  # noqa: S311 - when to kill is no secret
    root = Path(tempfile.mkdtemp(prefix="bm-", dir="/tmp"))
    made: list[str] = []
    for _ in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(root / "agents.db")], stdout=subprocess.PIPE
        )
        told = cast("IO[bytes]", process.stdout)
        lines = chance.randrange(1, 20)
        made += [told.readline().decode().split()[1] for _ in range(lines)]
        process.kill()
        # What it told before it died counts, too; a line that it did not finish does not.
        made += [line.decode().split()[1] for line in told.read().split(b"\n")[:-1]]
        told.close()
        _ = process.wait(30)

    assert len(set(made)) == len(made)
    database = Database(root / "agents.db")
    found = ApprovalStore(database).every(None, None, 100_000, datetime.now(UTC))
    used = {one.id for one in found if one.state == "used"}
    assert set(made) <= used
    # A kill came between an approval's end and its call: that call is not made any more.
    assert len(used) - len(made) <= 3 * KILLS
    for kind in ("sha 1", "sha 2", "sha 3"):
        alive = [
            one
            for one in found
            if one.asked.arguments_sha256 == kind and one.state in {"pending", "approved"}
        ]
        assert len(alive) <= 1
    database.close()
    shutil.rmtree(root)
