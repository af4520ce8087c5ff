"""Work that is given up as soon as something else happens."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

T = TypeVar("T")


async def unless(
    stop: Callable[[], Awaitable[None]], work: Callable[[], Awaitable[T]]
) -> tuple[T] | None:
    """Do some work until it is done, or until `stop` returns.

    Args:
        stop: Returns when the work has to be given up; the work is cancelled then.
        work: The work; what it raises comes through as it is, not in a group.

    Returns:
        The work's result in a tuple, or None if it was given up.
    """
    done: list[T] = []
    failure: list[Exception] = []
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            await stop()
            group.cancel_scope.cancel()

        group.start_soon(watch)
        try:
            done.append(await work())
        except Exception as error:  # noqa: BLE001  raised again below, outside the group
            failure.append(error)
        group.cancel_scope.cancel()
    if failure:
        raise failure[0]
    return (done[0],) if done else None
