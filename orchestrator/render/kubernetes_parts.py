"""Parts of manifests for Kubernetes: hardened pods, and what belongs to each of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from orchestrator.render.stack import GATEWAY_BYTES, TMP_BYTES, USER, Stack

Object: TypeAlias = dict[str, object]

_ROLE_LABEL: Final = "bandmaster/role"
_PROJECT_LABEL: Final = "app.kubernetes.io/instance"
_PART_LABEL: Final = "app.kubernetes.io/component"
_STATE_SIZE: Final = "1Gi"


@dataclass(frozen=True, slots=True)
class Container:
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


def own(stack: Stack) -> dict[str, str]:
    """Write the labels of everything of a project."""
    return {"app.kubernetes.io/part-of": "bandmaster", _PROJECT_LABEL: stack.project}


def labels_of(stack: Stack, part: str, role: str = "") -> dict[str, str]:
    """Write the labels of one part, which its pods are known by."""
    labels = {**own(stack), _PART_LABEL: part}
    return {**labels, _ROLE_LABEL: role} if role else labels


def top(version: str, kind: str, name: str, labels: Mapping[str, str]) -> Object:
    """Write the beginning of a manifest."""
    marked = {**labels, "app.kubernetes.io/managed-by": "agents"}
    metadata: Object = {"name": name, "labels": marked}
    return {"apiVersion": version, "kind": kind, "metadata": metadata}


def deployment(
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
        **top("apps/v1", "Deployment", name, labels),
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


def pod_of(container: Container, volumes: Sequence[Object], stop_seconds: int = 30) -> Object:
    """Write a pod of one container that can do no more than it needs."""
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


def _container(wanted: Container) -> Object:
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


def _probes(wanted: Container) -> Object:
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


def service(name: str, labels: Mapping[str, str], port: int, *, headless: bool = False) -> Object:
    """Write a Service; a headless one leads to the pod itself."""
    spec: Object = {
        "type": "ClusterIP",
        "selector": dict(labels),
        "ports": [{"name": "http", "port": port, "targetPort": "http"}],
    }
    if headless:
        spec = {"clusterIP": "None", **spec}
    return {**top("v1", "Service", name, labels), "spec": spec}


def budget(name: str, labels: Mapping[str, str], *, moves: bool) -> Object:
    """Write what a drain of a node may do.

    Where a successor may begin first, nothing is evicted: `kubectl rollout restart` moves it. What
    cannot have a successor beside it would keep its node from being drained for ever.
    """
    limit: Object = {"minAvailable": 1} if moves else {"maxUnavailable": 1}
    return {
        **top("policy/v1", "PodDisruptionBudget", name, labels),
        "spec": {
            **limit,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": dict(labels)},
        },
    }


def claim(stack: Stack, name: str) -> Object:
    """Write a claim of a volume that one node mounts."""
    return {
        **top("v1", "PersistentVolumeClaim", name, own(stack)),
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": _STATE_SIZE}},
        },
    }


def claimed(name: str, claim: str = "") -> Object:
    """Write a pod's volume that was claimed."""
    return {"name": name, "persistentVolumeClaim": {"claimName": claim or name}}


def beside(labels: Iterable[Mapping[str, str]]) -> Object:
    """Write that a pod has to be on the node of others, or is the first of them."""
    terms = [
        {"labelSelector": {"matchLabels": dict(each)}, "topologyKey": "kubernetes.io/hostname"}
        for each in labels
    ]
    return {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


def _size(number: int) -> str:
    """Write bytes."""
    return f"{number // 2**20}Mi" if number % 2**20 == 0 else f"{number // 2**10}Ki"


def _cpus(number: float) -> str:
    return f"{max(1, round(number * 1000))}m"
