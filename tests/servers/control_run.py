"""A control plane in a process of its own, for tests that kill it; see `test_instances_killed.py`.

Its arguments are the project's directory, and what to do: `start`, `ready`, `switch`, `drain`, or
`call` for a call that is never answered. It says what it begins and what it has done, then waits.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import anyio

from orchestrator.model.names import RoleName
from orchestrator.model.workload import WorkloadSpec

if TYPE_CHECKING:
    from integration.control.conftest import Project

    from orchestrator.model.base import JsonObject

READER = RoleName("reader")
HOLD: JsonObject = {}


def load() -> type[Project]:
    """Load what the tests of the control plane share."""
    path = Path(__file__).parents[1] / "integration" / "control" / "conftest.py"
    spec = importlib.util.spec_from_file_location("control_conftest", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["control_conftest"] = module
    spec.loader.exec_module(module)
    return cast("type[Project]", module.Project)


def say(text: str) -> None:
    """Tell the test how far it is."""
    _ = sys.stdout.write(f"{text}\n")
    _ = sys.stdout.flush()


async def main(root: Path, verbs: list[str]) -> None:
    """Do one thing after the other."""
    project = load()(root)
    project.current["reader"] = "v1"
    spec = WorkloadSpec.model_validate_json((root / "spec.json").read_bytes(), strict=False)
    async with project.control() as control, anyio.create_task_group() as group:
        instances = control.instances
        for verb in verbs:
            say(f"begin {verb}")
            match verb:
                case "start":
                    _ = await control.start(spec)
                case "ready":
                    await instances.ready(READER, "v2")
                case "switch":
                    await instances.switch(READER, "v2")
                case "call":
                    group.start_soon(control.plane.call, "reader", "hold", HOLD)
                    await control.until(lambda: "call hold {}" in project.noted())
                case _:
                    _ = await instances.drain(READER, 30)
            say(f"done {verb}")
        await anyio.sleep_forever()


anyio.run(main, Path(sys.argv[1]), sys.argv[2:])
