"""From what the user wrote to what has to run; pure."""

from collections.abc import Callable, Mapping
from typing import Final

from orchestrator.config.places import Places
from orchestrator.config.policies import policy_of
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.desired import BOOTSTRAP_ROLE, BootstrapSpec, Desired, GatewaySettings
from orchestrator.model.names import BandName, RoleName, SecretName, ServerName
from orchestrator.model.role import Mode, Restart, Role
from orchestrator.model.secret import SecretRef
from orchestrator.model.server import Bootstrap, BootstrapCall, Launch, Server
from orchestrator.model.workload import HttpServing, WorkloadSpec

SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def desired(  # noqa: PLR0913  each is a thing of its own; a bundle would be made for this call
    *,
    roles: Mapping[RoleName, Role],
    servers: Mapping[ServerName, Server],
    gateway: GatewaySettings,
    argvs: Mapping[RoleName, tuple[str, ...]],
    bootstrap_argvs: Mapping[ServerName, tuple[str, ...]],
    places: Callable[[str], Places],
    baseline: Callable[[str], Mapping[str, str]],
) -> Desired:
    """Turn checked files into specs.

    Args:
        roles: The roles to run.
        servers: Every server file.
        gateway: How the gateway listens.
        argvs: Resolved command of each role's instance.
        bootstrap_argvs: Resolved command of each server's bootstrap instance, where it has one.
        places: Tells what the placeholders stand for in a role, by its name.
        baseline: Tells the variables that every instance of a role has, by its name.

    Returns:
        What should run; generations are left at 1.
    """
    specs: dict[RoleName, WorkloadSpec] = {}
    bootstraps: dict[ServerName, BootstrapSpec] = {}
    for name, role in roles.items():
        server = servers[role.server]
        specs[name] = _spec(
            name,
            server,
            bands=role.band_names,
            mode=role.mode,
            env=role.env,
            secrets=role.secrets,
            restart=role.restart,
            argv=argvs[name],
            places=places(name),
            baseline=baseline(name),
        ).model_copy(
            update={
                "sharing": role.instances,
                "standby": role.standby,
                "policy": policy_of(role, server),
                "rotation": role.rotation,
            }
        )
        if (wanted := server.bootstrap) is not None and role.server not in bootstraps:
            bootstraps[role.server] = _bootstrap(
                server,
                wanted,
                bootstrap_argvs[role.server],
                places(""),
                baseline(f"{BOOTSTRAP_ROLE}-{role.server}"),
            )
    return Desired(gateway=gateway, roles=specs, bootstraps=bootstraps)


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
) -> WorkloadSpec:
    promised = server.tools_of(bands, mode)
    names = server.bands.names if bands is None else bands
    variables = dict(baseline)
    for given in (server.launch.env, env):
        variables |= {name: places.fill(value) for name, value in given.items()}
    if server.bands.variable is not None:
        everything = bands is None or bands == server.bands.names
        full = server.bands.full if everything else None
        variables[server.bands.variable] = full or ",".join(names)
    if server.modes is not None and _needs_mode(server, names):
        variables[server.modes.variable] = mode
    return WorkloadSpec(
        role=role,
        server=server.server,
        bands=names,
        mode=mode,
        argv=argv,
        directory=places.fill(server.launch.directory or baseline["HOME"]),
        env={SecretName(name): value for name, value in sorted(variables.items())},
        secrets={name: _fill_reference(ref, places) for name, ref in secrets.items()},
        tools={name: server.tools[name].kind for name in server.tools if name in promised},
        known=frozenset(server.tools),
        cut=server.bands.variable is None,
        era=server.era,
        restart=restart,
        probe=server.probe,
        stop=server.stop,
        http=_http(server.launch),
    )


def _bootstrap(
    server: Server,
    wanted: Bootstrap,
    argv: tuple[str, ...],
    places: Places,
    baseline: Mapping[str, str],
) -> BootstrapSpec:
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
    )
    return BootstrapSpec(
        server=server.server,
        spec=spec,
        generate={places.fill(path): size for path, size in wanted.generate.items()},
        calls=tuple(_fill_call(call, places) for call in wanted.calls),
        produces=tuple(places.fill(path) for path in wanted.produces),
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


def _fill_reference(reference: SecretRef, places: Places) -> SecretRef:
    return SecretRef(reference.scheme, places.fill(reference.path), reference.name)


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
