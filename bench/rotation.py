"""What callers notice while every credential of a project is replaced again and again.

    python -m bench.rotation [--calls 10000] [--callers 16] [--times 5] [--pause 0.02]

Three roles of the reference wallet server, each with a key that a program issues; a project as
users have it. Callers of all roles call first while nothing happens, then while all three roles
have the agent's token and the upstream key replaced so many times. Every answer is looked at, and
each call is looked for in the record. Then tokens are revoked, and the time is taken until they
are refused.
"""

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Final, cast

import orchestrator
from bench import rig
from bench.callers import Callers, Errand, Tally
from orchestrator.model.base import JsonObject

_ROOT: Final = Path(orchestrator.__file__).parents[1]
_ISSUER: Final = _ROOT / "tests" / "servers" / "keys.py"
_ROLES: Final = ("monitoring", "treasury", "executor")
_REVOCATIONS: Final = 200
_SETTINGS: Final = f"""\
listen: 127.0.0.1:0
issuers:
  keys:
    kind: command
    run: ["{{python}}", -I, {_ISSUER}]
    overlap: true
    revoke: api
    lists: true
    probes: true
    env: {{KEYS: "{{project}}/keys.json", MADE: "{{project}}/made.txt"}}
"""
_RULE: Final = """\
rotation:
  agent: {overlap: 1h, quiet: 1s}
  upstream: {issuer: keys, soak: 0s, check: {tool: get_price, arguments: {symbol: ETH}}}
"""


def write_project(root: Path) -> None:
    """Write the stock project, with a key for each role."""
    _ = rig.agents(root, "init")
    _ = (root / "agents.yaml").write_text(_SETTINGS)
    server = root / "roles" / "servers" / "wallet.yaml"
    text = server.read_text()
    accepts = "  accepts:"
    if text.count(accepts) != 1:
        raise ValueError("the stock server file is not as it was")
    line = next(line for line in text.splitlines() if line.startswith(accepts))
    _ = server.write_text(text.replace(line, f"{line}\n    SERVICE_KEY: Key of a service."))
    for name in _ROLES:
        role = root / "roles" / f"{name}.yaml"
        text = role.read_text()
        secrets = next((line for line in text.splitlines() if line.startswith("secrets:")), None)
        if secrets is None:
            text += '\nsecrets: {SERVICE_KEY: "issued:"}\n'
        else:
            text = text.replace(secrets, f'{secrets}\n  SERVICE_KEY: "issued:"')
        _ = role.write_text(text + "\n" + _RULE)


def errands(root: Path) -> list[Errand]:
    """Tell what callers ask for: each role a tool that looks, with the token as it is now."""

    def of(role: str) -> Errand:
        path = root / ".agents" / "tokens" / role
        return Errand(role, "get_price", {"symbol": "ETH"}, lambda: path.read_text().strip())

    return [of(role) for role in _ROLES]


async def call_for(port: int, root: Path, options: argparse.Namespace, seconds: float) -> Tally:
    """Call while nothing happens."""
    until = time.monotonic() + seconds
    callers = Callers(port, errands(root), _callers(options), _pause(options))
    return await callers.run(lambda: time.monotonic() > until)


async def call_and_rotate(
    port: int, root: Path, options: argparse.Namespace
) -> tuple[Tally, list[float]]:
    """Call while everything is replaced; also tells how long each turn took."""
    wanted, times = cast("int", options.calls), cast("int", options.times)
    turns: list[float] = []
    is_over = False

    async def rotate() -> None:
        nonlocal is_over
        for number in range(times):
            begun = time.monotonic()
            await _agents(root, "rotate", "--purpose", "agent")
            await _agents(root, "rotate", "--purpose", "upstream")
            while not await _is_done(root):  # noqa: ASYNC110 - other processes do it
                await asyncio.sleep(0.1)
            turns.append(time.monotonic() - begun)
            print(f"turn {number + 1} of {times}: {turns[-1]:.1f} s", file=sys.stderr)
        is_over = True

    callers = Callers(port, errands(root), _callers(options), _pause(options))
    calling = asyncio.ensure_future(
        callers.run(lambda: is_over and len(callers.tally.seconds) >= wanted)
    )
    await rotate()
    return await calling, turns


async def _agents(root: Path, *words: str) -> str:
    return await asyncio.to_thread(rig.agents, root, *words)


async def _is_done(root: Path) -> bool:
    told = cast("JsonObject", json.loads(await _agents(root, "rotate", "status", "--json")))
    rotations = cast("list[JsonObject]", told["rotations"])
    if any(one["state"] in {"failed", "held"} for one in rotations):
        raise RuntimeError(f"a rotation did not end well: {rotations}")
    return all(one["state"] == "done" for one in rotations)


def unrecorded(root: Path, tally: Tally) -> int:
    """Count the calls that are not in the record exactly once."""
    told = rig.agents(root, "calls", "-n", "1000000", "--json").splitlines()
    lines = [cast("JsonObject", json.loads(line)) for line in told]
    seen: dict[str, int] = {}
    for line in lines:
        if line.get("event") == "outcome":
            name = cast("str", line["request"])
            seen[name] = seen.get(name, 0) + 1
    return sum(seen.get(request, 0) != 1 for request in tally.requests)


def revocations(root: Path) -> list[float]:
    """Revoke tokens; tells the milliseconds from each request to the first refusal."""
    found: list[float] = []
    for number in range(_REVOCATIONS):
        issued = rig.agents(
            root, "token", "issue", "monitoring", "--agent", f"bench-{number}", "--json"
        )
        token = cast("JsonObject", json.loads(issued))
        told = rig.agents(root, "token", "revoke", cast("str", token["id"]), "--json")
        receipt = cast("JsonObject", cast("JsonObject", json.loads(told))["receipt"])
        found.append(cast("float", receipt["refused_after_ms"]))
    return found


def _callers(options: argparse.Namespace) -> int:
    return cast("int", options.callers)


def _pause(options: argparse.Namespace) -> float:
    return cast("float", options.pause)


def tell(name: str, tally: Tally) -> None:
    """Print what callers saw."""
    print(
        f"{name:22} {len(tally.seconds):7} calls, {len(tally.failed)} failed,"
        f" p50 {tally.quantile(0.5):.2f} ms, p99 {tally.quantile(0.99):.2f} ms,"
        f" longest {tally.quantile(1):.1f} ms"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    _ = parser.add_argument("--calls", type=int, default=10_000)
    _ = parser.add_argument("--callers", type=int, default=16)
    _ = parser.add_argument("--times", type=int, default=5)
    _ = parser.add_argument("--pause", type=float, default=0.02)
    options = parser.parse_args()
    print(rig.describe_machine())
    with rig.home() as root:
        write_project(root)
        try:
            _ = rig.agents(root, "up", "-d")
            told = cast("JsonObject", json.loads(rig.agents(root, "status", "--json")))
            url = str(cast("JsonObject", told["gateway"])["url"])
            port = int(url.rpartition(":")[2])
            _ = asyncio.run(call_for(port, root, options, 2))  # everything is warm from here on
            quiet = asyncio.run(call_for(port, root, options, 15))
            if quiet.failed:
                raise RuntimeError(f"calls fail while nothing happens: {quiet.failed[0]}")
            tally, turns = asyncio.run(call_and_rotate(port, root, options))
            missing = unrecorded(root, tally) + unrecorded(root, quiet)
            ended = revocations(root)
        finally:
            _ = rig.agents(root, "down")
            shutil.rmtree(root / ".agents", ignore_errors=True)
    tell("quiet", quiet)
    tell("while rotating", tally)
    for problem in tally.failed[:5]:
        print(f"  {problem}")
    print(f"p99 while rotating / quiet: {tally.quantile(0.99) / quiet.quantile(0.99):.2f}")
    print(f"not in the record exactly once: {missing}")
    print(f"turns: median {statistics.median(turns):.1f} s, longest {max(turns):.1f} s")
    ended.sort()
    print(
        f"revoked to refused: p50 {statistics.median(ended):.3f} ms,"
        f" p99 {ended[int(len(ended) * 0.99) - 1]:.3f} ms"
    )
    print(rig.describe_load())


if __name__ == "__main__":
    main()
