"""Files for Docker Compose: a stack of servers, each in a network of its own, behind one gateway.

No secret's value is in them. Which generation of a role's secrets is used is a variable, which is
part of the secret files' names; Compose reads such variables from `.env` beside its files.

Source: Compose Specification (compose-spec.io); Docker Compose 2.40.
"""

from collections.abc import Mapping
from typing import Final, TypeAlias

from orchestrator.render.stack import (
    GATEWAY_BYTES,
    GATEWAY_PORT,
    PROJECT,
    PROXY_BYTES,
    TMP_BYTES,
    USER,
    VOLUME,
    Stack,
    StackServer,
    gateway_command,
    proxy_command,
    proxy_health,
)
from orchestrator.render.yamltext import to_yaml

Object: TypeAlias = dict[str, object]

WHOLE: Final = "compose"
# The networks beside those of roles, whose names begin with `role-`.
EDGE: Final = "edge"
OUTSIDE: Final = "outside"
_HEAD: Final = (
    "Written by `agents render compose`; do not edit, changes are lost. Holds no secret.\n"
    "compose/README.md tells how it is used."
)
_GATEWAY_STOP: Final = "15s"
# Quick while something starts; later the gateway itself notices at once who is gone.
_HEALTH: Final[Mapping[str, object]] = {
    "interval": "15s",
    "timeout": "5s",
    "retries": 3,
    "start_period": "60s",
    "start_interval": "250ms",
}
# Asks an address, and ends with 0 if the answer is 200; it is in the gateway's own image.
_ANSWERS: Final = "answers"


def compose_file(stack: Stack, file: str, port: int, files: Mapping[str, str]) -> str:
    """Write one stack.

    Args:
        stack: The stack.
        file: The file's name without its ending: `compose`, or the one role's.
        port: Where the gateway listens on this machine, unless a variable says otherwise.
        files: What the gateway reads beside the role files: the place in its container, by the
            place on this machine, relative to the file.
    """
    whole = file == WHOLE
    gateway = "gateway" if whole else f"gateway-{file}"
    word = "BANDMASTER" if whole else _upper(file)
    asked = f"${{{word}_PORT:-{port}}}"
    services: Object = {gateway: _gateway(stack, asked, files)}
    for server in stack.servers:
        services[server.name] = _server(server, _generation(word, server.role))
        if server.egress:
            services[server.proxy] = _proxy(stack, server)
    for server in stack.bootstraps:
        services[server.name] = _bootstrap(server)
    every = (*stack.servers, *stack.bootstraps)
    body: Object = {
        "name": stack.project,
        "x-bandmaster": {
            "gateway": gateway,
            "port": f"{word}_PORT",
            "roles": {one.role: {"service": one.name, "url": one.url,
                                 "generation": _variable(word, one.role)} for one in stack.servers},
            "bootstraps": {one.server: one.name for one in stack.bootstraps},
        },
        "services": services,
        "networks": {
            EDGE: {},
            **{_network(one): _internal() for one in stack.servers},
            **({OUTSIDE: {}} if any(one.egress for one in stack.servers) else {}),
        },
        "volumes": {"gateway": {}, **{_kept(name): {} for one in every for name in one.keep}},
    }  # fmt: skip
    secrets = {
        _secret(one, name): {"file": _place(one, name, _generation(word, one.role))}
        for one in stack.servers
        for name in one.secrets
    } | {
        _secret(one, name): {"file": _place(one, name, "1")}
        for one in stack.bootstraps
        for name in one.secrets
    }
    if secrets:
        body["secrets"] = secrets
    return to_yaml([body], _HEAD)


def _gateway(stack: Stack, port: str, files: Mapping[str, str]) -> Object:
    command = [_plain(word) for word in gateway_command(stack)]
    command = [word.replace(f":{GATEWAY_PORT}", f":{port}") for word in command]
    service = _hardened(_image("BANDMASTER_IMAGE", stack.image), GATEWAY_BYTES, 1.0, 256, TMP_BYTES)
    return {
        **service,
        "command": command,
        "working_dir": PROJECT,
        "stop_grace_period": _GATEWAY_STOP,
        "networks": [EDGE, *(_network(one) for one in stack.servers)],
        # On the loopback only: what comes from elsewhere has to come through TLS.
        "ports": [f"127.0.0.1:{port}:{port}"],
        "volumes": [
            *(
                {"type": "bind", "source": source, "target": f"{PROJECT}/{target}",
                 "read_only": True, "bind": {"create_host_path": False}}
                for source, target in files.items()
            ),
            {"type": "volume", "source": "gateway", "target": VOLUME},
        ],
        "healthcheck": {
            "test": ["CMD", _ANSWERS, f"http://127.0.0.1:{port}/ready"],
            **_HEALTH,
        },
        "depends_on": {
            one.name: {"condition": "service_healthy" if one.health else "service_started"}
            for one in stack.servers
        },
    }  # fmt: skip


def _server(server: StackServer, generation: str) -> Object:
    service = _of(server)
    return {
        **service,
        **({"healthcheck": {"test": ["CMD", *map(_plain, server.health)], **_HEALTH}}
           if server.health else {}),
        "networks": [_network(server)],
        **({"depends_on": {server.proxy: {"condition": "service_healthy"}}}
           if server.egress else {}),
        "labels": {"bandmaster.role": server.role, "bandmaster.generation": generation},
    }  # fmt: skip


def _bootstrap(server: StackServer) -> Object:
    """Describe what has to be done once; `up` does not start it, and nothing reaches it."""
    return {
        **_of(server),
        "profiles": ["bootstrap"],
        "restart": "no",
        "network_mode": "none",
        "stdin_open": True,
        # What it makes is read from its output: the engine must not write that down.
        "logging": {"driver": "none"},
    }


def _proxy(stack: Stack, server: StackServer) -> Object:
    service = _hardened(_image("BANDMASTER_IMAGE", stack.image), PROXY_BYTES, 0.5, 64, TMP_BYTES)
    return {
        **service,
        "command": [_plain(word) for word in proxy_command(server)],
        # The image's own asks a gateway.
        "healthcheck": {"test": proxy_health(), **_HEALTH},
        "networks": [_network(server), OUTSIDE],
    }


def _of(server: StackServer) -> Object:
    """Describe what servers of roles and of bootstraps have in common."""
    image = _image(f"{_upper(server.server)}_IMAGE", server.image)
    service = _hardened(image, server.memory, server.cpus, server.pids, server.tmp)
    if server.command:
        service["command"] = [_plain(word) for word in server.command]
    service["stop_grace_period"] = f"{server.stop_seconds}s"
    service["environment"] = {
        name: _plain(value) for name, value in sorted(server.variables.items())
    }
    if server.secrets:
        service["secrets"] = [
            {"source": _secret(server, name), "target": name} for name in server.secrets
        ]
    if server.keep:
        service["volumes"] = [
            {"type": "volume", "source": _kept(name), "target": place}
            for name, place in sorted(server.keep.items())
        ]
    return service


def _hardened(image: str, memory: int, cpus: float, pids: int, tmp: int) -> Object:
    """Describe a container that can do no more than it needs."""
    return {
        "image": image,
        "pull_policy": "missing",
        "user": f"{USER}:{USER}",
        "init": True,
        "read_only": True,
        "tmpfs": [f"/tmp:rw,noexec,nosuid,nodev,size={tmp},mode=1777"],  # noqa: S108 - of the container
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "mem_limit": memory,
        "memswap_limit": memory,
        "cpus": cpus,
        "pids_limit": pids,
        "ulimits": {"core": 0},
        "restart": "unless-stopped",
        "logging": {"driver": "local", "options": {"max-size": "1m", "max-file": "3"}},
    }


def _internal() -> Object:
    """Describe a network that leads nowhere: not outside, and on engine 27 or newer not here."""
    options = {"com.docker.network.bridge.gateway_mode_ipv4": "isolated"}
    return {"internal": True, "driver": "bridge", "driver_opts": options}


def _network(server: StackServer) -> str:
    return f"role-{server.role}"


def _kept(name: str) -> str:
    return f"kept-{name}"


def _secret(server: StackServer, name: str) -> str:
    return f"{server.name}-{name}"


def _place(server: StackServer, name: str, generation: str) -> str:
    """Name a secret's file; each stack has its own, as each has its own volumes."""
    return f"./secrets/${{COMPOSE_PROJECT_NAME}}/{server.name}/{name}.g{generation}"


def _variable(word: str, role: str) -> str:
    """Name the variable of a role's generation: two stacks beside each other have two."""
    return f"{word}_GENERATION" if word == _upper(role) else f"{word}_{_upper(role)}_GENERATION"


def _generation(word: str, role: str) -> str:
    return f"${{{_variable(word, role)}:-1}}"


def _image(variable: str, image: str) -> str:
    return f"${{{variable}:-{_plain(image)}}}"


def _upper(name: str) -> str:
    return name.upper().replace("-", "_")


def _plain(text: str) -> str:
    """Write a text in which Compose fills nothing in."""
    return text.replace("$", "$$")
