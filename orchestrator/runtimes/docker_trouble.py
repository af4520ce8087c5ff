"""Why the engine for containers cannot be asked or refuses, in words, and what to do about it."""

import errno
from typing import cast

from orchestrator.errors import ContainerEngineError


def unreachable(place: str, error: BaseException) -> ContainerEngineError:
    """Say why the engine at a socket cannot be asked, and what to do about it."""
    match cause_of(error):
        case errno.ENOENT:
            return ContainerEngineError(
                f"there is no container engine: {place} does not exist",
                hint="Install and start Docker, or name its socket in agents.yaml under "
                "`docker: socket:`.",
            )
        case errno.ECONNREFUSED:
            return ContainerEngineError(
                f"the container engine does not run: nobody listens on {place}",
                hint="Start Docker; containers come back by themselves.",
            )
        case errno.EACCES | errno.EPERM:
            return ContainerEngineError(
                f"this user may not use the container engine: {place}",
                hint="Start Bandmaster as root, or as a member of the socket's group, who is "
                "as good as root.",
            )
        case _:
            return ContainerEngineError(
                "the container engine does not answer",
                hint="Look into its log; containers come back by themselves.",
            )


def cause_of(error: BaseException) -> int | None:
    """Find the number of the system's error among what led to this one."""
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            return None
        if isinstance(seen, OSError) and seen.errno is not None:
            return seen.errno
        words = cast("tuple[object, ...]", seen.args)
        inner = next((each for each in words if isinstance(each, BaseException)), None)
        reason: object = getattr(seen, "reason", None)
        if isinstance(reason, BaseException):
            inner = reason
        seen = inner or seen.__cause__ or seen.__context__
    return None


def short(text: str) -> str:
    """Write what the engine said on one line."""
    line = " ".join(text.split())
    return "".join(letter if letter.isprintable() else " " for letter in line[:300])


def cure_of(said: str) -> str:
    """Tell what to do about some refusals."""
    text = said.lower()
    if "no space left" in text:
        return "The disk of the engine is full: free some space on it."
    if "is already in use" in text or "already exists" in text:
        return "Another container or network has this name. Nothing of it was touched."
    if "unable to find user" in text or "no matching entries in passwd" in text:
        return "Name a user of the image under `container: user:` of the server."
    if "executable file not found" in text or "no such file" in text:
        return "Correct `container: command:` of the server, or take an image that has it."
    return "See the engine's log."
