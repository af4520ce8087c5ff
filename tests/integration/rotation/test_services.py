"""Whole rotations with real services: OpenBao, PostgreSQL, and moto in place of AWS."""

from __future__ import annotations

import json
import secrets
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast, final

import anyio
import pytest
import structlog
from typing_extensions import override

from orchestrator.clock import Clock, SystemClock
from orchestrator.control.state import StateFile
from orchestrator.errors import IssuerUncertainError, WorkloadNotReadyError
from orchestrator.model.issuers_cloud import VaultLeaseIssuer
from orchestrator.model.names import RoleName, WorkloadName
from orchestrator.model.rotation import Drain, Rotation, RotationRule, State, UpstreamRotation
from orchestrator.rotation.delivery import Deliverer
from orchestrator.rotation.engine import Engine
from orchestrator.rotation.issuers.vault_lease import LeaseIssuer
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
from orchestrator.rotation.vaults.kv import KvVault
from orchestrator.rotation.vaults.secrets_manager import version_name
from orchestrator.rotation.world import World
from orchestrator.secrets.vault import KvPlace
from orchestrator.tokens.desk import TokenDesk
from orchestrator.tokens.store import TokenStore
from orchestrator.tokens.verify import TokenIndex

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from structlog.typing import FilteringBoundLogger

    from orchestrator.model.base import JsonObject
    from orchestrator.rotation.events import Event
    from orchestrator.rotation.issuers.program import Surroundings
    from tests.conftest import Bao, OpenStore, Postgres
    from tests.integration.rotation.conftest import Service

ROLE: Final = RoleName("treasury")


def texts(credential: Credential) -> dict[str, str]:
    """Tell what a credential holds."""
    return {name: value.get_secret_value() for name, value in credential.fields.items()}


@final
class Hurried(Clock):
    """The machine's time, moved on wherever somebody would wait."""

    def __init__(self) -> None:
        """Begin with now."""
        self._system = SystemClock()
        self._ahead = 0.0

    @override
    def now(self) -> datetime:
        return self._system.now() + timedelta(seconds=self._ahead)

    @override
    def monotonic(self) -> float:
        return self._system.monotonic() + self._ahead

    def move(self, seconds: float) -> None:
        """Let time go by."""
        self._ahead += seconds


@final
class Processes(Instances):
    """Stands for the processes of a role: each shows its credential when it starts."""

    def __init__(self, vault: Vault) -> None:
        """Begin with nothing running, and a service that takes everything."""
        self._vault = vault
        self.works: Callable[[Mapping[str, str]], bool] = lambda _: True
        self.serving = self.readied = ""
        self.before_drain: Callable[[], None] = lambda: None

    @override
    async def ready(self, role: RoleName, version: str) -> None:
        if version != self.serving:
            if not self.works(texts(await self._vault.get(role, version))):
                raise WorkloadNotReadyError("the service refuses its credential")
            self.readied = version

    @override
    async def switch(self, role: RoleName, version: str) -> None:
        if version != self.serving:
            self.serving, self.readied = self.readied, ""

    @override
    async def drain(self, role: RoleName, grace: float) -> Drain:
        self.before_drain()
        return Drain(0)

    @override
    async def discard(self, role: RoleName) -> None:
        self.readied = ""

    @override
    async def hold(self, role: RoleName, seconds: float) -> None:
        """Let nobody wait: there are no calls."""

    @override
    async def release(self, role: RoleName) -> None:
        """Let nobody through."""

    @override
    async def close(self, role: RoleName, reason: str) -> int:
        self.serving = self.readied = ""
        return 0

    @override
    async def reopen(self, role: RoleName) -> None:
        """Let nothing run."""

    @override
    def using(self, role: RoleName) -> Mapping[WorkloadName, str]:
        return {WorkloadName("p"): self.serving} if self.serving else {}


@final
class Forgetful(Issuer):
    """An issuer whose first answer is lost."""

    def __init__(self, issuer: Issuer) -> None:
        """Forget once."""
        self._issuer = issuer
        self.lost: list[Minted] = []

    @property
    @override
    def capabilities(self) -> Capabilities:
        return self._issuer.capabilities

    @override
    async def mint(self, name: str, role: RoleName, life: timedelta) -> Minted:
        made = await self._issuer.mint(name, role, life)
        if not self.lost:
            self.lost.append(made)
            raise IssuerUncertainError("the answer was lost")
        return made

    @override
    async def probe(self, credential: Credential) -> Verdict:
        return await self._issuer.probe(credential)

    @override
    async def revoke(self, name: str, handle: JsonObject) -> Ending:
        return await self._issuer.revoke(name, handle)

    @override
    async def list(self, prefix: str) -> Mapping[str, JsonObject]:
        return await self._issuer.list(prefix)


@final
class Stage:
    """One role whose credential a real service makes, and the engine that replaces it."""

    def __init__(self, folder: Path, issuer: Issuer, vault: Vault) -> None:
        """Begin without a credential."""
        self.vault = vault
        self.processes = Processes(vault)
        self.clock = Hurried()
        self.events: list[Event] = []
        self.on_pause: Callable[[], None] = lambda: None
        self.folder = folder
        tokens = TokenStore(folder / "agents.db", self.clock)
        index = TokenIndex(self.clock)
        self.store = RotationStore(tokens.database, self.clock)
        rule = RotationRule(upstream=UpstreamRotation(issuer="service", soak=timedelta(seconds=5)))
        self.engine = Engine(
            World(
                store=self.store,
                desk=TokenDesk(tokens, index, self.clock, folder / "tokens"),
                index=index,
                issuers=lambda _: issuer,
                vault=lambda _: vault,
                instances=self.processes,
                closures=StateFile(folder / "control.json"),
                roles=lambda: [(ROLE, rule)],
                deliverer=Deliverer(folder, folder),
                streams_open=lambda _: 0,
                changing=lambda _: 0,
                clock=self.clock,
                tell=self.events.append,
                log=cast("FilteringBoundLogger", structlog.get_logger("test")),
                pause=self._pause,
            )
        )

    async def _pause(self, seconds: float, _: anyio.Event) -> None:
        self.on_pause()
        self.clock.move(seconds)

    async def rotate(self) -> Rotation:
        """Replace the credential, or make the first one."""
        _ = await self.engine.recover()
        planned = await self.engine.plan(ROLE, "upstream", reason="test", by="test")
        with anyio.fail_after(60):
            await self.engine.drive(planned.id)
        done = self.store.get(planned.id)
        if not self.processes.serving:
            self.processes.serving = done.new
        return done

    async def current(self) -> dict[str, str]:
        """Tell the texts of what counts now."""
        current = self.store.current(ROLE)
        assert current is not None
        return texts(await self.vault.get(ROLE, current.version))

    def check_secrecy(self, *values: str) -> None:
        """Look for values in the database and in what was told."""
        told = [path.read_bytes() for path in self.folder.glob("agents.db*")]
        told.append(repr(self.events).encode())
        for value in values:
            assert not any(value.encode() in each for each in told)


@pytest.fixture
def stage(
    bao: Bao, open_store: OpenStore, around: Surroundings, database: str, tmp_path: Path
) -> Stage:
    """Let OpenBao make users of a real database, and keep them in its KV store."""
    client = open_store(bao.address, variables={"T": bao.root_token}, token="env:T")
    settings = VaultLeaseIssuer.model_validate(
        {"kind": "vault-lease", "path": database, "probe": "lease"}
    )
    issuer = LeaseIssuer(settings, client, SystemClock(), around)
    vault = KvVault(client, KvPlace("secret", f"rotated-{secrets.token_hex(4)}"))
    return Stage(tmp_path, issuer, vault)


def leases(bao: Bao) -> int:
    """Tell how many users of the database live."""
    status, answer = bao.ask("LIST", "sys/leases/lookup/database/creds/app")
    keys = cast("dict[str, list[str]]", answer.get("data") or {}).get("keys", [])
    return len(keys) if status == 200 else 0


async def test_a_database_user_is_replaced(bao: Bao, postgres: Postgres, stage: Stage) -> None:
    """Made, tried, switched to, and the old one seen refused; exactly one is left."""
    stage.processes.works = lambda fields: postgres.logs_in(fields["username"], fields["password"])
    first = await stage.rotate()
    assert first.state is State.DONE
    assert "shorter than planned" in str([repr(each) for each in stage.events])
    old = await stage.current()
    assert postgres.logs_in(old["username"], old["password"])
    done = await stage.rotate()
    assert done.state is State.DONE, done
    new = await stage.current()
    assert new["username"] != old["username"]
    assert postgres.logs_in(new["username"], new["password"])
    assert not postgres.logs_in(old["username"], old["password"])
    assert leases(bao) == 1
    assert '"proved": true' in json.dumps(done.receipt)
    stage.check_secrecy(old["password"], new["password"])


async def test_a_database_that_is_down_delays_the_end_of_the_old_user(
    bao: Bao, postgres: Postgres, stage: Stage
) -> None:
    """While the database is down nothing is taken for dead; afterwards the old user is refused."""
    _ = await stage.rotate()
    old = await stage.current()
    stage.processes.before_drain = postgres.stop
    pauses = iter(range(4))

    def recover() -> None:
        if stage.store.unfinished()[0].state is State.REVOKING and next(pauses, None) == 3:
            postgres.start()

    stage.on_pause = recover
    done = await stage.rotate()
    assert done.state is State.DONE, done
    new = await stage.current()
    assert postgres.logs_in(new["username"], new["password"])
    assert not postgres.logs_in(old["username"], old["password"])
    assert leases(bao) == 1


async def test_a_lost_token_is_found_and_ended(
    bao: Bao, open_store: OpenStore, around: Surroundings, tmp_path: Path
) -> None:
    """An answer that was lost leaves a token behind, which is found by its name and revoked."""
    client = open_store(bao.address, variables={"T": bao.root_token}, token="env:T")
    settings = VaultLeaseIssuer.model_validate(
        {
            "kind": "vault-lease",
            "path": "auth/token/create",
            "parameters": {"policies": ["default"]},
            "sweep": True,
        }
    )

    def works(fields: Mapping[str, str]) -> bool:
        return bao.ask("GET", "auth/token/lookup-self", token=fields["token"])[0] == 200

    issuer = Forgetful(LeaseIssuer(settings, client, SystemClock(), around))
    vault = KvVault(client, KvPlace("secret", f"rotated-{secrets.token_hex(4)}"))
    stage = Stage(tmp_path, issuer, vault)
    stage.processes.works = works
    first = await stage.rotate()
    assert (first.state, first.attempt) == (State.DONE, 2), first
    [lost] = issuer.lost
    assert not works(texts(lost.credential))
    done = await stage.rotate()
    assert (done.state, done.attempt) == (State.DONE, 1), done
    assert works(await stage.current())


@pytest.mark.parametrize("overlap", [True, False])
async def test_a_password_in_aws_is_replaced(
    service: Service, tmp_path: Path, overlap: bool
) -> None:
    """The four steps, driven by the engine, with a service that knows one or two passwords."""
    verbs = ("set", "test", "revoke") if overlap else ("set", "test")
    issuer = service.issuer(*verbs, overlap=overlap)
    stage = Stage(tmp_path, issuer, issuer.vault)
    stage.processes.works = lambda fields: service.knows_word(fields[WHOLE])
    first = await stage.rotate()
    assert first.state is State.DONE, first
    old = await stage.current()
    done = await stage.rotate()
    assert done.state is State.DONE, done
    new = await stage.current()
    assert service.knows_word(new[WHOLE])
    assert not service.knows_word(old[WHOLE])
    assert (await issuer.vault.current(ROLE)) is not None
    labels = service.client.call("describe_secret", SecretId=issuer.vault.secret(ROLE)).stages()
    found = {name: labels[key] for key in labels if (name := version_name(key))}
    assert found[done.new] == {"AWSCURRENT"}
    assert not found.get(first.new)
    stage.check_secrecy(old[WHOLE], new[WHOLE])
