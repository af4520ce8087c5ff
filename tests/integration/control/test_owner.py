"""Owner's instances: the reference wallet makes a token for its role, and nobody reaches it."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sqlite3
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, cast

import anyio
import pytest
import structlog

from orchestrator.cli.project import check_project
from orchestrator.control.bootstrap import Bootstraps, Caller
from orchestrator.control.owner import OwnerInstances
from orchestrator.errors import IssuerUncertainError, NotRunningError, WorkloadStartError
from orchestrator.files import make_private_directory
from orchestrator.model.desired import CredentialPlan
from orchestrator.model.issuers import WalletSuiteIssuer
from orchestrator.model.names import RoleName, SecretName, ToolName
from orchestrator.rotation.issuers.walletsuite import WalletIssuer
from orchestrator.rotation.ports import WHOLE
from orchestrator.runtimes.channel import Channel
from orchestrator.runtimes.probe import Dialogue
from orchestrator.secrets.resolve import SecretResolver

if TYPE_CHECKING:
    from pydantic import SecretStr

    from orchestrator.control.state import StateFile
    from orchestrator.model.workload import WorkloadSpec
    from orchestrator.runtimes.base import Process
    from tests.integration.control.conftest import Project

CHECKOUT = Path(__file__).parents[3]
ROLE = RoleName("executor")
NAME = "bm-executor-0123456789ab-1"
SETTINGS = """\
listen: 127.0.0.1:0
issuers:
  wallet:
    kind: walletsuite
    wallet: treasury
    overlap: true
    secrets: {WALLETSUITE_PASSPHRASE: "file:{state}/wallet-owner/passphrase"}
"""


def write_project(root: Path) -> None:
    """Write the stock roles, the one that signs with a token that is issued."""
    shutil.copytree(CHECKOUT / "roles", root / "roles")
    (root / "agents.yaml").write_text(SETTINGS)
    path = root / "roles" / "executor.yaml"
    text = path.read_text().replace(
        "MPC_AGENT_TOKEN: file:{state}/wallet-owner/executor.token", 'MPC_AGENT_TOKEN: "issued:"'
    )
    path.write_text(text + "rotation: {upstream: {issuer: wallet}}\n")


class Parts:
    """What owner's instances need."""

    def __init__(self, project: Project, state: StateFile) -> None:
        """Join them."""
        self.project = project
        self.state = state
        self.owners = OwnerInstances(project.runtime, state, self.resolve, self.converse)

    async def resolve(self, spec: WorkloadSpec) -> Mapping[SecretName, SecretStr]:
        """Make the homes, and resolve the secrets."""
        for name in (SecretName("HOME"), SecretName("TMPDIR")):
            if name in spec.env:
                make_private_directory(Path(spec.env[name]))
        root = self.project.root
        return SecretResolver(root, root / ".agents", {}).resolve_all(spec.secrets)

    @asynccontextmanager
    async def converse(self, process: Process, spec: WorkloadSpec) -> AsyncGenerator[Caller]:
        """Open a server, as the daemon does."""
        with Channel(process.directory) as channel:
            dialogue = await Dialogue.open(channel, spec.era, prefix="test-")
            yield dialogue.call_tool


async def test_the_reference_wallet_makes_a_token(project: Project) -> None:
    """It is a token of the wallet, known to nobody else; its file and its maker are gone."""
    write_project(project.root)
    wanted = check_project(project.root, None, ()).desired
    issuer = wanted.credentials.issuers["wallet"]
    assert isinstance(issuer, WalletSuiteIssuer)
    assert wanted.credentials.owners.keys() == {ROLE}
    spec = wanted.credentials.owners[ROLE]
    assert spec.bands == ("read", "prepare", "sign")
    assert spec.mode == "owner"
    assert spec.name.startswith("bootstrap.wallet.g1.m-")
    state = project.state()
    state.update(credentials=wanted.credentials)
    parts = Parts(project, state)
    log = cast("structlog.typing.FilteringBoundLogger", structlog.get_logger("test"))
    bootstraps = Bootstraps(project.runtime, state, parts.resolve, parts.converse, log)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            bootstraps.begin(wanted.bootstraps, group)
        assert bootstraps.notes() == ()
        wallet = WalletIssuer(issuer, parts.owners)
        minted = await wallet.mint(NAME, ROLE, timedelta(days=90))
        another = await wallet.mint(NAME[:-1] + "2", ROLE, timedelta(days=1))
        assert await project.runtime.observe() == {}
    token = minted.credential.fields[WHOLE].get_secret_value()
    assert token != another.credential.fields[WHOLE].get_secret_value()
    assert minted.expires_at is not None
    assert timedelta(days=89) < minted.expires_at - datetime.now(UTC) <= timedelta(days=90)
    with sqlite3.connect(project.root / ".agents" / "wallet" / "ledger.sqlite3") as ledger:
        rows = ledger.execute(
            "SELECT id, wallet, label FROM agent_tokens WHERE hash=? AND revoked_at IS NULL",
            (hashlib.sha256(token.encode()).hexdigest(),),
        ).fetchall()
    assert rows == [(minted.handle["tokenId"], "treasury", NAME)]
    # The token is in no file of the project, whoever wrote it.
    for path in project.root.rglob("*"):
        if path.is_file():
            assert token.encode() not in path.read_bytes(), path


def plan(spec: WorkloadSpec) -> CredentialPlan:
    """Plan an owner's instance for a role."""
    return CredentialPlan(owners={RoleName("reader"): spec})


async def test_an_instance_that_ends_in_a_call_is_told(project: Project) -> None:
    """A process that dies, by itself or killed, ends the call at once, and is not left over."""
    state = project.state()
    owner = project.spec(role="bootstrap", env={"PATH": os.defpath, "HOME": str(project.root)})
    state.update(credentials=plan(owner))
    parts = Parts(project, state)
    with anyio.fail_after(30):
        async with parts.owners.open(RoleName("reader")) as instance:
            assert instance.home == project.root
            with pytest.raises(WorkloadStartError, match="ended in the middle"):
                _ = await instance.call_tool(ToolName("crash"), {})
        await project.until_empty()
        async with parts.owners.open(RoleName("reader")) as instance:
            (status,) = (await project.runtime.observe()).values()
            async with anyio.create_task_group() as group:

                async def kill() -> None:
                    os.kill(status.pid, signal.SIGKILL)

                group.start_soon(kill)
                with pytest.raises(WorkloadStartError):
                    _ = await instance.call_tool(ToolName("hold"), {})
        await project.until_empty()


async def test_an_instance_that_says_nothing_is_given_up(project: Project) -> None:
    """One that does not answer in its time is an error, and is ended."""
    state = project.state()
    owner = project.spec(
        "--mute",
        role="bootstrap",
        env={"PATH": os.defpath, "HOME": str(project.root)},
        probe={"startup": "300ms"},
    )
    state.update(credentials=plan(owner))
    with anyio.fail_after(30):
        with pytest.raises(WorkloadStartError, match="did not answer"):
            async with Parts(project, state).owners.open(RoleName("reader")):
                pytest.fail("it answered")
        await project.until_empty()


async def test_a_role_without_one_is_told(project: Project) -> None:
    """There is an error for a role that was never planned one."""
    with pytest.raises(NotRunningError):
        async with Parts(project, project.state()).owners.open(ROLE):
            pytest.fail("it ran")


async def test_a_call_that_is_given_up_leaves_nothing_running(project: Project) -> None:
    """Whoever waits may be cancelled: the instance is ended all the same."""
    state = project.state()
    owner = project.spec(role="bootstrap", env={"PATH": os.defpath, "HOME": str(project.root)})
    state.update(credentials=plan(owner))
    wallet = WalletIssuer(
        WalletSuiteIssuer(kind="walletsuite", wallet="w"), Parts(project, state).owners
    )
    with anyio.fail_after(30):
        with anyio.move_on_after(0.3):
            with pytest.raises(IssuerUncertainError):
                _ = await wallet.mint(NAME, RoleName("reader"), timedelta(days=1))
        await project.until_empty()
