"""The network of a role's containers: one of its own, closed against this machine and all others.

What a role may reach beyond it, a proxy reaches for it: a container in this network and in one
more. Neither of them reaches this machine (`docker_firewall`), and that is tried (`docker_proof`).
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, final

from orchestrator.errors import ContainerEngineError, ContainerError
from orchestrator.model.base import JsonObject
from orchestrator.model.container import ContainerSpec
from orchestrator.model.destination import parse_destination
from orchestrator.runtimes.docker_answers import NetworkFound
from orchestrator.runtimes.docker_client import DockerClient
from orchestrator.runtimes.docker_container import (
    PROJECT,
    ROLE,
    VERSION,
    WORKLOAD,
    container_name,
    hardening,
    sealed,
    version_of,
)
from orchestrator.runtimes.docker_firewall import EDGE, INSIDE, Firewall
from orchestrator.runtimes.docker_proof import own_addresses, prove_closed
from orchestrator.runtimes.users import is_root

PART: Final = "bandmaster.part"
PROXY_PORT: Final = 3128
_PROXY_BYTES: Final = 128 * 2**20
# It writes none.
_PROXY_FILE: Final = 2**20
# Its threads resolve names: `shim.egress` takes no more of them than half of that.
_PROXY_PIDS: Final = 64


@final
class DockerNetworks:
    """The networks of one project's roles. All of it blocks."""

    def __init__(self, project: str) -> None:
        """Make nothing yet."""
        self._project = project
        self._firewall = Firewall()
        self._proven: set[str] = set()

    @property
    def trouble(self) -> str:
        """Why containers may reach this machine, in words; mostly nothing."""
        return self._firewall.trouble

    def name(self, role: str) -> str:
        """Name a role's network."""
        return container_name(self._project, f"net-{role}")

    def proxy_name(self, role: str) -> str:
        """Name the container of a role's proxy."""
        return container_name(self._project, f"egress-{role}")

    @property
    def _edge(self) -> str:
        return container_name(self._project, "edge")

    def variables(self, container: ContainerSpec, role: str) -> dict[str, str]:
        """Tell the variables by which a server finds its proxy."""
        if not container.egress:
            return {}
        url = f"http://{self.proxy_name(role)}:{PROXY_PORT}"
        names = ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy")
        return dict.fromkeys(names, url)

    def prepare(self, role: str, container: ContainerSpec, client: DockerClient) -> str:
        """Make a role's network, and its proxy if it has one; tell the network's name.

        Raises:
            ContainerError: It cannot be, or not be closed.
        """
        if not is_root():
            raise ContainerError(
                "only root closes the network of a container against this machine",
                hint="Start Bandmaster as root, or let the server speak over stdin and stdout or "
                "`listen: socket`, without `egress:`.",
            )
        _check_egress(container.egress)
        _ = self._firewall.close()
        name = self.name(role)
        self._make(name, role, INSIDE, client, internal=True)
        if container.egress:
            edge = self._edge
            self._make(edge, "", EDGE, client, internal=False)
            self._make_proxy(role, container, edge, client)
        return name

    def prove(self, role: str, pid: int) -> None:
        """Make sure, once, that a container does not reach this machine.

        Args:
            role: Its role.
            pid: Its first process.

        Raises:
            ContainerError: It does, or that cannot be told.
        """
        if role not in self._proven:
            prove_closed(pid, _bridge(self.name(role), INSIDE))
            self._proven.add(role)

    def keep_closed(self) -> None:
        """Put the rules against containers back, should somebody have removed them."""
        if is_root():
            self._firewall.keep(self._proven.clear)

    def revive(self, client: DockerClient) -> tuple[str, ...]:
        """Start every proxy that does not run; tell the ids of all."""
        self.keep_closed()
        found = client.list(f"{PROJECT}={self._project}", f"{PART}=egress")
        for each in found:
            if each.state != "running":
                with suppress(ContainerError):
                    client.start(each.id, "the proxy")
        return tuple(each.id for each in found)

    def clear(self, client: DockerClient) -> None:
        """Remove what belongs to roles that have no container any more."""
        mine = f"{PROJECT}={self._project}"
        networks = client.networks(mine)
        if not networks:
            return
        listed = client.list(mine)
        used = {each.labels.get(ROLE) for each in listed if WORKLOAD in each.labels}
        proxies = [each for each in listed if each.labels.get(PART) == "egress"]
        for proxy in proxies:
            if proxy.labels.get(ROLE) not in used:
                client.remove(proxy.id)
        has_proxy = any(proxy.labels.get(ROLE) in used for proxy in proxies)
        for network in networks:
            role = (network.labels or {}).get(ROLE)
            if (role and role not in used) or (not role and not has_proxy):
                self._proven.discard(role or "")
                with suppress(ContainerError):  # a container that is just being made may be in it
                    client.remove_network(network.id)

    def _make(
        self, name: str, role: str, prefix: str, client: DockerClient, *, internal: bool
    ) -> None:
        bridge = _bridge(name, prefix)
        for found in client.networks(name=name):
            self._require_own(found, bridge, internal=internal)
            return
        self._proven.discard(role)
        mine = {PROJECT: self._project, ROLE: role, PART: "network"}
        client.create_network(name, bridge=bridge, labels=mine, internal=internal)

    def _require_own(self, found: NetworkFound, bridge: str, *, internal: bool) -> None:
        mine = (found.labels or {}).get(PROJECT) == self._project
        its = (found.options or {}).get("com.docker.network.bridge.name")
        if not mine or its != bridge or found.internal is not internal:
            raise ContainerError(
                f"a network of somebody else is called {found.name}",
                hint="Rename or remove it. Nothing of it was touched.",
            )

    def _make_proxy(
        self, role: str, container: ContainerSpec, edge: str, client: DockerClient
    ) -> None:
        name = self.proxy_name(role)
        image = client.find_image(container.proxy)
        if image is None:
            raise ContainerError(
                f"the image {container.proxy} of `docker: image:` is not on this machine",
                hint="Build it with scripts/images, or pull it.",
            )
        made = self._proxy(role, container.egress, image.id)
        there = client.find(name)
        if there is not None:
            if there.labels.get(PROJECT) != self._project:
                raise ContainerError(
                    f"a container of somebody else is called {name}",
                    hint="Rename or remove it. Nothing of it was touched.",
                )
            if there.state.running and there.labels.get(VERSION) == version_of(made):
                return
            client.remove(there.id)
        identifier = client.create(name, made)
        try:
            client.connect(identifier, edge)
            client.start(identifier, name)
            self._prove_proxy(identifier, client)
        except BaseException:
            with suppress(ContainerEngineError):
                client.remove(identifier)
            raise

    def _prove_proxy(self, identifier: str, client: DockerClient) -> None:
        found = client.find(identifier)
        if found is None or not found.state.pid:
            raise ContainerError("the proxy ended at once", hint="See its log, by `docker logs`.")
        prove_closed(found.state.pid, _bridge(self._edge, EDGE))

    def _proxy(self, role: str, egress: Sequence[str], image: str) -> JsonObject:
        allowed = [word for each in egress for word in ("--allow", each)]
        return sealed(
            {
                "Image": image,
                "User": "mcp",
                "Entrypoint": ["agents", "egress", "--listen", f"0.0.0.0:{PROXY_PORT}"],
                "Cmd": [*allowed],
                "WorkingDir": "/",
                "Labels": {PROJECT: self._project, ROLE: role, PART: "egress"},
                "Healthcheck": {"Test": ["NONE"]},
                "HostConfig": {
                    "NetworkMode": self.name(role),
                    "ReadonlyRootfs": True,
                    "RestartPolicy": {"Name": "no"},
                    "LogConfig": {"Type": "local", "Config": {"max-size": "1m", "max-file": "3"}},
                    **hardening(_PROXY_BYTES, 0.5, _PROXY_PIDS, _PROXY_FILE),
                },
            }
        )


def _bridge(network: str, prefix: str) -> str:
    """Name this machine's end of a network."""
    return prefix + hashlib.sha256(network.encode()).hexdigest()[:8]


def _check_egress(listed: Sequence[str]) -> None:
    """Refuse a destination that no rule would let through."""
    own = own_addresses()
    for each in listed:
        if parse_destination(each).host in own:
            raise ContainerError(
                f"{each} of `egress:` is this machine itself, which no container reaches",
                hint="Have that service run elsewhere, or in the server's own container.",
            )
