"""Checks the directories of this machine that containers write.

Whoever can write a directory can put a link in it, and the engine follows links: a directory that
is mounted further inside would be any of this machine's. And what Bandmaster keeps decides who may
do what, so no container writes there, by whatever name the place is called.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.config.places import Places, unknown_placeholders
from orchestrator.config.problems import quoted
from orchestrator.config.yamlfile import Document, Loc
from orchestrator.errors import FileProblem
from orchestrator.model.container import Container
from orchestrator.model.server import Bootstrap, Server

# What Bandmaster itself keeps in the state; a container that could write there could be anybody.
_OURS: Final = frozenset(
    {"audit", "homes", "keys", "logs", "pins", "run", "sessions", "sums", "tmp", "tokens", "vault"}
)
_OWN: Final = (
    "is where Bandmaster keeps its own",
    "name another directory, such as {state}/wallet",
)


def check_keep(
    container: Container, bootstrap: Bootstrap | None, document: Document
) -> Iterator[FileProblem]:
    """Check what one server's containers keep.

    Args:
        container: How they are started.
        bootstrap: What is done once, in one with directories of its own.
        document: Where that is said.
    """
    listed = [(("container", "keep", outside), outside) for outside in container.keep]
    every, taken = dict(container.keep), dict[str, str]()
    if bootstrap is not None:
        listed += [(("bootstrap", "keep", outside), outside) for outside in bootstrap.keep]
        for outside in container.keep.keys() & bootstrap.keep.keys():
            yield document.problem(
                ("bootstrap", "keep", outside), "is kept for the containers of roles, too",
                "name one of its own", at_key=True,
            )  # fmt: skip
        every |= bootstrap.keep
    for loc, outside in listed:
        inside = every[outside]
        if problem := _foreign(outside):
            yield document.problem(loc, *problem, at_key=True)
        if taken.setdefault(inside, outside) != outside:
            yield document.problem(
                loc, f"{quoted(taken[inside])} has this place inside too", "name another one"
            )
        # A link that the container makes in the outer one could lead anywhere.
        if any(outside.startswith(f"{each}/") for each in every):
            yield document.problem(
                loc, "is inside another one, which the container writes itself",
                "keep the outer one only, or two beside each other", at_key=True,
            )  # fmt: skip


def _foreign(outside: str) -> tuple[str, str] | None:
    """Tell why a container must not write a directory of this machine."""
    root, _, rest = outside.partition("/")
    parts = rest.split("/")
    if root not in {"{state}", "{project}"} or not rest or {"", ".", ".."} & set(parts):
        return "has to be a directory inside the state or the project", "begin it with {state}/"
    if unknown_placeholders(rest):
        return "has a placeholder in its middle", "write the name out"
    if root == "{state}" and _is_ours(parts[0]):
        return _OWN
    if root == "{project}" and (parts[0] == "roles" or parts[0].startswith(".")):
        return "is where files are that decide what runs", "name another directory"
    return None


def _is_ours(first: str) -> bool:
    return first in _OURS or "." in first


@dataclass(frozen=True, slots=True)
class _Kept:
    """A directory that containers of a server write, or only that of its bootstrap."""

    server: str
    document: Document
    loc: Loc
    place: Path
    is_private: bool


def check_places(
    servers: Mapping[str, tuple[Server, Document]], root: Path, state: Path, run: Path
) -> Iterator[FileProblem]:
    """Check what the containers of all servers keep, where it is on this machine.

    Args:
        servers: Every server, with where it says what it says.
        root: The project's directory.
        state: The directory of its state.
        run: The directory of its sockets.
    """
    kept = [each for pair in servers.values() for each in _kept(*pair, Places(root, state))]
    state, closed = _real(state), (_real(run), _real(root / "roles"))
    for one in kept:
        if problem := _reserved(one.place, state, closed):
            yield one.document.problem(one.loc, *problem, at_key=True)
        for other in kept:
            if other.server == one.server:
                continue
            if other.place in one.place.parents:
                yield one.document.problem(
                    one.loc, f"is inside a directory that the server {other.server} writes",
                    "name two directories beside each other", at_key=True,
                )  # fmt: skip
            elif other.place == one.place and one.is_private:
                yield one.document.problem(
                    one.loc, f"is kept for containers of the server {other.server}, too",
                    "name one of its own", at_key=True,
                )  # fmt: skip


def _kept(server: Server, document: Document, places: Places) -> Iterator[_Kept]:
    own = {} if server.bootstrap is None else server.bootstrap.keep
    shared = {} if server.container is None else server.container.keep
    for key, keep in (("container", shared), ("bootstrap", own)):
        for outside in keep:
            if _foreign(outside) is None:  # else it is told already
                place = _real(Path(places.fill(outside)))
                yield _Kept(
                    server.server, document, (key, "keep", outside), place, key == "bootstrap"
                )


def _reserved(place: Path, state: Path, closed: Sequence[Path]) -> tuple[str, str] | None:
    """Tell why nobody but Bandmaster may write a directory."""
    if any(own.is_relative_to(place) for own in (state, *closed)):
        return _OWN
    if any(place.is_relative_to(own) for own in closed):
        return _OWN
    if place.is_relative_to(state) and _is_ours(place.relative_to(state).parts[0]):
        return _OWN
    return None


def _real(path: Path) -> Path:
    """Follow links, as the engine will; what is not there yet stays as it is written."""
    return Path(os.path.realpath(path))
