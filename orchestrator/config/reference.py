"""The reference of every key of every file, as Markdown; made from the schemas."""

import json
from collections.abc import Iterator
from typing import Final

from orchestrator.config.problems import describe
from orchestrator.config.schema import FILES, all_models, schemas, summary
from orchestrator.model.base import Json, JsonObject

_INTRODUCTION = """\
# Files you write

Made from the code by `scripts/schemas`; do not edit by hand.

Bandmaster reads `agents.yaml`, `roles/*.yaml` and `roles/servers/*.yaml` whole and checks them
before anything starts. A mistake is told with file, line and column, and nothing is changed.

- A file is one YAML mapping in UTF-8, at most 256 KiB. Duplicate keys, anchors, aliases, merge
  keys and tags are refused. `yes`, `no`, `on` and `off` are plain text.
- A file is named as what it describes: `roles/treasury.yaml` holds the role `treasury`.
- Nobody but you and root may be able to write these files and their directories.
- A duration is numbers with units: `250ms`, `30s`, `1h30m`, `90d`.
- `{python}`, `{project}`, `{state}` and `{role}` are filled in inside `launch.command`,
  `launch.directory` and every `env`; a bootstrap knows all but `{role}`. A server with
  `transport: http` is told where to listen by `{socket}` or `{port}` in its `launch.command` or
  `launch.env`. In what is said to a container they mean what they mean inside it.
- A size is a number with `KiB`, `MiB` or `GiB`.
- A secret is never in a file. Under `secrets:` stands where it is kept: `env:NAME` (the
  environment, then `.env`), `file:/absolute/path` with mode 0600, or another of the
  [references](secrets.md). A path may begin with `{state}/` or `{project}/`.
"""


def reference() -> str:
    """Write the whole page."""
    return "\n".join([_INTRODUCTION, *_sections()]) + "\n"


def _sections() -> Iterator[str]:
    made = schemas()
    for name, (model, title) in FILES.items():
        schema = made[f"{name}.schema.json"]
        yield f"## {title.partition(': ')[2]}\n"
        for inner in all_models(model):
            part = schema if inner is model else _at(_at(schema, "$defs"), inner.__name__)
            if inner is not model:
                yield f"### {inner.__name__} ({title.partition(' ')[0].lower()} file)\n"
            yield f"{summary(inner)}\n"
            yield "| key | value | default | meaning |"
            yield "|---|---|---|---|"
            required = part.get("required")
            for key, meaning in describe(inner).items():
                entry = _at(_at(part, "properties"), key)
                is_required = isinstance(required, list) and key in required
                default = "required" if is_required else _default(entry)
                yield f"| `{key}` | {_value(entry)} | {default} | {_cell(meaning)} |"
            yield ""


def _at(schema: JsonObject, key: str) -> JsonObject:
    value = schema[key]
    if not isinstance(value, dict):
        raise TypeError("a schema of another shape")
    return value


def _default(entry: JsonObject) -> str:
    default = entry.get("default")
    if "$ref" in entry and default == {}:
        return "its defaults"
    if default is None or default in ({}, []):
        return "none"
    return f"`{json.dumps(default)}`".replace('"', "")


_KINDS: Final = {"null": "nothing", "boolean": "`true` or `false`"}


def _value(entry: Json) -> str:
    """Tell in a few words what a value has to be."""
    match entry:
        case {"$ref": str(name)} if not name.endswith("/JsonValue"):
            text = name.rpartition("/")[2]
        case {"enum": list(words)}:
            text = " or ".join(f"`{word}`" for word in words)
        case {"const": str(word)}:
            text = f"`{word}`"
        case {"anyOf": list(choices)} | {"oneOf": list(choices)}:
            kinds = [_value(choice) for choice in choices]
            text = " or ".join(kind for kind in kinds if kind != "nothing")
        case {"type": str(kind)}:
            text = _KINDS.get(kind) or _typed(kind, entry)
        case _:
            text = "anything"
    return text


def _typed(kind: str, entry: JsonObject) -> str:
    match kind:
        case "array":
            return f"list of {_value(entry.get('items'))}"
        case "object":
            return _mapping(entry)
        case "number":
            return "number"
        case "integer":
            return f"whole number, {entry.get('minimum')} to {entry.get('maximum')}"
        case _:
            examples = str(entry.get("examples"))
            return (
                "duration" if "90d" in examples else "reference" if "env:" in examples else "text"
            )


def _mapping(entry: JsonObject) -> str:
    inner = entry.get("patternProperties") or {"": entry.get("additionalProperties")}
    values = [_value(value) for value in inner.values()] if isinstance(inner, dict) else []
    return f"mapping of name to {values[0]}" if values else "mapping"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
