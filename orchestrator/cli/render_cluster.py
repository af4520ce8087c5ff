"""`agents render kubernetes` and `swarm`: files for engines of several machines."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from orchestrator.cli.places import find_root
from orchestrator.cli.render_compose import IMAGE, write
from orchestrator.config.project import load_project
from orchestrator.control.stack import stack_of
from orchestrator.errors import SettingsError
from orchestrator.model.names import RoleName
from orchestrator.render.stack import Stack


def render(  # noqa: PLR0913  one for each option
    engine: str,
    files_of: Callable[[Stack], Mapping[str, str]],
    project: Path | None,
    only: Sequence[str],
    *,
    out: Path | None,
    image: str | None,
    name: str | None,
    generations: Sequence[str],
    is_check: bool,
    as_json: bool,
) -> None:
    """Write the files of one engine, or only compare them; ends with 2 when they differ.

    Args:
        engine: Which one; also the directory in the project where they go by default.
        files_of: Makes the files, by path.
        project: The project.
        only: The roles; all without any.
        out: Where the files go.
        image: Bandmaster's own image; None for that of `agents.yaml`.
        name: What the stack is called; None for the project's directory.
        generations: Which generation of secrets a role has, as ROLE=NUMBER.
        is_check: Whether files are only compared.
        as_json: Whether a program reads.

    Raises:
        RoleFileError: Files have mistakes; nothing was written.
        SettingsError: A role cannot run so, or a file cannot be written.
    """
    loaded = load_project(find_root(project))
    stack = stack_of(
        loaded,
        only,
        name=name or loaded.root.name.lower(),
        image=image or loaded.settings.docker.image or IMAGE,
        generations=dict(map(_generation, generations)),
    )
    if strangers := sorted({role for role, _ in map(_generation, generations)} - {*stack.roles}):
        raise SettingsError(
            f"--generation names {strangers[0]}, which is none of the roles that are rendered"
        )
    files = files_of(stack)
    place = out or loaded.root / engine
    _drop(place, engine, files, is_check=is_check)
    write(files, place, is_check=is_check, as_json=as_json)


def _drop(place: Path, engine: str, files: Mapping[str, str], *, is_check: bool) -> None:
    """Remove what was written for roles that are gone: engines take a directory as a whole.

    Raises:
        SettingsError: There is such a file, and nothing is to be changed; or it stays.
    """
    mark = f"# Written by `agents render {engine}`".encode()
    for path in sorted(place.glob("*.yaml")):
        if path.name in files:
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


def _generation(text: str) -> tuple[RoleName, int]:
    role, _, number = text.partition("=")
    if not number.isascii() or not number.isdecimal() or int(number) < 1:
        raise SettingsError(
            f"--generation {text} is no role with a number", hint="Example: --generation executor=2"
        )
    return RoleName(role), int(number)
