"""A stack file for Docker Swarm, and the project's files that its gateway reads.

Secrets are external: somebody makes them, and their names hold the generation, as no secret of a
swarm can be changed or removed while it is used. What `docker stack deploy` ignores is not written.

Source: Compose file format 3.13; docs.docker.com/engine/swarm.
"""

from collections.abc import Sequence
from typing import Final, TypeAlias

from orchestrator.render.once import swarm_once
from orchestrator.render.stack import (
    GATEWAY,
    GATEWAY_BYTES,
    GATEWAY_PORT,
    PROJECT,
    PROXY_BYTES,
    SECRETS,
    TMP_BYTES,
    USER,
    VOLUME,
    Stack,
    StackServer,
    check_names,
    gateway_command,
    proxy_command,
    proxy_health,
    revision,
    swarm_secret,
)
from orchestrator.render.yamltext import to_yaml

Object: TypeAlias = dict[str, object]

FILE: Final = "stack.yaml"
# Compose files know these networks by their names in the file; the engine adds the stack's.
_EDGE: Final = "edge"
_OUTSIDE: Final = "outside"
_HEAD: Final = "Written by `agents render swarm`; do not edit, changes are lost. Holds no secret."
_GATEWAY_LABEL: Final = "node.labels.agents.gateway"
_KEPT_LABEL: Final = "node.labels.agents.kept-"
_STATE: Final = "agents-state"
_PIDS: Final = 256


def swarm_files(stack: Stack, *, publish: int = 0, is_encrypted: bool = True) -> dict[str, str]:
    """Write the stack file, the files that it names, and what is done before, by path.

    Args:
        stack: The stack.
        publish: Port of the gateway's node on which it is reached from everywhere, in plain HTTP;
            0 for none: then only what is in its network reaches it.
        is_encrypted: Whether what goes from node to node is.

    Raises:
        SettingsError: Names collide, or are longer than a swarm takes.
    """
    check_names(stack)
    services: Object = {GATEWAY: _gateway(stack, publish)}
    # A node without IPsec lets nothing through an encrypted network, rather than in the clear.
    overlay: Object = {
        "driver": "overlay",
        **({"driver_opts": {"encrypted": ""}} if is_encrypted else {}),
    }
    networks: Object = {_EDGE: overlay}
    secrets: Object = {}
    volumes: Object = {_STATE: {}}
    for server in stack.servers:
        services[server.name] = _server(server)
        networks[server.name] = {**overlay, "internal": True}
        if server.egress:
            networks[_OUTSIDE] = overlay
            services[server.proxy] = _proxy(stack, server)
        for variable in server.secrets:
            name = swarm_secret(server, variable)
            secrets[name] = {"external": True, "name": name}
        volumes |= {f"kept-{volume}": {} for volume in server.keep}
    # A config cannot be changed either: other files get other names.
    marked = revision(stack.files)
    configs = {
        _config(path): {"file": f"./project/{path}", "name": f"agents-{marked}-{_config(path)}"}
        for path in sorted(stack.files)
    }
    document: Object = {
        "version": "3.13",
        "services": services,
        "networks": networks,
        "volumes": volumes,
        "configs": configs,
        **({"secrets": secrets} if secrets else {}),
    }
    return {
        FILE: to_yaml([document], _HEAD),
        **{f"project/{path}": text for path, text in stack.files.items()},
        **swarm_once(stack),
    }


def _server(server: StackServer) -> Object:
    secrets = [
        {
            "source": swarm_secret(server, variable),
            "target": f"{SECRETS}/{variable}",
            "uid": str(USER),
            "gid": str(USER),
            "mode": 0o440,
        }
        for variable in server.secrets
    ]
    return {
        **_service(server.image, server.command, server.stop_seconds, server.tmp),
        **({"environment": dict(server.variables)} if server.variables else {}),
        **({"secrets": secrets} if secrets else {}),
        "volumes": [
            _tmp(server.tmp),
            *(_volume(f"kept-{name}", place) for name, place in server.keep.items()),
        ],
        "networks": [server.name],
        "deploy": _deploy(
            memory=server.memory,
            cpus=server.cpus,
            pids=server.pids,
            constraints=[f"{_KEPT_LABEL}{volume} == true" for volume in server.keep],
            moves=not server.keep,
        ),
    }


def _proxy(stack: Stack, server: StackServer) -> Object:
    return {
        **_service(stack.image, proxy_command(server), 30, TMP_BYTES),
        "networks": [server.name, _OUTSIDE],
        # The image's own asks a gateway.
        "healthcheck": {"test": proxy_health(), "interval": "15s", "timeout": "5s", "retries": 3},
        "deploy": _deploy(memory=PROXY_BYTES, cpus=0.25, pids=_PIDS, constraints=(), moves=True),
    }


def _gateway(stack: Stack, publish: int) -> Object:
    command = [*gateway_command(stack), "--host", f"{GATEWAY}:{GATEWAY_PORT}"]
    return {
        **_service(stack.image, command, 60, TMP_BYTES),
        # A swarm ends what is not healthy, and a gateway is, also while one of its servers is not.
        "environment": {"HEALTH_URL": f"http://127.0.0.1:{GATEWAY_PORT}/health"},
        "configs": [
            {"source": _config(path), "target": f"{PROJECT}/{path}", "mode": 0o444}
            for path in sorted(stack.files)
        ],
        "volumes": [_tmp(TMP_BYTES), _volume(_STATE, VOLUME)],
        "networks": [_EDGE, *(server.name for server in stack.servers)],
        # On the node itself: the address of a swarm's routing mesh hides who calls.
        **(
            {
                "ports": [
                    {
                        "target": GATEWAY_PORT,
                        "published": publish,
                        "protocol": "tcp",
                        "mode": "host",
                    }
                ]
            }
            if publish
            else {}
        ),
        "deploy": _deploy(
            memory=GATEWAY_BYTES,
            cpus=1.0,
            pids=_PIDS,
            constraints=[f"{_GATEWAY_LABEL} == true"],
            # One writer of its state.
            moves=False,
        ),
    }


def _service(image: str, command: Sequence[str], stop_seconds: int, tmp: int) -> Object:
    return {
        "image": image,
        **({"command": list(command)} if command else {}),
        "user": f"{USER}:{USER}",
        "read_only": True,
        "cap_drop": ["ALL"],
        "init": True,
        "stop_grace_period": f"{stop_seconds}s",
        "volumes": [_tmp(tmp)],
        "logging": {"driver": "local", "options": {"max-size": "1m", "max-file": "3"}},
    }


def _deploy(
    *, memory: int, cpus: float, pids: int, constraints: Sequence[str], moves: bool
) -> Object:
    """Write how a service is placed, replaced and limited.

    Args:
        memory: Bytes.
        cpus: Processors.
        pids: Processes and threads.
        constraints: What its node has to be.
        moves: Whether a successor may begin beside it.
    """
    return {
        "replicas": 1,
        # Its name leads to the container itself: the gateway talks to what it attested.
        "endpoint_mode": "dnsrr",
        **({"placement": {"constraints": list(constraints)}} if constraints else {}),
        "update_config": {
            "order": "start-first" if moves else "stop-first",
            "failure_action": "rollback",
            "monitor": "5s",
        },
        "rollback_config": {"order": "start-first" if moves else "stop-first"},
        "restart_policy": {"condition": "any", "delay": "100ms"},
        "resources": {
            "limits": {"cpus": f"{cpus:g}", "memory": f"{memory}", "pids": pids},
            "reservations": {"memory": f"{memory}"},
        },
    }


def _volume(name: str, place: str) -> Object:
    return {"type": "volume", "source": name, "target": place}


def _tmp(size: int) -> Object:
    return {"type": "tmpfs", "target": "/tmp", "tmpfs": {"size": size}}  # noqa: S108  inside


def _config(path: str) -> str:
    return path.replace("/", "-").replace(".", "-")
