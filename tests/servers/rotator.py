"""Rotates one upstream credential on a real database, with an issuer that is a folder.

    python rotator.py FOLDER [POINT]

FOLDER/issuer/NAME is a live credential; FOLDER/vault/NAME a kept one; FOLDER/serving names the
version that the one instance runs with. With POINT the program kills itself with SIGKILL when it
passes that point for the first time; without one it goes on until its rotation is over, prints
its state, and ends.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import cast, final

import structlog
from pydantic import SecretStr
from structlog.typing import FilteringBoundLogger
from typing_extensions import override

from orchestrator.clock import SystemClock
from orchestrator.control.state import StateFile
from orchestrator.errors import SecretNotFoundError, WorkloadNotReadyError
from orchestrator.model.base import JsonObject
from orchestrator.model.names import RoleName, TokenId, WorkloadName
from orchestrator.model.rotation import Drain, RotationRule, UpstreamRotation
from orchestrator.rotation.delivery import Deliverer
from orchestrator.rotation.engine import Engine
from orchestrator.rotation.events import Event
from orchestrator.rotation.ports import (
    WHOLE,
    Capabilities,
    Credential,
    Ending,
    Instances,
    Issuer,
    Minted,
    Vault,
    Verdict,
)
from orchestrator.rotation.store import RotationStore
from orchestrator.rotation.world import World
from orchestrator.tokens.desk import TokenDesk
from orchestrator.tokens.store import TokenStore
from orchestrator.tokens.verify import TokenIndex

ROLE = RoleName("treasury")
LOG = cast("FilteringBoundLogger", structlog.get_logger("rotator"))


def passes(point: str) -> None:
    """End here, if this is the point."""
    if sys.argv[2:] == [point]:
        os.kill(os.getpid(), signal.SIGKILL)


@final
class FolderIssuer(Issuer):
    """A live credential is a file."""

    def __init__(self, folder: Path) -> None:
        """Keep them in a folder."""
        self._folder = folder
        folder.mkdir(exist_ok=True)

    @property
    @override
    def capabilities(self) -> Capabilities:
        return Capabilities(overlap=True, revoke="api", lists=True, probes=True)

    @override
    async def mint(self, name: str, role: RoleName, life: timedelta) -> Minted:
        passes("before mint")
        text = f"canary-{os.urandom(8).hex()}"
        _ = (self._folder / name).write_text(text)
        passes("after mint")
        return Minted(Credential({WHOLE: SecretStr(text)}), {"id": name}, None)

    @override
    async def probe(self, credential: Credential) -> Verdict:
        wanted = credential.fields[WHOLE].get_secret_value()
        live = any(path.read_text() == wanted for path in self._folder.iterdir())
        return Verdict.ACCEPTED if live else Verdict.REFUSED

    @override
    async def revoke(self, name: str, handle: JsonObject) -> Ending:
        passes("before revoke")
        (self._folder / name).unlink(missing_ok=True)
        passes("after revoke")
        return Ending.ASKED

    @override
    async def list(self, prefix: str) -> Mapping[str, JsonObject]:
        return {path.name: {} for path in self._folder.iterdir() if path.name.startswith(prefix)}


@final
class FolderVault(Vault):
    """A kept credential is a file."""

    def __init__(self, folder: Path) -> None:
        """Keep them in a folder."""
        self._folder = folder
        folder.mkdir(exist_ok=True)

    @override
    async def put(self, role: RoleName, version: str, credential: Credential) -> None:
        passes("before put")
        beside = self._folder / f".{version}"
        _ = beside.write_text(credential.fields[WHOLE].get_secret_value())
        _ = beside.replace(self._folder / version)
        passes("after put")

    @override
    async def get(self, role: RoleName, version: str) -> Credential:
        try:
            text = (self._folder / version).read_text()
        except FileNotFoundError:
            raise SecretNotFoundError("there is none") from None
        return Credential({WHOLE: SecretStr(text)})

    @override
    async def promote(self, role: RoleName, version: str) -> None:
        passes("promote")

    @override
    async def drop(self, role: RoleName, version: str) -> None:
        passes("before drop")
        (self._folder / version).unlink(missing_ok=True)
        passes("after drop")


@final
class OneInstance(Instances):
    """A file names the version that serves, another one what is ready."""

    def __init__(self, folder: Path) -> None:
        """Keep them in a folder."""
        self._serving = folder / "serving"
        self._ready = folder / "ready"

    @override
    async def ready(self, role: RoleName, version: str) -> None:
        passes("before ready")
        if self._serving.read_text() != version:
            _ = self._ready.write_text(version)
        passes("after ready")

    @override
    async def switch(self, role: RoleName, version: str) -> None:
        passes("before switch")
        if self._serving.read_text() != version:
            if not self._ready.exists() or self._ready.read_text() != version:
                raise WorkloadNotReadyError("there is none")
            _ = self._ready.replace(self._serving)
        passes("after switch")

    @override
    async def drain(self, role: RoleName, grace: float) -> Drain:
        passes("drain")
        return Drain(0)

    @override
    async def discard(self, role: RoleName) -> None:
        self._ready.unlink(missing_ok=True)

    @override
    async def hold(self, role: RoleName, seconds: float) -> None:
        """Let calls wait; there are none."""

    @override
    async def release(self, role: RoleName) -> None:
        """Let them through."""

    @override
    async def close(self, role: RoleName, reason: str) -> int:
        return 0

    @override
    async def reopen(self, role: RoleName) -> None:
        """Let it run again."""

    @override
    def using(self, role: RoleName) -> Mapping[WorkloadName, str]:
        return {}


def _none_open(_: TokenId) -> int:
    return 0


def tell(event: Event) -> None:
    """Print what happens, as it happens."""
    sys.stdout.write(f"{event.name}\n")
    _ = sys.stdout.flush()
    passes(event.name)


async def main(folder: Path) -> None:
    """Begin a rotation, or go on with the one that is under way."""
    clock = SystemClock()
    tokens = TokenStore(folder / "state" / "agents.db", clock)
    store, index = RotationStore(tokens.database, clock), TokenIndex(clock)
    issuer, vault = FolderIssuer(folder / "issuer"), FolderVault(folder / "vault")
    rule = RotationRule(upstream=UpstreamRotation(issuer="folder", soak=timedelta()))

    engine = Engine(
        World(
            store=store,
            desk=TokenDesk(tokens, index, clock, folder / "tokens"),
            index=index,
            issuers=lambda _: issuer,
            vault=lambda _: vault,
            instances=OneInstance(folder),
            closures=StateFile(folder / "control.json"),
            roles=lambda: [(ROLE, rule)],
            deliverer=Deliverer(folder, folder),
            streams_open=_none_open,
            changing=_none_open,
            clock=clock,
            tell=tell,
            log=LOG,
        )
    )
    running = asyncio.create_task(engine.run())
    await engine.first(ROLE)
    if not (folder / "serving").exists():
        version, _ = await engine.credential(ROLE)
        _ = (folder / "serving").write_text(version)
    unfinished = store.unfinished()
    if unfinished:
        rotation = unfinished[0]
    else:
        rotation = await engine.plan(ROLE, "upstream", reason="test", by="test")
    began = time.monotonic()
    rotation = await engine.wait(rotation.id)
    print(rotation.state, round(time.monotonic() - began, 1), flush=True)  # noqa: T201  is read
    _ = running.cancel()
    with suppress(asyncio.CancelledError):
        await running


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
