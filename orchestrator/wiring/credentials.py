"""The rotation engine of one project, with the issuers and vaults that its files name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, assert_never, cast, final

import anyio.to_thread
from pydantic import SecretStr
from structlog.typing import FilteringBoundLogger

from orchestrator.clock import Clock
from orchestrator.config.places import Places
from orchestrator.control.instances import Instances
from orchestrator.control.owner import OwnerInstances
from orchestrator.control.state import StateFile
from orchestrator.errors import RotationUnknownError
from orchestrator.model.issuers import (
    CommandIssuer,
    IssuerSettings,
    ManualIssuer,
    WalletSuiteIssuer,
)
from orchestrator.model.issuers_cloud import AwsSmIssuer, VaultLeaseIssuer
from orchestrator.model.names import RoleName, SecretName, TokenId
from orchestrator.model.notes import Mention, mention_nothing
from orchestrator.model.rotation import RotationRule
from orchestrator.model.secret import SecretRef
from orchestrator.model.stores import AwsAccount, VaultAccount
from orchestrator.paths import Paths
from orchestrator.rotation.delivery import Deliverer
from orchestrator.rotation.engine import Engine
from orchestrator.rotation.events import Event
from orchestrator.rotation.issuers.aws_sm import SecretsManagerIssuer
from orchestrator.rotation.issuers.command import ProgramIssuer
from orchestrator.rotation.issuers.manual import PersonIssuer
from orchestrator.rotation.issuers.program import Surroundings
from orchestrator.rotation.issuers.vault_lease import LeaseIssuer
from orchestrator.rotation.issuers.walletsuite import WalletIssuer
from orchestrator.rotation.ports import Issuer, Vault
from orchestrator.rotation.store import RotationStore
from orchestrator.rotation.vaults.elsewhere import vault_elsewhere
from orchestrator.rotation.vaults.encrypted import EncryptedVault, load_key, parse_key
from orchestrator.rotation.vaults.moved import MovedVault
from orchestrator.rotation.vaults.secrets_manager import AwsVault
from orchestrator.rotation.world import World
from orchestrator.secrets.aws_client import AwsClient
from orchestrator.secrets.resolve import SecretResolver
from orchestrator.secrets.vault_client import VaultClient

if TYPE_CHECKING:
    from orchestrator.tokens.desk import TokenDesk
    from orchestrator.tokens.verify import TokenIndex


@final
class Makers:
    """Issuers and vaults, made anew from what the project's files say whenever one is asked for."""

    def __init__(
        self,
        paths: Paths,
        state: StateFile,
        owners: OwnerInstances,
        resolver: Callable[[], SecretResolver],
        clock: Clock,
    ) -> None:
        """Prepare.

        Args:
            paths: The project's directories.
            state: Holds what was applied last.
            owners: Runs owner's instances of roles.
            resolver: Gives a resolver of references; may block.
            clock: Where time comes from.
        """
        self._paths = paths
        self._state = state
        self._owners = owners
        self._resolver = resolver
        self._clock = clock

    def issuer(self, name: str) -> Issuer:
        """Give an issuer.

        Raises:
            RotationUnknownError: None of this name was applied.
        """
        settings = self._settings(name)
        match settings:
            case CommandIssuer():
                return ProgramIssuer(settings, self._surroundings(settings))
            case ManualIssuer():
                return PersonIssuer(settings, self._surroundings(settings))
            case WalletSuiteIssuer():
                return WalletIssuer(settings, self._owners)
            case VaultLeaseIssuer():
                client = self._vault_client(settings.store)
                return LeaseIssuer(settings, client, self._clock, self._surroundings(settings))
            case AwsSmIssuer():
                client = self._aws_client(settings.store)
                around = self._surroundings(settings)
                return SecretsManagerIssuer(settings, client, self._clock, around)
        assert_never(settings)

    def vault(self, role: RoleName) -> Vault:
        """Give the place where a role's credentials are kept.

        What was kept in the project's own vault before the role got another issuer is found there.

        Raises:
            RotationUnknownError: Its store is not known.
            SecretStoreUnavailableError: The same.
        """
        spec = self._state.state.roles.get(role)
        upstream = None if spec is None else spec.rotation.upstream
        name = None if upstream is None else upstream.issuer
        settings = None if name is None else self._state.state.credentials.issuers.get(name)
        if isinstance(settings, AwsSmIssuer):
            return self._moved(AwsVault(self._aws_client(settings.store), settings.secret))
        keep = None
        if isinstance(settings, CommandIssuer | ManualIssuer | WalletSuiteIssuer):
            keep = settings.keep
        if keep is None:
            return self._own()
        accounts = self._accounts()
        elsewhere = vault_elsewhere(
            keep,
            {
                name: self._vault_client(name)
                for name, account in accounts.items()
                if isinstance(account, VaultAccount)
            },
            {
                name: self._aws_client(name)
                for name, account in accounts.items()
                if isinstance(account, AwsAccount)
            },
        )
        return self._moved(elsewhere)

    def _own(self) -> EncryptedVault:
        return EncryptedVault(self._paths.vault, self._vault_key)

    def _moved(self, now: Vault) -> Vault:
        return MovedVault(now, self._own())

    def _settings(self, name: str) -> IssuerSettings:
        settings = self._state.state.credentials.issuers.get(name)
        if settings is None:
            raise RotationUnknownError(
                f"no issuer {name} is applied", hint="`issuers:` in agents.yaml, then `agents up`."
            )
        return settings

    def _surroundings(
        self, settings: CommandIssuer | ManualIssuer | VaultLeaseIssuer | AwsSmIssuer
    ) -> Surroundings:
        return Surroundings(
            fill=Places(self._paths.root, self._paths.state).fill,
            env=settings.env,
            secrets=settings.secrets,
            resolve=self._resolve,
            timeout=settings.timeout,
        )

    async def _resolve(
        self, secrets: Mapping[SecretName, SecretRef]
    ) -> Mapping[SecretName, SecretStr]:
        if not secrets:
            return {}
        return await anyio.to_thread.run_sync(lambda: self._resolver().resolve_all(secrets))

    def _look_up(self, reference: SecretRef) -> SecretStr:
        return self._resolver().resolve(reference)

    def _accounts(self) -> Mapping[str, VaultAccount | AwsAccount]:
        return self._state.state.credentials.stores

    def _vault_client(self, store: str) -> VaultClient:
        account = self._accounts().get(store)
        if not isinstance(account, VaultAccount):
            raise _no_store(store, "vault")
        return VaultClient(store, account, self._look_up, self._paths.root)

    def _aws_client(self, store: str) -> AwsClient:
        account = self._accounts().get(store)
        if not isinstance(account, AwsAccount):
            raise _no_store(store, "aws")
        return AwsClient(store, account, self._look_up)

    def _vault_key(self) -> bytes:
        reference = self._state.state.credentials.vault.key
        if reference is None:
            return load_key(self._paths.vault_key, self._paths.vault)
        return parse_key(self._look_up(reference))


def _no_store(name: str, kind: str) -> RotationUnknownError:
    return RotationUnknownError(
        f"no store {name} of kind {kind} is applied", hint="`stores:` in agents.yaml."
    )


def open_engine(  # noqa: PLR0913  it brings these parts together
    *,
    makers: Makers,
    store: RotationStore,
    desk: "TokenDesk",
    index: "TokenIndex",
    instances: Instances,
    streams_open: Callable[[TokenId], int],
    changing: Callable[[TokenId], int],
    paths: Paths,
    state: StateFile,
    clock: Clock,
    log: FilteringBoundLogger,
    fingerprint_key: bytes,
    mention: Mention = mention_nothing,
) -> Engine:
    """Put the rotation engine together; nothing is worked on before it runs.

    Args:
        makers: Issuers and vaults.
        store: Rotations, in the project's database.
        desk: Tokens of agents.
        index: What the gateway asks of tokens.
        instances: The processes of roles.
        streams_open: Tells how many requests and streams of a token are open.
        changing: Tells how many calls of a token are under way that change something.
        paths: The project's directories.
        state: Holds what was applied last.
        clock: Where time comes from.
        log: Structured log.
        fingerprint_key: Makes fingerprints of credentials.
        mention: Keeps for the record what happened.
    """

    def roles() -> Sequence[tuple[RoleName, RotationRule]]:
        return [(role, state.state.roles[role].rotation) for role in by_power(state)]

    def tell(event: Event) -> None:
        named = cast("dict[str, object]", asdict(event))
        facts = {
            name: value
            for name, value in named.items()
            if name not in {"name", "at", "alarm"} and value not in {"", None}
        }
        (log.warning if event.alarm else log.info)(event.name, **facts)
        if not event.name.startswith("token."):  # the desk tells of each
            mention(event.name, {name: str(value) for name, value in facts.items()})

    return Engine(
        World(
            store=store,
            desk=desk,
            index=index,
            issuers=makers.issuer,
            vault=makers.vault,
            instances=instances,
            closures=state,
            roles=roles,
            deliverer=Deliverer(paths.state, paths.root),
            streams_open=streams_open,
            changing=changing,
            clock=clock,
            tell=tell,
            log=log,
            fingerprint_key=fingerprint_key,
        )
    )


def by_power(state: StateFile) -> list[RoleName]:
    """Tell the roles that are applied, from the least to the most power."""
    roles = state.state.roles
    return sorted(roles, key=lambda role: (len(roles[role].tools), role))
