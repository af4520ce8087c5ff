"""The official conformance suite's own servers, behind the gateway: how they are spoken to."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, cast

import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Object

pytestmark = pytest.mark.node

LONGEST: Final = 240
CLIENT: Final = Path(__file__).parents[2] / "clients" / "behind_gateway.py"
# How many checks a scenario has, by the revision that it is run at and its name.
SCENARIOS: Final = {
    ("2025-11-25", "initialize"): 2,
    ("2025-11-25", "elicitation-sep1034-client-defaults"): 5,
    ("2025-11-25", "sse-retry"): 3,
    ("2025-11-25", "json-schema-2020-12-preservation"): 9,
    ("2026-07-28", "tools_call"): 2,
    ("2026-07-28", "request-metadata"): 8,
    ("2026-07-28", "sep-2322-client-request-state"): 5,
    ("2026-07-28", "http-standard-headers"): 9,
    ("2026-07-28", "http-custom-headers"): 18,
    ("2026-07-28", "http-invalid-tool-headers"): 12,
    ("2026-07-28", "json-schema-ref-no-deref"): 1,
    ("2026-07-28", "json-schema-2020-12-preservation"): 9,
}
Scenario: TypeAlias = tuple[str, str]
# How long a client waited before it came back.
OF_TIME: Final = {("2025-11-25", "sse-retry")}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a scenario found: its checks, what was written, and whether both programs were happy."""

    checks: list[Object]
    output: str
    is_whole: bool

    @property
    def wrong(self) -> list[Object]:
        """What the suite has against us."""
        return [check for check in self.checks if check["status"] in {"FAILURE", "WARNING"}]


def run_scenario(node: Mapping[str, str], scenario: Scenario) -> Outcome:
    """Run one; again if it looks at times, which a busy machine spoils."""
    for _ in range(2 if scenario in OF_TIME else 0):
        outcome = run_once(node, scenario)
        if outcome.is_whole and not outcome.wrong:
            return outcome
    return run_once(node, scenario)


def run_once(node: Mapping[str, str], scenario: Scenario) -> Outcome:
    """Run one: the suite starts a server, and our client with the server's URL."""
    revision, name = scenario
    with tempfile.TemporaryDirectory() as place:
        command = f"{sys.executable} {CLIENT}"
        done = subprocess.run(
            [
                *(node["node"], node["conformance"], "client", "--command", command),
                *("--scenario", name, "--spec-version", revision, "-o", place),
            ],
            cwd=place,
            capture_output=True,
            text=True,
            timeout=LONGEST,
            check=False,
        )
        checks: list[Object] = []
        for file in Path(place).glob("*/checks.json"):
            checks += cast("list[Object]", json.loads(file.read_text()))
    return Outcome(checks, done.stdout + done.stderr, done.returncode == 0)


@pytest.fixture(scope="module")
def outcomes(node: Mapping[str, str]) -> Mapping[Scenario, Outcome]:
    """Run all; most of the time they wait for Python to start."""
    with ThreadPoolExecutor(4) as pool:
        done = pool.map(partial(run_scenario, node), SCENARIOS)
        return dict(zip(SCENARIOS, done, strict=True))


@pytest.mark.parametrize(("revision", "name"), SCENARIOS)
def test_servers_are_spoken_to_by_the_letter(
    outcomes: Mapping[Scenario, Outcome], revision: str, name: str
) -> None:
    """Every check of the suite's server on its client, which here is the gateway, passes."""
    outcome = outcomes[revision, name]
    assert not outcome.wrong, outcome.output
    assert outcome.is_whole, outcome.output
    passed = [check for check in outcome.checks if check["status"] == "SUCCESS"]
    assert len(passed) == SCENARIOS[revision, name]
