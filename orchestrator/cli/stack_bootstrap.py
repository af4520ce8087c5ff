"""What has to be done once for a server of a stack: in a container that no agent reaches."""

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final, final

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from orchestrator.cli.output import note
from orchestrator.cli.stack import Stack
from orchestrator.control.bootstrap import PATIENCE_SECONDS, generate, judge, move_all
from orchestrator.errors import SettingsError, WorkloadStartError
from orchestrator.files import make_private_directory, write_atomically
from orchestrator.model.desired import BootstrapSpec
from orchestrator.runtimes.channel import LINE_LIMIT_BYTES
from orchestrator.runtimes.probe import Dialogue
from orchestrator.secrets.resolve import SecretResolver

# `cat` and `truncate` by what every shell can do itself.
_SHOW: Final = 'while IFS= read -r line || [ -n "$line" ]; do printf "%s\\n" "$line"; done < "$0"'
_EMPTY: Final = ': > "$0"'
_MODE: Final = 0o444


def bootstrap(stack: Stack, spec: BootstrapSpec, resolver: SecretResolver) -> None:
    """Do it, unless it is done; what it made is kept on this machine, and not in the stack.

    Raises:
        SecretError: A secret that it takes cannot be had.
        WorkloadStartError: It failed; doing it again goes on.
    """
    move_all(spec)
    if all(Path(path).is_file() for path in spec.files):
        return
    service = stack.bootstraps[spec.server]
    place = stack.secrets / service
    gone = sorted(path for path in spec.generate if not Path(path).is_file())
    if gone and place.exists():
        raise SettingsError(
            f"{', '.join(gone)} was made when the stack {stack.name} was new, and is gone; what "
            "was made with it cannot be opened with another one",
            hint=f"Put it back from a backup; or remove the stack's volumes and {stack.secrets}.",
        )
    note(f"{spec.server}: what has to be done once is done, in a container of its own ...")
    for path, size in spec.generate.items():
        generate(Path(path), size)
    make_private_directory(place)
    for name, value in resolver.resolve_all(spec.spec.secrets).items():
        file = place / f"{name}.g1"
        file.unlink(missing_ok=True)
        write_atomically(file, value.get_secret_value().encode(), mode=_MODE)
    anyio.run(_call_all, stack, service, spec)
    keep = {} if spec.spec.container is None else spec.spec.container.keep
    for path in spec.produces:
        inside = _inside(path, keep)
        text = _shell(stack, service, _SHOW, inside)
        if not text.strip():
            raise WorkloadStartError(f"the bootstrap of {spec.server} did not make {inside}")
        make_private_directory(Path(path).parent)
        write_atomically(Path(path), text.encode())
        _ = _shell(stack, service, _EMPTY, inside)


def _shell(stack: Stack, service: str, script: str, path: str) -> str:
    return stack.run("run", "--rm", "-T", "--entrypoint", "sh", service, "-c", script, path)


def _inside(path: str, keep: Mapping[str, str]) -> str:
    for outside, inside in keep.items():
        if PurePosixPath(path).is_relative_to(outside):
            return str(inside / PurePosixPath(path).relative_to(outside))
    raise SettingsError(
        f"{path} would not outlive the container that makes it",
        hint="Name its directory under `container: keep:`.",
    )


async def _call_all(stack: Stack, service: str, spec: BootstrapSpec) -> None:
    """Run the server for as long as it takes, and call its tools.

    Raises:
        WorkloadStartError: A call failed, or the server did not answer.
    """
    words = stack.command("run", "--rm", "-T", "--quiet-pull", service)
    try:
        with anyio.fail_after(PATIENCE_SECONDS):
            async with await anyio.open_process(words, stderr=None) as process:
                wire = _Pipes(process)
                dialogue = await Dialogue.open(wire, spec.spec.era, prefix=f"once-{os.getpid()}-")
                for call in spec.calls:
                    judge(call, await dialogue.call_tool(call.tool, call.arguments))
    except TimeoutError:
        raise WorkloadStartError(
            f"the bootstrap of {spec.server} did not end within {PATIENCE_SECONDS:g} s"
        ) from None
    except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
        raise WorkloadStartError(
            f"the bootstrap of {spec.server}: its container ended in the middle",
            hint="Its own words are above.",
        ) from None


@final
class _Pipes:
    """Lines to and from a process."""

    def __init__(self, process: Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise AssertionError("started without pipes")
        self._out = process.stdin
        self._lines = BufferedByteReceiveStream(process.stdout)

    async def send(self, line: bytes, /) -> None:
        """Send one message."""
        await self._out.send(line + b"\n")

    async def receive(self) -> bytes:
        """Take the next message."""
        return await self._lines.receive_until(b"\n", LINE_LIMIT_BYTES)
