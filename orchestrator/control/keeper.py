"""Keeps one workload alive: launch, probe, attest, watch, and again."""

import random
import signal
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from enum import Enum, auto
from typing import Final, TypeVar, final

import anyio
from pydantic import SecretStr

from orchestrator.control.attest import Attestation, attest
from orchestrator.control.dataplane import DataPlane
from orchestrator.control.ends import EndedError, Ends
from orchestrator.control.last_words import end_of, last_words
from orchestrator.control.lifecycle import History, after_failure
from orchestrator.control.pins import Live
from orchestrator.control.race import unless
from orchestrator.control.services import Services
from orchestrator.control.state import ProcessRecord
from orchestrator.control.vigil import Sign, Vigil
from orchestrator.errors import (
    AgentsError,
    AttestationError,
    ContainerEngineError,
    RotationError,
    RuntimeUnavailableError,
    SecretError,
    StateCorruptError,
    UpstreamError,
    WorkloadNotReadyError,
)
from orchestrator.model.base import JsonObject
from orchestrator.model.names import SecretName, ToolName
from orchestrator.model.rotation import Check
from orchestrator.model.snapshot import Era, TargetRef
from orchestrator.model.workload import EngineState, Phase, WorkloadSpec
from orchestrator.runtimes.base import Process
from orchestrator.runtimes.identity import is_alive
from orchestrator.runtimes.probe import EraRefusedError

T = TypeVar("T")
ENGINE_POLL_SECONDS: Final = 1.0
KILL_SECONDS: Final = 10.0
ATTEST_SECONDS: Final = 1.0
# One that shows too much is not given the time to finish what it does.
QUARANTINE_GRACE: Final = timedelta(milliseconds=500)
# How long the news of an end may take, once the gateway has noticed it.
GONE_SECONDS: Final = 1.0
# A caller may wait at the gateway for a process that comes back at least this soon.
SHORT_ABSENCE_SECONDS: Final = 5.0


class _Place(Enum):
    """Where a process stands toward the gateway."""

    HIDDEN = auto()  # the gateway never heard of it: the keeper itself may talk to it
    ROUTED = auto()  # the gateway talks to it
    WITHDRAWN = auto()  # the gateway finishes with it; nothing is launched in its place


@final
class Keeper:
    """One process of a role, and those that follow it when it ends.

    `run` works until it is cancelled; everything else may be called at any time from the same
    event loop. A keeper readies its process and does not care whether it has traffic: who builds
    the route tells it by `expose` and `withdraw`.
    """

    def __init__(  # noqa: PLR0913 - each is a thing of its own
        self,
        spec: WorkloadSpec,
        services: Services,
        changed: Callable[[], None],
        *,
        owner: str = "",
        on_era_refused: Callable[[], None] | None = None,
        check: Check | None = None,
    ) -> None:
        """Remember what to keep.

        Args:
            spec: The workload.
            services: What it works with.
            changed: Called after every change.
            owner: Whose alone the process is; empty for everybody's.
            on_era_refused: Called when the server does not speak the era of the spec; nothing is
                tried any more then. Without it that is a failure like any other.
            check: A call that has to succeed before the process is ready, until it has calls.
        """
        self.spec = spec
        self.owner = owner
        self.phase = Phase.STARTING
        self.detail = ""
        self.hint = ""
        self.restarts = 0
        self.process: Process | None = None
        self.live: Live | None = None  # what it showed when it was attested last
        self.credential = ""  # version that the process was launched with
        self._services = services
        self._changed = changed
        self._on_era_refused = on_era_refused
        self._check = check
        self._log = services.log.bind(workload=spec.name, role=spec.role)
        if owner:
            self._log = self._log.bind(owner=owner)
        self._place = _Place.HIDDEN
        self._record: ProcessRecord | None = None
        self._attested = Attestation((), ())
        self._said: tuple[Era, str] = ("legacy", "")
        self._history = History()
        self._secrets: Mapping[SecretName, SecretStr] = {}
        self._log_begin = 0
        self._ready_since: float | None = None
        self._retry_at: float | None = None
        self._failed_once = False
        self._is_over = False
        self._may_adopt = True
        self._was_hidden = False
        self._inside: anyio.CancelScope | None = None
        self._ends = Ends()
        self._how = ""  # the last process ended
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

    @property
    def is_ready(self) -> bool:
        """Whether the process may take calls."""
        return self.phase is Phase.READY

    @property
    def is_coming(self) -> bool:
        """Whether a caller may wait for the process."""
        now = self._services.clock.monotonic()
        soon = self._retry_at is None or self._retry_at - now < SHORT_ABSENCE_SECONDS
        return soon and self.phase in {Phase.STARTING, Phase.BACKOFF, Phase.CRASH_LOOPING}

    @property
    def is_returning(self) -> bool:
        """Whether the process of an earlier run is alive, and only has to be attested again."""
        record = self._services.state.state.processes.get(self.spec.name)
        return (
            self.phase is Phase.STARTING
            and (self._may_adopt or self._record is not None)
            and record is not None
            and is_alive(record.pid, record.started, record.boot_id)
        )

    @property
    def tools(self) -> tuple[JsonObject, ...]:
        """The attested tools; they stay known while the process is away."""
        # A caller that lists them while the instance comes back is answered.
        return () if self.phase is Phase.QUARANTINED else self._attested.tools

    @property
    def era(self) -> Era | None:
        """The era that the process speaks, or the last one did; None while nobody knows."""
        if self._record is not None:
            return self._record.era
        if self.spec.era != "auto":
            return self.spec.era
        return self._services.state.state.eras.get(self.spec.server)

    @property
    def missing(self) -> tuple[ToolName, ...]:
        """Promised tools that the server does not show."""
        return self._attested.missing

    @property
    def ready_since(self) -> float | None:
        """Monotonic seconds since when the process has been ready."""
        return self._ready_since

    @property
    def retry_at(self) -> float | None:
        """Monotonic seconds at which the next start is tried."""
        return self._retry_at

    def ref(self) -> TargetRef | None:
        """Tell how the gateway reaches the process, None while it may take no calls."""
        process, record = self.process, self._record
        if not self.is_ready or process is None or record is None:
            return None
        return TargetRef(
            workload=self.spec.name,
            pid=process.pid,
            directory=process.directory,
            era=record.era,
            protocol_version=record.protocol_version,
            server_info=record.server_info,
            capabilities=record.capabilities,
            instructions=record.instructions,
            owner=self.owner,
            address=process.address,
        )

    async def settled(self) -> None:
        """Wait until the state is one that stays, or nobody keeps it any more."""
        while not self.is_settled and not self._is_over:
            await self._moved.wait()

    def end(self) -> None:
        """Let go of those who wait for it: it is being ended."""
        self._is_over = True
        self._moved.set()

    def note_exit(self, pid: int, code: int | None, cause: str = "") -> None:
        """Take the news that a process of this workload ended."""
        self._ends.note(pid, code, cause)

    def note_tools_changed(self) -> None:
        """Take the news that the live server says its tools changed."""
        self._tools_changed.set()

    def expose(self) -> None:
        """Leave the process to the gateway from now on; call it before the gateway is told."""
        if self._place is not _Place.HIDDEN:
            return
        self._place = _Place.ROUTED
        self._check = None
        if self._inside is not None:
            self._inside.cancel()
        if self._was_hidden:
            # It stood by: what it says of its tools by now was heard by nobody.
            self._tools_changed.set()

    def withdraw(self) -> None:
        """Leave the process to those who end it."""
        self._place = _Place.WITHDRAWN

    def rest(self, detail: str, hint: str) -> None:
        """Keep nothing; say why."""
        self._place = _Place.WITHDRAWN
        self.phase, self.detail, self.hint = Phase.STOPPED, detail, hint

    # The loop.

    async def run(self) -> None:
        """Keep the workload until cancelled."""
        while True:
            try:
                await self._keep_one()
            except RuntimeUnavailableError as error:
                # supervisord comes back with us; an engine for containers is somebody else's.
                self._failed_once = self._failed_once or isinstance(error, ContainerEngineError)
                hint = f"{error.hint or ''} The engine is asked again.".lstrip()
                self._move(Phase.BACKOFF, str(error), hint)
                await anyio.sleep(ENGINE_POLL_SECONDS)
            except Exception as error:  # noqa: BLE001  such as a full disk: others serve on
                self._log.exception("keeper failed")
                self._failed_once = True
                detail = f"unexpected {type(error).__name__} of the control plane"
                # It is killed before the next launch, as one that nobody remembers.
                self._let_go(detail)
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
        except (SecretError, RotationError, StateCorruptError) as error:
            await self._block(error)
        except RuntimeUnavailableError:
            raise
        except EraRefusedError as error:
            if self._on_era_refused is None:
                await self._after_failure(error)
            else:
                self._on_era_refused()
                await anyio.sleep_forever()
        except AgentsError as error:
            await self._after_failure(error)

    async def _obtain(self) -> Process:
        """Adopt the running process, or launch one."""
        services, spec = self._services, self.spec
        _ = services.pins.open(spec)
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
                self.credential = record.credential
                self.process = Process(
                    spec.name,
                    record.pid,
                    record.started,
                    record.boot_id,
                    record.directory,
                    record.address,
                )
                self._log.info("instance adopted", pid=record.pid)
                return self.process
            # Launched, and nobody remembers how far it came: it never had traffic from us.
            await self._kill(observed.pid)
        if self._place is _Place.WITHDRAWN:
            self._move(Phase.STOPPED, "")
            await anyio.sleep_forever()
        resolved = await services.secrets(self.spec)
        if self._place is _Place.WITHDRAWN:
            return await self._obtain()
        self._secrets = resolved.values
        if self.phase is Phase.BLOCKED:
            self._move(Phase.STARTING, "")
        self._log_begin = end_of(services.log_of(spec.role))
        await services.runtime.start(spec)
        self.process = None
        self._record = None
        self._ends.forget()
        self.credential = resolved.credential
        self.process = await services.runtime.launch(spec, self._secrets)
        self._log.info("instance launched", pid=self.process.pid)
        self._mention("instance.launched", pid=self.process.pid)
        services.changed()
        return self.process

    async def _make_ready(self, process: Process) -> None:
        """Probe, attest and remember the process."""
        services, spec = self._services, self.spec
        if self._place is _Place.WITHDRAWN and self._record is not None:
            # It only finishes what it has: asking it for more would be of no use.
            self._move(Phase.READY, "")
            return
        known = services.state.state.eras.get(spec.server)
        chosen = spec.era if spec.era != "auto" or known is None else known
        begun = services.clock.monotonic()
        try:
            opened = await self._unless_it_ends(
                process, lambda: services.probe(process, spec, chosen, self._record)
            )
        except (UpstreamError, WorkloadNotReadyError):
            if chosen != spec.era:  # it was remembered, and may be of another version
                services.state.forget_eras(spec.server)
            raise
        self._said = (opened.era, opened.instructions)
        self._attest(opened.tools)
        if (check := self._check) is not None:
            await self._try(process, opened.era, check)
        now = services.clock.now().timestamp()
        ready_at = self._record.ready_at if self._record is not None else now
        self._record = ProcessRecord(
            pid=process.pid,
            started=process.started,
            boot_id=process.boot_id,
            directory=process.directory,
            era=opened.era,
            protocol_version=opened.protocol_version,
            server_info=opened.server_info,
            capabilities=opened.capabilities,
            instructions=opened.instructions,
            owner=self.owner,
            address=process.address,
            restarts=self.restarts,
            ready_at=ready_at,
            credential=self.credential,
        )
        self._remember(self._record)
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
        self._mention("role.ready", pid=process.pid, tools=len(self._attested.tools))

    async def _try(self, process: Process, era: Era, check: Check) -> None:
        """Make the call that has to succeed; what the server says to it may hold anything.

        Raises:
            WorkloadNotReadyError: It did not succeed.
        """
        startup, services = self.spec.probe.startup.total_seconds(), self._services
        try:
            with anyio.fail_after(startup):
                result = await self._unless_it_ends(
                    process, lambda: services.check(process, era, check)
                )
        except TimeoutError:
            raise WorkloadNotReadyError(
                f"it did not answer the check call of {check.tool} within {startup:g} s"
            ) from None
        except UpstreamError:
            raise WorkloadNotReadyError(f"it refused the check call of {check.tool}") from None
        if result.get("isError") is True:
            raise WorkloadNotReadyError(f"the check call of {check.tool} failed")

    def _attest(self, listed: tuple[JsonObject, ...]) -> None:
        """Hold a live list against what the role was promised.

        Raises:
            AttestationError: The server shows tools that it must not have.
            UpstreamProtocolError: It says more of them than anybody could look at.
        """
        attested = attest(self.spec, listed)
        era, instructions = self._said
        self.live = self._services.pins.see(self.spec, era, attested.tools, instructions)
        if attested != self._attested:  # whoever compares finds the same object where it is one
            self._attested = attested

    def _remember(self, record: ProcessRecord) -> None:
        state, spec = self._services.state, self.spec
        news: dict[str, object] = {}
        if spec.era == "auto" and state.state.eras.get(spec.server) != record.era:
            news["eras"] = {**state.state.eras, spec.server: record.era}
        if news or state.state.processes.get(spec.name) != record:
            state.keep_process(spec.name, record, **news)

    async def _watch(self, process: Process) -> int | None:
        """Return the exit code when the process ends.

        Raises:
            AttestationError: It shows tools that it must not have.
            WorkloadNotReadyError: It lives and does not answer.
            UpstreamError: It does not list its tools after a change.
        """
        self._was_hidden = self._place is _Place.HIDDEN
        plane = await self._services.publisher.plane()
        vigil = Vigil(self.spec, process.pid, plane, self._services.clock)
        while True:
            with anyio.move_on_after(self.spec.probe.every.total_seconds()):
                await self._news_of(process)
            if process.pid in self._ends:
                self._how = self._ends.how(process.pid)
                return self._ends.take(process.pid)
            changed = self._tools_changed.is_set()
            if changed:
                self._tools_changed = anyio.Event()
            match self._place:
                case _Place.WITHDRAWN:
                    pass
                case _Place.HIDDEN:
                    await self._look_inside(process)
                case _Place.ROUTED if changed:
                    await self._attest_again(process, plane)
                case _Place.ROUTED:
                    await self._look(process, vigil)

    async def _look(self, process: Process, vigil: Vigil) -> None:
        """Look for a sign of life through the gateway.

        Raises:
            WorkloadNotReadyError: There has been none for too long.
        """
        match await vigil.look():
            case Sign.ALIVE | Sign.SILENT:
                pass
            case Sign.LOST if self._place is _Place.ROUTED:
                await self._expect_end(process)
            case Sign.LOST:
                pass  # let go of by the gateway, as it was withdrawn meanwhile
            case Sign.WEDGED:
                self._log.error("instance wedged", pid=process.pid, misses=vigil.misses)
                raise WorkloadNotReadyError("it was alive and silent, and is being replaced")

    async def _look_inside(self, process: Process) -> None:
        """Ask a process that stands by for its tools, over its own channel.

        Raises:
            AttestationError: It shows tools that it must not have.
            WorkloadNotReadyError: It does not answer.
            UpstreamError: It answers against the protocol.
        """
        services = self._services
        with anyio.CancelScope() as self._inside:
            opened = await unless(
                lambda: self._ends.wait(process.pid),
                lambda: services.probe(process, self.spec, self.spec.era, self._record),
            )
            if opened is not None:
                self._attest(opened[0].tools)
        self._inside = None

    async def _expect_end(self, process: Process) -> None:
        """Wait for the end of a process that the gateway does not reach any more.

        Raises:
            WorkloadNotReadyError: It did not end.
        """
        with anyio.move_on_after(GONE_SECONDS):
            await self._ends.wait(process.pid)
            return
        raise WorkloadNotReadyError("the gateway lost the connection to it")

    async def _attest_again(self, process: Process, plane: DataPlane) -> None:
        """Check the tools of a server that says that they changed."""
        name, startup = self.spec.name, self.spec.probe.startup.total_seconds()
        try:
            with anyio.fail_after(startup):
                listed = await unless(
                    lambda: self._ends.wait(process.pid), lambda: plane.list_tools(name)
                )
        except TimeoutError as error:
            raise WorkloadNotReadyError(
                f"its tools changed, and it did not list them within {startup:g} s"
            ) from error
        if listed is None:
            return
        self._attest(listed[0])
        self._log.info("tools attested again", tools=len(self._attested.tools))
        self._changed()
        # One that announces changes without end must not keep everybody busy.
        with anyio.move_on_after(ATTEST_SECONDS):
            await self._ends.wait(process.pid)

    async def _news_of(self, process: Process) -> None:
        """Wait until the process ends, or says that its tools changed."""
        if not self._tools_changed.is_set():
            _ = await unless(self._tools_changed.wait, lambda: self._ends.wait(process.pid))

    async def _unless_it_ends(self, process: Process, work: Callable[[], Awaitable[T]]) -> T:
        """Do something with a process, and stop at once when the process ends meanwhile."""
        done: tuple[T] | None = None
        failure: AgentsError | None = None
        try:
            done = await unless(lambda: self._ends.wait(process.pid), work)
        except EraRefusedError:
            raise
        except AgentsError as error:
            failure = error
        if done is not None:
            return done[0]
        if failure is not None and process.pid not in self._ends:
            raise failure
        # However the work failed: that the process ended says more.
        how = self._ends.how(process.pid)
        code = self._ends.take(process.pid)
        self.process = None
        raise EndedError(self.spec.name, code, how)

    async def _after_exit(self, code: int | None) -> None:
        """A process that had been ready is gone."""
        sentence = f"it ended by itself ({self._how})"
        self._let_go(sentence)
        await self._wait_before_retry(sentence + self._last_words(code), code)

    async def _after_failure(self, error: AgentsError) -> None:
        """A process never became ready, or could not be launched."""
        self._failed_once = self._failed_once or not isinstance(error, EndedError)
        if self.process is not None:
            await self._kill(self.process.pid)
            self._let_go(str(error))
        code = error.exit if isinstance(error, EndedError) else None
        await self._wait_before_retry(str(error) + self._last_words(code), code, error.hint or "")

    def _let_go(self, reason: str) -> None:
        """Tell the gateway that the process is gone."""
        process, self.process = self.process, None
        if process is not None:
            self._services.publisher.lose(self.spec.name, process.pid, reason)
        if self._place is _Place.ROUTED:
            self._place = _Place.HIDDEN

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
        if self._place is _Place.WITHDRAWN:
            await anyio.sleep_forever()
        await anyio.sleep(verdict.delay)
        self._retry_at = None

    async def _quarantine(self, error: AttestationError) -> None:
        """No traffic, no process, until a person asks again."""
        self._ready_since = None
        self._log.error("instance quarantined", tools=error.tools)
        self._mention("role.quarantined", reason=str(error))
        self._move(Phase.QUARANTINED, str(error), error.hint or "")
        await self._stop_for_good(QUARANTINE_GRACE)
        self._let_go(str(error))
        self._services.changed()
        await anyio.sleep_forever()

    def _mention(self, event: str, **facts: str | int) -> None:
        """Have something about this workload kept in the record."""
        spec = self.spec
        self._services.mention(event, {"role": spec.role, "workload": spec.name, **facts})

    async def _stop_for_good(self, grace: timedelta) -> None:
        """Have the engine end and forget the workload, as soon as there is an engine."""
        self._services.state.forget_process(self.spec.name)
        while True:
            try:
                await self._services.runtime.stop(self.spec.name, grace)
            except RuntimeUnavailableError:
                await anyio.sleep(ENGINE_POLL_SECONDS)
            else:
                return

    async def _block(self, error: SecretError | RotationError | StateCorruptError) -> None:
        """Something it needs is missing: look again now and then."""
        if self.phase is not Phase.BLOCKED or self.detail != str(error):
            self._log.warning("instance blocked", detail=str(error))
            self._move(Phase.BLOCKED, str(error), error.hint or "")
        await anyio.sleep(self._services.secret_poll_seconds)

    async def _kill(self, pid: int) -> None:
        """Kill the process group and wait until the engine has reaped it."""
        await self._services.runtime.signal(self.spec.name, signal.SIGKILL)
        with anyio.move_on_after(KILL_SECONDS):
            await self._ends.wait(pid)

    def _move(self, phase: Phase, detail: str, hint: str = "") -> None:
        self.phase, self.detail, self.hint = phase, detail, hint
        event, self._moved = self._moved, anyio.Event()
        event.set()
        self._changed()
