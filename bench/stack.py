"""How long the three-role stack of Docker Compose takes until every role is attested and served.

    python -m bench.stack [--runs 3]

It needs an engine with Compose, and the images of `scripts/images test`. The bootstrap, which is
done once, is told apart; each run begins without containers and networks.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final, cast

from bench.rig import AGENTS, describe_load, describe_machine, free_port

ROOT: Final = Path(__file__).resolve().parents[1]
ALLOWED_SECONDS: Final = 15.0


def main() -> int:
    """Measure; return 1 if it takes longer than it may."""
    parser = argparse.ArgumentParser(description="How long a stack takes to be ready.")
    _ = parser.add_argument("--runs", type=int, default=3)
    runs = cast("int", parser.parse_args().runs)
    root = Path(tempfile.mkdtemp(prefix="bm-", dir="/var/tmp"))
    file = str(root / "compose" / "compose.yaml")
    env = {
        **os.environ,
        "COMPOSE_PROJECT_NAME": f"bmbench-{os.getpid()}",
        "BANDMASTER_IMAGE": "bandmaster:test",
        "WALLET_IMAGE": "bandmaster-wallet:test",
        "BANDMASTER_PORT": str(free_port()),
    }

    def timed(*words: str) -> float:
        begun = time.perf_counter()
        done = subprocess.run(words, cwd=root, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{words}: {done.stdout}{done.stderr}")
        return time.perf_counter() - begun

    compose = ("docker", "compose", "-f", file)
    try:
        for folder in ("roles", "compose"):
            left_out = shutil.ignore_patterns("secrets", ".env")
            _ = shutil.copytree(ROOT / folder, root / folder, ignore=left_out)
        print(describe_machine(), describe_load(), sep="\n")
        print(
            f"{'secrets, bootstrap included':32}{timed(AGENTS, 'rotate', '--compose', file):6.1f} s"
        )
        found: list[float] = []
        for _ in range(runs):
            found.append(timed(*compose, "up", "-d", "--wait"))
            print(f"{'up --wait':32}{found[-1]:6.1f} s")
            _ = timed(*compose, "down", "-t", "3")
    finally:
        _ = timed(*compose, "--profile", "*", "down", "-v", "-t", "3")
        shutil.rmtree(root, ignore_errors=True)
    print(f"{'median':32}{statistics.median(found):6.1f} s   at most {ALLOWED_SECONDS:.0f}")
    return int(max(found) > ALLOWED_SECONDS)


raise SystemExit(main())
