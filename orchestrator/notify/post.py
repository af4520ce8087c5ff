"""Tells people in the background, with a bounded number of tries for each target."""

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias, final

import anyio
from anyio.abc import TaskGroup, TaskStatus
from structlog.typing import FilteringBoundLogger
from typing_extensions import override

from orchestrator.model.message import Delivery, DeliveryState, Link, Notifier, Topic
from orchestrator.model.notify import Target, address_in
from orchestrator.notify.base import Message, Send, SendError

# Seconds before each further try: six minutes in all.
PAUSES: Final = (2.0, 10.0, 60.0, 300.0)
# More are not kept; who sends so many is a flood, and each of them has its line in the record.
MOST_PENDING: Final = 1_000
LONGEST_TRY_SECONDS: Final = 60.0
_FULL: Final = "too many messages wait already"

Links: TypeAlias = Sequence[Link] | Callable[[str], Sequence[Link]]


@dataclass(slots=True)
class _Job:
    target: str
    message: Message
    state: DeliveryState = "trying"
    tries: int = 0
    note: str = ""
    is_once: bool = False
    done: anyio.Event = field(default_factory=anyio.Event)

    def delivery(self) -> Delivery:
        return Delivery(self.target, self.state, self.tries, self.note)


@final
class Postman(Notifier):
    """Brings messages to the targets. Belongs to the event loop; `run` does the work."""

    def __init__(
        self,
        targets: Callable[[], Mapping[str, Target]],
        sender: Callable[[Target], Send],
        log: FilteringBoundLogger,
        *,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        """Prepare.

        Args:
            targets: Tells the targets as they are applied now.
            sender: Gives the way to one of them.
            log: Structured log; neither texts nor links go into it.
            sleep: Waits between two tries.
        """
        self._targets = targets
        self._sender = sender
        self._log = log
        self._sleep = sleep
        self._group: TaskGroup | None = None
        self._waiting: list[_Job] = []
        self._pending = 0
        # By target: why the last message did not reach it.
        self._failures: dict[str, str] = {}

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of all targets."""
        return tuple(self._targets())

    @property
    def failures(self) -> Mapping[str, str]:
        """Why the last message did not reach a target, for each that it did not reach."""
        known = self._targets()
        return {name: why for name, why in self._failures.items() if name in known}

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Bring messages until cancelled; what is not delivered by then is lost."""
        async with anyio.create_task_group() as group:
            self._group = group
            waiting, self._waiting = self._waiting, []
            for job in waiting:
                group.start_soon(self._bring, job)
            task_status.started()
            await anyio.sleep_forever()

    @override
    def send(
        self, topic: Topic, title: str, text: str, links: Links = (), *, owner: str = ""
    ) -> None:
        _ = self._begin(topic, title, text, links, owner, None)

    @override
    async def deliver(
        self,
        topic: Topic,
        title: str,
        text: str,
        links: Links = (),
        *,
        owner: str = "",
        grace: float = 10.0,
        only: str | None = None,
        once: bool = False,
    ) -> tuple[Delivery, ...]:
        jobs = self._begin(topic, title, text, links, owner, only)
        for job in jobs:
            job.is_once = once
        with anyio.move_on_after(grace):
            for job in jobs:
                await job.done.wait()
        return tuple(job.delivery() for job in jobs)

    def _begin(  # noqa: PLR0913, PLR0917  the same
        self, topic: Topic, title: str, text: str, links: Links, owner: str, only: str | None
    ) -> list[_Job]:
        subject, identity = topic.partition(".")[0], secrets.token_hex(8)
        jobs: list[_Job] = []
        for name, target in self._targets().items():
            if only not in {None, name}:
                continue
            if only is None and target.topics and subject not in target.topics:
                continue
            given = links(name) if callable(links) else links
            message = Message(identity, topic, title, text, tuple(given), address_in(owner))
            job = _Job(name, message)
            jobs.append(job)
            if self._pending >= MOST_PENDING:
                self._end(job, "failed", _FULL)
                continue
            self._pending += 1
            if self._group is None:
                self._waiting.append(job)
            else:
                self._group.start_soon(self._bring, job)
        return jobs

    async def _bring(self, job: _Job) -> None:
        try:
            for pause in (*PAUSES, None):
                if await self._try(job) or pause is None or job.is_once:
                    break
                await self._sleep(pause)
            if job.state == "trying":
                self._end(job, "failed", job.note)
        finally:
            self._pending -= 1

    async def _try(self, job: _Job) -> bool:
        """Try once; True if it is over."""
        job.tries += 1
        target = self._targets().get(job.target)
        if target is None:
            self._end(job, "failed", "it is no target any more")
            return True
        try:
            with anyio.fail_after(LONGEST_TRY_SECONDS):
                await self._sender(target)(job.message)
        except SendError as error:
            job.note = str(error)
            if error.is_final:
                self._end(job, "failed", job.note)
            return error.is_final
        except TimeoutError:
            job.note = f"it took longer than {LONGEST_TRY_SECONDS:g} s"
            return False
        except Exception as error:  # noqa: BLE001  one target must not keep others from being told
            job.note = f"unexpected {type(error).__name__}"
            return False
        self._end(job, "delivered", "")
        return True

    def _end(self, job: _Job, state: DeliveryState, note: str) -> None:
        job.state, job.note = state, note
        facts = {"target": job.target, "topic": job.message.topic, "tries": job.tries}
        if state == "delivered":
            _ = self._failures.pop(job.target, None)
            self._log.info("message delivered", **facts)
        else:
            self._failures[job.target] = note
            self._log.warning("message not delivered", reason=note, **facts)
        job.done.set()
