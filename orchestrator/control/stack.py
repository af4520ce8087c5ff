"""From what the user wrote to a stack that another engine runs: Compose, Swarm, Kubernetes."""

import math
import re
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from orchestrator.config.places import Places
from orchestrator.config.project import Project, select_roles
from orchestrator.control.desired import bootstrap_server, desired
from orchestrator.errors import SettingsError
from orchestrator.model.container import PORT, PortServing
from orchestrator.model.desired import Desired, GatewaySettings
from orchestrator.model.destination import Destination, parse_destination
from orchestrator.model.names import RoleName, ServerName
from orchestrator.model.role import Role
from orchestrator.model.server import Server
from orchestrator.model.workload import WorkloadSpec
from orchestrator.render.stack import STATE, Once, Stack, StackServer
from orchestrator.render.yamltext import to_yaml

# What of `agents.yaml` a gateway in a stack goes by; the rest is about servers of our own.
_KEPT_SETTINGS: Final = ("hosts", "origins", "log_level", "auth")
_HTTPS_PORT: Final = 443
_LEFT: Final = re.compile(r"\{(state|project|python|socket)\}")


def stack_of(
    project: Project,
    only: Sequence[str],
    *,
    name: str,
    image: str,
    generations: Mapping[str, int] = MappingProxyType({}),
) -> Stack:
    """Describe a project, or some roles of it, as a stack.

    Args:
        project: What the user wrote.
        only: The roles; all without any.
        name: What the stack is called.
        image: Bandmaster's own image.
        generations: The generation of a role's secrets, if it is not the first.

    Raises:
        SettingsError: A role cannot run so; tells why.
    """
    roles = {
        role.role: role.model_copy(update={"runtime": "container", "user": None})
        for role in select_roles(project, only)
    }
    servers = {role.server: project.servers[role.server] for role in roles.values()}
    on_port = {name: _on_port(server) for name, server in servers.items()}
    wanted = _desired(project, roles, on_port)
    built = [_server(one, on_port[one.server], generations) for one in wanted.roles.values()]
    made = _desired(project, roles, servers)
    return Stack(
        project=name,
        image=image,
        servers=tuple(built),
        files=_files(project, built),
        hosts=project.settings.hosts,
        bootstraps=tuple(_bootstraps(made, servers)),
        once=tuple(_once(project, made)),
        asks=tuple(_asks(project)),
    )


def _desired(
    project: Project,
    roles: Mapping[RoleName, Role],
    servers: Mapping[ServerName, Server],
    state: Path | None = None,
) -> Desired:
    return desired(
        roles=roles,
        servers=servers,
        gateway=GatewaySettings(host="127.0.0.1", port=0),
        argvs={},
        bootstrap_argvs={},
        places=lambda role: Places(project.root, state or project.state, role),
        baseline=lambda _: {"HOME": ""},
    )


def _bootstraps(wanted: Desired, servers: Mapping[ServerName, Server]) -> Generator[StackServer]:
    """Tell what has to be done once, as a role has a secret that is made there.

    Raises:
        SettingsError: The server does not speak over stdin and stdout.
    """
    needed = {
        each.path
        for one in wanted.roles.values()
        for ref in one.secrets.values()
        for each in ref.chain()
    }
    for one in wanted.bootstraps.values():
        if one.files.isdisjoint(needed):
            continue
        if one.spec.http is not None:
            raise SettingsError(
                f"the bootstrap of {one.server} cannot be done in a stack: the server speaks HTTP",
                hint="Do it by `agents up`, and refer to secrets that are kept elsewhere.",
            )
        yield _server(one.spec, bootstrap_server(servers[one.server]), {})


def _once(project: Project, wanted: Desired) -> Generator[Once]:
    """Tell what `agents up` makes on this machine for roles that run elsewhere."""
    for one in wanted.bootstraps.values():
        secrets = {
            f"{role}-{spec.server}": found
            for role, spec in wanted.roles.items()
            if (found := {
                str(name): _inside(project, ref.path)
                for name, ref in spec.secrets.items()
                if ref.scheme == "file" and ref.path in one.files
            })
        }  # fmt: skip
        said = project.servers[one.server].container
        if secrets and said is not None:
            places = Places(project.root, project.state, "")
            keep = {
                PurePosixPath(old).name: _inside(project, places.fill(old)) for old in said.keep
            }
            yield Once(
                server=one.server,
                role=next(role for role, spec in wanted.roles.items()
                          if f"{role}-{spec.server}" in secrets),
                marks=tuple(sorted(_inside(project, path) for path in one.files)),
                keep=keep,
                secrets=secrets,
            )  # fmt: skip


def _inside(project: Project, path: str) -> str:
    """Write a path as it is inside the project, where it is inside."""
    place, root = PurePosixPath(path), PurePosixPath(project.root)
    return str(place.relative_to(root)) if place.is_relative_to(root) else path


def _asks(project: Project) -> Generator[Destination]:
    """Tell where the gateway of a stack asks for keys.

    Raises:
        SettingsError: The place is this machine, which a container is not.
    """
    auth = project.settings.auth
    if (url := auth.jwks or auth.issuer) is None:
        return
    parts = urlsplit(url)
    if parts.scheme != "https":
        raise SettingsError(
            f"the identity provider {url} is this machine, which no container reaches so",
            hint="Write its https:// address under `auth:` of agents.yaml.",
        )
    host = parts.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    yield parse_destination(f"{shown}:{parts.port or _HTTPS_PORT}")


def secrets_of(project: Project, only: Sequence[str], state: Path) -> Desired:
    """Tell the secrets of a stack's roles, and what makes some of them once.

    Args:
        project: What the user wrote.
        only: The roles; all without any.
        state: What `{state}` means on this machine for this stack.
    """
    roles = {
        role.role: role.model_copy(update={"runtime": "container", "user": None})
        for role in select_roles(project, only)
    }
    servers = {role.server: project.servers[role.server] for role in roles.values()}
    return _desired(project, roles, servers, state)


def _on_port(server: Server) -> Server:
    """Give a server the variables that it has in a container, and on a port.

    Raises:
        SettingsError: Its file does not say how it runs there.
    """
    container, launch, name = server.container, server.launch, server.server
    if container is None:
        raise SettingsError(
            f"roles/servers/{name}.yaml does not say how the server runs in a container",
            hint="Add a `container:` block; docs/reference/files.md tells its keys.",
        )
    http = container.http
    if http is None:
        if (launch.transport, launch.listen) != ("http", "port"):
            raise SettingsError(
                f"the server {name} listens on no port, so that no other container reaches it",
                hint=f"Have it listen on one, by `container: http:` of roles/servers/{name}.yaml; "
                "one that speaks over stdin and stdout only needs `agents up`.",
            )
        http = PortServing(path=launch.path)
    inside = {
        "env": {**container.env, **http.env},
        "command": http.command or container.command,
    }
    way = {"transport": "http", "listen": "port", "path": http.path}
    return server.model_copy(
        update={
            "container": container.model_copy(update=inside),
            "launch": launch.model_copy(update=way),
        }
    )


def _server(spec: WorkloadSpec, server: Server, generations: Mapping[str, int]) -> StackServer:
    """Describe one server.

    Raises:
        SettingsError: Something that it is told means nothing inside a container.
    """
    container, said = spec.container, server.container
    if container is None or said is None:
        raise AssertionError("not described as a container")
    http = said.http
    if left := _LEFT.search(" ".join((*spec.argv, *spec.env.values()))):
        raise SettingsError(
            f"{left[0]} means nothing inside a container of {spec.server}, for role {spec.role}",
            hint="Name the directory that it is in under `container: keep:`, as it is written "
            'there, such as "{state}/wallet".',
        )
    return StackServer(
        role=spec.role,
        server=spec.server,
        image=container.image,
        command=tuple(map(_filled, spec.argv)),
        env={name: _filled(value) for name, value in spec.env.items()},
        secrets=tuple(sorted(spec.secrets)),
        port=PORT,
        path="/mcp" if spec.http is None else spec.http.path,
        keep={PurePosixPath(old).name: new for old, new in said.keep.items()},
        memory=container.memory,
        cpus=container.cpus,
        pids=container.pids,
        tmp=container.tmp,
        egress=tuple(map(parse_destination, container.egress)),
        stop_seconds=math.ceil(spec.stop.grace.total_seconds()),
        startup_seconds=math.ceil(spec.probe.startup.total_seconds()),
        health=tuple(map(_filled, () if http is None else http.health)),
        generation=generations.get(spec.role, 1),
    )


def _filled(text: str) -> str:
    return text.replace("{port}", str(PORT))


def _files(project: Project, servers: Sequence[StackServer]) -> dict[str, str]:
    """Write what the gateway reads: the role files as they are, and settings for this place."""
    written = project.settings.model_dump(mode="json", by_alias=True, exclude_unset=True)
    kept = {key: written[key] for key in _KEPT_SETTINGS if key in written}
    if project.settings.docker.image is not None and any(one.egress for one in servers):
        # Nothing is started by it there, but without it such roles are refused.
        kept["docker"] = {"image": project.settings.docker.image}
    settings = {**kept, "state": STATE, "attach": {one.role: one.url for one in servers}}
    files = {"agents.yaml": to_yaml([settings], "The settings of a gateway in a stack.")}
    for one in servers:
        role, server = RoleName(one.role), ServerName(one.server)
        data = project.role_files[role].data
        files[f"roles/{role}.yaml"] = to_yaml([data], f"The role {role}.")
        data = project.server_files[server].data
        files[f"roles/servers/{server}.yaml"] = to_yaml([data], f"The server {server}.")
    return files
