"""The network of a role's containers: one of its own, closed against this machine and all others.

The engine calls such a network internal, and yet what is in it reaches this machine's own
addresses. One rule of nftables closes that way, and a connection that is refused proves it. What a
role may reach beyond it, a proxy reaches for it: a container in this network and in one more.
"""

import hashlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Final, cast, final

from orchestrator.errors import ContainerEngineError, ContainerError
from orchestrator.model.base import JsonObject
from orchestrator.model.container import ContainerSpec
from orchestrator.runtimes.docker_client import DockerClient, NetworkFound
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
from orchestrator.runtimes.users import is_root

PART: Final = "bandmaster.part"
PROXY_PORT: Final = 3128
# Names of bridges hold 15 characters.
_INSIDE: Final = "mcpr-"
_EDGE: Final = "mcpe-"
_SECONDS: Final = 20.0
_PROXY_BYTES: Final = 128 * 2**20
_RULES: Final = f"""\
table inet bandmaster
delete table inet bandmaster
table inet bandmaster {{
    chain input {{
        type filter hook input priority -10; policy accept;
        iifname "{_INSIDE}*" ct state established,related accept
        iifname "{_INSIDE}*" reject
    }}
}}
"""
# Run inside a container's network: 0 if nothing lets it through to this machine.
_TRY: Final = """\
import socket, sys
for host in sys.argv[2:]:
    try:
        socket.create_connection((host, int(sys.argv[1])), 2).close()
    except OSError:
        continue
    sys.exit(3)
"""
_REACHED: Final = 3


@final
class DockerNetworks:
    """The networks of one project's roles. All of it blocks."""

    def __init__(self, project: str) -> None:
        """Make nothing yet."""
        self._project = project
        self._proven: set[str] = set()

    def name(self, role: str) -> str:
        """Name a role's network."""
        return container_name(self._project, f"net-{role}")

    def proxy_name(self, role: str) -> str:
        """Name the container of a role's proxy."""
        return container_name(self._project, f"egress-{role}")

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
        _close()
        name = self.name(role)
        self._make(name, role, _INSIDE, client, internal=True)
        if container.egress:
            edge = container_name(self._project, "edge")
            self._make(edge, "", _EDGE, client, internal=False)
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
        if role in self._proven:
            return
        enter = shutil.which("nsenter")
        if enter is None:
            raise ContainerError(
                "it cannot be seen whether the container's network is closed: there is no nsenter",
                hint="Install util-linux.",
            )
        with socket.create_server(("", 0)) as listener:
            port = cast("tuple[str, int]", listener.getsockname())[1]
            done = subprocess.run(  # noqa: S603 - words of our own
                [
                    enter, f"--net=/proc/{pid}/ns/net", sys.executable, "-I", "-S", "-c", _TRY,
                    str(port), *_own_addresses(),
                ],
                check=False, capture_output=True, timeout=_SECONDS, env={},
            )  # fmt: skip
        if done.returncode == _REACHED:
            raise ContainerError(
                "the container reaches this machine, in spite of the rule against it",
                hint="Look at `nft list table inet bandmaster`, and at what else sets rules here. "
                "The container was removed.",
            )
        if done.returncode:
            raise ContainerError("it cannot be seen whether the container's network is closed")
        self._proven.add(role)

    def revive(self, client: DockerClient) -> tuple[str, ...]:
        """Start every proxy that does not run; tell the ids of all."""
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
        bridge = prefix + hashlib.sha256(name.encode()).hexdigest()[:8]
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
        except BaseException:
            with suppress(ContainerEngineError):
                client.remove(identifier)
            raise

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
                    **hardening(_PROXY_BYTES, 0.5, 32),
                },
            }
        )


def _close() -> None:
    """Have the kernel refuse what comes from containers' networks to this machine.

    Raises:
        ContainerError: It cannot be had.
    """
    nft = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if nft is None:
        raise ContainerError(
            "the container's network cannot be closed against this machine: there is no nft",
            hint="Install nftables.",
        )
    done = subprocess.run(  # noqa: S603 - words of our own
        [nft, "-f", "-"], input=_RULES.encode(), check=False, capture_output=True, timeout=_SECONDS
    )
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().partition("\n")[0]
        raise ContainerError(
            f"the container's network cannot be closed against this machine: {said}",
            hint="The kernel needs nf_tables, and Bandmaster CAP_NET_ADMIN.",
        )


def _own_addresses() -> list[str]:
    """Tell this machine's addresses that a container might reach."""
    found: set[str] = set()
    # Source: Linux, /proc/net/fib_trie: local addresses stand before a line with "host LOCAL".
    lines = Path("/proc/net/fib_trie").read_text("ascii").splitlines()
    for line, after in pairwise(lines):
        if "host LOCAL" in after:
            address = line.split()[-1]
            if not address.startswith("127."):
                found.add(address)
    return sorted(found)
