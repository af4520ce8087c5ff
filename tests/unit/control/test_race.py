"""Work that is given up when something else happens."""

import anyio
import anyio.lowlevel
import pytest

from orchestrator.control.race import unless
from orchestrator.errors import WorkloadStartError


async def never() -> None:
    """Wait for ever."""
    await anyio.sleep_forever()


async def test_finished_work_gives_its_result() -> None:
    """The result comes in a tuple, so that None is a result, too."""

    async def work() -> None:
        await anyio.lowlevel.checkpoint()

    with anyio.fail_after(30):
        assert await unless(never, work) == (None,)


async def test_work_is_given_up() -> None:
    """When the stop comes first the work is cancelled and cleans up before the answer."""
    stop, cleaned = anyio.Event(), list[str]()

    async def work() -> int:
        stop.set()
        try:
            await anyio.sleep_forever()
        finally:
            cleaned.append("up")
        return 1

    with anyio.fail_after(30):
        assert await unless(stop.wait, work) is None
    assert cleaned == ["up"]


async def test_an_error_comes_bare() -> None:
    """What the work raises is the caller's to catch, in no group."""

    async def work() -> None:
        await anyio.lowlevel.checkpoint()
        raise WorkloadStartError("no")

    with anyio.fail_after(30), pytest.raises(WorkloadStartError):
        _ = await unless(never, work)


async def test_an_error_beats_the_stop() -> None:
    """Work that fails while it is given up is still known to have failed."""
    stop = anyio.Event()

    async def work() -> None:
        stop.set()
        try:
            await anyio.sleep_forever()
        finally:
            raise WorkloadStartError("no")

    with anyio.fail_after(30), pytest.raises(WorkloadStartError):
        _ = await unless(stop.wait, work)


async def test_whoever_waits_may_be_cancelled() -> None:
    """A cancellation from outside ends both, and is no result."""
    begun, ended = anyio.Event(), list[str]()

    async def work() -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("work")

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:

            async def wait() -> None:
                _ = await unless(never, work)
                ended.append("result")

            group.start_soon(wait)
            await begun.wait()
            group.cancel_scope.cancel()
    assert ended == ["work"]
