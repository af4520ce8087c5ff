"""Pins on disk: written before they count, read before anything is routed."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import structlog
from structlog.testing import LogCapture
from structlog.typing import FilteringBoundLogger

from orchestrator.clock import SystemClock
from orchestrator.control.pinbook import PinBook, list_files, read_pins
from orchestrator.control.pins import Held, Live
from orchestrator.errors import (
    PinsChangedError,
    StateCorruptError,
    StateUnwritableError,
    WorkloadNotReadyError,
)
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.names import ToolName
from orchestrator.model.workload import WorkloadSpec

MakeSpec = Callable[..., WorkloadSpec]
LIST = ToolName("list_goods")


def tool(name: str = "list_goods", **fields: Json) -> JsonObject:
    """Describe a tool as a server does."""
    return {"name": name, "inputSchema": {"type": "object"}, **fields}


class Bench:
    """A book over a directory, what it logs, and what a role's processes show."""

    def __init__(self, root: Path) -> None:
        """Open the book."""
        self.directory = root / "pins"
        self.capture = LogCapture()
        logger = cast(
            "FilteringBoundLogger", structlog.wrap_logger(None, processors=[self.capture])
        )
        self.book = PinBook(self.directory, SystemClock(), logger)
        self.lives: list[Live] = []

    @property
    def file(self) -> Path:
        """Where the pins of `reader` are."""
        return self.directory / "reader.shop.json"

    def events(self) -> list[str]:
        """Tell what was logged."""
        entries = cast("list[dict[str, object]]", self.capture.entries)
        return [str(entry["event"]) for entry in entries]

    def see(self, spec: WorkloadSpec, *tools: JsonObject, instructions: str = "") -> Held:
        """Show tools in the role's only process; tell what is held then."""
        self.lives = [self.book.see(spec, "legacy", tools, instructions)]
        return self.book.held(spec, self.lives)

    def hash(self, spec: WorkloadSpec) -> str:
        """Tell the live hash."""
        return str(self.book.differences(spec, self.lives)["hash"])


@pytest.fixture
def bench(root: Path) -> Bench:
    """Give an empty book."""
    return Bench(root)


@pytest.fixture
def spec(make_spec: MakeSpec) -> WorkloadSpec:
    """Give a role."""
    return make_spec()


def test_what_is_seen_first_is_on_disk_and_private(bench: Bench, spec: WorkloadSpec) -> None:
    """The first attestation writes a file that only its owner can read, with whole definitions."""
    assert not bench.see(spec, tool(title="Goods"), instructions="Be kind.")
    assert bench.file.stat().st_mode & 0o777 == 0o600
    pins = read_pins(bench.file)
    assert pins is not None
    assert json.loads(pins.tools[LIST][0].text)["title"] == "Goods"
    assert pins.instructions[0].text == '"Be kind."'
    assert bench.events() == ["tools pinned"]
    before = bench.file.stat()
    assert not bench.see(spec, tool(title="Goods"), instructions="Be kind.")
    assert bench.file.stat().st_ino == before.st_ino


def test_pins_outlive_the_book(bench: Bench, spec: WorkloadSpec, root: Path) -> None:
    """The next run holds what changed meanwhile, and knows what it was before."""
    _ = bench.see(spec, tool(title="Goods"))
    later = Bench(root)
    assert later.see(spec, tool(title="Evil")) == Held((LIST,))
    told = later.book.differences(spec, later.lives)
    (difference,) = cast("list[dict[str, str]]", told["differences"])
    assert (difference["kind"], difference["tool"]) == ("changed", "list_goods")
    assert "Goods" in difference["pinned"]
    assert "Evil" in difference["live"]


def test_an_approval_takes_what_was_shown(bench: Bench, spec: WorkloadSpec) -> None:
    """With the hash of what is live nothing is held any more, also for the next run."""
    _ = bench.see(spec, tool())
    assert bench.see(spec, tool(title="New"), tool("order_goods"))
    told = bench.book.approve(spec, bench.lives, bench.hash(spec))
    assert told["held"] == ["list_goods", "order_goods"]
    assert not bench.book.held(spec, bench.lives)
    assert bench.book.differences(spec, bench.lives)["differences"] == []
    assert not Bench(bench.directory.parent).see(spec, tool(title="New"), tool("order_goods"))
    assert bench.events() == ["tools pinned", "pins approved"]


def test_an_approval_of_something_else_is_refused(bench: Bench, spec: WorkloadSpec) -> None:
    """If the server changed its tools again after the diff, nothing is approved."""
    _ = bench.see(spec, tool())
    _ = bench.see(spec, tool(title="Harmless"))
    shown = bench.hash(spec)
    _ = bench.see(spec, tool(title="Evil"))
    before = bench.file.read_bytes()
    for expect in (shown, "", shown[:16]):
        with pytest.raises(PinsChangedError, match="nothing was approved"):
            _ = bench.book.approve(spec, bench.lives, expect)
    assert bench.file.read_bytes() == before
    assert bench.book.held(spec, bench.lives) == Held((LIST,))


def test_an_approval_is_durable_or_nothing(bench: Bench, spec: WorkloadSpec) -> None:
    """If the file cannot be written, what was held is still held."""
    _ = bench.see(spec, tool())
    _ = bench.see(spec, tool(title="New"))
    shown = bench.hash(spec)
    bench.file.with_name(f".{bench.file.name}.{os.getpid()}.tmp").mkdir()
    with pytest.raises(StateUnwritableError):
        _ = bench.book.approve(spec, bench.lives, shown)
    assert bench.book.held(spec, bench.lives) == Held((LIST,))


def test_without_a_live_process_there_is_nothing_to_compare(
    bench: Bench, spec: WorkloadSpec
) -> None:
    """Nobody can approve what nobody shows."""
    assert not bench.book.held(spec, [])
    with pytest.raises(WorkloadNotReadyError):
        _ = bench.book.differences(spec, [])
    with pytest.raises(WorkloadNotReadyError):
        _ = bench.book.approve(spec, [], "0" * 64)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("}", ""),
        ("Goods", "Evils"),
        ('"format": 1', '"format": 2'),
        ('"reader"', '"writer"'),
        ("{", "[" * 100_000),
    ],
    ids=["cut", "edited", "newer", "moved", "deep"],
)
def test_damaged_pins_are_refused(
    bench: Bench, spec: WorkloadSpec, root: Path, old: str, new: str
) -> None:
    """A file that is there and is not understood is an error, and stays as it is."""
    _ = bench.see(spec, tool(title="Goods"))
    _ = bench.file.write_text(bench.file.read_text().replace(old, new))
    spoiled = bench.file.read_bytes()
    later = Bench(root)
    with pytest.raises(StateCorruptError) as caught:
        _ = later.book.open(spec)
    assert str(bench.file) in str(caught.value)
    assert caught.value.hint
    with pytest.raises(StateCorruptError):
        _ = later.see(spec, tool(title="Goods"))
    assert bench.file.read_bytes() == spoiled


def test_pins_that_others_may_write_are_not_trusted(
    bench: Bench, spec: WorkloadSpec, root: Path
) -> None:
    """Neither is a link, which may lead anywhere."""
    _ = bench.see(spec, tool())
    bench.file.chmod(0o666)
    with pytest.raises(StateCorruptError, match="everybody may write it"):
        _ = Bench(root).book.open(spec)
    bench.file.chmod(0o600)
    other = bench.file.rename(root / "other.json")
    bench.file.symlink_to(other)
    with pytest.raises(StateCorruptError, match="cannot be read"):
        _ = Bench(root).book.open(spec)


def test_what_is_pinned_is_listed(bench: Bench, spec: WorkloadSpec) -> None:
    """Every definition with its hash and date, and every tool that is held."""
    assert list_files(bench.directory, None) == []
    _ = bench.see(spec, tool())
    held = bench.see(spec, tool(), tool("order_goods"), instructions="Hurry.")
    rows = list_files(bench.directory, None, {(spec.role, spec.server): held})
    assert [(row["tool"], row["state"], bool(row["sha256"])) for row in rows] == [
        ("list_goods", "pinned", True),
        ("order_goods", "held", False),
        (None, "held", True),
    ]
    rows = list_files(bench.directory, "reader")
    assert [row["state"] for row in rows] == ["pinned", "pinned"]
    assert list_files(bench.directory, "writer") == []
