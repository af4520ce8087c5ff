"""JSON Schemas of the files that a person writes, for editors; made from the models.

They say less than the checks do: what one file says about another no schema can tell.
"""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from inspect import cleandoc
from typing import Final

from pydantic import BaseModel

from orchestrator.config.problems import describe, models_in
from orchestrator.model.base import Json, JsonObject, format_duration
from orchestrator.model.container import SIZE_PATTERN, format_size
from orchestrator.model.role import Role
from orchestrator.model.server import Server
from orchestrator.model.settings import Settings

FILES: Final[Mapping[str, tuple[type[BaseModel], str]]] = {
    "role": (Role, "Role file of Bandmaster: roles/NAME.yaml"),
    "server": (Server, "Server file of Bandmaster: roles/servers/NAME.yaml"),
    "agents": (Settings, "Settings of Bandmaster: agents.yaml"),
}


def schemas() -> Mapping[str, JsonObject]:
    """Make all schemas.

    Returns:
        Schemas by file name, such as `role.schema.json`.
    """
    return {f"{name}.schema.json": _schema(*entry) for name, entry in FILES.items()}


def all_models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Tell a model and all that are inside it, outermost first, each once."""
    seen: dict[type[BaseModel], None] = {model: None}
    waiting = [model]
    while waiting:
        here = waiting.pop(0)
        yield here
        for field in here.model_fields.values():
            for inner in models_in(field.annotation):
                if inner not in seen:
                    seen[inner] = None
                    waiting.append(inner)


def summary(model: type[BaseModel]) -> str:
    """Tell what a model is: its docstring down to the list of its keys."""
    text, _, _ = cleandoc(model.__doc__ or "").partition("Attributes:")
    return " ".join(text.split())


def _schema(model: type[BaseModel], title: str) -> JsonObject:
    made: dict[str, Json] = model.model_json_schema(by_alias=True)
    schema = _object(made)
    for inner in all_models(model):
        target = schema if inner is model else _object(_object(schema["$defs"])[inner.__name__])
        target["description"] = summary(inner)
        properties = _object(target["properties"])
        for key, meaning in describe(inner).items():
            _object(properties[key])["description"] = meaning
        for key, field in inner.model_fields.items():
            default: object = field.default  # pyright: ignore[reportAny] # pydantic tells no more
            # pydantic writes ISO 8601 there, which the files do not take.
            if isinstance(default, timedelta):
                _object(properties[key])["default"] = format_duration(default)
            elif (
                isinstance(default, int) and _object(properties[key]).get("pattern") == SIZE_PATTERN
            ):
                _object(properties[key])["default"] = format_size(default)
            elif isinstance(default, BaseModel):
                _object(properties[key])["default"] = {}
    _tidy(schema)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": title,
    }


def _object(value: Json) -> JsonObject:
    if not isinstance(value, dict):
        raise TypeError("pydantic made a schema of another shape")
    return value


def _tidy(value: Json) -> None:
    """Drop made-up titles, and close mappings whose keys follow a pattern."""
    match value:
        case dict():
            if isinstance(value.get("title"), str):
                del value["title"]
            if "patternProperties" in value:
                value["additionalProperties"] = False
            for inner in value.values():
                _tidy(inner)
        case list():
            for inner in value:
                _tidy(inner)
        case _:
            pass
