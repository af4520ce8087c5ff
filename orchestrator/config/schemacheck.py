"""Checks the JSON Schemas that a role file narrows tools with.

A schema lets pass whatever it does not speak of, and that is easy to overlook: a misspelt
keyword, a `maximum` that a text passes, a pattern that a missing argument meets. So what would
silently allow is a mistake here.
"""

import re
from collections.abc import Iterator
from typing import Final

from orchestrator.config.problems import did_you_mean, quoted
from orchestrator.config.yamlfile import Document, Loc, texts
from orchestrator.errors import FileProblem
from orchestrator.model.base import JsonObject
from orchestrator.model.role import Role
from orchestrator.model.secret_formats import find_secret
from orchestrator.protocol.schema import (
    ANY_TYPE,
    KNOWN,
    TYPES_OF,
    Spot,
    constrained,
    require_constrained,
    spots,
)
from orchestrator.protocol.validator import Fault, fault_of, no_object_meets

_ATOM: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_GROUP: Final = re.compile(r"\([^()]*\)")
_EXPECTED: Final = {
    "type": "one of string, number, integer, boolean, array, object, null",
    "enum": "a list of values",
    "required": "a list of names",
    "properties": "a mapping of names to schemas",
    "pattern": "a pattern that has no look-around and no back-references",
    "format": "one of date, date-time, email, ipv4, ipv6, uri, uuid and the like",
}


def check_schemas(role: Role, document: Document) -> Iterator[FileProblem]:
    """Check every schema of a role.

    Args:
        role: The role.
        document: Where the role file says it.
    """
    for name, rule in role.tools.items():
        top: Loc = ("tools", name)
        loc: Loc = (*top, "arguments")
        if not rule.arguments:
            yield document.problem(top, "narrows nothing", "add `arguments:`, or remove it")
            continue
        problems = list(_check_words(rule.arguments, document, loc))
        yield from problems
        fault = None if problems else fault_of(rule.arguments)
        if fault is not None:
            yield _describe(fault, document, loc)
        elif not problems:
            yield from _check_optional(rule.arguments, rule.optional, document, top)


def _check_words(schema: JsonObject, document: Document, top: Loc) -> Iterator[FileProblem]:
    for spot in spots(schema):
        yield from _check_keywords(spot, document, (*top, *spot.loc))
    for loc, text in texts(schema, top):
        if found := find_secret(text.encode("utf-8", "replace")):
            yield document.problem(loc, f"looks like {found}", "no secret is an argument of a tool")


def _check_keywords(spot: Spot, document: Document, top: Loc) -> Iterator[FileProblem]:
    for keyword in spot.schema:
        loc = (*top, keyword)
        if keyword.startswith("$") and keyword not in KNOWN:
            problem = "keywords with $ are not possible here"
            yield document.problem(loc, problem, "write out what is meant", at_key=True)
        elif keyword not in KNOWN:
            problem = f"{quoted(keyword)} is no keyword of JSON Schema 2020-12"
            guess, has_guess, _ = did_you_mean(keyword, KNOWN).partition("?")
            yield document.problem(
                loc, problem, guess + has_guess if has_guess else "", at_key=True
            )
        elif keyword in TYPES_OF and not spot.is_test and spot.types != ANY_TYPE:
            yield from _check_type(spot, keyword, document, loc)
    pattern = spot.schema.get("pattern")
    if isinstance(pattern, str) and not spot.is_test and not _is_whole(pattern):
        yield document.problem(
            (*top, "pattern"), "is looked for anywhere in a text", "write ^(...)$ around it"
        )


def _is_whole(pattern: str) -> bool:
    """Tell whether a pattern is about a whole text, in each of its alternatives."""
    bare = _ATOM.sub("", pattern)
    while bare != (bare := _GROUP.sub("", bare)):
        pass
    return bare.startswith("^") and bare.endswith("$") and "|" not in bare


def _check_type(spot: Spot, keyword: str, document: Document, loc: Loc) -> Iterator[FileProblem]:
    """Refuse a keyword that a value of another type would pass."""
    types = TYPES_OF[keyword]
    if not spot.types & types:
        kind = max(types)  # number, rather than integer
        problem = f"says nothing about a value that is no {kind}"
        yield document.problem(loc, problem, f"add `type: {kind}`", at_key=True)


def _check_optional(
    schema: JsonObject, optional: tuple[str, ...], document: Document, top: Loc
) -> Iterator[FileProblem]:
    known = {".".join((*spot.path, name)) for spot in spots(schema) for name in constrained(spot)}
    for index, name in enumerate(optional):
        if name not in known:
            problem = f"{quoted(name)} is not narrowed here, so it may be left out anyway"
            yield document.problem((*top, "optional", index), problem, did_you_mean(name, known))
    if no_object_meets(require_constrained(schema, optional)):
        yield document.problem((*top, "arguments"), "nothing can meet this schema")


def _describe(fault: Fault, document: Document, top: Loc) -> FileProblem:
    expected = _EXPECTED.get(str(fault.loc[-1]), "") if fault.loc else ""
    return document.problem((*top, *fault.loc), "is not right in JSON Schema 2020-12", expected)
