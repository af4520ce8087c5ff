"""Policies of a cluster's network: who reaches whom; whatever none of them names is closed.

Source: Kubernetes API 1.37, networking.k8s.io/v1. Policies know addresses and pods, and no names.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from orchestrator.model.destination import Destination
from orchestrator.render.kubernetes_parts import Object, labels_of, own, top
from orchestrator.render.stack import (
    GATEWAY,
    GATEWAY_PORT,
    PROXY_PORT,
    Stack,
    StackServer,
    inside_addresses,
    open_ports,
)

CALLER_LABEL: Final = "bandmaster/calls-gateway"
# What the proxy refuses, too: nothing private is meant by a name.
_INSIDE_4: Final = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "224.0.0.0/3",
)
_PUBLIC_6: Final = "2000::/3"
# A Service of another namespace, by its name in the cluster.
_OF_A_CLUSTER: Final = re.compile(r"[a-z0-9-]+\.([a-z0-9-]+)\.svc(?:\.cluster\.local)?")


def of_server(stack: Stack, server: StackServer) -> Object:
    """Write a server's: its gateway reaches it, and it reaches its proxy, if it has one."""
    way = [to_dns(), to_pods(labels_of(stack, "egress", server.role), PROXY_PORT)]
    return policy(
        server.name,
        labels_of(stack, "server", server.role),
        ingress=[from_pods(labels_of(stack, "gateway"), server.port)],
        egress=way if server.egress else [],
    )


def of_proxy(stack: Stack, server: StackServer) -> Object:
    """Write a proxy's: its server reaches it, and it reaches the ports that are listed."""
    inside = [
        to_block(f"{each.host}/{each.address.max_prefixlen if each.address else 0}", [each.port])
        for each in inside_addresses(server.egress)
    ]
    ports = open_ports(server.egress)
    outside = [to_block("0.0.0.0/0", ports, _INSIDE_4), to_block(_PUBLIC_6, ports)]
    return policy(
        server.proxy,
        labels_of(stack, "egress", server.role),
        ingress=[from_pods(labels_of(stack, "server", server.role), PROXY_PORT)],
        egress=[to_dns(), *(outside if ports else []), *inside],
    )


def of_gateway(stack: Stack) -> list[Object]:
    """Write the gateway's, and one that closes what no other one names."""
    servers = [
        to_pods(labels_of(stack, "server", server.role), server.port) for server in stack.servers
    ]
    callers: Object = {
        "from": [
            {"namespaceSelector": {}, "podSelector": {"matchLabels": {CALLER_LABEL: "true"}}},
        ],
        "ports": [{"protocol": "TCP", "port": GATEWAY_PORT}],
    }
    asked = [rule for each in stack.asks for rule in _to_provider(each)]
    return [
        policy(f"{GATEWAY}-default-deny", own(stack), ingress=[], egress=[]),
        policy(
            GATEWAY,
            labels_of(stack, "gateway"),
            ingress=[callers],
            egress=[to_dns(), *servers, *asked],
        ),
    ]


def _to_provider(place: Destination) -> list[Object]:
    """Let out to whom the gateway asks for keys; the name is checked by the gateway alone."""
    if place.address is not None:
        return [to_block(f"{place.host}/{place.address.max_prefixlen}", [place.port])]
    if match := _OF_A_CLUSTER.fullmatch(place.host):
        # The port of a Service need not be that of its pods, which is what policies see.
        names = {"matchLabels": {"kubernetes.io/metadata.name": match[1]}}
        return [{"to": [{"namespaceSelector": names}]}]
    # It may well be a private address: of the company, not of this cluster.
    return [to_block("0.0.0.0/0", [place.port]), to_block("::/0", [place.port])]


def policy(
    name: str, labels: Mapping[str, str], *, ingress: Sequence[Object], egress: Sequence[Object]
) -> Object:
    """Write a policy of the pods that have labels, both ways."""
    return {
        **top("networking.k8s.io/v1", "NetworkPolicy", name, labels),
        "spec": {
            "podSelector": {"matchLabels": dict(labels)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": list(ingress),
            "egress": list(egress),
        },
    }


def from_pods(labels: Mapping[str, str], port: int) -> Object:
    """Let pods in at a port."""
    return {
        "from": [{"podSelector": {"matchLabels": dict(labels)}}],
        "ports": [{"protocol": "TCP", "port": port}],
    }


def to_pods(labels: Mapping[str, str], port: int) -> Object:
    """Let out to a port of pods."""
    return {
        "to": [{"podSelector": {"matchLabels": dict(labels)}}],
        "ports": [{"protocol": "TCP", "port": port}],
    }


def to_block(block: str, ports: Sequence[int], without: Sequence[str] = ()) -> Object:
    """Let out to ports of addresses."""
    inside: Object = {"cidr": block, **({"except": list(without)} if without else {})}
    return {
        "to": [{"ipBlock": inside}],
        "ports": [{"protocol": "TCP", "port": port} for port in ports],
    }


def to_dns() -> Object:
    """Let names be asked for."""
    names = {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}
    return {
        "to": [
            {"namespaceSelector": names, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}
        ],
        "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
    }
