"""Keeps one workload alive: launch, probe, attest, route, watch, and again."""

import random
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Final, final

import anyio
from pydantic import SecretStr
from structlog.typing import FilteringBoundLogger

from orchestrator.clock import Clock
from orchestrator.control.attest import Attestation, attest
from orchestrator.control.dataplane import DataPlane
from orchestrator.control.last_words import end_of, last_words
from orchestrator.control.lifecycle import History, after_failure
from orchestrator.control.publish import Publisher
from orchestrator.control.race import unless
from orchestrator.control.state import ProcessRecord, StateFile
from orchestrator.control.vigil import Sign, Vigil
from orchestrator.errors import (
    AgentsError,
    AttestationError,
    RuntimeUnavailableError,
    SecretError,
    UpstreamError,
    WorkloadError,
    WorkloadNotReadyError,
)
from orchestrator.model.names import SecretName, WorkloadName
from orchestrator.model.server import EraChoice
from orchestrator.model.snapshot import Route, TargetRef
from orchestrator.model.status import RoleStatus
from orchestrator.model.workload import EngineState, Phase, WorkloadSpec
from orchestrator.runtimes.base import Process, Runtime
from orchestrator.runtimes.identity import is_alive
from orchestrator.runtimes.probe import Attested

ENGINE_POLL_SECONDS: Final = 1.0
KILL_SECONDS: Final = 10.0
ATTEST_SECONDS: Final = 1.0
# One that shows too much is not given the time to finish what it does.
QUARANTINE_GRACE: Final = timedelta(milliseconds=500)
# How long the news of an end may take, once the gateway has noticed it.
GONE_SECONDS: Final = 1.0
# A caller may wait at the gateway for a process that comes back at least this soon.
SHORT_ABSENCE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Services:
    """What every keeper works with.

    Attributes:
        runtime: The engine.
        publisher: Where routes go.
        state: What survives a crash.
        probe: Asks a process for its tools over its own channel, before it has traffic; a record
            says that an earlier run opened it already.
        secrets: Resolves the secrets of a spec, complete; raises SecretError.
        log_of: Tells where a role's instance writes its log.
        clock: Time.
        log: Structured log.
        changed: Called after every change that a person would see.
        secret_poll_seconds: How often a role looks for a secret that was missing.
    """

    runtime: Runtime
    publisher: Publisher
    state: StateFile
    probe: Callable[[Process, WorkloadSpec, EraChoice, ProcessRecord | None], Awaitable[Attested]]
    secrets: Callable[[WorkloadSpec], Awaitable[Mapping[SecretName, SecretStr]]]
    log_of: Callable[[str], Path]
    clock: Clock
    log: FilteringBoundLogger
    changed: Callable[[], None]
    secret_poll_seconds: float = 5.0


@final
class Keeper:
    """One generation of one role's instance.

    `run` works until it is cancelled; everything else may be called at any time from the same
    event loop. While `active` is false the keeper readies its process and publishes nothing: that
    is how a replacement is brought up beside the generation that still serves.
    """

    def __init__(self, spec: WorkloadSpec, services: Services, *, active: bool) -> None:
        """Remember what to keep."""
        self.spec = spec
        self.active = active
        self.phase = Phase.STARTING
        self.detail = ""
        self.hint = ""
        self.restarts = 0
        self.process: Process | None = None
        self._services = services
        self._log = services.log.bind(workload=spec.name, role=spec.role)
        self._record: ProcessRecord | None = None
        self._attested = Attestation((), ())
        self._history = History()
        self._secrets: Mapping[SecretName, SecretStr] = {}
        self._log_begin = 0
        self._ready_since: float | None = None
        self._retry_at: float | None = None
        self._failed_once = False
        self._may_adopt = True
        self._ends: dict[int, int | None] = {}
        self._end_seen = anyio.Event()
        self._tools_changed = anyio.Event()
        self._moved = anyio.Event()

    # What others ask and tell.

    @property
    def is_settled(self) -> bool:
        """Whether the state stays as it is until something new happens."""
        match self.phase:
            case Phase.STARTING | Phase.DRAINING:
                return False
            case Phase.BACKOFF:
                return self._failed_once
            case _:
                return True

    def status(self, url: str) -> RoleStatus:
        """Tell where the workload stands."""
        now = self._services.clock.monotonic()
        ready = self.phase is Phase.READY and self._ready_since is not None
        return RoleStatus(
            role=self.spec.role,
            state=self.phase,
            detail=self.detail,
            hint=self.hint,
            settled=self.is_settled,
            server=self.spec.server,
            bands=self.spec.bands,
            mode=self.spec.mode,
            tools=tuple(str(tool["name"]) for tool in self._attested.tools) if ready else (),
            missing=self._attested.missing if ready else (),
            pid=self.process.pid if self.process else None,
            generation=self.spec.generation,
            restarts=self.restarts,
            uptime_seconds=round(now - (self._ready_since or now), 3) if ready else None,
            retry_in_seconds=(
                round(max(0.0, self._retry_at - now), 3) if self._retry_at is not None else None
            ),
            url=url,
        )

    async def settled(self) -> None:
        """Wait until the state is one that stays."""
        while not self.is_settled:
            await self._moved.wait()

    def note_exit(self, pid: int, code: int | None) -> None:
        """Take the news that a process of this workload ended."""
        self._ends[pid] = code
        event, self._end_seen = self._end_seen, anyio.Event()
        event.set()

    def note_tools_changed(self) -> None:
        """Take the news that the live server says its tools changed."""
        self._tools_changed.set()

    def activate(self) -> None:
        """Publish from now on, beginning with the present route."""
        self.active = True
        self._publish()

    # The loop.

    async def run(self) -> None:
        """Keep the workload until cancelled."""
        while True:
            try:
                await self._keep_one()
            except RuntimeUnavailableError as error:
                self._move(Phase.BACKOFF, str(error), "The engine is asked again.")
                await anyio.sleep(ENGINE_POLL_SECONDS)
            except Exception as error:  # noqa: BLE001  such as a full disk: others serve on
                self._log.exception("keeper failed")
                self._failed_once = True
                detail = f"unexpected {type(error).__name__} of the control plane"
                self._move(Phase.BACKOFF, detail, "See `agents logs --daemon`.")
                await anyio.sleep(ENGINE_POLL_SECONDS)

    async def _keep_one(self) -> None:
        """Keep one process, from where it is found to its end, and to what follows from that."""
        try:
            process = await self._obtain()
            self._may_adopt = False
            await self._make_ready(process)
            code = await self._watch(process)
            await self._after_exit(code)
        except AttestationError as error:
            await self._quarantine(error)
        except SecretError as error:
            await self._block(error)
        except RuntimeUnavailableError:
            raise
        except AgentsError as error:
            await self._after_failure(error)
        except Exception as error:  # noqa: BLE001  whatever one server brings about ends its role only
            self._log.exception("instance not understood")
            await self._after_failure(
                WorkloadNotReadyError(
                    f"unexpected {type(error).__name__} of the control plane",
                    hint="See `agents logs --daemon`.",
                )
            )

    async def _obtain(self) -> Process:
        """Adopt the running process, or launch one."""
        services, spec = self._services, self.spec
        if self.phase is not Phase.BLOCKED:  # it stays so until nothing is missing any more
            self._move(Phase.STARTING, "")
        observed = (await services.runtime.observe()).get(spec.name)
        record = services.state.state.processes.get(spec.name)
        running = observed is not None and observed.state is EngineState.RUNNING
        # Without a process the engine is about to start the next seat.
        if running and observed and observed.pid and not observed.waiting:
            if (
                self._may_adopt
                and record is not None
                and record.pid == observed.pid
                and is_alive(record.pid, record.started, record.boot_id)
            ):
                self.restarts = record.restarts
                self._record = record
                self.process = Process(
                    spec.name, record.pid, record.started, record.boot_id, record.directory
                )
                self._log.info("instance adopted", pid=record.pid)
                return self.process
            # Launched, and nobody remembers how far it came: it never had traffic from us.
            await self._kill(observed.pid)
        services.state.drop_process(spec.name)
        self._secrets = await services.secrets(spec)
        if self.phase is Phase.BLOCKED:
            self._move(Phase.STARTING, "")
        self._log_begin = end_of(services.log_of(spec.role))
        await services.runtime.start(spec)
        self.process = None
        self._record = None
        self._ends.clear()
        self.process = await services.runtime.launch(spec, self._secrets)
        self._log.info("instance launched", pid=self.process.pid)
        services.changed()
        return self.process

    async def _make_ready(self, process: Process) -> None:
        """Probe, attest, remember and route the process."""
        services, spec = self._services, self.spec
        era = services.state.state.eras.get(spec.server)
        chosen = spec.era if spec.era != "auto" or era is None else era
        begun = services.clock.monotonic()
        try:
            opened = await self._unless_it_ends(
                process, lambda: services.probe(process, spec, chosen, self._record)
            )
        except (UpstreamError, WorkloadNotReadyError):
            if chosen != spec.era:  # it was remembered, and may be of another version
                eras = dict(services.state.state.eras)
                _ = eras.pop(spec.server, None)
                services.state.update(eras=eras)
            raise
        self._attested = attest(spec, opened.tools)
        now = services.clock.now().timestamp()
        ready_at = self._record.ready_at if self._record is not None else now
        record = ProcessRecord(
            pid=process.pid,
            started=process.started,
            boot_id=process.boot_id,
            directory=process.directory,
            era=opened.era,
            protocol_version=opened.protocol_version,
            server_info=opened.server_info,
            restarts=self.restarts,
            ready_at=ready_at,
        )
        self._record = record
        if services.state.state.processes.get(spec.name) != record:
            services.state.keep_process(spec.name, record)
        if era != opened.era and spec.era == "auto":
            services.state.update(eras={**services.state.state.eras, spec.server: opened.era})
        # An adopted process has been ready for a while.
        self._ready_since = services.clock.monotonic() - max(0.0, now - ready_at)
        self._move(Phase.READY, "")
        self._log.info(
            "instance ready",
            pid=process.pid,
            era=opened.era,
            tools=len(self._attested.tools),
            missing=self._attested.missing,
            rubbish=opened.rubbish,
            seconds=round(services.clock.monotonic() - begun, 3),
        )

    async def _watch(self, process: Process) -> int | None:
        """Return the exit code when the process ends.

        Raises:
            AttestationError: It shows tools that it must not have.
            WorkloadNotReadyError: It lives and does not answer.
            UpstreamError: It does not list its tools after a change.
        """
        plane = await self._services.publisher.plane()
        vigil = Vigil(self.spec, process.pid, plane, self._services.clock)
        while True:
            ended: bool | None = None
            with anyio.move_on_after(self.spec.probe.every.total_seconds()):
                ended = await self._ended_or_tools_changed(process)
            if ended:
                return self._ends.pop(process.pid)
            if not self.active:
                continue  # no traffic yet, or no more
            if ended is False:
                await self._attest_again(process, plane)
                continue
            match await vigil.look():
                case Sign.ALIVE | Sign.SILENT:
                    pass
                case Sign.LOST:
                    await self._expect_end(process)
                case Sign.WEDGED:
                    self._log.error("instance wedged", pid=process.pid, misses=vigil.misses)
                    raise WorkloadNotReadyError("it was alive and silent, and is being replaced")

    async def _expect_end(self, process: Process) -> None:
        """Wait for the end of a process that the gateway does not reach any more.

        Raises:
            WorkloadNotReadyError: It did not end.
        """
        with anyio.move_on_after(GONE_SECONDS):
            await self._end_of(process.pid)
            return
        raise WorkloadNotReadyError("the gateway lost the connection to it")

    async def _attest_again(self, process: Process, plane: DataPlane) -> None:
        """Check the tools of a server that says that they changed."""
        name, startup = self.spec.name, self.spec.probe.startup.total_seconds()
        try:
            with anyio.fail_after(startup):
                listed = await unless(
                    lambda: self._end_of(process.pid), lambda: plane.list_tools(name)
                )
        except TimeoutError as error:
            raise WorkloadNotReadyError(
                f"its tools changed, and it did not list them within {startup:g} s"
            ) from error
        if listed is None:
            return
        self._attested = attest(self.spec, listed[0])
        self._log.info("tools attested again", tools=len(self._attested.tools))
        self._publish()
        self._services.changed()
        # One that announces changes without end must not keep everybody busy.
        with anyio.move_on_after(ATTEST_SECONDS):
            await self._end_of(process.pid)

    async def _ended_or_tools_changed(self, process: Process) -> bool:
        """Wait for one of the two; True when the process ended."""
        while process.pid not in self._ends:
            if self._tools_changed.is_set():
                self._tools_changed = anyio.Event()
                return False
            _ = await unless(self._tools_changed.wait, self._end_seen.wait)
        return True

    async def _unless_it_ends(
        self, process: Process, work: Callable[[], Awaitable[Attested]]
    ) -> Attested:
        """Do something with a process, and stop at once when the process ends meanwhile."""
        done: tuple[Attested] | None = None
        failure: AgentsError | None = None
        try:
            done = await unless(lambda: self._end_of(process.pid), work)
        except AgentsError as error:
            failure = error
        if done is not None:
            return done[0]
        if failure is not None and process.pid not in self._ends:
            raise failure
        # However the work failed: that the process ended says more.
        code = self._ends.pop(process.pid)
        self.process = None
        raise _EndedError(self.spec.name, code)

    async def _end_of(self, pid: int) -> None:
        while pid not in self._ends:
            await self._end_seen.wait()

    async def _after_exit(self, code: int | None) -> None:
        """A process that had been ready is gone."""
        process, self.process = self.process, None
        sentence = f"it ended by itself ({describe_exit(code)})"
        if process is not None:
            self._services.publisher.lose(self.spec.name, process.pid, sentence)
        await self._wait_before_retry(sentence + self._last_words(code), code)

    async def _after_failure(self, error: AgentsError) -> None:
        """A process never became ready, or could not be launched."""
        self._failed_once = self._failed_once or not isinstance(error, _EndedError)
        if self.process is not None:
            await self._kill(self.process.pid)
            self._services.publisher.lose(self.spec.name, self.process.pid, str(error))
            self.process = None
        code = error.exit if isinstance(error, _EndedError) else None
        await self._wait_before_retry(str(error) + self._last_words(code), code, error.hint or "")

    def _last_words(self, code: int | None) -> str:
        """Quote the log of a process that ended with an error; a killed one had no say."""
        if not code or code < 0:
            return ""
        log = self._services.log_of(self.spec.role)
        words = last_words(log, self._log_begin, self._secrets.values())
        return f"; its last words: {words}" if words else ""

    async def _wait_before_retry(self, detail: str, code: int | None, hint: str = "") -> None:
        services, spec = self._services, self.spec
        now = services.clock.monotonic()
        ready_for = now - self._ready_since if self._ready_since is not None else None
        self._ready_since = None
        self._history, verdict = after_failure(
            self._history,
            spec.restart,
            now=now,
            code=code,
            ready_for=ready_for,
            jitter=random.random(),  # noqa: S311  spreads restarts, guards nothing
        )
        services.state.drop_process(spec.name)
        self._log.warning(
            "instance failed",
            detail=detail,
            failures=self._history.failures,
            retry_seconds=round(verdict.delay, 3),
            looping=verdict.looping,
        )
        self.restarts += 1
        logs = f"See `agents logs {spec.role}`; `agents restart {spec.role}` tries again at once."
        hint = f"{hint} {logs}".lstrip()
        if verdict.gives_up:
            self._move(
                Phase.FAILED,
                f"{detail}; given up after {self._history.failures} failures",
                hint,
            )
            await self._stop_for_good(self.spec.stop.grace)
            await anyio.sleep_forever()
        phase = Phase.CRASH_LOOPING if verdict.looping else Phase.BACKOFF
        self._retry_at = now + verdict.delay
        self._move(phase, detail, hint)
        await anyio.sleep(verdict.delay)
        self._retry_at = None

    async def _quarantine(self, error: AttestationError) -> None:
        """No traffic, no process, until a person asks again."""
        self._ready_since = None
        self._log.error("instance quarantined", tools=error.tools)
        self._move(Phase.QUARANTINED, str(error), error.hint or "")
        self._services.state.drop_process(self.spec.name)
        await self._stop_for_good(QUARANTINE_GRACE)
        if self.process is not None:
            self._services.publisher.lose(self.spec.name, self.process.pid, str(error))
            self.process = None
        self._services.changed()
        await anyio.sleep_forever()

    async def _stop_for_good(self, grace: timedelta) -> None:
        """Have the engine end and forget the workload, as soon as there is an engine."""
        while True:
            try:
                await self._services.runtime.stop(self.spec.name, grace)
            except RuntimeUnavailableError:
                await anyio.sleep(ENGINE_POLL_SECONDS)
            else:
                return

    async def _block(self, error: SecretError) -> None:
        """Something it needs is missing: look again now and then."""
        if self.phase is not Phase.BLOCKED or self.detail != str(error):
            self._log.warning("instance blocked", detail=str(error))
            self._move(Phase.BLOCKED, str(error), error.hint or "")
        await anyio.sleep(self._services.secret_poll_seconds)

    async def _kill(self, pid: int) -> None:
        """Kill the process group and wait until the engine has reaped it."""
        await self._services.runtime.signal(self.spec.name, signal.SIGKILL)
        with anyio.move_on_after(KILL_SECONDS):
            await self._end_of(pid)

    def _move(self, phase: Phase, detail: str, hint: str = "") -> None:
        self.phase, self.detail, self.hint = phase, detail, hint
        self._publish()
        event, self._moved = self._moved, anyio.Event()
        event.set()
        self._services.changed()

    def _publish(self) -> None:
        if not self.active:
            return
        self._services.publisher.publish(self._route())

    def _route(self) -> Route:
        spec = self.spec
        if self.phase is Phase.READY and self.process is not None and self._record is not None:
            return Route(
                spec.role,
                spec.server,
                TargetRef(
                    spec.name,
                    self.process.pid,
                    self.process.directory,
                    self._record.era,
                    self._record.protocol_version,
                    self._record.server_info,
                ),
                self._attested.tools,
                MappingProxyType(dict(spec.tools)),
            )
        now = self._services.clock.monotonic()
        soon = self._retry_at is None or self._retry_at - now < SHORT_ABSENCE_SECONDS
        waits = soon and self.phase in {Phase.STARTING, Phase.BACKOFF, Phase.CRASH_LOOPING}
        # The tools stay known: a caller that lists them while the instance comes back is answered.
        known = () if self.phase is Phase.QUARANTINED else self._attested.tools
        classes = MappingProxyType(dict(spec.tools))
        return Route(spec.role, spec.server, None, known, classes, str(self.phase), waits)


@final
class _EndedError(WorkloadError):
    """The process ended before it was ready."""

    code = "workload.start"

    def __init__(self, workload: WorkloadName, code: int | None) -> None:
        super().__init__(f"{workload} ended before it was ready ({describe_exit(code)})")
        self.exit: int | None = code


def describe_exit(code: int | None) -> str:
    """Say how a process ended, in words."""
    if code is None:
        return "exit status unknown"
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
