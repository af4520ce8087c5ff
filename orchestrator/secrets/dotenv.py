"""Secrets in files of `NAME=value` lines."""

from io import StringIO
from pathlib import Path
from typing import final

from pydantic import SecretStr
from typing_extensions import override

from orchestrator.errors import SecretNotFoundError, SecretStoreUnavailableError
from orchestrator.model.secret import SecretRef
from orchestrator.secrets.base import Secret, SecretStore
from orchestrator.secrets.file import read_secret_file


def read_dotenv(path: Path) -> dict[str, str]:
    """Read all values of a file that nobody else can read; nothing in them is expanded.

    Args:
        path: The file, absolute.

    Raises:
        SecretNotFoundError: There is no such file.
        SecretStoreUnavailableError: It cannot be read, has a line that is no `NAME=value`, or
            others could read or replace it.
    """
    return parse_dotenv(read_secret_file(path), path)


def parse_dotenv(text: str, path: Path) -> dict[str, str]:
    """Read all values of the text of such a file.

    Args:
        text: The text.
        path: Where it comes from, for errors.

    Raises:
        SecretStoreUnavailableError: A line is no `NAME=value`.
    """
    # Most projects have no such file, and the library costs as much as reading the project.
    from dotenv.parser import parse_stream  # noqa: PLC0415

    values: dict[str, str] = {}
    for binding in parse_stream(StringIO(text)):
        if binding.error:
            raise SecretStoreUnavailableError(
                f"{path}: line {binding.original.line} cannot be read",
                hint="Write NAME=value, the value in single quotes if it has spaces or #.",
            )
        if binding.key is not None:
            values[binding.key] = binding.value or ""
    return values


@final
class DotenvStore(SecretStore):
    """`dotenv:PATH#NAME`: one value of a file of `NAME=value` lines."""

    @override
    def read(self, reference: SecretRef) -> Secret:
        values = read_dotenv(Path(reference.path))
        if reference.name not in values:
            raise SecretNotFoundError(f"{reference.path} does not set {reference.name}")
        return Secret(SecretStr(values[reference.name]))
