"""Manifests for Kubernetes: one file for the gateway and one for each role.

No secret's value is in any of them: a Deployment names the Secret that it reads, generation
included, so that another credential is another name and therefore a rollout.

Source: Kubernetes API 1.37 (apps/v1, batch/v1, networking.k8s.io/v1, policy/v1); Pod Security
Standards, level "restricted".
"""

from typing import Final

from orchestrator.render.kubernetes_network import of_gateway, of_proxy, of_server
from orchestrator.render.kubernetes_parts import (
    Container,
    Object,
    beside,
    budget,
    claim,
    claimed,
    deployment,
    labels_of,
    own,
    pod_of,
    service,
    top,
)
from orchestrator.render.once import kubernetes_once
from orchestrator.render.stack import (
    GATEWAY,
    GATEWAY_PORT,
    PROJECT,
    PROXY_BYTES,
    PROXY_PORT,
    SECRETS,
    VOLUME,
    Stack,
    StackServer,
    check_names,
    gateway_command,
    proxy_command,
    revision,
)
from orchestrator.render.yamltext import to_yaml

_HEAD: Final = (
    "Written by `agents render kubernetes`; do not edit, changes are lost. Holds no secret."
)
_GATEWAY_STOP_SECONDS: Final = 60
_ROTATION_SECONDS: Final = 12 * 3600


def kubernetes_files(stack: Stack) -> dict[str, str]:
    """Write the manifests, by file name.

    Raises:
        SettingsError: Names of services collide, or are none.
    """
    check_names(stack)
    files = {"gateway.yaml": [*_gateway(stack), *of_gateway(stack)]}
    volumes = sorted({volume for server in stack.servers for volume in server.keep})
    if volumes:
        files["volumes.yaml"] = [claim(stack, f"kept-{volume}") for volume in volumes]
    for server in stack.servers:
        proxy = _proxy(stack, server) if server.egress else []
        files[f"{server.name}.yaml"] = [*_server(stack, server), *proxy]
    texts = {name: to_yaml(documents, _HEAD) for name, documents in files.items()}
    return {**texts, **kubernetes_once(stack)}


# The servers.


def _server(stack: Stack, server: StackServer) -> list[Object]:
    labels = labels_of(stack, "server", server.role)
    mounts = {f"kept-{volume}": place for volume, place in server.keep.items()}
    volumes = [claimed(name) for name in mounts]
    if server.secrets:
        mounts["secrets"] = f"{SECRETS}:ro"
        volumes.append({
            "name": "secrets",
            "secret": {
                "secretName": server.secret_set,
                "defaultMode": 0o440,
                "items": [{"key": name, "path": name} for name in server.secrets],
            },
        })  # fmt: skip
    container = Container(
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
    pod = pod_of(container, volumes, stop_seconds=server.stop_seconds)
    if kept:
        # A volume that one node has is reached from that node only.
        pod["affinity"] = beside([{**own(stack), key: kept[key]} for key in kept])
    return [
        deployment(server.name, labels, pod, moves=not server.keep, more=kept),
        # Without an address of its own: its name leads to the server itself, so the gateway talks
        # to the very one that it attested.
        service(server.name, labels, server.port, headless=True),
        budget(server.name, labels, moves=not server.keep),
        of_server(stack, server),
    ]


def _proxy(stack: Stack, server: StackServer) -> list[Object]:
    labels = labels_of(stack, "egress", server.role)
    container = Container(
        "egress",
        stack.image,
        proxy_command(server),
        port=PROXY_PORT,
        memory=PROXY_BYTES,
        cpus=0.25,
    )
    return [
        deployment(server.proxy, labels, pod_of(container, []), moves=True),
        service(server.proxy, labels, PROXY_PORT),
        budget(server.proxy, labels, moves=True),
        of_proxy(stack, server),
    ]


# The gateway.


def _gateway(stack: Stack) -> list[Object]:
    labels = labels_of(stack, "gateway")
    config = f"{GATEWAY}-{revision(stack.files)}"
    keys = {path: path.replace("/", ".") for path in sorted(stack.files)}
    volumes: list[Object] = [
        claimed("state", f"{GATEWAY}-state"),
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
    serving = Container(
        "gateway",
        stack.image,
        [*gateway_command(stack), "--host", f"{GATEWAY}:{GATEWAY_PORT}"],
        port=GATEWAY_PORT,
        health="/health",
        mounts=mounts,
    )
    rotating = Container(
        "rotation",
        stack.image,
        ["agents", "rotate", "--due", "--project", PROJECT],
        mounts=mounts,
        cpus=0.25,
    )
    job_pod = pod_of(rotating, volumes)
    # The gateway's control socket is a file of its volume, so only pods of its node reach it.
    job_pod |= {"restartPolicy": "Never", "affinity": beside([labels])}
    return [
        {
            **top("v1", "ConfigMap", config, labels),
            "immutable": True,
            "data": {key: stack.files[path] for path, key in keys.items()},
        },
        claim(stack, f"{GATEWAY}-state"),
        # One writer: the old one has ended before the new one begins.
        deployment(GATEWAY, labels, pod_of(serving, volumes, _GATEWAY_STOP_SECONDS), moves=False),
        service(GATEWAY, labels, GATEWAY_PORT),
        budget(GATEWAY, labels, moves=False),
        {
            **top("batch/v1", "CronJob", "agents-rotation", labels_of(stack, "rotation")),
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
                            "metadata": {"labels": labels_of(stack, "rotation")},
                            "spec": job_pod,
                        },
                    }
                },
            },
        },
    ]
