"""What has to be done once for a server, in a short-lived instance that no agent ever reaches."""

import os
import secrets as randomness
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, final

import anyio
from anyio.abc import TaskGroup
from pydantic import SecretStr
from structlog.typing import FilteringBoundLogger

from orchestrator.control.race import unless
from orchestrator.control.state import StateFile
from orchestrator.errors import (
    AgentsError,
    RuntimeUnavailableError,
    SecretNotFoundError,
    WorkloadStartError,
)
from orchestrator.files import PRIVATE_FILE, make_private_directory, write_atomically
from orchestrator.model.base import JsonObject
from orchestrator.model.desired import BootstrapSpec
from orchestrator.model.names import SecretName, ServerName, ToolName
from orchestrator.model.server import BootstrapCall
from orchestrator.model.workload import WorkloadExit, WorkloadSpec
from orchestrator.runtimes.base import Process, Runtime
from orchestrator.secrets.file import read_secret_bytes

PATIENCE_SECONDS: Final = 120.0
_SHOWN: Final = 300

# Calls one tool of a process that was opened for it.
Caller = Callable[[ToolName, JsonObject], Awaitable[JsonObject]]
# Opens a fresh process for the length of a block.
Converse = Callable[[Process, WorkloadSpec], AbstractAsyncContextManager[Caller]]


@final
class _Task:
    """One bootstrap: done, failed, or under way."""

    def __init__(self, spec: BootstrapSpec, earlier: "_Task | None") -> None:
        self.spec = spec
        self.earlier = earlier
        self.finished = anyio.Event()
        self.stopped = anyio.Event()
        self.error: AgentsError | None = None
        self._ends: set[int] = set()
        self._end_seen = anyio.Event()

    @property
    def is_under_way(self) -> bool:
        """Whether it may still do what it has to."""
        return not self.finished.is_set()

    @property
    def is_over(self) -> bool:
        """Whether it did it, or nothing of it is left."""
        return self.stopped.is_set() or (self.finished.is_set() and self.error is None)

    def note_exit(self, pid: int) -> None:
        """Take the news that a process ended; it may come before the launch is known."""
        self._ends.add(pid)
        event, self._end_seen = self._end_seen, anyio.Event()
        event.set()

    async def end_of(self, pid: int) -> None:
        """Wait for the end of a process."""
        while pid not in self._ends:
            await self._end_seen.wait()


@final
class Bootstraps:
    """All bootstraps of a project; each is done once, and again only if its files are gone."""

    def __init__(
        self,
        runtime: Runtime,
        state: StateFile,
        resolve: Callable[[WorkloadSpec], Awaitable[Mapping[SecretName, SecretStr]]],
        converse: Converse,
        log: FilteringBoundLogger,
    ) -> None:
        """Prepare; nothing happens before `begin`."""
        self._runtime = runtime
        self._state = state
        self._resolve = resolve
        self._converse = converse
        self._log = log
        self._tasks: dict[ServerName, _Task] = {}

    def notes(self) -> tuple[str, ...]:
        """Tell in words what is under way or went wrong."""
        return tuple(
            f"bootstrap of {server}: {task.error or 'under way'}"
            for server, task in sorted(self._tasks.items())
            if task.error is not None or not task.finished.is_set()
        )

    def begin(self, specs: Mapping[ServerName, BootstrapSpec], group: TaskGroup) -> None:
        """Begin every bootstrap that is due and not under way; one that failed is tried again."""
        for server, spec in specs.items():
            earlier = self._tasks.get(server)
            if earlier is not None and earlier.is_under_way and earlier.spec == spec:
                continue
            # One that failed and is only being stopped yet is followed by the next try.
            if (earlier is None or earlier.is_over) and self._is_done(spec):
                continue
            self._tasks[server] = task = _Task(spec, earlier)
            group.start_soon(self._run, task, name=f"bootstrap {server}")

    def _is_done(self, spec: BootstrapSpec) -> bool:
        return spec.server in self._state.state.bootstrapped and _all_there(spec)

    async def wait_for(self, spec: WorkloadSpec) -> None:
        """Wait until the files that a workload's secrets refer to are made.

        Raises:
            SecretNotFoundError: The bootstrap that makes them failed.
        """
        task = self._tasks.get(spec.server)
        paths = (each.path for ref in spec.secrets.values() for each in ref.chain())
        if task is None or task.spec.files.isdisjoint(paths):
            return
        await task.finished.wait()
        if task.error is not None:
            raise SecretNotFoundError(
                f"the bootstrap of {spec.server} failed: {task.error}",
                hint=task.error.hint or f"`agents restart {spec.role}` tries it again.",
            )

    def note_exit(self, end: WorkloadExit) -> None:
        """Take the news that a process ended."""
        for task in self._tasks.values():
            if task.spec.spec.name == end.name:
                task.note_exit(end.pid)

    async def _run(self, task: _Task) -> None:
        spec = task.spec
        if task.earlier is not None:
            await task.earlier.stopped.wait()
            task.earlier = None
            if self._is_done(spec):
                task.finished.set()
                task.stopped.set()
                return
        try:
            with anyio.fail_after(PATIENCE_SECONDS):
                await self._do(task)
            moment = datetime.now(UTC).isoformat(timespec="seconds")
            done = {**self._state.state.bootstrapped, spec.server: moment}
            self._state.update(bootstrapped=done)
            self._log.info("bootstrap done", server=spec.server, calls=len(spec.calls))
        except AgentsError as error:
            task.error = error
        except TimeoutError:
            task.error = WorkloadStartError(
                f"it did not end within {PATIENCE_SECONDS:g} s",
                hint="See `agents logs bootstrap`.",
            )
        except OSError as error:  # such as a full disk
            task.error = WorkloadStartError(f"its files cannot be written: {error.strerror}")
        finally:
            if task.error is not None:
                self._log.error("bootstrap failed", server=spec.server, detail=str(task.error))
            # Whoever waits for what it made need not wait for its end.
            task.finished.set()
            # Without an engine it is ended as a stray, when there is one again.
            with anyio.CancelScope(shield=True), suppress(RuntimeUnavailableError):
                await self._runtime.stop(spec.spec.name, spec.spec.stop.grace)
            task.stopped.set()

    async def _do(self, task: _Task) -> None:
        spec = task.spec
        was_done = spec.server in self._state.state.bootstrapped
        if was_done:
            _require_generated(spec)
        # A container's own directories are made with it, and are its user's.
        await self._runtime.start(spec.spec)
        kept = spec.spec.container.keep if spec.spec.container else ()
        move_all(spec, kept=kept)
        if was_done and _all_there(spec):
            return
        for path, size in spec.generate.items():
            generate(Path(path), size, kept=kept)
        secrets = await self._resolve(spec.spec)
        process = await self._runtime.launch(spec.spec, secrets)
        ended = partial(task.end_of, process.pid)
        if await unless(ended, lambda: self._call_all(process, spec)) is None:
            raise WorkloadStartError(
                "its instance ended in the middle", hint="See `agents logs bootstrap`."
            )
        for path in spec.produces:
            _require_private(Path(path))

    async def _call_all(self, process: Process, spec: BootstrapSpec) -> None:
        async with self._converse(process, spec.spec) as call_tool:
            for call in spec.calls:
                judge(call, await call_tool(call.tool, call.arguments))


def _all_there(spec: BootstrapSpec) -> bool:
    return all(Path(path).is_file() for path in spec.files)


def _require_generated(spec: BootstrapSpec) -> None:
    """Refuse to make a second random file in place of one that others were made with."""
    elsewhere = {new for old, new in spec.moves.items() if Path(old).is_file()}
    gone = sorted(path for path in spec.generate.keys() - elsewhere if not Path(path).is_file())
    if gone:
        raise WorkloadStartError(
            f"{', '.join(gone)} was made by the first bootstrap and is gone; what was made with "
            "it cannot be opened with another one",
            hint="Put it back from a backup; or move the server's whole state away to start over.",
        )


def move_all(spec: BootstrapSpec, *, kept: Collection[str] = ()) -> None:
    """Bring files that were kept elsewhere once to their place now; what is there stays.

    Args:
        spec: The bootstrap.
        kept: Directories that belong to a container's user.

    Raises:
        SecretStoreUnavailableError: Others could have put one there.
    """
    for old, new in spec.moves.items():
        source, target = Path(old), Path(new)
        if target.exists() or not os.path.lexists(source):
            continue
        content = read_secret_bytes(source, kept=True)
        if str(target.parent) not in kept:
            make_private_directory(target.parent)
        write_atomically(target, content)
        source.unlink()


def generate(path: Path, size: int, *, kept: Collection[str] = ()) -> None:
    """Make a file of random text, once; one that is there already is kept.

    Args:
        path: The file.
        size: Bytes of randomness.
        kept: Directories that belong to a container's user.
    """
    if str(path.parent) not in kept:
        make_private_directory(path.parent)
    if not path.exists():
        write_atomically(path, randomness.token_urlsafe(size).encode() + b"\n")


def judge(call: BootstrapCall, result: JsonObject) -> None:
    """Refuse a result that is an error, unless it says that somebody did it already.

    Raises:
        WorkloadStartError: It is one.
    """
    if not result.get("isError"):
        return
    structured = result.get("structuredContent")
    code = structured.get("code") if isinstance(structured, dict) else None
    if isinstance(code, str) and code in call.accept:
        return
    message = structured.get("message") if isinstance(structured, dict) else None
    reason = f"{code or 'error'}: {message or 'no reason given'}"
    # The server's own words, and they end up on a terminal.
    shown = "".join(letter if letter.isprintable() else " " for letter in reason[:_SHOWN])
    raise WorkloadStartError(f"{call.tool} failed: {shown}")


def _require_private(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise WorkloadStartError(f"it did not make {path}") from error
    if mode & 0o777 & ~PRIVATE_FILE:
        raise WorkloadStartError(f"it made {path} readable by others")
