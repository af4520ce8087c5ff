"""How secret references stand in files: as texts, and `command` as a mapping."""

from datetime import timedelta
from typing import Annotated, Final

from pydantic import (
    AfterValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    WithJsonSchema,
)

from orchestrator.errors import SecretRefError
from orchestrator.model.base import (
    Json,
    JsonObject,
    Model,
    PositiveDuration,
)
from orchestrator.model.names import SecretField
from orchestrator.model.secret import (
    COMMAND_TIMEOUT,
    TEXT_PATTERN,
    Program,
    SecretRef,
    inner_reference,
)

LONGEST_COMMAND: Final = timedelta(seconds=60)
_TEXT_SCHEMA: Final[JsonObject] = {
    "type": "string",
    "pattern": TEXT_PATTERN,
    "examples": ["env:WALLETSUITE_API_KEY", "file:{state}/wallet-owner/executor.token"],
}


def _read_inner(value: object) -> SecretRef:
    if isinstance(value, SecretRef):
        return value
    if not isinstance(value, str):
        # pydantic turns ValueError, not TypeError, into a validation error.
        raise ValueError("this reference is given as a text")  # noqa: TRY004
    try:
        return inner_reference(value)
    except SecretRefError as error:
        raise ValueError(f"{error}. {error.hint}") from error


InnerRefField = Annotated[
    SecretRef,
    PlainValidator(_read_inner),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(_TEXT_SCHEMA),
]


def _check_program(argv: tuple[str, ...]) -> tuple[str, ...]:
    if not argv[0].startswith(("/", "{project}/", "{state}/", "{python}")):
        raise ValueError("the program of a command: reference is named by its absolute path")
    if any("\0" in word for word in argv):
        raise ValueError("no argument may hold a NUL character")
    return argv


def _check_timeout(value: timedelta) -> timedelta:
    if value > LONGEST_COMMAND:
        raise ValueError("a command may take a minute at most")
    return value


class SecretCommand(Model):
    """A program that tells a secret.

    Attributes:
        command: The program, absolute, and its arguments; no shell, and no secret.
        timeout: How long it may take, a minute at most; then its process group is killed.
        env: Plain variables that it has beside PATH, HOME, LANG and TZ; never a secret.
        stdin: A reference whose value it reads on stdin; empty by default.
    """

    command: Annotated[
        tuple[Annotated[str, StringConstraints(min_length=1, max_length=4096)], ...],
        Field(min_length=1, max_length=64, strict=False),
        AfterValidator(_check_program),
    ]
    timeout: Annotated[PositiveDuration, AfterValidator(_check_timeout)] = COMMAND_TIMEOUT
    env: dict[SecretField, str] = Field(default_factory=dict)
    stdin: InnerRefField | None = None

    def reference(self) -> SecretRef:
        """Return the same as a reference."""
        program = Program(self.command, self.timeout, tuple(sorted(self.env.items())))
        return SecretRef("command", "", "", inner=self.stdin, program=program)


def _read_reference(value: object) -> SecretRef:
    match value:
        case SecretRef():
            return value
        case str():
            try:
                return SecretRef.parse(value)
            except SecretRefError as error:
                raise ValueError(f"{error}. {error.hint}") from error
        case dict():
            # What it raises keeps the places inside the mapping.
            return SecretCommand.model_validate(value).reference()
        case _:
            raise ValueError("a secret is given as a reference, a text, or as {command: [...]}")


def _write_reference(reference: SecretRef) -> Json:
    return reference.data()


SecretRefField = Annotated[
    SecretRef,
    PlainValidator(
        _read_reference,
        json_schema_input_type=Annotated[str, WithJsonSchema(_TEXT_SCHEMA)] | SecretCommand,
    ),
    PlainSerializer(_write_reference),
]
