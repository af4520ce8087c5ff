"""What a secret reference is, as data; values are never here."""

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from typing_extensions import override

from orchestrator.errors import SecretRefError

Scheme: TypeAlias = Literal["env", "dotenv", "file"]
SCHEMES: tuple[Scheme, ...] = ("env", "dotenv", "file")
FORMS = "env:NAME, dotenv:/absolute/.env#NAME or file:/absolute/path"

_ENV = re.compile(r"env:(?P<name>[A-Za-z_][A-Za-z0-9_]{0,127})")
_DOTENV = re.compile(
    r"dotenv:(?://)?(?P<path>(?:/|\{state\}/|\{project\}/).*)#(?P<name>[A-Za-z_]\w*)"
)
_FILE = re.compile(r"file:(?://)?(?P<path>(?:/|\{state\}/|\{project\}/).+)")


@dataclass(frozen=True, slots=True)
class SecretRef:
    """Where a secret is kept.

    Attributes:
        scheme: The store.
        path: The file, for `dotenv` and `file`; may begin with `{state}/` or `{project}/`.
        name: The variable, for `env` and `dotenv`.
    """

    scheme: Scheme
    path: str
    name: str

    @override
    def __str__(self) -> str:
        match self.scheme:
            case "env":
                return f"env:{self.name}"
            case "dotenv":
                return f"dotenv:{self.path}#{self.name}"
            case "file":
                return f"file:{self.path}"

    @classmethod
    def parse(cls, text: str) -> "SecretRef":
        """Read a reference.

        Raises:
            SecretRefError: The text is none; its own words are never repeated, it may be a secret.
        """
        if match := _ENV.fullmatch(text):
            return cls("env", "", match["name"])
        if match := _DOTENV.fullmatch(text):
            return cls("dotenv", match["path"], match["name"])
        if match := _FILE.fullmatch(text):
            return cls("file", match["path"], "")
        scheme = text.partition(":")[0]
        if scheme in SCHEMES and ":" in text:
            raise SecretRefError(f"a malformed {scheme}: reference", hint=f"Write {FORMS}.")
        raise SecretRefError(
            "not a secret reference; a secret itself never stands in a file",
            hint=f"Write {FORMS}.",
        )
