"""From what the user wrote to a stack that another engine runs: Compose, Swarm, Kubernetes."""

import math
import re
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Final

from orchestrator.config.places import Places
from orchestrator.config.project import Project, select_roles
from orchestrator.control.desired import desired
from orchestrator.errors import SettingsError
from orchestrator.model.container import PORT, PortServing
from orchestrator.model.desired import Desired, GatewaySettings
from orchestrator.model.destination import parse_destination
from orchestrator.model.names import RoleName, ServerName
from orchestrator.model.role import Role
from orchestrator.model.server import Server
from orchestrator.model.workload import WorkloadSpec
from orchestrator.render.stack import STATE, Stack, StackServer
from orchestrator.render.yamltext import to_yaml

# What of `agents.yaml` a gateway in a stack goes by; the rest is about servers of our own.
_KEPT_SETTINGS: Final = ("hosts", "origins", "log_level", "auth")
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
    return Stack(
        project=name,
        image=image,
        servers=tuple(built),
        files=_files(project, built),
        hosts=project.settings.hosts,
        bootstraps=tuple(_bootstraps(_desired(project, roles, servers), servers)),
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
        yield _server(one.spec, servers[one.server], {})


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
    settings = {**kept, "state": STATE, "attach": {one.role: one.url for one in servers}}
    files = {"agents.yaml": to_yaml([settings], "The settings of a gateway in a stack.")}
    for one in servers:
        role, server = RoleName(one.role), ServerName(one.server)
        data = project.role_files[role].data
        files[f"roles/{role}.yaml"] = to_yaml([data], f"The role {role}.")
        data = project.server_files[server].data
        files[f"roles/servers/{server}.yaml"] = to_yaml([data], f"The server {server}.")
    return files
