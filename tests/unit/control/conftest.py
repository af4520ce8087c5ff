"""Specs to be changed by each test."""

import shutil
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from orchestrator.model.workload import WorkloadSpec

SPEC: dict[str, object] = {
    "role": "reader",
    "server": "shop",
    "bands": ("look", "order"),
    "mode": "agent",
    "argv": ("/usr/bin/shop",),
    "directory": "/srv",
    "env": {"PATH": "/usr/bin"},
    "secrets": {"SHOP_TOKEN": "file:/run/token"},
    "tools": {"list_goods": "READ", "order_goods": "WRITE"},
    "known": frozenset({"list_goods", "order_goods", "pay_bill"}),
    "cut": False,
    "era": "auto",
    "restart": {},
    "probe": {},
    "stop": {},
}


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., WorkloadSpec]:
    """Return the function that makes a spec; each argument replaces a field."""

    def make(**fields: object) -> WorkloadSpec:
        return WorkloadSpec.model_validate({**SPEC, **fields})

    return make


@pytest.fixture
def root() -> Generator[Path]:
    """Make a directory whose path leaves room for the sockets of a project."""
    path = Path(tempfile.mkdtemp(prefix="bm-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)
