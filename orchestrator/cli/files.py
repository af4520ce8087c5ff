"""`agents init` and `agents validate`: the files that a user writes."""

import os
from pathlib import Path

from orchestrator.cli.output import say, say_json
from orchestrator.config.stock import stock_files
from orchestrator.errors import SettingsError
from orchestrator.files import write_atomically

READABLE = 0o644


def init(directory: Path, *, as_json: bool = False) -> None:
    """Write the stock files that are not there yet; what is there is never touched."""
    root = directory.absolute()
    written: list[str] = []
    kept: list[str] = []
    for name, content in stock_files().items():
        path = root / name
        if os.path.lexists(path):  # a link that leads nowhere is there, too
            kept.append(name)
            continue
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            write_atomically(path, content, READABLE)
        except OSError as error:
            raise SettingsError(f"{path} cannot be written: {error.strerror}") from error
        written.append(name)
    if as_json:
        say_json({"project": str(root), "written": written, "kept": kept})
        return
    for name in written:
        say(f"wrote  {name}")
    for name in kept:
        say(f"kept   {name}")
    if ".gitignore" in kept:
        say("Keep /.env and /.agents/ out of your repository: add them to .gitignore.")
    say()
    say("Next: agents up")


def validate(project: Path | None, roles_dir: Path | None, *, as_json: bool) -> None:
    """Check every file of a project and say what it would run."""
    from orchestrator.cli.project import check_project
    from orchestrator.config.rotationcheck import rotation_notes

    checked = check_project(project, roles_dir, ())
    roles = [
        {"role": spec.role, "server": spec.server, "bands": spec.bands, "tools": sorted(spec.tools)}
        for spec in checked.desired.roles.values()
    ]
    issuers = checked.project.settings.issuers
    notes = [
        text for role in checked.project.roles.values() for text in rotation_notes(role, issuers)
    ]
    if as_json:
        project_root = str(checked.paths.root)
        say_json({"valid": True, "project": project_root, "roles": roles, "notes": notes})
        return
    for spec in checked.desired.roles.values():
        say(f"{spec.role}: {spec.server}, {', '.join(spec.bands)}, {len(spec.tools)} tools")
    for text in notes:
        say(f"Note: {text}.")
    say("All files are right.")
