"""The files that a new project starts with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from orchestrator.config.schema import schemas

# A wheel carries them inside the package; in a checkout they stand where a project has them.
_PACKAGE: Final = Path(__file__).parents[1]
_INSTALLED: Final = _PACKAGE / "stock"
_CHECKOUT: Final = _PACKAGE.parent

_KEEP_OUT: Final = b"/.env\n/.agents/\n"


def stock_files() -> Mapping[str, bytes]:
    """Return the files of a new project.

    Returns:
        Contents by path inside the project, in the order of the paths: roles, servers,
        `.env.example`, `.gitignore`, and the schemas that editors read.
    """
    base = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
    paths = [*base.glob("roles/*.yaml"), *base.glob("roles/servers/*.yaml")]
    files = {str(path.relative_to(base)): path.read_bytes() for path in paths}
    files[".env.example"] = (base / ".env.example").read_bytes()
    files[".gitignore"] = _KEEP_OUT
    files |= schema_files()
    return dict(sorted(files.items()))


def schema_files() -> Mapping[str, bytes]:
    """Return the schemas as files, by path inside a project."""
    return {
        f"docs/schemas/{name}": f"{json.dumps(schema, indent=2)}\n".encode()
        for name, schema in schemas().items()
    }
