"""What a project should run, complete and without a secret, as it is kept on disk."""

from typing import Annotated

from pydantic import Field

from orchestrator.model.audit import Audit
from orchestrator.model.auth import Auth
from orchestrator.model.base import Model
from orchestrator.model.issuers import IssuerSettings, OwnVault
from orchestrator.model.names import RoleField, ServerField
from orchestrator.model.notify import NotifyPlan
from orchestrator.model.rotation import IssuerField
from orchestrator.model.server import BootstrapCall
from orchestrator.model.stores import Account, StoreField
from orchestrator.model.workload import WorkloadSpec

BOOTSTRAP_ROLE = "bootstrap"


class BootstrapSpec(Model):
    """What has to be done once for a server before the roles that need it can start.

    Attributes:
        server: The server.
        spec: The short-lived instance that does it; no agent ever reaches it.
        generate: Absolute files that receive random text once, with the bytes of randomness.
        calls: Tool calls, in order, filled in.
        produces: Absolute files that must be there when it is done.
        moves: Absolute files that were kept elsewhere once, each with its place now.
    """

    server: ServerField
    spec: WorkloadSpec
    generate: dict[str, int]
    calls: Annotated[tuple[BootstrapCall, ...], Field(strict=False)]
    produces: Annotated[tuple[str, ...], Field(strict=False)]
    moves: dict[str, str] = Field(default_factory=dict)

    @property
    def files(self) -> frozenset[str]:
        """Every file that is there only after the bootstrap."""
        return frozenset(self.generate) | frozenset(self.produces)


class GatewaySettings(Model):
    """How the gateway listens.

    Attributes:
        host: Address to bind.
        port: Port to bind; 0 lets the system choose.
        hosts: Further values of the Host header that are let in.
        origins: Values of the Origin header that are let in.
        auth: Which tokens agents show.
    """

    host: str
    port: Annotated[int, Field(ge=0, le=65535)]
    hosts: Annotated[tuple[str, ...], Field(strict=False)] = ()
    origins: Annotated[tuple[str, ...], Field(strict=False)] = ()
    auth: Auth = Auth()


class CredentialPlan(Model):
    """Who makes credentials, and where they are kept.

    Attributes:
        issuers: Who makes them, by name.
        owners: The owner's instances that make some, by role; no agent ever reaches one.
        vault: The project's own vault.
        stores: Stores of secrets that are reached over the network, by name.
    """

    issuers: dict[IssuerField, IssuerSettings] = Field(default_factory=dict)
    owners: dict[RoleField, WorkloadSpec] = Field(default_factory=dict)
    vault: OwnVault = OwnVault()
    stores: dict[StoreField, Account] = Field(default_factory=dict)


class Desired(Model):
    """Everything that a project should run.

    Attributes:
        gateway: How the gateway listens.
        roles: One instance a role; generations are given by the control plane.
        bootstraps: What has to be done once, by server.
        credentials: Who makes credentials.
        notify: Who is told what happens.
        audit: How the record is kept.
    """

    gateway: GatewaySettings
    roles: dict[RoleField, WorkloadSpec]
    bootstraps: dict[ServerField, BootstrapSpec] = Field(default_factory=dict)
    credentials: CredentialPlan = CredentialPlan()
    notify: NotifyPlan = NotifyPlan()
    audit: Audit = Audit()
