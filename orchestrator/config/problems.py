"""Turns what pydantic says about a file into our own words, with line and column.

No message repeats a value that may be a secret: only words outside `secrets`, `env` and
`arguments` that look like a plain name are ever shown.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from difflib import get_close_matches
from inspect import cleandoc
from typing import Final, TypeVar, cast, get_args

from pydantic import BaseModel, PlainValidator, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.config.secretlike import is_sayable
from orchestrator.config.yamlfile import Document, Loc
from orchestrator.errors import FileProblem, RoleFileError
from orchestrator.model.base import Json, Model
from orchestrator.model.container import IMAGE_PATTERN
from orchestrator.model.issuers_cloud import AWS_SECRET_PATTERN, LEASE_PATH_PATTERN
from orchestrator.model.names import (
    AGENT_PATTERN,
    ENVIRONMENT_PATTERN,
    HTTP_PATH_PATTERN,
    SLUG_PATTERN,
    TOOL_PATTERN,
    USER_PATTERN,
)
from orchestrator.model.stores import REGION_PATTERN

_ModelT = TypeVar("_ModelT", bound=Model)

_UNSPOKEN: Final = frozenset({"secrets", "env", "arguments", "generate"})

_PATTERNS: Final = {
    SLUG_PATTERN: "a name is up to 32 of a-z, 0-9 and -, and begins with a letter",
    ENVIRONMENT_PATTERN: "a variable's name is up to 64 of A-Z, 0-9 and _",
    TOOL_PATTERN: "a tool's name is up to 128 of A-Z, a-z, 0-9, _, ., / and -",
    HTTP_PATH_PATTERN: "a path begins with / and is up to 256 of A-Z, a-z, 0-9, ., _, ~, / and -",
    USER_PATTERN: "a user's name is up to 32 of a-z, 0-9, _ and -, and begins with a letter or _",
    IMAGE_PATTERN: "an image is such as registry.example/wallet@sha256:..., or sha256:... alone",
    REGION_PATTERN: "a region is such as eu-central-1",
    LEASE_PATH_PATTERN: "a path is such as database/creds/app, and no part of it is empty or dots",
    AWS_SECRET_PATTERN: "a secret's name is up to 512 of A-Z, a-z, 0-9, /, _, +, =, ., @, : and -",
    AGENT_PATTERN: "an agent's name is up to 64 of A-Z, a-z, 0-9, _, ., @ and -",
}
_KINDS: Final = {
    "string_type": ("a text", ""),
    "int_type": ("a whole number", ""),
    "int_from_float": ("a whole number", ""),
    "bool_type": ("true or false", ""),
    "tuple_type": ("a list", "write [one, two]"),
    "list_type": ("a list", "write [one, two]"),
    "dict_type": ("a mapping", "write `key: value` lines"),
    "model_type": ("a mapping", "write `key: value` lines"),
    "model_attributes_type": ("a mapping", "write `key: value` lines"),
}
# Keys that take a list or one word: the word, and a list.
_LISTS: Final = {
    "bands": ("full", "[read]"),
    "resources": ("all", "[docs://guide]"),
    "prompts": ("all", "[summarize]"),
}
_TAGS: Final = frozenset({"union_tag_not_found", "union_tag_invalid"})
_SIZES: Final = {
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "too_short": "at least {min_length}",
    "too_long": "at most {max_length}",
}


def check(model: type[_ModelT], document: Document) -> _ModelT:
    """Read a document as a model.

    Args:
        model: What the document should be.
        document: The document.

    Raises:
        RoleFileError: It is not; carries every problem, in the order of lines.
    """
    # What is raised inside the handler would carry pydantic's error along, in its context.
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        details = error.errors(include_input=False, include_url=False)
    raise RoleFileError(sort_problems(_translate(model, document, details)))


def sort_problems(problems: Iterable[FileProblem]) -> tuple[FileProblem, ...]:
    """Put problems in the order of files and lines, each once."""
    unique = dict.fromkeys(problems)
    return tuple(sorted(unique, key=lambda each: (each.path, each.line, each.column)))


def did_you_mean(word: str, known: Collection[str]) -> str:
    """Suggest the closest known word, then tell them all.

    Returns:
        Such as `did you mean read? known: prepare, read`; may be empty.
    """
    close = get_close_matches(word.lower(), {each.lower(): each for each in known}, n=1, cutoff=0.6)
    exact = [each for each in known if close and each.lower() == close[0]]
    guess = f"did you mean `{exact[0]}`? " if exact else ""
    return f"{guess}known: {', '.join(sorted(known)) or 'none'}"


def quoted(value: Json) -> str:
    """Show a word of the user in a message, where it is harmless."""
    return f"`{value}`" if isinstance(value, str) and is_sayable(value) else "this"


def _translate(
    model: type[Model], document: Document, details: list[ErrorDetails]
) -> Iterable[FileProblem]:
    """One problem for each place; a union tells one error for each of its branches."""
    for loc, errors in _by_place(document, details).items():
        if len({error["type"] for error in errors}) > 1 and all(
            error["type"] in {"tuple_type", "literal_error"} for error in errors
        ):
            key = str(loc[-1]) if loc else ""
            word, example = _LISTS.get(key, _LISTS["bands"])
            yield document.problem(
                loc, f"has to be a list of {key}, or the word {word}", f"write {example}, or {word}"
            )
        else:
            for error in errors:
                if error["type"] != "literal_error" or len(errors) == 1:
                    yield _problem(model, document, loc, error)


def _by_place(document: Document, details: list[ErrorDetails]) -> dict[Loc, list[ErrorDetails]]:
    """Sort errors by where they are, without the union branches that pydantic puts in between."""
    places: dict[Loc, list[ErrorDetails]] = {}
    for error in details:
        loc: Loc = ()
        for part in error["loc"]:
            if (*loc, part) in document.values or _is_last_key(error, part):
                loc = (*loc, part)
        places.setdefault(loc, []).append(error)
    # A list that is right in itself, but not the word `full`, and the other way round.
    for loc in list(places):
        is_list = isinstance(document.look(loc), list)
        has_deeper = any(other[: len(loc)] == loc and other != loc for other in places)
        if is_list and has_deeper:
            places[loc] = [each for each in places[loc] if each["type"] != "literal_error"]
        if not places[loc]:
            del places[loc]
    return places


def _is_last_key(error: ErrorDetails, part: str | int) -> bool:
    return error["type"] == "missing" and part == error["loc"][-1]


def _problem(model: type[Model], document: Document, loc: Loc, error: ErrorDetails) -> FileProblem:
    kind, about = error["type"], dict[str, object](error.get("ctx", {}))
    value = document.look(loc)
    if "[key]" in error["loc"]:
        key = str(loc[-1])
        problem = f"{quoted(key)} is not a name that can stand here"
        if kind == "literal_error":
            expected = _wrong_value(kind, about, key, "")[1]
        else:
            expected = _pattern(about)
        return document.problem(loc, problem, expected, at_key=True)
    if kind == "missing":
        meaning = describe(_model_at(model, loc[:-1], error["loc"])).get(str(loc[-1]), "")
        return document.problem(loc, "is missing", _lower(meaning))
    if kind == "extra_forbidden":
        known = field_names(_model_at(model, loc[:-1], error["loc"]))
        expected = did_you_mean(str(loc[-1]), known)
        return document.problem(loc, "unknown key", expected, at_key=True)
    if kind in _KINDS:
        problem, expected = _KINDS[kind]
        if value is not None and not isinstance(value, str | list | dict) and kind == "string_type":
            expected = "put it in quotes"
        return document.problem(loc, f"has to be {problem}, not {_kind(value)}", expected)
    if kind in _SIZES:
        problem = "has the wrong length or size"
        return document.problem(loc, problem, _SIZES[kind].format(**about))
    if kind in _TAGS:
        # The key that tells the branches of a union apart; all of ours are called so.
        loc = (*loc, "kind")
        value = value.get("kind") if isinstance(value, dict) else None
        about["expected_tags"] = _kinds_at(model, loc[:-2])
    spoken = "this" if _UNSPOKEN & set(loc) else quoted(value)
    problem, expected = _wrong_value(kind, about, value, spoken)
    return document.problem(loc, problem, expected)


def _wrong_value(kind: str, about: dict[str, object], value: Json, spoken: str) -> tuple[str, str]:
    match kind:
        case "literal_error":
            allowed = re.findall(r"'([^']*)'", str(about.get("expected", "")))
            guess = did_you_mean(value if isinstance(value, str) else "", allowed)
            return f"{spoken} is not possible here", guess
        case "union_tag_invalid":
            allowed = str(about["expected_tags"]).split()
            guess = did_you_mean(value if isinstance(value, str) else "", allowed)
            return f"{spoken} is not possible here", guess
        case "union_tag_not_found":
            return "is missing", did_you_mean("", str(about["expected_tags"]).split())
        case "string_pattern_mismatch":
            return f"{spoken} is not a proper name", _pattern(about)
        case "value_error" | "notify_target" | "audit_sink":
            return str(about.get("error", "is not right")), ""
        case _:
            # Its own words could hold anything.
            return f"is not right ({kind})", ""


def _pattern(about: dict[str, object]) -> str:
    return _PATTERNS.get(str(about.get("pattern")), "")


def _kind(value: Json) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case dict():
            return "a mapping"


def _lower(sentence: str) -> str:
    text = sentence.rstrip(".")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def field_names(model: type[BaseModel]) -> tuple[str, ...]:
    """Tell a model's keys as they stand in a file."""
    return tuple(field.alias or name for name, field in model.model_fields.items())


def describe(model: type[BaseModel]) -> dict[str, str]:
    """Tell what each key of a model means, from the `Attributes` of its docstring.

    Returns:
        Meanings by key as it stands in a file.
    """
    _, _, section = cleandoc(model.__doc__ or "").partition("Attributes:")
    meanings: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if match := re.fullmatch(r" {4}(\w+): (.*)", line):
            field = model.model_fields.get(match[1])
            name = (field.alias if field else None) or match[1]
            meanings[name] = match[2]
        elif name and line.strip():
            meanings[name] += f" {line.strip()}"
    return meanings


def _model_at(
    model: type[BaseModel], loc: Loc, branches: Collection[str | int] = ()
) -> type[BaseModel]:
    """Find the model of a place inside a model; the nearest around it where there is none.

    Args:
        model: The outermost model.
        loc: The place.
        branches: What pydantic calls the place; where several models could stand, the one that
            is named in it is meant.
    """
    here = model
    for part in loc:
        for name, field in here.model_fields.items():
            if (field.alias or name) == part:
                found = list(models_in(field.annotation))
                named = (
                    each for each in found if {each.__name__, *_kinds_of(each)} & set(branches)
                )
                here = next(named, found[0] if found else here)
                break
    return here


def _kinds_of(model: type[BaseModel]) -> set[str]:
    """Tell what a model's `kind` may be, where it is one of a union."""
    field = model.model_fields.get("kind")
    words: tuple[object, ...] = get_args(field.annotation) if field else ()
    return {word for word in words if isinstance(word, str)}


def _kinds_at(model: type[BaseModel], loc: Loc) -> str:
    """Tell the kinds that an entry of the mapping at a place may have, separated by blanks."""
    around = _model_at(model, loc[:-1])
    field = next((f for n, f in around.model_fields.items() if (f.alias or n) == loc[-1]), None)
    found = models_in(field.annotation) if field else ()
    return " ".join(sorted(kind for each in found for kind in _kinds_of(each)))


def models_in(annotation: object) -> Iterator[type[BaseModel]]:
    """Find the models that an annotation names, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    if isinstance(annotation, PlainValidator):
        # What becomes something else when it is read.
        annotation = cast("object", annotation.json_schema_input_type)
    parts: tuple[object, ...] = get_args(annotation)
    for part in parts:
        yield from models_in(part)
