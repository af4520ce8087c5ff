"""Manifests for Kubernetes: one file for the gateway and one for each role.

No secret's value is in any of them: a Deployment names the Secret that it reads, generation
included, so that another credential is another name and therefore a rollout.

Source: Kubernetes API 1.37 (apps/v1, batch/v1, networking.k8s.io/v1, policy/v1); Pod Security
Standards, level "restricted".
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from orchestrator.render.stack import (
    GATEWAY,
    GATEWAY_BYTES,
    GATEWAY_PORT,
    PROJECT,
    PROXY_BYTES,
    PROXY_PORT,
    SECRETS,
    TMP_BYTES,
    USER,
    VOLUME,
    Stack,
    StackServer,
    check_names,
    gateway_command,
    inside_addresses,
    open_ports,
    proxy_command,
    revision,
)
from orchestrator.render.yamltext import to_yaml

Object: TypeAlias = dict[str, object]

CALLER_LABEL: Final = "bandmaster/calls-gateway"
_ROLE_LABEL: Final = "bandmaster/role"
_PROJECT_LABEL: Final = "app.kubernetes.io/instance"
_PART_LABEL: Final = "app.kubernetes.io/component"
_HEAD: Final = (
    "Written by `agents render kubernetes`; do not edit, changes are lost. Holds no secret."
)
_GATEWAY_STOP_SECONDS: Final = 60
_ROTATION_SECONDS: Final = 12 * 3600
_STATE_SIZE: Final = "1Gi"
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


@dataclass(frozen=True, slots=True)
class _Container:
    """What a container has beside its hardening.

    Attributes:
        name: Its name.
        image: Its image.
        command: Its words; the image's own if empty. They are `args`, so that the image's
            entrypoint, which reads secret files, stays.
        env: Plain variables.
        port: Where it listens; 0 where it does not.
        health: Path that answers with 200; empty where listening has to be enough.
        mounts: Volumes and where they are; those that are read only end with `:ro`.
        memory: Bytes.
        cpus: Processors.
        tmp: Bytes of `/tmp`.
        startup_seconds: How long it may take to listen.
    """

    name: str
    image: str
    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    port: int = 0
    health: str = ""
    mounts: Mapping[str, str] = field(default_factory=dict[str, str])
    memory: int = GATEWAY_BYTES
    cpus: float = 1.0
    tmp: int = TMP_BYTES
    startup_seconds: int = 60


def kubernetes_files(stack: Stack) -> dict[str, str]:
    """Write the manifests, by file name.

    Raises:
        SettingsError: Names of services collide, or are none.
    """
    check_names(stack)
    files = {"gateway.yaml": [*_gateway(stack), *_network(stack)]}
    volumes = sorted({volume for server in stack.servers for volume in server.keep})
    if volumes:
        files["volumes.yaml"] = [_claim(stack, f"kept-{volume}") for volume in volumes]
    for server in stack.servers:
        proxy = _proxy(stack, server) if server.egress else []
        files[f"{server.name}.yaml"] = [*_server(stack, server), *proxy]
    return {name: to_yaml(documents, _HEAD) for name, documents in files.items()}


def secret_name(server: StackServer) -> str:
    """Name the Secret of a server's credentials; each generation has one of its own."""
    return f"{server.name}-g{server.generation}"


# The servers.


def _server(stack: Stack, server: StackServer) -> list[Object]:
    labels = _labels(stack, "server", server.role)
    mounts = {f"kept-{volume}": place for volume, place in server.keep.items()}
    volumes = [_claimed(name) for name in mounts]
    if server.secrets:
        mounts["secrets"] = f"{SECRETS}:ro"
        volumes.append({
            "name": "secrets",
            "secret": {
                "secretName": secret_name(server),
                "defaultMode": 0o440,
                "items": [{"key": name, "path": name} for name in server.secrets],
            },
        })  # fmt: skip
    container = _Container(
        "server",
        server.image,
        server.command,
        env=server.variables,
        port=server.port,
        mounts=mounts,
        memory=server.memory,
        cpus=server.cpus,
        tmp=server.tmp,
        startup_seconds=server.startup_seconds,
    )
    kept = {f"bandmaster/keeps-{volume}": "true" for volume in server.keep}
    pod = _pod(container, volumes, stop_seconds=server.stop_seconds)
    if kept:
        # A volume that one node has is reached from that node only.
        pod["affinity"] = _beside([{**_own(stack), key: kept[key]} for key in kept])
    deployment = _deployment(server.name, labels, pod, moves=not server.keep, more=kept)
    return [
        deployment,
        # Without an address of its own: its name leads to the server itself, so the gateway talks
        # to the very one that it attested.
        _service(server.name, labels, server.port, headless=True),
        _budget(server.name, labels, moves=not server.keep),
        _policy(
            server.name,
            labels,
            ingress=[_from_pods(_labels(stack, "gateway"), server.port)],
            egress=[_to_dns(), _to_pods(_labels(stack, "egress", server.role), PROXY_PORT)]
            if server.egress
            else [],
        ),
    ]


def _proxy(stack: Stack, server: StackServer) -> list[Object]:
    labels = _labels(stack, "egress", server.role)
    container = _Container(
        "egress",
        stack.image,
        proxy_command(server),
        port=PROXY_PORT,
        memory=PROXY_BYTES,
        cpus=0.25,
    )
    inside = [
        _to_block(f"{each.host}/{each.address.max_prefixlen if each.address else 0}", [each.port])
        for each in inside_addresses(server.egress)
    ]
    ports = open_ports(server.egress)
    outside = [_to_block("0.0.0.0/0", ports, _INSIDE_4), _to_block(_PUBLIC_6, ports)]
    return [
        _deployment(server.proxy, labels, _pod(container, []), moves=True),
        _service(server.proxy, labels, PROXY_PORT),
        _budget(server.proxy, labels, moves=True),
        _policy(
            server.proxy,
            labels,
            ingress=[_from_pods(_labels(stack, "server", server.role), PROXY_PORT)],
            egress=[_to_dns(), *(outside if ports else []), *inside],
        ),
    ]


# The gateway.


def _gateway(stack: Stack) -> list[Object]:
    labels = _labels(stack, "gateway")
    config = f"{GATEWAY}-{revision(stack.files)}"
    keys = {path: path.replace("/", ".") for path in sorted(stack.files)}
    volumes: list[Object] = [
        _claimed("state", f"{GATEWAY}-state"),
        {
            "name": "project",
            "configMap": {
                "name": config,
                "defaultMode": 0o444,
                "items": [{"key": key, "path": path} for path, key in keys.items()],
            },
        },
    ]
    mounts = {"state": VOLUME, "project": f"{PROJECT}:ro"}
    serving = _Container(
        "gateway",
        stack.image,
        [*gateway_command(stack), "--host", f"{GATEWAY}:{GATEWAY_PORT}"],
        port=GATEWAY_PORT,
        health="/health",
        mounts=mounts,
    )
    rotating = _Container(
        "rotation",
        stack.image,
        ["agents", "rotate", "--due", "--project", PROJECT],
        mounts=mounts,
        cpus=0.25,
    )
    job_pod = _pod(rotating, volumes)
    # The gateway's control socket is a file of its volume, so only pods of its node reach it.
    job_pod |= {"restartPolicy": "Never", "affinity": _beside([labels])}
    return [
        {
            **_top("v1", "ConfigMap", config, labels),
            "immutable": True,
            "data": {key: stack.files[path] for path, key in keys.items()},
        },
        _claim(stack, f"{GATEWAY}-state"),
        # One writer: the old one has ended before the new one begins.
        _deployment(GATEWAY, labels, _pod(serving, volumes, _GATEWAY_STOP_SECONDS), moves=False),
        _service(GATEWAY, labels, GATEWAY_PORT),
        _budget(GATEWAY, labels, moves=False),
        {
            **_top("batch/v1", "CronJob", "agents-rotation", _labels(stack, "rotation")),
            "spec": {
                "schedule": f"{stack.minute} 3 * * *",
                "timeZone": "Etc/UTC",
                "concurrencyPolicy": "Forbid",
                "startingDeadlineSeconds": 3600,
                "successfulJobsHistoryLimit": 3,
                "failedJobsHistoryLimit": 3,
                "jobTemplate": {
                    "spec": {
                        "backoffLimit": 0,
                        "activeDeadlineSeconds": _ROTATION_SECONDS,
                        "ttlSecondsAfterFinished": 7 * 86_400,
                        "template": {
                            "metadata": {"labels": _labels(stack, "rotation")},
                            "spec": job_pod,
                        },
                    }
                },
            },
        },
    ]


def _network(stack: Stack) -> list[Object]:
    labels = _labels(stack, "gateway")
    servers = [
        _to_pods(_labels(stack, "server", server.role), server.port) for server in stack.servers
    ]
    callers: Object = {
        "from": [
            {"namespaceSelector": {}, "podSelector": {"matchLabels": {CALLER_LABEL: "true"}}},
        ],
        "ports": [{"protocol": "TCP", "port": GATEWAY_PORT}],
    }
    return [
        # Whatever of this project no other policy names has no network at all.
        _policy(f"{GATEWAY}-default-deny", _own(stack), ingress=[], egress=[]),
        _policy(GATEWAY, labels, ingress=[callers], egress=[_to_dns(), *servers]),
    ]


# Parts.


def _own(stack: Stack) -> dict[str, str]:
    return {"app.kubernetes.io/part-of": "bandmaster", _PROJECT_LABEL: stack.project}


def _labels(stack: Stack, part: str, role: str = "") -> dict[str, str]:
    labels = {**_own(stack), _PART_LABEL: part}
    return {**labels, _ROLE_LABEL: role} if role else labels


def _top(version: str, kind: str, name: str, labels: Mapping[str, str]) -> Object:
    marked = {**labels, "app.kubernetes.io/managed-by": "agents"}
    metadata: Object = {"name": name, "labels": marked}
    return {"apiVersion": version, "kind": kind, "metadata": metadata}


def _deployment(
    name: str,
    labels: Mapping[str, str],
    pod: Object,
    *,
    moves: bool,
    more: Mapping[str, str] | None = None,
) -> Object:
    """Write a Deployment of one pod.

    Args:
        name: Its name.
        labels: What its pods are known by.
        pod: The pod.
        moves: Whether a successor may begin beside it.
        more: Further labels of its pods.
    """
    rolling: Object = {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }
    return {
        **_top("apps/v1", "Deployment", name, labels),
        "spec": {
            # One: what the gateway attested is one process, and another could be another.
            "replicas": 1,
            "revisionHistoryLimit": 3,
            "progressDeadlineSeconds": 300,
            "strategy": rolling if moves else {"type": "Recreate"},
            "selector": {"matchLabels": dict(labels)},
            "template": {"metadata": {"labels": {**labels, **(more or {})}}, "spec": pod},
        },
    }


def _pod(container: _Container, volumes: Sequence[Object], stop_seconds: int = 30) -> Object:
    scratch: Object = {
        "name": "tmp",
        "emptyDir": {"medium": "Memory", "sizeLimit": _size(container.tmp)},
    }
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": stop_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(container)],
        "volumes": [scratch, *volumes],
    }


def _container(wanted: _Container) -> Object:
    places = {"tmp": "/tmp", **wanted.mounts}  # noqa: S108  inside the container
    resources = {"cpu": _cpus(wanted.cpus), "memory": _size(wanted.memory)}
    written: Object = {"name": wanted.name, "image": wanted.image}
    if wanted.command:
        written["args"] = list(wanted.command)
    if wanted.env:
        written["env"] = [{"name": key, "value": text} for key, text in wanted.env.items()]
    if wanted.port:
        written["ports"] = [{"name": "http", "containerPort": wanted.port}]
        written |= _probes(wanted)
    return {
        **written,
        "resources": {
            "requests": {"cpu": _cpus(wanted.cpus / 10), "memory": resources["memory"]},
            "limits": {**resources, "ephemeral-storage": "64Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
        },
        "volumeMounts": [
            {
                "name": name,
                "mountPath": place.removesuffix(":ro"),
                **({"readOnly": True} if place.endswith(":ro") else {}),
            }
            for name, place in places.items()
        ],
    }


def _probes(wanted: _Container) -> Object:
    """Write the probes; whether a server shows the right tools is the gateway's to see."""
    asks: Object = (
        {"httpGet": {"path": wanted.health, "port": "http"}}
        if wanted.health
        else {"tcpSocket": {"port": "http"}}
    )
    return {
        "startupProbe": {
            **asks,
            "periodSeconds": 1,
            "failureThreshold": wanted.startup_seconds,
        },
        "readinessProbe": {**asks, "periodSeconds": 5, "failureThreshold": 2},
        "livenessProbe": {
            **asks,
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
    }


def _service(name: str, labels: Mapping[str, str], port: int, *, headless: bool = False) -> Object:
    spec: Object = {
        "type": "ClusterIP",
        "selector": dict(labels),
        "ports": [{"name": "http", "port": port, "targetPort": "http"}],
    }
    if headless:
        spec = {"clusterIP": "None", **spec}
    return {**_top("v1", "Service", name, labels), "spec": spec}


def _budget(name: str, labels: Mapping[str, str], *, moves: bool) -> Object:
    """Write what a drain of a node may do.

    Where a successor may begin first, nothing is evicted: `kubectl rollout restart` moves it. What
    cannot have a successor beside it would keep its node from being drained for ever.
    """
    limit: Object = {"minAvailable": 1} if moves else {"maxUnavailable": 1}
    return {
        **_top("policy/v1", "PodDisruptionBudget", name, labels),
        "spec": {
            **limit,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": dict(labels)},
        },
    }


def _claim(stack: Stack, name: str) -> Object:
    return {
        **_top("v1", "PersistentVolumeClaim", name, _own(stack)),
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": _STATE_SIZE}},
        },
    }


def _claimed(name: str, claim: str = "") -> Object:
    return {"name": name, "persistentVolumeClaim": {"claimName": claim or name}}


def _beside(labels: Iterable[Mapping[str, str]]) -> Object:
    """Write that a pod has to be on the node of others, or is the first of them."""
    terms = [
        {"labelSelector": {"matchLabels": dict(each)}, "topologyKey": "kubernetes.io/hostname"}
        for each in labels
    ]
    return {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


def _policy(
    name: str, labels: Mapping[str, str], *, ingress: Sequence[Object], egress: Sequence[Object]
) -> Object:
    return {
        **_top("networking.k8s.io/v1", "NetworkPolicy", name, labels),
        "spec": {
            "podSelector": {"matchLabels": dict(labels)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": list(ingress),
            "egress": list(egress),
        },
    }


def _from_pods(labels: Mapping[str, str], port: int) -> Object:
    return {
        "from": [{"podSelector": {"matchLabels": dict(labels)}}],
        "ports": [{"protocol": "TCP", "port": port}],
    }


def _to_pods(labels: Mapping[str, str], port: int) -> Object:
    return {
        "to": [{"podSelector": {"matchLabels": dict(labels)}}],
        "ports": [{"protocol": "TCP", "port": port}],
    }


def _to_block(block: str, ports: Sequence[int], without: Sequence[str] = ()) -> Object:
    inside: Object = {"cidr": block, **({"except": list(without)} if without else {})}
    return {
        "to": [{"ipBlock": inside}],
        "ports": [{"protocol": "TCP", "port": port} for port in ports],
    }


def _to_dns() -> Object:
    names = {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}
    return {
        "to": [
            {"namespaceSelector": names, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}
        ],
        "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
    }


def _size(number: int) -> str:
    """Write bytes."""
    return f"{number // 2**20}Mi" if number % 2**20 == 0 else f"{number // 2**10}Ki"


def _cpus(number: float) -> str:
    return f"{max(1, round(number * 1000))}m"
