"""Keeps pins on disk, one file a role and server, and what each process shows in memory.

Pins have files of their own: they are written once in a while and `control.json` at every start of
a process; they have to outlive `agents down`, which empties that one; and a file that is damaged
must stop its own role and no other.
"""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, final

from pydantic import ValidationError
from structlog.typing import FilteringBoundLogger

from orchestrator.clock import Clock
from orchestrator.control.pindiff import compare
from orchestrator.control.pins import (
    Held,
    Live,
    Pin,
    Pins,
    accept,
    hold,
    live_hash,
    look,
    see_first,
)
from orchestrator.errors import (
    PinsChangedError,
    StateCorruptError,
    StateUnwritableError,
    WorkloadNotReadyError,
)
from orchestrator.files import (
    make_private_directory,
    read_regular,
    who_may_write,
    write_atomically,
)
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.names import RoleName, ServerName
from orchestrator.model.snapshot import Era
from orchestrator.model.workload import WorkloadSpec

_LONGEST_FILE: Final = 64 * 1024 * 1024
_REPAIR: Final = (
    "Restore the file from a backup. Or look at the server, then remove the file: what the role's "
    "tools say next is pinned as if it were seen for the first time."
)


@final
class PinBook:
    """Reads and writes pins; there is one while the daemon runs."""

    def __init__(self, directory: Path, clock: Clock, log: FilteringBoundLogger) -> None:
        """Know nothing yet.

        Args:
            directory: Where the files are; it is made when it is needed.
            clock: Time.
            log: Structured log.
        """
        self._directory = directory
        self._clock = clock
        self._log = log
        self._pins: dict[Path, Pins] = {}

    def open(self, spec: WorkloadSpec) -> Pins:
        """Read a role's pins, once; nothing may be routed that was not held against them.

        Raises:
            StateCorruptError: They are there and cannot be used.
        """
        path = pin_file(self._directory, spec.role, spec.server)
        pins = self._pins.get(path)
        if pins is None:
            found = read_pins(path)
            if found is not None and (found.role, found.server) != (spec.role, spec.server):
                raise StateCorruptError(f"{path} belongs to another role", hint=_REPAIR)
            pins = Pins(role=spec.role, server=spec.server) if found is None else found
            self._pins[path] = pins
        return pins

    def see(
        self, spec: WorkloadSpec, era: Era, tools: Iterable[JsonObject], instructions: str
    ) -> Live:
        """Take down what a process shows; what nobody saw before is pinned, durably.

        Args:
            spec: The process's workload.
            era: The era in which it was asked.
            tools: Its attested tools, as the server wrote them.
            instructions: What it says that models should know.

        Raises:
            StateCorruptError: The pins cannot be used.
            StateUnwritableError: They cannot be written.
            UpstreamProtocolError: It shows more than anybody could look at.
        """
        pins = self.open(spec)
        live = look(spec.tools.keys(), era, tools, instructions)
        now = see_first(pins, spec.tools.keys(), live, self._now())
        if now is not pins:
            self._write(now)
            fresh = sorted(now.tools.keys() - pins.tools.keys())
            self._log.info("tools pinned", role=spec.role, server=spec.server, tools=fresh)
        return live

    def held(self, spec: WorkloadSpec, lives: Collection[Live]) -> Held:
        """Tell what agents of a role do not get, whichever of its processes shows it."""
        return hold(self.open(spec), lives) if lives else Held()

    def differences(self, spec: WorkloadSpec, lives: Collection[Live]) -> JsonObject:
        """Tell what differs between a role's pins and its live processes, and the live hash.

        Raises:
            StateCorruptError: The pins cannot be used.
            WorkloadNotReadyError: There is no live process.
        """
        pins, held = self._compared(spec, lives)
        found: list[Json] = [
            {
                "kind": one.kind,
                "tool": one.name or None,
                "was": one.was or None,
                "pinned": one.before,
                "live": one.after,
            }
            for one in compare(pins, spec.tools.keys(), lives)
        ]
        facts: JsonObject = {"role": spec.role, "server": spec.server}
        return {**facts, **_tell(held), "differences": found, "hash": live_hash(lives)}

    def approve(self, spec: WorkloadSpec, lives: Collection[Live], expect: str) -> JsonObject:
        """Pin what a role's processes show now, durably; from then on nothing of it is held.

        Args:
            spec: The role's workload.
            lives: What its processes show.
            expect: Hash of the live definitions that the operator saw.

        Returns:
            What was held until now.

        Raises:
            PinsChangedError: The live definitions are others by now; nothing was changed.
            StateCorruptError: The pins cannot be used.
            StateUnwritableError: They cannot be written; nothing was changed.
            WorkloadNotReadyError: There is no live process.
        """
        pins, held = self._compared(spec, lives)
        found = live_hash(lives)
        if expect != found:
            raise PinsChangedError(
                f"{spec.role} shows other tools than those with this hash; nothing was approved",
                hint=f"Look again: agents pins diff {spec.role}",
            )
        self._write(accept(pins, spec.tools.keys(), lives, self._now()))
        what = _tell(held)
        self._log.info("pins approved", role=spec.role, server=spec.server, hash=found, **what)
        return {"role": spec.role, "server": spec.server, **what, "hash": found}

    def describe(
        self, role: RoleName | None, held: Mapping[tuple[RoleName, ServerName], Held]
    ) -> list[JsonObject]:
        """List what is pinned. Arguments and errors as `list_files`."""
        return list_files(self._directory, role, held)

    def _compared(self, spec: WorkloadSpec, lives: Collection[Live]) -> tuple[Pins, Held]:
        if not lives:
            raise WorkloadNotReadyError(
                f"{spec.role} has no live instance to compare with", hint="See `agents status`."
            )
        return self.open(spec), self.held(spec, lives)

    def _write(self, pins: Pins) -> None:
        path = pin_file(self._directory, pins.role, pins.server)
        try:
            make_private_directory(self._directory)
            write_atomically(path, pins.model_dump_json(indent=1).encode())
        except OSError as error:
            raise StateUnwritableError(
                f"{path} cannot be written: {error.strerror}",
                hint="Make room on the disk; what runs, runs on.",
            ) from error
        self._pins[path] = pins

    def _now(self) -> str:
        return self._clock.now().isoformat(timespec="seconds").replace("+00:00", "Z")


def pin_file(directory: Path, role: RoleName, server: ServerName) -> Path:
    """Tell where the pins of a server in a role are kept; neither name holds a dot."""
    return directory / f"{role}.{server}.json"


def read_pins(path: Path) -> Pins | None:
    """Read a file of pins, None if there is none.

    Raises:
        StateCorruptError: It cannot be read, or must not be trusted as it is.
    """
    try:
        content, facts = read_regular(path, _LONGEST_FILE, follow=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateCorruptError(f"{path} cannot be read: {error.strerror}", hint=_REPAIR) from error
    others = who_may_write(facts)
    if others is not None:
        raise StateCorruptError(
            f"{path} is not trusted: {others} may write it",
            hint=f"If nobody changed it, run `chmod 600 {path}`.",
        )
    try:
        return Pins.model_validate_json(content, strict=False)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise StateCorruptError(
            f"{path} is not understood ({place or 'whole file'}: {first['msg']})", hint=_REPAIR
        ) from error


def list_files(
    directory: Path,
    role: str | None,
    held: Mapping[tuple[RoleName, ServerName], Held] = MappingProxyType({}),
) -> list[JsonObject]:
    """List what is pinned: a row for each definition, and for each tool that is held.

    Args:
        directory: Where the files are.
        role: Of which role; None for all.
        held: What is held, by role and server.

    Raises:
        StateCorruptError: A file cannot be used.
    """
    rows: list[JsonObject] = []
    for path in sorted(directory.glob("*.json")):
        pins = read_pins(path)
        if pins is None or role not in {None, pins.role}:
            continue
        now = held.get((pins.role, pins.server), Held())
        accepted = {**dict.fromkeys(now.tools, ()), **pins.tools}
        for name in sorted(accepted):
            state = "held" if name in now.tools else "pinned"
            rows += _rows(pins, name, accepted[name], state)
        rows += _rows(pins, None, pins.instructions, "held" if now.instructions else "pinned")
    return rows


def _rows(pins: Pins, tool: str | None, accepted: Iterable[Pin], state: str) -> list[JsonObject]:
    first: JsonObject = {"role": pins.role, "server": pins.server, "tool": tool, "state": state}
    return [
        {**first, "sha256": pin.sha256, "since": pin.since, "approved": pin.approved}
        for pin in accepted
    ] or [{**first, "sha256": None, "since": None, "approved": False}]


def _tell(held: Held) -> JsonObject:
    return {"held": [*held.tools], "instructions_held": held.instructions}
