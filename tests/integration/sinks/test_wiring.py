"""The sinks of a project: those that are applied are at work, and what goes wrong is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import anyio
import pytest
import structlog
from pydantic import SecretStr

from orchestrator.audit.keys import load_signer
from orchestrator.audit.log import AuditLog
from orchestrator.audit.reader import parse
from orchestrator.audit.sinks.worker import Pace
from orchestrator.audit.verify import verify
from orchestrator.clock import SystemClock
from orchestrator.model.audit import Audit
from orchestrator.paths import Paths
from orchestrator.wiring.sinks import Sinks

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from structlog.typing import FilteringBoundLogger

    from orchestrator.model.base import JsonObject
    from orchestrator.model.secret import SecretRef
    from tests.integration.sinks.conftest import HttpReceiver, Place

Until = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture
def until() -> Until:
    """Give a function that waits until something is so; threads tell nobody."""

    async def work(question: Callable[[], bool]) -> None:
        with anyio.fail_after(30):
            while not question():  # noqa: ASYNC110  as said
                await anyio.sleep(0.01)

    return work


class Applied:
    """What is applied, and the sinks of it."""

    def __init__(self, place: Place) -> None:
        """Apply nothing."""
        self.rule = Audit()
        self.asked: list[str] = []
        self.sinks = Sinks(
            Paths(place.root, place.root, place.root / "run"),
            lambda: self.rule,
            lambda: place.log.seq,
            look_up=self._look_up,
            clock=SystemClock(),
            log=cast("FilteringBoundLogger", structlog.get_logger()),
            pace=Pace(look=0.01, first=0.01, longest=0.05),
        )

    def apply(self, **sinks: JsonObject) -> None:
        """Apply these."""
        self.rule = Audit.model_validate({"sinks": sinks}, strict=False)

    def _look_up(self, reference: SecretRef) -> SecretStr:
        self.asked.append(str(reference))
        return SecretStr("canary")

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Have them at work."""
        async with anyio.create_task_group() as group:
            group.start_soon(self.sinks.run)
            yield
            group.cancel_scope.cancel()


async def test_what_is_applied_is_at_work(
    place: Place, receiver: HttpReceiver, until: Until
) -> None:
    """All kinds run side by side, each at its own pace, and a change is followed."""
    applied = Applied(place)
    copy, cef = place.root / "copy.jsonl", place.root / "copy.cef"
    otlp = f"http://127.0.0.1:{receiver.port}/v1/logs"
    applied.apply(
        copy={"file": "copy.jsonl"},
        siem={"http": receiver.url, "secret": "env:TOKEN"},
        otel={"otlp": otlp},
        sys={"syslog": "unix:/nowhere/log"},
    )
    place.fill(20)
    async with applied.running():
        await until(lambda: copy.exists() and len(copy.read_bytes().splitlines()) == 20)
        await until(lambda: len(receiver.taken) >= 2)
        assert copy.read_bytes().splitlines() == place.lines()
        await until(lambda: any("sys" in note for note in applied.sinks.notes()))
        assert applied.sinks.notes() == ("the sink sys is 20 lines behind: nothing listens there",)
        await until(lambda: applied.sinks.behind(20) == ("sys",))
        applied.apply(copy={"file": "copy.cef", "format": "cef"})
        wanted = applied.rule.sinks["copy"]
        await until(lambda: applied.sinks._workers["copy"][0] == wanted)
        place.fill(25)
        await until(lambda: cef.exists() and len(cef.read_bytes().splitlines()) == 5)
        assert applied.sinks.notes() == ()
        assert len(copy.read_bytes().splitlines()) == 20
    assert applied.asked == ["env:TOKEN"]
    shown = {each.get("authorization") for each in receiver.seen}
    assert shown == {"Bearer canary", None}


async def test_refused_and_lost_lines_are_told(
    place: Place, receiver: HttpReceiver, until: Until
) -> None:
    """`agents status` says how many, and where they are."""
    applied = Applied(place)
    receiver.judge = lambda _: (400, {}, b"")
    applied.apply(siem={"http": receiver.url})
    place.fill(4)
    async with applied.running():
        await until(lambda: applied.sinks.behind(4) == ())
        await until(lambda: applied.sinks.notes() != ())
        (note,) = applied.sinks.notes()
    assert note == (
        f"the sink siem refused 4 lines, which are in {place.directory}/sinks/siem.dead.jsonl"
    )


async def test_a_wrong_authority_is_told(place: Place, until: Until) -> None:
    """A file that holds no certificate stops its sink alone."""
    applied = Applied(place)
    applied.apply(siem={"http": "https://127.0.0.1:1/x", "ca": "nothing.pem"})
    async with applied.running():
        await until(lambda: any("as authorities" in note for note in applied.sinks.notes()))


async def test_removal_tells_who_did_not_have_it(place: Place, until: Until) -> None:
    """Retention goes on, and the tombstone names the sinks that lose lines."""
    place.fill(6)
    place.log.close()
    applied = Applied(place)
    applied.apply(copy={"file": "copy.jsonl"}, sys={"syslog": "unix:/nowhere/log"})
    rule = Audit(keep=timedelta(milliseconds=1))
    log = AuditLog(place.directory, place.root / "audit.key", SystemClock(), "1", lambda: rule)
    log.behind = applied.sinks.behind
    assert log._writer is not None
    log._writer.journal.turn()
    log.note("after", {})
    async with applied.running():
        await until(lambda: applied.sinks.behind(7) == ("sys",))
        await log._retire(log._writer)
    log.close()
    lines = [parse(line) for line in place.lines()]
    stones = [line for line in lines if line is not None and line["event"] == "tombstone"]
    assert [stone["unsent"] for stone in stones] == ["sys"]
    public = load_signer(place.root / "audit.key").public
    assert verify(place.directory, {public.id: public}).count == 0
