"""Programs that fetch or assemble what they run: no server is started through them with secrets.

Whoever publishes a name that `npx` looks up would receive the whole environment. A shell or a
container client hides from us what runs and in which environment.
"""

from collections.abc import Sequence
from pathlib import PurePath
from typing import Final

_FETCH: Final = frozenset({"npx", "pnpx", "bunx", "uvx"})
_FETCH_WITH_VERB: Final = {
    "npm": {"exec", "x"},
    "pnpm": {"dlx", "exec"},
    "yarn": {"dlx"},
    "bun": {"x"},
    "pipx": {"run"},
    "uv": {"tool", "run", "x"},
    "deno": {"run"},
}
_HIDE: Final = frozenset({"env", "sudo", "doas", "xargs", "nohup", "setsid", "script", "ssh"})
_SHELLS: Final = frozenset({"sh", "bash", "dash", "zsh", "ksh", "fish", "busybox"})
_CONTAINERS: Final = frozenset({"docker", "podman", "nerdctl"})


def refused_launcher(command: Sequence[str], *, has_secrets: bool) -> tuple[str, str] | None:
    """Tell why a command must not start a server.

    Args:
        command: Program and arguments.
        has_secrets: Whether secrets would stand in its environment.

    Returns:
        What is wrong and what would be right, or None when it may.
    """
    program = PurePath(command[0]).name
    verb = next((each for each in command[1:] if not each.startswith("-")), "")
    if program in _FETCH or verb in _FETCH_WITH_VERB.get(program, ()):
        return (
            f"{program} fetches code when it starts, and would run it with this environment",
            "install the package at a fixed version, and name its program here",
        )
    if not has_secrets:
        return None
    if program in _SHELLS and "-c" in command[1:]:
        return (
            f"{program} -c hides what is started with these secrets",
            "name the program itself, or a script of your own",
        )
    if program in _HIDE:
        return f"{program} hides what is started with these secrets", "name the program itself"
    if program in _CONTAINERS:
        return (
            f"{program} would hand these secrets to another process than the one that it starts",
            "install the server on this machine, and name its program here",
        )
    return None
