"""The official conformance suite, through the gateway, against the same server without it.

Many checks pass on any error at all, so it is not enough that a scenario passes: as many of its
checks have to pass as without the gateway.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import pytest

if TYPE_CHECKING:
    from tests.e2e.conformance.conftest import Direct
    from tests.e2e.conftest import Object, Project

pytestmark = pytest.mark.node

REVISIONS: Final = ("2025-11-25", "2026-07-28")
BEARER: Final = Path(__file__).parents[2] / "node" / "bearer.mjs"
LONGEST_RUN: Final = 400
# Not held: an extension that the server does not have, and the taking up of broken streams.
LEFT_OUT: Final = ("tasks-", "server-sse-polling")
# Passed by answering as a stream, which is a choice; without one the suite says INFO.
OPTIONAL: Final = frozenset({"server-sse-streams-functional"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run of the suite found.

    Attributes:
        conforms: Whether every scenario that counts passed.
        passed: Checks that passed, by scenario.
        others: What the suite says to checks that did not pass, by scenario.
    """

    conforms: bool
    passed: Mapping[str, Counter[str]]
    others: Mapping[str, list[str]]


def run_suite(
    node: Mapping[str, str], url: str, revision: str, token: str | None = None
) -> Outcome:
    """Run the scenarios that a revision of the protocol requires."""
    program = node["conformance"]
    environment, preload = {"PATH": str(Path(node["node"]).parent)}, ()
    if token is not None:
        environment |= {"BEARER": token, "UNDICI": program}
        preload = ("--import", str(BEARER))
    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run(
            [
                *(node["node"], *preload, program, "server", "--url", url),
                *("--requirements", revision, "-o", place),
            ],
            env={**environment, "HOME": place},
            cwd=place,
            capture_output=True,
            text=True,
            timeout=LONGEST_RUN,
            check=False,
        )
        passed, others = read_results(Path(place))
    assert passed, done.stdout + done.stderr
    return Outcome(done.returncode == 0, passed, others)


def read_results(place: Path) -> tuple[dict[str, Counter[str]], dict[str, list[str]]]:
    """Read what the suite wrote: a directory a scenario, named by it and by the time."""
    passed: dict[str, Counter[str]] = {}
    others: dict[str, list[str]] = {}
    for file in sorted(place.glob("server-*/checks.json")):
        scenario = file.parent.name.removeprefix("server-")[: -len("-2026-11-20T20-53-14-726Z")]
        passed[scenario], others[scenario] = Counter(), []
        for check in cast("list[Object]", json.loads(file.read_text())):
            if check["status"] == "SUCCESS":
                passed[scenario][str(check["id"])] += 1
            else:
                words = (check["status"], check["id"], check["name"], check.get("errorMessage"))
                others[scenario].append(" ".join(map(str, words)))
    return passed, others


@pytest.fixture(scope="session")
def found(node: Mapping[str, str], direct: Direct) -> Mapping[str, Outcome]:
    """Run the suite without the gateway, for every revision."""
    return {revision: run_suite(node, direct.url, revision) for revision in REVISIONS}


@pytest.mark.parametrize("revision", REVISIONS)
def test_the_server_itself_conforms(found: Mapping[str, Outcome], revision: str) -> None:
    """The server that stands behind the gateway passes everything that is held of the gateway."""
    outcome = found[revision]
    assert outcome.conforms
    wrong = {
        scenario: words
        for scenario, all_words in outcome.others.items()
        if (words := [line for line in all_words if line.startswith(("FAIL", "WARN", "SKIP"))])
        and not scenario.startswith(LEFT_OUT)
    }
    assert not wrong


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize("role", ["stdio", "http"])
def test_the_gateway_conforms_as_much(
    node: Mapping[str, str],
    found: Mapping[str, Outcome],
    project: Project,
    role: str,
    revision: str,
) -> None:
    """Every check that the server passes directly it passes through the gateway."""
    alone = found[revision]
    through = run_suite(node, project.url(role), revision, project.token(role))
    lost = {
        scenario: (dict(missing), through.others.get(scenario))
        for scenario, checks in alone.passed.items()
        if not scenario.startswith(LEFT_OUT)
        and (missing := checks - through.passed.get(scenario, Counter()))
        and not missing.keys() <= OPTIONAL
    }
    assert not lost, json.dumps(lost, indent=1)
    assert through.conforms
