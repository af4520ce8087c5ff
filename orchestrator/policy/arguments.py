"""Checks arguments against a role's rule, and tells what is missing in words for a model."""

import json
from collections.abc import Mapping
from typing import Final, final

from orchestrator.model.base import Json, JsonObject
from orchestrator.model.names import ToolName
from orchestrator.protocol.schema import spots
from orchestrator.protocol.validator import Checker, Loc, Miss

_MOST_MISSES: Final = 4
_LONGEST: Final = 400  # characters of a list
# By keyword, with what it asks for.
_WORDS: Final = {
    "": "is not allowed",
    "const": "must be {}",
    "enum": "must be one of {}",
    "type": "must be of type {}",
    "pattern": "must match {}",
    "format": "must be in the format {}",
    "minLength": "must have at least {} characters",
    "maxLength": "must have at most {} characters",
    "minimum": "must be at least {}",
    "maximum": "must be at most {}",
    "exclusiveMinimum": "must be more than {}",
    "exclusiveMaximum": "must be less than {}",
    "multipleOf": "must be a multiple of {}",
    "minItems": "must have at least {} items",
    "maxItems": "must have at most {} items",
    "uniqueItems": "must have no item twice",
    "minProperties": "must have at least {} entries",
    "maxProperties": "must have at most {} entries",
    "additionalProperties": "must have no other names than in the tool's input schema",
    "unevaluatedProperties": "must have no other names than in the tool's input schema",
}


@final
class ArgumentRule:
    """One tool's rule.

    Attributes:
        accepts: Tells whether arguments meet it.
    """

    def __init__(self, schema: JsonObject) -> None:
        """Take a schema that was checked with its role file.

        Raises:
            ValueError: It is none.
        """
        self._checker = Checker(schema)
        self.accepts = self._checker.accepts
        names: set[str] = set()
        for spot in spots(schema):
            for key in ("properties", "required"):
                found = spot.schema.get(key)
                names.update(map(str, found) if isinstance(found, dict | list) else ())
        # All others are the caller's, and may be anything.
        self._names = names

    def explain(self, arguments: JsonObject) -> str:
        """Tell what arguments would have to be; never what they are."""
        misses = self._checker.misses(arguments, _MOST_MISSES)
        return "; ".join(dict.fromkeys(map(self._explain, misses)))

    def _explain(self, miss: Miss) -> str:
        if miss.keyword == "required":
            return f"{self._place((*miss.loc, str(miss.asked)))} is required"
        words = _WORDS.get(miss.keyword, f"must meet `{miss.keyword}` of the tool's input schema")
        return f"{self._place(miss.loc)} {words.format(_listed(miss.asked))}"

    def _place(self, loc: Loc) -> str:
        text = ""
        for part in loc:
            if isinstance(part, int):
                text += f"[{part}]"
            else:
                text += f".{part}" if part in self._names else ".?"
        return f"`{text.removeprefix('.')}`" if text else "the arguments"


def _listed(asked: Json) -> str:
    items = asked if isinstance(asked, list) else [asked]
    text = ", ".join(json.dumps(item, ensure_ascii=False) for item in items)
    return text if len(text) <= _LONGEST else f"the {len(items)} in the tool's input schema"


def compile_rules(schemas: Mapping[ToolName, JsonObject]) -> dict[ToolName, ArgumentRule | None]:
    """Make rules ready; None stands for one that cannot be read, so that nothing meets it."""
    rules: dict[ToolName, ArgumentRule | None] = {}
    for name, schema in schemas.items():
        try:
            rules[name] = ArgumentRule(schema)
        except ValueError:
            rules[name] = None
    return rules
