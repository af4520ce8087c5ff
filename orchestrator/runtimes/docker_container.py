"""How a workload's container is made, as the engine's interface wants it told; pure.

Nothing that is secret is in it: variables come over a FIFO at each launch. So whoever may ask the
engine learns the image, the arguments and the limits, and its files hold no more.

Source: Docker Engine API v1.41, POST /containers/create.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.errors import ContainerError
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.container import CHANNEL, HTTP_SEAT, LOG, PORT, SOCKET, ContainerSpec
from orchestrator.model.names import WorkloadName
from orchestrator.model.workload import WorkloadSpec

PROJECT: Final = "bandmaster.project"
WORKLOAD: Final = "bandmaster.workload"
ROLE: Final = "bandmaster.role"
VERSION: Final = "bandmaster.version"
# What `env` ends with; without it the launch was cut off.
WHOLE: Final = "BANDMASTER_LAUNCH=whole"
SHELL: Final = "/bin/sh"
_SANDBOX: Final = "rw,noexec,nosuid,nodev"
# Room for a socket and a lock or two. Only this one container has it.
_SEAT: Final = "size=64k,nr_inodes=32,mode=0777,noexec,nosuid,nodev"
_BEGIN: Final = f"""\
exec 2>>{LOG}
umask %s
set -a
. {CHANNEL}/env
set +a
[ "${{BANDMASTER_LAUNCH-}}" = whole ] || {{
    echo "container: the launch was cut off" >&2
    exit 78
}}
unset BANDMASTER_LAUNCH
"""
_STDIO: Final = f'exec "$0" "$@" <>{CHANNEL}/in 1<>{CHANNEL}/out\n'
_HTTP: Final = 'exec "$0" "$@" </dev/null 1>&2\n'


@dataclass(frozen=True, slots=True)
class HostPlaces:
    """The places of this machine that one container sees.

    Attributes:
        channel: Directory of its FIFOs.
        log: Its role's log.
        serves_socket: Whether it has a socket.
        http: Directory of that; empty where the engine makes one in memory.
    """

    channel: str
    log: str
    serves_socket: bool = False
    http: str = ""


def container_name(project: str, workload: str) -> str:
    """Name a workload's container; two projects never share a name.

    Args:
        project: The project's run directory.
        workload: The workload, or another part of the project.
    """
    return f"bm-{hashlib.sha256(project.encode()).hexdigest()[:6]}-{workload}"


def fill_inside(text: str) -> str:
    """Put into an argument or a variable where a server inside listens."""
    return text.replace("{socket}", SOCKET).replace("{port}", str(PORT))


def environment(variables: Mapping[str, str]) -> bytes:
    """Write variables as a shell reads them.

    Raises:
        ContainerError: A value has no place in an environment; it is not repeated.
    """
    lines: list[str] = []
    for name, value in variables.items():
        if "\0" in value:
            raise ContainerError(f"a NUL character in the server's variable {name}")
        quoted = value.replace("'", "'\\''")
        lines.append(f"{name}='{quoted}'\n")
    return "".join([*lines, f"{WHOLE}\n"]).encode(errors="surrogateescape")


def labels(project: str, workload: WorkloadName, role: str) -> dict[str, str]:
    """Tell how a container or network is known to be ours."""
    return {PROJECT: project, WORKLOAD: workload, ROLE: role}


def configuration(  # noqa: PLR0913 - each is a thing of its own
    project: str,
    spec: WorkloadSpec,
    container: ContainerSpec,
    places: HostPlaces,
    *,
    image: str,
    program: Sequence[str],
    network: str,
    volumes: Sequence[str] = (),
    umask: str = "077",
) -> JsonObject:
    """Describe a workload's container.

    Args:
        project: The project's run directory.
        spec: The workload.
        container: Its container.
        places: What it sees of this machine.
        image: The id of its image.
        program: Program and arguments.
        network: Its network; `none` for nothing but the loopback.
        volumes: Directories for which the image wants a place to write.
        umask: Its umask.
    """
    mounts: list[Json] = [
        _bind(places.channel, CHANNEL, read_only=True),
        _bind(places.log, LOG, read_only=False),
    ]
    if places.serves_socket:
        mounts.append(
            _bind(places.http, HTTP_SEAT, read_only=False) if places.http else _in_memory()
        )
    mounts += [
        _bind(outside, inside, read_only=False)
        for outside, inside in sorted(container.keep.items())
    ]
    script = _BEGIN % umask + (_STDIO if spec.http is None else _HTTP)
    in_memory = ["/tmp", *(each for each in volumes if each not in container.keep.values())]  # noqa: S108 - inside
    made: JsonObject = {
        "Image": image,
        "User": container.user,
        "Entrypoint": [SHELL, "-c", script],
        "Cmd": [fill_inside(word) for word in program],
        "Labels": {**labels(project, spec.name, spec.role)},
        "Healthcheck": {"Test": ["NONE"]},
        "StopSignal": "SIGTERM",
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "OpenStdin": False,
        "Tty": False,
        "HostConfig": {
            "Mounts": mounts,
            "NetworkMode": network,
            "ReadonlyRootfs": True,
            "Tmpfs": dict.fromkeys(in_memory, f"{_SANDBOX},size={container.tmp},mode=1777"),
            "RestartPolicy": {"Name": "no"},
            "LogConfig": {"Type": "local", "Config": {"max-size": "1m", "max-file": "3"}},
            **hardening(container.memory, container.cpus, container.pids, container.file),
        },
    }
    return sealed(made)


def hardening(memory: int, cpus: float, pids: int, file: int) -> JsonObject:
    """Tell what no container may do and how much it may take."""
    return {
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "Memory": memory,
        # The same: no swap beside it.
        "MemorySwap": memory,
        "NanoCpus": round(cpus * 1e9),
        "PidsLimit": pids,
        "IpcMode": "private",
        "Privileged": False,
        "Ulimits": [
            {"Name": "core", "Soft": 0, "Hard": 0},
            {"Name": "fsize", "Soft": file, "Hard": file},
            {"Name": "nofile", "Soft": 1024, "Hard": 4096},
        ],
    }


def sealed(made: JsonObject) -> JsonObject:
    """Add a label that tells this description from every other one."""
    text = json.dumps(made, sort_keys=True)
    found = made["Labels"]
    if not isinstance(found, dict):
        raise TypeError("labels are a mapping")
    version = hashlib.sha256(text.encode()).hexdigest()[:16]
    return {**made, "Labels": {**found, VERSION: version}}


def version_of(made: JsonObject) -> str:
    """Tell the label that a description carries."""
    found = made["Labels"]
    return str(found[VERSION]) if isinstance(found, dict) else ""


def _in_memory() -> JsonObject:
    """Describe a place for a socket: a volume without a name, which goes with the container."""
    options = {"type": "tmpfs", "device": "tmpfs", "o": _SEAT}
    return {
        "Type": "volume",
        "Target": HTTP_SEAT,
        "VolumeOptions": {
            "NoCopy": True,
            "DriverConfig": {"Name": "local", "Options": {**options}},
        },
    }


def _bind(outside: str, inside: str, *, read_only: bool) -> JsonObject:
    return {
        "Type": "bind",
        "Source": outside,
        "Target": inside,
        "ReadOnly": read_only,
        "BindOptions": {"Propagation": "rprivate"},
    }
