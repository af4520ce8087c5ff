"""What is rendered for other engines: valid, hardened, closed, and without a secret."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from typing import Final, cast

import kubernetes_validate
import pytest
import yaml

from orchestrator.errors import SettingsError
from orchestrator.model.destination import Destination
from orchestrator.render.kubernetes import kubernetes_files
from orchestrator.render.kubernetes_network import CALLER_LABEL
from orchestrator.render.stack import Once, Stack, StackServer, revision
from orchestrator.render.swarm import swarm_files

Object = dict[str, object]
MONITORING: Final = StackServer(
    "monitoring", "wallet", "wallet@sha256:1", env={"MCP_BANDS": "read", "PORT": "8080"}
)
TREASURY: Final = StackServer(
    "treasury",
    "wallet",
    "wallet@sha256:1",
    command=("walletserver", "--verbose: yes"),
    secrets=("API_KEY",),
    egress=(
        Destination("api.example.com", 443),
        Destination("10.0.0.5", 5432),
        Destination("fd00::5", 5432),
    ),
    generation=3,
)
EXECUTOR: Final = StackServer(
    "executor",
    "wallet",
    "wallet@sha256:1",
    secrets=("MPC_AGENT_TOKEN", "WALLETSUITE_PASSPHRASE"),
    keep={"wallet": "/var/lib/wallet"},
)
FILES: Final = {
    "agents.yaml": "log_level: info\n",
    "roles/executor.yaml": "role: executor\n# yes: no\n",
}
ONCE: Final = Once(
    "wallet",
    "executor",
    (".agents/my wallet/executor.token", ".agents/passphrase"),
    {"wallet": ".agents/my wallet"},
    {"executor-wallet": {"MPC_AGENT_TOKEN": ".agents/my wallet/executor.token"}},
)
STACK: Final = Stack(
    "demo",
    "bandmaster@sha256:2",
    (MONITORING, TREASURY, EXECUTOR),
    FILES,
    hosts=("agents.example.com",),
    once=(ONCE,),
)


def manifests() -> list[Object]:
    """Read all manifests."""
    files = kubernetes_files(STACK)
    texts = [text for name, text in files.items() if name.endswith(".yaml")]
    read = [cast("list[Object]", list(yaml.safe_load_all(text))) for text in texts]
    return [each for documents in read for each in documents]


def at(value: object, *path: str | int) -> object:
    """Walk into what was read; None where it ends."""
    for step in path:
        if isinstance(step, int):
            value = cast("list[object]", value)[step]
        else:
            value = cast("Object", value).get(step)
    return value


def listed(value: object, *path: str | int) -> list[Object]:
    """Walk to a list of mappings."""
    return cast("list[Object]", at(value, *path) or [])


def of_kind(kind: str) -> dict[str, Object]:
    """Find all manifests of a kind, by name."""
    return {
        cast("str", at(each, "metadata", "name")): each
        for each in manifests()
        if each["kind"] == kind
    }


def pods() -> dict[str, object]:
    """Find the pod of each Deployment and CronJob, by name."""
    jobs = {
        name: at(each, "spec", "jobTemplate", "spec", "template", "spec")
        for name, each in of_kind("CronJob").items()
    }
    deployments = of_kind("Deployment").items()
    plain = {name: each["spec"] for name, each in of_kind("Pod").items()}
    named = {name: at(each, "spec", "template", "spec") for name, each in deployments}
    return {**named, **jobs, **plain}


def test_each_manifest_is_valid() -> None:
    """The schemas of the current release know every key that is written."""
    for document in manifests():
        kubernetes_validate.validate(document, "1.37", strict=True)


def test_everything_that_a_stack_needs_is_there() -> None:
    """Each role has its Deployment, Service, policy and budget; a role with a way out has two."""
    wallets = {"monitoring-wallet", "treasury-wallet", "executor-wallet"}
    everything = {*wallets, "treasury-egress", "agents-gateway"}
    for kind in ("Deployment", "Service", "PodDisruptionBudget"):
        assert set(of_kind(kind)) == everything
    assert set(of_kind("NetworkPolicy")) == {*everything, "agents-gateway-default-deny"}
    assert set(of_kind("CronJob")) == {"agents-rotation"}
    assert set(of_kind("PersistentVolumeClaim")) == {"agents-gateway-state", "kept-wallet"}
    assert set(of_kind("Pod")) == {"fill-wallet"}
    assert set(kubernetes_files(STACK)) == {
        "gateway.yaml",
        "volumes.yaml",
        "once/wallet.sh",
        "once/wallet.yaml",
        *(f"{name}.yaml" for name in wallets),
    }


def test_every_container_is_hardened() -> None:
    """Nothing runs as root, writes its root, has a capability, or a token of the cluster."""
    assert len(pods()) == 7
    for pod in pods().values():
        assert at(pod, "automountServiceAccountToken") is False
        assert at(pod, "enableServiceLinks") is False
        assert not {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"} & set(
            cast("Object", pod)
        )
        outer = cast("Object", at(pod, "securityContext"))
        assert outer["runAsNonRoot"] is True
        assert outer["runAsUser"] == outer["runAsGroup"] == 10001
        assert outer["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in listed(pod, "containers"):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "privileged": False,
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
            }
            assert set(cast("Object", at(container, "resources", "limits"))) == {
                "cpu",
                "memory",
                "ephemeral-storage",
            }
        for volume in listed(pod, "volumes"):
            assert not {"hostPath", "projected", "downwardAPI"} & set(volume)


def test_a_secret_is_a_name_with_its_generation_and_never_a_value() -> None:
    """The Deployment names the generation's Secret, read as files; no Secret is rendered."""
    assert not of_kind("Secret")
    volumes = {
        cast("str", each["name"]): each for each in listed(pods()["treasury-wallet"], "volumes")
    }
    assert volumes["secrets"]["secret"] == {
        "secretName": "treasury-wallet-g3",
        "defaultMode": 0o440,
        "items": [{"key": "API_KEY", "path": "API_KEY"}],
    }
    container = listed(pods()["treasury-wallet"], "containers")[0]
    names = {each["name"]: each.get("value") for each in listed(container, "env")}
    assert names["API_KEY_FILE"] == "/run/secrets/API_KEY"
    assert "API_KEY" not in names
    mounts = {each["name"]: each for each in listed(container, "volumeMounts")}
    assert mounts["secrets"]["readOnly"] is True
    for pod in pods().values():
        for each in listed(pod, "containers"):
            assert "envFrom" not in each
            assert not any("valueFrom" in variable for variable in listed(each, "env"))


def test_a_new_generation_changes_a_deployment_and_nothing_else() -> None:
    """To rotate is to render with another generation: one file differs, in one name."""
    newer = replace(STACK, servers=(MONITORING, replace(TREASURY, generation=4), EXECUTOR))
    before, after = kubernetes_files(STACK), kubernetes_files(newer)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"treasury-wallet.yaml"}
    assert before["treasury-wallet.yaml"].replace("-g3", "-g4") == after["treasury-wallet.yaml"]


def test_whatever_no_policy_names_has_no_network() -> None:
    """One policy takes in all of the project's pods, both ways, and allows nothing."""
    spec = cast("Object", of_kind("NetworkPolicy")["agents-gateway-default-deny"]["spec"])
    assert (spec["policyTypes"], spec["ingress"], spec["egress"]) == (["Ingress", "Egress"], [], [])
    chosen = cast("dict[str, str]", at(spec, "podSelector", "matchLabels")).items()
    for deployment in of_kind("Deployment").values():
        labels = cast("dict[str, str]", at(deployment, "spec", "template", "metadata", "labels"))
        assert chosen <= labels.items()
    job = of_kind("CronJob")["agents-rotation"]
    labels = at(job, "spec", "jobTemplate", "spec", "template", "metadata", "labels")
    assert chosen <= cast("dict[str, str]", labels).items()


def test_a_server_is_reached_by_its_gateway_alone_and_reaches_nothing() -> None:
    """Without `egress` a server has not even DNS."""
    for name in ("monitoring-wallet", "executor-wallet"):
        spec = cast("Object", of_kind("NetworkPolicy")[name]["spec"])
        assert spec["egress"] == []
        (rule,) = listed(spec, "ingress")
        (source,) = listed(rule, "from")
        labels = cast("dict[str, str]", at(source, "podSelector", "matchLabels"))
        assert labels["app.kubernetes.io/component"] == "gateway"
        assert "namespaceSelector" not in source
        assert rule["ports"] == [{"protocol": "TCP", "port": 8080}]


def test_a_way_out_leads_through_the_proxy_to_listed_ports() -> None:
    """The server reaches its proxy and DNS; the proxy listed ports, and private ones by address."""
    policies = of_kind("NetworkPolicy")
    dns, proxy = listed(policies["treasury-wallet"], "spec", "egress")
    assert at(dns, "ports") == [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]
    assert at(proxy, "ports") == [{"protocol": "TCP", "port": 3128}]
    rules = listed(policies["treasury-egress"], "spec", "egress")[1:]
    found = {
        cast("str", at(rule, "to", 0, "ipBlock", "cidr")): [
            each["port"] for each in listed(rule, "ports")
        ]
        for rule in rules
    }
    assert found == {
        "0.0.0.0/0": [443],
        "2000::/3": [443],
        "10.0.0.5/32": [5432],
        "fd00::5/128": [5432],
    }
    assert "10.0.0.0/8" in cast("list[str]", at(rules[0], "to", 0, "ipBlock", "except"))
    container = listed(pods()["treasury-egress"], "containers")[0]
    assert container["args"] == [
        *("agents", "egress", "--listen", ":3128", "--allow", "api.example.com:443"),
        *("--allow", "10.0.0.5:5432", "--allow", "[fd00::5]:5432"),
    ]


def test_callers_of_the_gateway_carry_a_label() -> None:
    """The gateway takes calls of pods that somebody gave the label, wherever they are."""
    (rule,) = listed(of_kind("NetworkPolicy")["agents-gateway"], "spec", "ingress")
    assert rule["from"] == [
        {"namespaceSelector": {}, "podSelector": {"matchLabels": {CALLER_LABEL: "true"}}}
    ]


def gateway_ways(*asks: Destination) -> list[Object]:
    """Read where a gateway gets to, beside names and its servers."""
    text = kubernetes_files(replace(STACK, asks=asks))["gateway.yaml"]
    documents = cast("list[Object]", list(yaml.safe_load_all(text)))
    for document in documents:
        kubernetes_validate.validate(document, "1.37", strict=True)
    (mine,) = (
        each
        for each in documents
        if (each["kind"], at(each, "metadata", "name")) == ("NetworkPolicy", "agents-gateway")
    )
    return listed(mine, "spec", "egress")[1 + len(STACK.servers) :]


def test_a_gateway_gets_out_only_to_whom_it_asks_for_keys() -> None:
    """Without an identity provider it reaches names and its servers; with one also that port."""
    assert gateway_ways() == []
    port = [{"protocol": "TCP", "port": 8443}]
    assert gateway_ways(Destination("idp.example.com", 8443)) == [
        {"to": [{"ipBlock": {"cidr": cidr}}], "ports": port} for cidr in ("0.0.0.0/0", "::/0")
    ]
    assert gateway_ways(Destination("10.1.2.3", 8443)) == [
        {"to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}], "ports": port}
    ]
    # One of the cluster's own: the port of its pods is not known, its namespace is.
    inside = {"matchLabels": {"kubernetes.io/metadata.name": "login"}}
    for name in ("keycloak.login.svc", "keycloak.login.svc.cluster.local"):
        assert gateway_ways(Destination(name, 443)) == [{"to": [{"namespaceSelector": inside}]}]


@pytest.mark.parametrize("engine", ["kubernetes", "swarm"])
def test_what_is_done_once_is_a_script_that_names_files(engine: str) -> None:
    """It makes the secrets, asks for those of others, and packs everything but secrets."""
    files = {"kubernetes": kubernetes_files, "swarm": swarm_files}[engine](STACK)
    script = files["once/wallet.sh"]
    _ = subprocess.run(["sh", "-n"], input=script, text=True, check=True)
    assert "agents up -d --only executor\n" in script
    assert "'.agents/my wallet/executor.token'" in script
    assert "${WALLETSUITE_PASSPHRASE_FILE:?" in script
    assert "tar --exclude=./executor.token -C '.agents/my wallet' -cf - . |" in script
    for name in files:
        if name.startswith("once/"):
            assert files[name].startswith(f"# Written by `agents render {engine}`")


def test_what_can_have_a_successor_beside_it_is_replaced_without_a_gap() -> None:
    """A server begins before the old one ends; whoever writes a volume ends first."""
    for name, deployment in of_kind("Deployment").items():
        moves = name not in {"executor-wallet", "agents-gateway"}
        strategy = at(deployment, "spec", "strategy")
        budget = of_kind("PodDisruptionBudget")[name]
        if moves:
            assert at(strategy, "rollingUpdate") == {"maxSurge": 1, "maxUnavailable": 0}
            assert at(budget, "spec", "minAvailable") == 1
        else:
            assert strategy == {"type": "Recreate"}
            assert at(budget, "spec", "maxUnavailable") == 1


def test_names_lead_to_the_very_server_that_was_attested() -> None:
    """A server's Service has no address of its own, so that nobody balances behind it."""
    for name, service in of_kind("Service").items():
        is_server = name.endswith("-wallet")
        assert (at(service, "spec", "clusterIP") == "None") == is_server
        assert not {"NodePort", "LoadBalancer"} & {at(service, "spec", "type")}


def test_each_serving_container_is_probed() -> None:
    """Start, readiness and life are asked for; of the gateway by its own path."""
    for name, pod in pods().items():
        container = listed(pod, "containers")[0]
        probes = {"startupProbe", "readinessProbe", "livenessProbe"} & set(container)
        assert len(probes) == (0 if name in {"agents-rotation", "fill-wallet"} else 3)
        for probe in probes:
            asks = "httpGet" if name == "agents-gateway" else "tcpSocket"
            assert asks in cast("Object", container[probe])


def test_the_daily_job_is_on_the_gateways_node_with_its_volume() -> None:
    """The control socket is a file: the job mounts it, and may do nothing else."""
    pod = pods()["agents-rotation"]
    assert listed(pod, "containers")[0]["args"] == [
        *("agents", "rotate", "--due", "--project", "/project")
    ]
    assert listed(pod, "volumes")[1:] == listed(pods()["agents-gateway"], "volumes")[1:]
    term = at(pod, "affinity", "podAffinity", "requiredDuringSchedulingIgnoredDuringExecution", 0)
    labels = cast("dict[str, str]", at(term, "labelSelector", "matchLabels"))
    gateway = of_kind("Deployment")["agents-gateway"]
    assert labels == at(gateway, "spec", "selector", "matchLabels")
    assert at(of_kind("CronJob")["agents-rotation"], "spec", "concurrencyPolicy") == "Forbid"


def test_other_files_are_another_config_map() -> None:
    """The gateway begins anew when a role file changes, as the map has another name."""
    (name,) = of_kind("ConfigMap")
    assert name == f"agents-gateway-{revision(FILES)}"
    assert revision(FILES) != revision({**FILES, "agents.yaml": "log_level: debug\n"})
    assert revision({"a": "b", "c": ""}) != revision({"a": "", "bc": ""})
    data = cast("dict[str, str]", of_kind("ConfigMap")[name]["data"])
    assert data == {
        "agents.yaml": FILES["agents.yaml"],
        "roles.executor.yaml": FILES["roles/executor.yaml"],
    }


@pytest.mark.parametrize(
    "servers",
    [
        (replace(MONITORING, role="a-b", server="c"), replace(MONITORING, role="a", server="b-c")),
        (replace(MONITORING, role="agents", server="gateway"),),
        (replace(MONITORING, role="treasury", server="egress"), TREASURY),
        (replace(MONITORING, server="wallet-"),),
        (replace(MONITORING, role="a" * 32, server="b" * 32),),
    ],
)
def test_services_whose_names_collide_are_refused(servers: tuple[StackServer, ...]) -> None:
    """What would overwrite another one, or is no name in DNS, is not rendered."""
    stack = replace(STACK, servers=servers)
    with pytest.raises(SettingsError, match="name"):
        _ = kubernetes_files(stack)
    with pytest.raises(SettingsError, match="name"):
        _ = swarm_files(stack)


# Swarm.


def stack_file(stack: Stack = STACK) -> Object:
    """Read the stack file."""
    return cast("Object", yaml.safe_load(swarm_files(stack)["stack.yaml"]))


def test_nothing_is_written_that_a_swarm_ignores() -> None:
    """What `stack deploy` would pass over without a word stands nowhere."""
    for service in cast("dict[str, Object]", stack_file()["services"]).values():
        assert not {"restart", "security_opt", "tmpfs", "container_name", "depends_on"} & set(
            service
        )
        assert not {"mem_limit", "cpus", "build", "profiles"} & set(service)


def test_every_service_of_a_swarm_is_hardened() -> None:
    """Read-only root, no capability, a user by number, limits."""
    services = cast("dict[str, Object]", stack_file()["services"])
    assert len(services) == 5
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["user"] == "10001:10001"
        limits = cast("Object", at(service, "deploy", "resources", "limits"))
        assert set(limits) == {"cpus", "memory", "pids"}
        assert at(service, "deploy", "endpoint_mode") == "dnsrr"
        assert not service.keys() & {"privileged", "devices", "cap_add"}


def test_servers_of_a_swarm_are_each_on_a_network_of_their_own() -> None:
    """Only the gateway, and the role's own proxy, share it; it leads nowhere else."""
    document = stack_file()
    services = cast("dict[str, Object]", document["services"])
    for name in ("monitoring-wallet", "treasury-wallet", "executor-wallet"):
        assert services[name]["networks"] == [name]
        assert at(document, "networks", name, "internal") is True
        assert "ports" not in services[name]
    assert services["treasury-egress"]["networks"] == ["treasury-wallet", "outside"]
    assert at(services["agents-gateway"], "networks", 0) == "edge"
    assert at(services["treasury-wallet"], "environment", "HTTPS_PROXY") == (
        "http://treasury-egress:3128"
    )


def test_secrets_of_a_swarm_are_external_and_of_one_generation() -> None:
    """Each variable's secret has its generation in its name, and is a file of the user alone."""
    document = stack_file()
    assert document["secrets"] == {
        name: {"external": True, "name": name}
        for name in (
            "treasury-wallet-g3-API_KEY",
            "executor-wallet-g1-MPC_AGENT_TOKEN",
            "executor-wallet-g1-WALLETSUITE_PASSPHRASE",
        )
    }
    (secret,) = listed(document, "services", "treasury-wallet", "secrets")
    assert secret == {
        "source": "treasury-wallet-g3-API_KEY",
        "target": "/run/secrets/API_KEY",
        "uid": "10001",
        "gid": "10001",
        "mode": 0o440,
    }
    with pytest.raises(SettingsError, match="64 letters"):
        _ = swarm_files(replace(STACK, servers=(replace(TREASURY, secrets=("A" * 60,)),)))


def test_a_swarm_is_closed_and_encrypted_unless_it_is_told_otherwise() -> None:
    """No port of a node leads to the gateway, and what goes between nodes is encrypted."""
    document = stack_file()
    for network in cast("dict[str, Object]", document["networks"]).values():
        assert network["driver_opts"] == {"encrypted": ""}
    assert not any(
        "ports" in each for each in cast("dict[str, Object]", document["services"]).values()
    )
    text = swarm_files(STACK, publish=9000, is_encrypted=False)["stack.yaml"]
    opened = cast("Object", yaml.safe_load(text))
    for network in cast("dict[str, Object]", opened["networks"]).values():
        assert "driver_opts" not in network
    assert at(opened, "services", "agents-gateway", "ports") == [
        {"target": 8700, "published": 9000, "protocol": "tcp", "mode": "host"}
    ]


def test_what_writes_a_volume_ends_before_its_successor_begins() -> None:
    """In a swarm, too, and it stays where its volume is."""
    services = cast("dict[str, Object]", stack_file()["services"])
    orders = {name: at(each, "deploy", "update_config", "order") for name, each in services.items()}
    assert orders == {
        "agents-gateway": "stop-first",
        "monitoring-wallet": "start-first",
        "treasury-wallet": "start-first",
        "treasury-egress": "start-first",
        "executor-wallet": "stop-first",
    }
    assert at(services["executor-wallet"], "deploy", "placement", "constraints") == [
        "node.labels.agents.kept-wallet == true"
    ]
    assert at(services["monitoring-wallet"], "deploy", "placement") is None


def test_a_swarms_gateway_reads_the_files_that_are_written_beside_the_stack() -> None:
    """Each file is a config whose name tells what is in it."""
    files = swarm_files(STACK)
    others = files.keys() - {"stack.yaml", "once/wallet.sh"}
    assert others == {f"project/{each}" for each in FILES}
    configs = cast("dict[str, Object]", stack_file()["configs"])
    for config in configs.values():
        assert files[cast("str", config["file"]).removeprefix("./")]
        assert revision(FILES) in cast("str", config["name"])
        assert re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", cast("str", config["name"]))
    places = [
        each["target"] for each in listed(stack_file(), "services", "agents-gateway", "configs")
    ]
    assert places == ["/project/agents.yaml", "/project/roles/executor.yaml"]


def test_rendering_twice_gives_the_same_text() -> None:
    """What is committed can be compared with what is rendered."""
    assert kubernetes_files(STACK) == kubernetes_files(STACK)
    assert swarm_files(STACK) == swarm_files(STACK)
