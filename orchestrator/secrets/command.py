"""Secrets that a program of the user's tells."""

import json
from datetime import UTC
from pathlib import Path
from typing import Annotated, Literal, cast, final

from pydantic import AwareDatetime, Field, SecretStr, ValidationError
from typing_extensions import override

from orchestrator.errors import SecretStoreUnavailableError
from orchestrator.model.base import Json, Model
from orchestrator.model.secret import SecretRef
from orchestrator.secrets.base import LookUp, Secret, SecretStore
from orchestrator.secrets.file import without_newline
from orchestrator.secrets.program import Task, run

_Id = Annotated[str, Field(max_length=512)]


class _Answer(Model):
    """What a program may answer instead of plain text.

    Attributes:
        version: Of this form.
        value: The secret.
        version_id: Its version.
        lease_id: Its lease.
        expires_at: When it ends, RFC 3339.
    """

    version: Literal[1]
    value: SecretStr
    version_id: _Id = ""
    lease_id: _Id = ""
    expires_at: Annotated[AwareDatetime, Field(strict=False)] | None = None


@final
class CommandStore(SecretStore):
    """`command`: what a program writes to stdout, as plain text or as JSON of version 1."""

    def __init__(self, directory: Path, look_up: LookUp) -> None:
        """Keep where programs run, and how the reference for their stdin is resolved."""
        self._directory = directory
        self._look_up = look_up

    @override
    def read(self, reference: SecretRef) -> Secret:
        program = reference.program
        if program is None:
            raise AssertionError("a command without a program")
        text = run(
            Task(
                name=str(reference),
                argv=program.argv,
                timeout=program.timeout.total_seconds(),
                env=dict(program.env),
                stdin=self._look_up(reference.inner).value if reference.inner else None,
                directory=self._directory,
            )
        )
        return _structured(reference, text) or Secret(SecretStr(without_newline(text)))


def _structured(reference: SecretRef, text: str) -> Secret | None:
    """Read an answer in JSON; None for plain text, which may be some other JSON."""
    if not _has_version(text):
        return None
    # What is raised inside the handler would carry the answer along, in its context.
    try:
        answer = _Answer.model_validate_json(text)
    except ValidationError as error:
        wrong = sorted({str(each["loc"][0]) for each in error.errors(include_input=False)})
    else:
        ends = answer.expires_at.astimezone(UTC) if answer.expires_at else None
        return Secret(answer.value, answer.version_id, answer.lease_id, ends)
    known = [name for name in wrong if name in _Answer.model_fields]
    raise SecretStoreUnavailableError(
        f"{reference} answers in JSON, but not in the form of version 1"
        + (f": {', '.join(known)}" if known else ""),
        hint='{"version": 1, "value": "...", "version_id": "...", "expires_at": "RFC 3339"}',
    )


def _has_version(text: str) -> bool:
    if not text.lstrip().startswith("{"):
        return False
    try:
        parsed = cast("Json", json.loads(text))
    except ValueError:
        return False
    return isinstance(parsed, dict) and "version" in parsed and "value" in parsed
