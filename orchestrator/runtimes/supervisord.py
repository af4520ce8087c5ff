"""Runs workloads as programs of supervisord."""

from collections.abc import AsyncGenerator, Collection, Mapping
from datetime import timedelta
from pathlib import Path
from typing import ClassVar, TypeVar, final

import anyio
from anyio.to_thread import run_sync
from pydantic import BaseModel, ConfigDict, SecretStr, TypeAdapter, ValidationError
from typing_extensions import override

from orchestrator.errors import RuntimeUnavailableError, WorkloadStartError
from orchestrator.files import make_private_directory, write_atomically
from orchestrator.model.base import HIDE_INPUT
from orchestrator.model.names import SecretName, WorkloadName
from orchestrator.model.workload import EngineState, WorkloadExit, WorkloadSpec, WorkloadStatus
from orchestrator.render.supervisord import CONTROL_PROGRAM, WorkloadProgram, program_file
from orchestrator.runtimes import rpc
from orchestrator.runtimes.address import Address, fill
from orchestrator.runtimes.base import FeedGap, Process, Runtime
from orchestrator.runtimes.engine import SEAT, EngineFiles, seat_command
from orchestrator.runtimes.fence import end_orphan
from orchestrator.runtimes.identity import boot_id, command_line, look_up
from orchestrator.runtimes.launch_frame import LaunchFrame
from orchestrator.runtimes.ports import free_port
from orchestrator.runtimes.rpc import EngineFaultError, EngineRpc, Value
from orchestrator.runtimes.seat_client import Attempt, attempt
from orchestrator.runtimes.users import Account, make_role_directory, need_account, remove_tree

T = TypeVar("T")

SEAT_SECONDS = 10.0
_CALL_SECONDS = 15.0
_POLL_SECONDS = 30.0
_KILL_SECONDS = 10.0
_RETRY_SECONDS = 0.003
_STRANGERS = 5
_REMOVALS = 5


class _Message(BaseModel):
    """What our plugin in the engine says; strict, as both ends are ours."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="forbid", strict=True, hide_input_in_errors=True
    )


class _Program(_Message):
    name: str
    state: int
    pid: int
    problem: str


class _Exit(_Message):
    serial: int
    name: str
    pid: int
    code: int
    peak_kb: int


class _Exits(_Message):
    boot: str
    serial: int
    lost: bool
    exits: tuple[_Exit, ...]


_PROGRAMS = TypeAdapter(tuple[_Program, ...], config=HIDE_INPUT)
_EXITS = TypeAdapter(_Exits)

# supervisor.states.ProcessStates. STARTING and BACKOFF are moments on the way to a waiting seat.
_STATES: Mapping[int, EngineState] = {
    0: EngineState.STOPPED,
    10: EngineState.RUNNING,
    20: EngineState.RUNNING,
    30: EngineState.RUNNING,
    40: EngineState.STOPPING,
    100: EngineState.RUNNING,
    200: EngineState.FAILED,
    1000: EngineState.FAILED,
}
_STOPPED = frozenset({0, 200})


@final
class SupervisordRuntime(Runtime):
    """The five verbs, on a running engine."""

    def __init__(self, files: EngineFiles) -> None:
        """Keep the places; nothing is asked of the engine yet."""
        self._files = files
        self._rpc = EngineRpc(files.socket, files.key)

    @override
    async def observe(self) -> Mapping[WorkloadName, WorkloadStatus]:
        found: dict[WorkloadName, WorkloadStatus] = {}
        for program in await self._programs():
            name = WorkloadName(program.name)
            found[name] = WorkloadStatus(
                name=name,
                state=_STATES.get(program.state, EngineState.FAILED),
                pid=program.pid,
                waiting=bool(program.pid) and await self._is_waiting(name, program.pid),
            )
        return found

    @override
    async def start(self, spec: WorkloadSpec) -> None:
        name = spec.name
        make_private_directory(self._files.seat(name))
        path = self._configuration(name)
        text = self._render(spec).encode()
        known = {program.name: program for program in await self._programs()}
        if not path.exists() or path.read_bytes() != text:
            if name in known:
                await self._end(name, spec.stop.grace)
                _ = known.pop(name)
            write_atomically(path, text)
        if name not in known:
            await self._add(name)
        elif known[name].state in _STOPPED:
            await self._call_unless(rpc.ALREADY_STARTED, "supervisor.startProcess", name, False)  # noqa: FBT003 - positional by protocol

    @override
    async def launch(self, spec: WorkloadSpec, secrets: Mapping[SecretName, SecretStr]) -> Process:
        if missing := sorted(spec.secrets.keys() - secrets.keys()):
            raise WorkloadStartError(f"no value for {', '.join(missing)}")
        account = await run_sync(need_account, spec.user) if spec.user else None
        address = self._prepare_address(spec, account)
        frame = LaunchFrame(
            argv=tuple(fill(word, address) for word in spec.argv),
            env={str(name): fill(value, address) for name, value in spec.env.items()},
            secrets={str(name): secrets[name] for name in spec.secrets},
            cwd=spec.directory,
            logs_stdout=address is not None,
            user=(account.user, account.group) if account is not None else None,
        ).encode()
        try:
            with anyio.fail_after(SEAT_SECONDS):
                pid = await self._hand_over(spec.name, frame)
        except TimeoutError as error:
            raise WorkloadStartError(
                f"no seat of {spec.name} was there within {SEAT_SECONDS:.0f} s: "
                f"{await self._problem(spec.name)}",
                hint=f"Look into {self._log(spec)} and {self._files.log}.",
            ) from error
        facts = look_up(pid)
        # One that ended at once is told by the feed of exits, with its cause.
        started = facts.started if facts is not None else 0
        directory = str(self._files.seat(spec.name))
        shown = "" if address is None else str(address)
        return Process(spec.name, pid, started, boot_id(), directory, shown)

    @override
    async def signal(self, name: WorkloadName, number: int) -> None:
        await self._call_unless(rpc.BAD_NAME, "agents.signal", name, int(number))

    @override
    async def stop(self, name: WorkloadName, grace: timedelta) -> None:
        if any(program.name == name for program in await self._programs()):
            await self._end(name, grace)
        self._configuration(name).unlink(missing_ok=True)
        self._files.forget_seat(name)
        await run_sync(end_orphan, self._files.fence(name))

    @override
    async def exits(self) -> AsyncGenerator[WorkloadExit | FeedGap]:
        """Follow the ends of processes.

        The first item is always a FeedGap: what is observed after it and what the feed says from
        then on leave no hole between them. It ends with RuntimeUnavailableError when the engine
        is gone.
        """
        boot, serial = "", 0
        while True:
            answer = await self._poll(boot, serial)
            if answer.lost:
                yield FeedGap()
            for ended in answer.exits if not answer.lost else ():
                if ended.name != CONTROL_PROGRAM:
                    yield WorkloadExit(
                        name=WorkloadName(ended.name),
                        pid=ended.pid,
                        code=ended.code,
                        peak_kb=ended.peak_kb,
                    )
            boot, serial = answer.boot, answer.serial

    @override
    async def sweep(self, keep: Collection[WorkloadName]) -> tuple[WorkloadName, ...]:
        known = {program.name for program in await self._programs()} | set(keep)
        swept: list[WorkloadName] = []
        for path in sorted((self._files.run / "fences").glob("*.lock")):
            name = WorkloadName(path.stem)
            if name in known or name == CONTROL_PROGRAM:
                continue
            if await run_sync(end_orphan, path):
                swept.append(name)
            self._files.forget_seat(name)
            self._configuration(name).unlink(missing_ok=True)
        return tuple(swept)

    # --- one workload ------------------------------------------------------------------------

    def _prepare_address(self, spec: WorkloadSpec, account: Account | None) -> Address | None:
        """Choose where a server will serve HTTP, None for one that does not."""
        if spec.http is None:
            return None
        if spec.http.listen == "port":
            return Address(spec.http.path, port=free_port())
        link = self._files.http_seat(spec.name)
        make_private_directory(link.parent)
        remove_tree(link)
        if account is None:
            link.symlink_to(Path("..") / "seats" / spec.name)
        else:
            make_role_directory(link, account, self._files.run)
        return Address(spec.http.path, socket=str(self._files.http_socket(spec.name)))

    def _configuration(self, name: WorkloadName) -> Path:
        return self._files.programs / f"{name}.conf"

    def _log(self, spec: WorkloadSpec) -> Path:
        return self._files.logs / f"{spec.role}.log"

    def _render(self, spec: WorkloadSpec) -> str:
        seat, fence = self._files.seat(spec.name), self._files.fence(spec.name)
        grace = spec.stop.grace.total_seconds()
        return program_file(
            WorkloadProgram(
                name=spec.name,
                argv=seat_command("sit", str(seat), str(fence), str(self._log(spec))),
                log=str(self._log(spec)),
                stop_seconds=max(1, int(grace) + (grace > int(grace))),
            )
        )

    async def _is_waiting(self, name: str, pid: int) -> bool:
        """Tell whether a process has not become the server yet; False when there is none.

        Its command line is the seat's from its first execve to the server's, and the engine's own
        before that. In the middle of an execve there is none for a moment.
        """
        while not (words := command_line(pid)):
            facts = look_up(pid)
            if facts is None or facts.state in {"Z", "X"}:
                return False
            await anyio.sleep(0.001)
        seat = words[3:6] == (str(SEAT), "sit", str(self._files.seat(name)))
        engine = words[1:4] == ("-I", "-m", "supervisor.supervisord")
        return seat or engine

    async def _is_server(self, name: str, pid: int) -> bool:
        return not await self._is_waiting(name, pid) and bool(command_line(pid))

    async def _hand_over(self, name: WorkloadName, frame: bytes) -> int:
        """Offer the frame until the engine's own process for the workload has taken it."""
        directory = self._files.seat(name)
        strangers = 0
        while True:
            pid = (await self._program(name)).pid
            if pid and (directory / "seat.sock").exists():
                match await run_sync(attempt, directory, pid, frame):
                    case Attempt.LAUNCHED:
                        return pid
                    case Attempt.STRANGER:
                        strangers += 1
                    case Attempt.NOBODY:
                        pass
            elif pid and await self._is_server(name, pid):
                raise WorkloadStartError(f"{name} runs already, as process {pid}")
            if strangers >= _STRANGERS:
                raise WorkloadStartError(
                    f"the process that listens in {directory} is not the engine's",
                    hint="Another process of this user took its place; nothing was sent to it.",
                )
            await anyio.sleep(_RETRY_SECONDS)

    async def _problem(self, name: WorkloadName) -> str:
        try:
            return (await self._program(name)).problem or "it does not listen"
        except (RuntimeUnavailableError, WorkloadStartError) as error:
            return str(error)

    async def _end(self, name: WorkloadName, grace: timedelta) -> None:
        """Have the engine end a program and forget it."""
        for _ in range(_REMOVALS):
            await self._quit(name, grace.total_seconds())
            try:
                _ = await self._ask("supervisor.removeProcessGroup", name, patience=0)
            except EngineFaultError as error:
                if error.number == rpc.STILL_RUNNING:
                    continue  # it had ended by itself, and was started again in between
                if error.number != rpc.BAD_NAME:
                    raise RuntimeUnavailableError(f"the engine keeps {name}: {error}") from error
            return
        raise RuntimeUnavailableError(f"{name} is started again and again while it is stopped")

    async def _quit(self, name: WorkloadName, seconds: float) -> None:
        """Ask a program to end, wait, kill its process group, wait."""
        await self._call_unless(rpc.NOT_RUNNING, "supervisor.stopProcess", name, False)  # noqa: FBT003 - positional by protocol
        if await self._settled(name, seconds):
            return
        await self.signal(name, 9)
        if not await self._settled(name, _KILL_SECONDS):
            raise RuntimeUnavailableError(f"{name} does not end, not even killed")

    async def _settled(self, name: WorkloadName, seconds: float) -> bool:
        with anyio.move_on_after(seconds):
            while not await self._call("agents.settled", name, _POLL_SECONDS):
                pass
            return True
        return False

    async def _add(self, name: WorkloadName) -> None:
        try:
            _ = await self._call("supervisor.reloadConfig")
        except RuntimeUnavailableError:
            self._configuration(name).unlink(missing_ok=True)  # it would block all others
            raise
        await self._call_unless(rpc.ALREADY_ADDED, "supervisor.addProcessGroup", name)

    # --- the engine --------------------------------------------------------------------------

    async def _programs(self) -> tuple[_Program, ...]:
        programs = _read(_PROGRAMS, await self._call("agents.programs"))
        return tuple(program for program in programs if program.name != CONTROL_PROGRAM)

    async def _program(self, name: WorkloadName) -> _Program:
        for program in await self._programs():
            if program.name == name:
                return program
        raise WorkloadStartError(f"the engine does not know {name}")

    async def _poll(self, boot: str, serial: int) -> _Exits:
        """Ask for exits; one lost connection is no gap, as the engine numbers what it says."""
        arguments = (boot, serial, _POLL_SECONDS)
        try:
            answer = await self._call("agents.exits", *arguments, patience=_POLL_SECONDS)
        except RuntimeUnavailableError:
            answer = await self._call("agents.exits", *arguments, patience=_POLL_SECONDS)
        return _read(_EXITS, answer)

    async def _call_unless(self, fault: int, method: str, *arguments: Value) -> None:
        """Call a method for which one fault means that it is done already."""
        try:
            _ = await self._ask(method, *arguments, patience=0)
        except EngineFaultError as error:
            if error.number != fault:
                raise RuntimeUnavailableError(f"the engine refused {method}: {error}") from error

    async def _call(self, method: str, *arguments: Value, patience: float = 0) -> object:
        try:
            return await self._ask(method, *arguments, patience=patience)
        except EngineFaultError as error:
            raise RuntimeUnavailableError(f"the engine refused {method}: {error}") from error

    async def _ask(self, method: str, *arguments: Value, patience: float) -> object:
        try:
            with anyio.fail_after(_CALL_SECONDS + patience):
                return await self._rpc.call(method, *arguments)
        except TimeoutError as error:
            raise RuntimeUnavailableError(f"the engine did not answer {method}") from error


def _read(adapter: TypeAdapter[T], answer: object) -> T:
    if not isinstance(answer, str):
        raise RuntimeUnavailableError("the engine runs without our plugin")
    try:
        return adapter.validate_json(answer)
    except ValidationError as error:
        raise RuntimeUnavailableError("the engine speaks another version of our plugin") from error
