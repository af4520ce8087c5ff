"""Scripts that hand a cluster what `agents up` makes once for a server, and no cluster would make.

A person runs them before the first deployment: they have it made on this machine, make the secrets
of it, and put the rest of what the server keeps into its volume. They name files only; no secret's
value is in a script, or among the words of a command.
"""

from collections.abc import Iterable
from shlex import quote
from typing import Final

from orchestrator.render.kubernetes_parts import Container, claim, claimed, own, pod_of, top
from orchestrator.render.stack import PROXY_BYTES, USER, Once, Stack, StackServer, swarm_secret
from orchestrator.render.yamltext import to_yaml

# A directory of its own: `kubectl apply -f` takes what is beside the other files, and no more.
FOLDER: Final = "once"
_KEPT: Final = "/kept"
_FILL_SECONDS: Final = 600
# What `agents status` ends with where nothing runs.
_NOTHING_RUNS: Final = 10
# Runs in Bandmaster's own image, which has Python and no tar.
_UNPACK: Final = (
    "import sys, tarfile; "
    "tarfile.open(fileobj=sys.stdin.buffer, mode='r|').extractall(sys.argv[1], filter='data')"
)
# A new volume belongs to root.
_GIVE: Final = (
    f"; import os; os.chown(sys.argv[1], {USER}, {USER}); "
    f"[os.chown(os.path.join(at, name), {USER}, {USER}) "
    "for at, *names in os.walk(sys.argv[1]) for name in sum(names, [])]"
)


def kubernetes_once(stack: Stack) -> dict[str, str]:
    """Write a script and the pod that it needs for each server, by path."""
    files: dict[str, str] = {}
    for once in stack.once:
        pod = f"fill-{once.server}"
        commands = [
            _line('kubectl "$@" create secret generic', quote(server.secret_set),
                  *(f"--from-file={name}={file}" for name, file in _given(server, once)))
            for server in _servers(stack, once)
        ]  # fmt: skip
        commands += [
            f'kubectl "$@" apply -f "$here/{once.server}.yaml"',
            f'kubectl "$@" wait --for=condition=Ready --timeout=300s pod/{pod}',
            *(
                f'{_packed(once, place)} | kubectl "$@" exec -i {pod} -- '
                f"python3 -c {_double(_UNPACK)} {_KEPT}/{volume}"
                for volume, place in sorted(once.keep.items())
            ),
            f'kubectl "$@" delete pod {pod}',
        ]
        usage = f"sh {FOLDER}/{once.server}.sh PROJECT [OPTION OF kubectl]...     such as -n agents"
        files[f"{FOLDER}/{once.server}.sh"] = _script("kubernetes", once, usage, commands)
        files[f"{FOLDER}/{once.server}.yaml"] = to_yaml(
            [*(claim(stack, f"kept-{volume}") for volume in sorted(once.keep)),
             _filler(stack, once, pod)],
            f"Written by `agents render kubernetes`; {once.server}.sh beside it applies it.",
        )  # fmt: skip
    return files


def swarm_once(stack: Stack) -> dict[str, str]:
    """Write a script for each server, by path."""
    files: dict[str, str] = {}
    for once in stack.once:
        commands = [
            _line("docker secret create", quote(swarm_secret(server, name)), file)
            for server in _servers(stack, once)
            for name, file in _given(server, once)
        ]
        words = (
            "docker run --rm -i --network none --read-only --user 0:0 --cap-drop ALL "
            "--cap-add CHOWN --cap-add DAC_OVERRIDE --security-opt no-new-privileges"
        )
        commands += [
            f'{_packed(once, place)} | {words} -v "$1_kept-{volume}:{_KEPT}" --entrypoint python3 '
            f"{quote(stack.image)} -c {_double(_UNPACK + _GIVE)} {_KEPT}"
            for volume, place in sorted(once.keep.items())
        ]
        labels = " and ".join(f"agents.kept-{volume}" for volume in sorted(once.keep))
        usage = f"sh {FOLDER}/{once.server}.sh PROJECT STACK     on a manager labelled {labels}"
        files[f"{FOLDER}/{once.server}.sh"] = _script("swarm", once, usage, commands)
    return files


def _script(engine: str, once: Once, usage: str, commands: Iterable[str]) -> str:
    missing = " || ".join(f"[ ! -e {quote(mark)} ]" for mark in once.marks)
    return "\n".join((
        f"# Written by `agents render {engine}`; do not edit, changes are lost. Holds no secret.",
        f"# What {once.server} needs done once is done here, by `agents up`, and handed on,",
        "# before all else. A secret that is there already ends this.",
        f"# usage: {usage}",
        "set -eu",
        'here="$(cd "$(dirname "$0")" && pwd)"',
        f"""[ $# -gt 1 ] || {{ echo {quote(f"usage: {usage}")} >&2; exit 2; }}""",
        'cd "$1"',
        "shift",
        "status=0",
        "agents status >/dev/null 2>&1 || status=$?",
        f'if [ "$status" != {_NOTHING_RUNS} ]; then',
        '  echo "the project runs here, and what it keeps would change meanwhile: agents down" >&2',
        "  exit 1",
        "fi",
        f"if {missing}; then",
        f"  agents up -d --only {quote(once.role)}",
        "  agents down",
        "fi",
        *commands,
        "",
    ))  # fmt: skip


def _servers(stack: Stack, once: Once) -> list[StackServer]:
    return [server for server in stack.servers if server.name in once.secrets]


def _given(server: StackServer, once: Once) -> list[tuple[str, str]]:
    """Tell the file of each of a server's secrets; those that are not made there are asked for."""
    made = once.secrets[server.name]
    return [
        (name, quote(made[name]) if name in made
         else f'"${{{name}_FILE:?has to name the file that holds {name} of {server.role}}}"')
        for name in server.secrets
    ]  # fmt: skip


def _packed(once: Once, place: str) -> str:
    """Write the command that packs a directory, without the secrets in it."""
    left_out = [
        f"--exclude=./{mark.removeprefix(f'{place}/')}"
        for mark in once.marks
        if mark.startswith(f"{place}/")
    ]
    return _line("tar", *map(quote, left_out), "-C", quote(place), "-cf - .")


def _filler(stack: Stack, once: Once, name: str) -> dict[str, object]:
    """Write a pod that has the volumes for a while, and does nothing."""
    mounts = {f"kept-{volume}": f"{_KEPT}/{volume}" for volume in sorted(once.keep)}
    wait = ["python3", "-c", f"import time; time.sleep({_FILL_SECONDS})"]
    container = Container("fill", stack.image, wait, mounts=mounts, memory=PROXY_BYTES, cpus=0.25)
    spec = {
        **pod_of(container, [claimed(each) for each in mounts], stop_seconds=1),
        "restartPolicy": "Never",
        "activeDeadlineSeconds": _FILL_SECONDS,
    }
    return {**top("v1", "Pod", name, own(stack)), "spec": spec}


def _line(*words: str) -> str:
    return " ".join(words)


def _double(text: str) -> str:
    """Quote a text in which nothing is filled in."""
    return f'"{text}"'
