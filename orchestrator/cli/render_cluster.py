"""`agents render kubernetes` and `swarm`: files for engines of several machines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cli.output import note
from orchestrator.cli.places import find_root
from orchestrator.cli.render_compose import IMAGE, write
from orchestrator.config.project import load_project
from orchestrator.control.stack import stack_of
from orchestrator.errors import SettingsError
from orchestrator.render.kubernetes import kubernetes_files
from orchestrator.render.once import FOLDER
from orchestrator.render.stack import Stack
from orchestrator.render.swarm import swarm_files


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be rendered.

    Attributes:
        project: The project.
        only: The roles; all without any.
        image: Bandmaster's own image; None for that of `agents.yaml`.
        name: What the stack is called; None for the project's directory.
        generations: Which generation of secrets a role has, as ROLE=NUMBER.
        out: Where the files go; None for a directory of the project.
        is_check: Whether files are only compared.
        as_json: Whether a program reads.
    """

    project: Path | None
    only: Sequence[str] | None
    image: str | None
    name: str | None
    generations: Sequence[str] | None
    out: Path | None
    is_check: bool
    as_json: bool


def render_kubernetes(wanted: Wanted) -> None:
    """Write the manifests, or only compare them; ends with 2 when they differ.

    Raises:
        RoleFileError: Files have mistakes; nothing was written.
        SettingsError: A role cannot run so, or a file cannot be written.
    """
    root, stack = _load(wanted)
    _finish("kubernetes", kubernetes_files(stack), root, wanted)


def render_swarm(wanted: Wanted, *, publish: int, is_encrypted: bool) -> None:
    """Write the stack file, or only compare it; ends with 2 when it differs.

    Args:
        wanted: What is to be rendered.
        publish: Port of the gateway's node; 0 for none.
        is_encrypted: Whether what goes from node to node is.

    Raises:
        RoleFileError: Files have mistakes; nothing was written.
        SettingsError: A role cannot run so, or a file cannot be written.
    """
    root, stack = _load(wanted)
    _finish("swarm", swarm_files(stack, publish=publish, is_encrypted=is_encrypted), root, wanted)


def _load(wanted: Wanted) -> tuple[Path, Stack]:
    loaded = load_project(find_root(wanted.project))
    generations = dict(map(_generation, wanted.generations or ()))
    stack = stack_of(
        loaded,
        tuple(wanted.only or ()),
        name=wanted.name or loaded.root.name.lower(),
        image=wanted.image or loaded.settings.docker.image or IMAGE,
        generations=generations,
    )
    if strangers := sorted(generations.keys() - {*stack.roles}):
        raise SettingsError(
            f"--generation names {strangers[0]}, which is none of the roles that are rendered"
        )
    return loaded.root, stack


def _finish(engine: str, files: Mapping[str, str], root: Path, wanted: Wanted) -> None:
    place = wanted.out or root / engine
    _drop(place, engine, files, is_check=wanted.is_check)
    write(files, place, is_check=wanted.is_check, as_json=wanted.as_json)
    for path in sorted(place / name for name in files if name.endswith(".sh")):
        note(f"{path.stem} needs something done once, before all else: {path} does it.")


def _drop(place: Path, engine: str, files: Mapping[str, str], *, is_check: bool) -> None:
    """Remove what was written for roles that are gone: engines take a directory as a whole.

    Raises:
        SettingsError: There is such a file, and nothing is to be changed; or it stays.
    """
    mark = f"# Written by `agents render {engine}`".encode()
    for path in sorted([*place.glob("*.yaml"), *place.glob(f"{FOLDER}/*")]):
        if str(path.relative_to(place)) in files:
            continue
        try:
            if not path.read_bytes().startswith(mark):
                continue
            if is_check:
                raise SettingsError(
                    f"{path} is not what the roles say any more",
                    hint="Render again without `--check`, which removes it.",
                )
            path.unlink()
        except OSError as error:
            raise SettingsError(f"{path} cannot be removed: {error.strerror}") from error


def _generation(text: str) -> tuple[str, int]:
    role, _, number = text.partition("=")
    if not number.isascii() or not number.isdecimal() or int(number) < 1:
        raise SettingsError(
            f"--generation {text} is no role with a number", hint="Example: --generation executor=2"
        )
    return role, int(number)
