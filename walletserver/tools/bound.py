"""A tool: its listing, its input model, and the call from raw arguments to a plain result."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from walletserver.codes import Code
from walletserver.errors import InvalidInputError

_FIELD_CODES: Final = {
    "address": Code.INVALID_ADDRESS,
    "from": Code.INVALID_ADDRESS,
    "to": Code.INVALID_ADDRESS,
    "contractAddress": Code.INVALID_ADDRESS,
    "tokenContract": Code.INVALID_ADDRESS,
    "allowlist": Code.INVALID_ADDRESS,
    "amount": Code.INVALID_AMOUNT,
    "fiatAmount": Code.INVALID_AMOUNT,
    "maxValueEth": Code.INVALID_AMOUNT,
    "amountWei": Code.INVALID_AMOUNT_WEI,
    "chain": Code.UNSUPPORTED_CHAIN,
    "unsignedTx": Code.INVALID_PAYLOAD,
}
# A schema's own words only. Anything else, such as an unknown argument's name, is the caller's.
_PATTERN: Final = re.compile(r" pattern '.*'$")


class ToolInput(BaseModel):
    """Base of all input models: strict, closed, and silent about rejected values."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        # Built on registration, so a read instance does not pay for the signing tools.
        defer_build=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        strict=True,
    )


InputT = TypeVar("InputT", bound=ToolInput)
Result = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class BoundTool:
    """One registered tool."""

    name: str
    title: str
    description: str
    input_schema: dict[str, object]
    call: Callable[[Mapping[str, object]], Result]
    """Takes the arguments as they came.

    Raises `InvalidInputError` when they do not fit the schema, or any error of the handler.
    """


@dataclass(frozen=True, slots=True)
class Listing:
    """How a tool presents itself."""

    name: str
    title: str
    description: str


def bind(
    listing: Listing,
    model: type[InputT],
    handle: Callable[[InputT], Result],
    on_refused: Callable[[str, InvalidInputError], None] | None = None,
) -> BoundTool:
    """Join a handler to its input model.

    Args:
        listing: How the tool presents itself.
        model: Checks the arguments, and publishes the schema.
        handle: Does the work; runs in a worker thread.
        on_refused: Told the tool and the error when arguments do not fit the model.
    """
    model.model_rebuild()
    schema: dict[str, object] = model.model_json_schema(by_alias=True)
    # The class name and docstring are ours, not the client's.
    schema.pop("title", None)
    schema.pop("description", None)

    def call(arguments: Mapping[str, object]) -> Result:
        try:
            accepted = model.model_validate(arguments)
        except ValidationError as error:
            refusal = _refusal(error)
            if on_refused is not None:
                on_refused(listing.name, refusal)
            raise refusal from None
        return handle(accepted)

    return BoundTool(listing.name, listing.title, listing.description, schema, call)


def _refusal(error: ValidationError) -> InvalidInputError:
    problems = error.errors(include_input=False, include_context=False, include_url=False)
    first = problems[0]
    if first["type"] == "extra_forbidden":
        return InvalidInputError(
            Code.UNKNOWN_ARGUMENT, "There is an argument the tool does not know."
        )
    field = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "missing":
        code = Code.MISSING_ARGUMENT
    else:
        code = _FIELD_CODES.get(field, Code.INVALID_ARGUMENT)
    reason = _PATTERN.sub(" the pattern in the tool's input schema", first["msg"])
    return InvalidInputError(code, f"Argument {field}: {reason}.")
