"""Fills `{python}`, `{project}`, `{state}` and `{role}` into texts of server and role files."""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")

OF_AN_INSTANCE = ("python", "project", "state", "role")
OF_A_BOOTSTRAP = ("python", "project", "state")
# At the beginning of a path or of an argument.
OF_SETTINGS = ("python", "project", "state")


@dataclass(frozen=True, slots=True)
class Places:
    """What the placeholders stand for.

    Attributes:
        project: The project's directory.
        state: The directory of its state.
        role: The role; empty in a bootstrap, which serves no role.
    """

    project: Path
    state: Path
    role: str = ""

    def fill(self, text: str) -> str:
        """Replace every placeholder; anything else in braces stays as it is."""
        values = {
            "python": sys.executable,
            "project": str(self.project),
            "state": str(self.state),
            "role": self.role,
        }
        return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), text)


def unknown_placeholders(text: str, known: tuple[str, ...] = OF_AN_INSTANCE) -> tuple[str, ...]:
    """Tell the words in braces that are no placeholder here."""
    return tuple(match[1] for match in _PLACEHOLDER.finditer(text) if match[1] not in known)


@dataclass(frozen=True, slots=True)
class InsidePlaces:
    """What the placeholders stand for inside a container.

    Attributes:
        keep: Directories that it keeps, as the file writes them, each with its place inside.
        role: The role; empty in a bootstrap.
    """

    keep: Mapping[str, str]
    role: str = ""

    def fill(self, text: str) -> str:
        """Replace every placeholder that means something inside; the others stay as they are."""
        # The longest first: one kept directory may be inside another.
        for outside in sorted(self.keep, key=len, reverse=True):
            name = re.compile(re.escape(outside.rstrip("/")) + r"(?![A-Za-z0-9._-])")
            text = name.sub(lambda _, outside=outside: self.keep[outside], text)
        values = {"python": "python3", "role": self.role}
        return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), text)
