"""From what the user wrote to what has to run; pure."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from orchestrator.config.places import InsidePlaces, Places
from orchestrator.config.policies import policy_of
from orchestrator.config.rotationcheck import MINTING_TOOL
from orchestrator.model.audit import Audit
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.container import ContainerSpec
from orchestrator.model.desired import (
    BOOTSTRAP_ROLE,
    BootstrapSpec,
    CredentialPlan,
    Desired,
    GatewaySettings,
)
from orchestrator.model.issuers import IssuerSettings, OwnVault, WalletSuiteIssuer, lease_issuer
from orchestrator.model.issuers_cloud import VaultLeaseIssuer
from orchestrator.model.names import BandName, RoleName, SecretName, ServerName, lane_part
from orchestrator.model.notify import NotifyPlan, Target
from orchestrator.model.role import Mode, Restart, Role
from orchestrator.model.rotation import UpstreamRotation
from orchestrator.model.secret import KEPT, SecretRef
from orchestrator.model.server import Bootstrap, BootstrapCall, Launch, Server
from orchestrator.model.settings import Docker
from orchestrator.model.stores import DEFAULT_STORE, Account
from orchestrator.model.workload import HttpServing, WorkloadSpec

SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OWN_VAULT: Final = OwnVault()
_DOCKER: Final = Docker()
_AUDIT: Final = Audit()
# Inside a container everything else is read-only, and its image has a PATH of its own.
_INSIDE_BASELINE: Final = {"HOME": "/tmp", "LANG": "C.UTF-8", "TMPDIR": "/tmp", "TZ": "UTC"}  # noqa: S108 - of the container


def desired(  # noqa: PLR0913  each is a thing of its own; a bundle would be made for this call
    *,
    roles: Mapping[RoleName, Role],
    servers: Mapping[ServerName, Server],
    gateway: GatewaySettings,
    argvs: Mapping[RoleName, tuple[str, ...]],
    bootstrap_argvs: Mapping[ServerName, tuple[str, ...]],
    places: Callable[[str], Places],
    baseline: Callable[[str], Mapping[str, str]],
    issuers: Mapping[str, IssuerSettings] = MappingProxyType({}),
    vault: OwnVault = _OWN_VAULT,
    users: Mapping[str, str] = MappingProxyType({}),
    stores: Mapping[str, Account] = MappingProxyType({}),
    docker: Docker = _DOCKER,
    notify: Mapping[str, Target] = MappingProxyType({}),
    audit: Audit = _AUDIT,
) -> Desired:
    """Turn checked files into specs.

    Args:
        roles: The roles to run.
        servers: Every server file.
        gateway: How the gateway listens.
        argvs: Resolved command of each role's instance that is a process.
        bootstrap_argvs: Resolved command of each server's short-lived instances that are processes,
            where it has any.
        places: Tells what the placeholders stand for in a role, by its name.
        baseline: Tells the variables that every instance of a role has, by its name.
        issuers: Who makes credentials, by name.
        vault: The project's own vault.
        users: The unix user of each role that has one of its own, and of its owner's instance
            under `owner_of(role)`.
        stores: Stores of secrets that are reached over the network, by name.
        docker: The engine for containers.
        notify: Who is told what happens, by name.
        audit: How the record is kept.

    Returns:
        What should run; generations are left at 1.
    """
    specs: dict[RoleName, WorkloadSpec] = {}
    owners: dict[RoleName, WorkloadSpec] = {}
    makers = dict(issuers)
    bootstraps: dict[ServerName, BootstrapSpec] = {}
    for name, role in roles.items():
        server = servers[role.server]
        rotation = role.rotation
        if (lease := lease_of(role)) is not None:
            maker = lease_issuer(name)
            makers[maker] = lease
            upstream = rotation.upstream or UpstreamRotation()
            upstream = upstream.model_copy(update={"issuer": maker})
            rotation = rotation.model_copy(update={"upstream": upstream})
        specs[name] = _spec(
            name,
            server,
            bands=role.band_names,
            mode=role.mode,
            env=role.env,
            secrets={key: as_issued(ref) for key, ref in role.secrets.items()},
            restart=role.restart,
            argv=argvs.get(name, ()),
            places=places(name),
            baseline=baseline(name),
            inside=_container(role, server, docker, places(name)),
        ).model_copy(
            update={
                "sharing": role.instances,
                "standby": role.standby,
                "policy": policy_of(role, server),
                "rotation": rotation,
                "user": users.get(name, ""),
            }
        )
        issuer = makers.get(rotation.upstream.issuer or "") if rotation.upstream else None
        if isinstance(issuer, WalletSuiteIssuer):
            owners[name] = _owner(
                name,
                server,
                issuer,
                argv=argvs.get(name) or bootstrap_argvs[role.server],
                places=places(name),
                baseline=baseline(f"{BOOTSTRAP_ROLE}.owner.{name}"),
            ).model_copy(update={"user": issuer.user or users.get(owner_of(name), "")})
        if (wanted := server.bootstrap) is not None and role.server not in bootstraps:
            bootstraps[role.server] = _bootstrap(
                server,
                wanted,
                bootstrap_argvs.get(role.server, ()),
                places(""),
                baseline(f"{BOOTSTRAP_ROLE}-{role.server}"),
                docker,
                is_contained=role.runtime == "container",
            )
    credentials = CredentialPlan(issuers=makers, owners=owners, vault=vault, stores=dict(stores))
    owners_of = {name: role.owner for name, role in roles.items()} if notify else {}
    return Desired(
        gateway=gateway,
        roles=specs,
        bootstraps=bootstraps,
        credentials=credentials,
        notify=NotifyPlan(targets=dict(notify), owners=owners_of),
        audit=audit,
    )


def bootstrap_server(server: Server) -> Server:
    """Describe a server as it runs in its bootstrap, which has directories of its own."""
    if server.container is None or server.bootstrap is None:
        return server
    keep = {**server.container.keep, **server.bootstrap.keep}
    return server.model_copy(
        update={"container": server.container.model_copy(update={"keep": keep})}
    )


def owner_of(role: RoleName) -> str:
    """Name the owner's instance of a role, as no role can be named."""
    return f"{role}_owner"


def lease_of(role: Role) -> VaultLeaseIssuer | None:
    """Tell the issuer that a role's `vault-lease:` references stand for, None without any."""
    for reference in role.secrets.values():
        if reference.scheme == "vault-lease":
            store = reference.store or DEFAULT_STORE
            return VaultLeaseIssuer(kind="vault-lease", store=store, path=reference.path)
    return None


def as_issued(reference: SecretRef) -> SecretRef:
    """Write a reference to a lease as one to what the role's issuer makes."""
    if reference.scheme != "vault-lease":
        return reference
    return SecretRef("issued", "", reference.name)


def _owner(  # noqa: PLR0913  a private step of the function above
    role: RoleName,
    server: Server,
    issuer: WalletSuiteIssuer,
    *,
    argv: tuple[str, ...],
    places: Places,
    baseline: Mapping[str, str],
) -> WorkloadSpec:
    """Describe the instance that makes a role's tokens; it has just the bands that this takes."""
    names, band = server.bands.names, server.tools[MINTING_TOOL].band
    bands = names[: names.index(band) + 1] if server.bands.cumulative else (band,)
    spec = _spec(
        RoleName(BOOTSTRAP_ROLE),
        server,
        bands=bands,
        mode="owner",
        env=issuer.env,
        secrets=issuer.secrets,
        restart=Restart(),
        argv=argv,
        places=places,
        baseline=baseline,
    )
    return spec.model_copy(update={"part": lane_part("modern", f"owner of {role}")})


def _spec(  # noqa: PLR0913  a private step of the function above
    role: RoleName,
    server: Server,
    *,
    bands: tuple[BandName, ...] | None,
    mode: Mode,
    env: Mapping[SecretName, str],
    secrets: Mapping[SecretName, SecretRef],
    restart: Restart,
    argv: tuple[str, ...],
    places: Places,
    baseline: Mapping[str, str],
    inside: ContainerSpec | None = None,
) -> WorkloadSpec:
    promised = server.tools_of(bands, mode)
    names = server.bands.names if bands is None else bands
    fill, variables, further = places.fill, dict(baseline), {}
    directory = "" if inside else places.fill(server.launch.directory or baseline["HOME"])
    if inside is not None and server.container is not None:
        fill = InsidePlaces(server.container.keep, places.role).fill
        variables, further = dict(_INSIDE_BASELINE), server.container.env
        argv = tuple(fill(word) for word in server.container.command)
    for given in (server.launch.env, further, env):
        variables |= {name: fill(value) for name, value in given.items()}
    if server.bands.variable is not None:
        everything = bands is None or bands == server.bands.names
        full = server.bands.full if everything else None
        variables[server.bands.variable] = full or ",".join(names)
    if server.modes is not None and _needs_mode(server, names):
        variables[server.modes.variable] = mode
    kept = set[str]()
    if inside is not None:
        own = {} if server.bootstrap is None else server.bootstrap.keep
        kept = {*inside.keep, *map(places.fill, own)}
    return WorkloadSpec(
        role=role,
        server=server.server,
        bands=names,
        mode=mode,
        argv=argv,
        directory=directory,
        env={SecretName(name): value for name, value in sorted(variables.items())},
        secrets={name: _fill_reference(ref, places, kept) for name, ref in secrets.items()},
        tools={name: server.tools[name].kind for name in server.tools if name in promised},
        known=frozenset(server.tools),
        cut=server.bands.variable is None,
        era=server.era,
        restart=restart,
        probe=server.probe,
        stop=server.stop,
        http=_http(server.launch),
        container=inside,
    )


def _bootstrap(  # noqa: PLR0913, PLR0917  a private step of the function above
    server: Server,
    wanted: Bootstrap,
    argv: tuple[str, ...],
    places: Places,
    baseline: Mapping[str, str],
    docker: Docker,
    *,
    is_contained: bool,
) -> BootstrapSpec:
    server = bootstrap_server(server)
    spec = _spec(
        RoleName(BOOTSTRAP_ROLE),
        server,
        bands=None if wanted.bands == "full" else tuple(wanted.bands),
        mode=wanted.mode,
        env=wanted.env,
        secrets=wanted.secrets,
        restart=Restart(),
        argv=argv,
        places=places,
        baseline=baseline,
        inside=None if argv and not is_contained else _container(None, server, docker, places),
    )
    return BootstrapSpec(
        server=server.server,
        spec=spec,
        generate={places.fill(path): size for path, size in wanted.generate.items()},
        calls=tuple(_fill_call(call, places) for call in wanted.calls),
        produces=tuple(places.fill(path) for path in wanted.produces),
        moves={places.fill(old): places.fill(new) for old, new in wanted.moves.items()},
    )


def _container(
    role: Role | None, server: Server, docker: Docker, places: Places
) -> ContainerSpec | None:
    """Describe the container of a role that has one, or of a bootstrap that has to have one."""
    said = server.container
    if said is None or (role is not None and role.runtime == "process"):
        return None
    egress = () if role is None else role.egress
    return ContainerSpec(
        image=said.image,
        user=said.user,
        keep={places.fill(outside): inside for outside, inside in said.keep.items()},
        memory=said.memory,
        cpus=said.cpus,
        pids=said.pids,
        tmp=said.tmp,
        file=said.file,
        egress=egress,
        engine=docker.socket,
        proxy=docker.image or "" if egress else "",
    )


def _http(launch: Launch) -> HttpServing | None:
    if launch.transport == "stdio":
        return None
    return HttpServing(listen=launch.listen, path=launch.path)


def _needs_mode(server: Server, bands: tuple[BandName, ...]) -> bool:
    first = server.modes.from_band if server.modes is not None else None
    if first is None:
        return True
    return any(server.bands.names.index(band) >= server.bands.names.index(first) for band in bands)


def _fill_reference(reference: SecretRef, places: Places, kept: Collection[str]) -> SecretRef:
    """Fill a reference; a file that a container keeps may belong to the container's user."""
    filled = reference.filled(places.fill)
    is_kept = (
        filled.scheme == "file"
        and not filled.options
        # In it, and no deeper: a directory further inside may be a link.
        and filled.path.rpartition("/")[0] in kept
    )
    return replace(filled, options=((KEPT, "true"),)) if is_kept else filled


def _fill_call(call: BootstrapCall, places: Places) -> BootstrapCall:
    arguments: JsonObject = {key: _fill(value, places) for key, value in call.arguments.items()}
    return call.model_copy(update={"arguments": arguments})


def _fill(value: Json, places: Places) -> Json:
    match value:
        case str():
            return places.fill(value)
        case list():
            return [_fill(item, places) for item in value]
        case dict():
            return {key: _fill(item, places) for key, item in value.items()}
        case _:
            return value
