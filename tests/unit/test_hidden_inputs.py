"""Nothing that is checked is repeated by what checks it, wherever in the code it is."""

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import cast

from pydantic import BaseModel, TypeAdapter, ValidationError

import orchestrator

ROOT = Path(orchestrator.__file__).parent
# Programs, which do something when they are imported.
PROGRAMS = {"orchestrator.shim.seat", "orchestrator.runtimes.supervisord_plugin"}


def modules() -> list[object]:
    """Import every module of ours."""
    found = pkgutil.walk_packages([str(ROOT)], "orchestrator.")
    return [importlib.import_module(each.name) for each in found if each.name not in PROGRAMS]


@cache
def trees() -> dict[str, ast.Module]:
    """Read all of our code."""
    paths = sorted(ROOT.rglob("*.py"))
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in paths}


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Find every call of a method in our code, with its place."""
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                yield f"{path}:{node.lineno}", node


def method(call: ast.Call) -> str:
    """Tell the name of the method that is called."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def test_no_model_repeats_its_input() -> None:
    """Every model of outside data hides the input in its errors."""
    _ = modules()
    waiting, seen = [BaseModel], set[type[BaseModel]]()
    while waiting:
        for each in waiting.pop().__subclasses__():
            if each not in seen:
                seen.add(each)
                waiting.append(each)
    ours = [each for each in seen if each.__module__.startswith("orchestrator.")]
    assert len(ours) > 50
    assert [each for each in ours if not each.model_config.get("hide_input_in_errors")] == []


def test_no_adapter_repeats_its_input() -> None:
    """The same for what is checked as no model of its own; a model's setting is not enough."""
    adapters = list(_adapters())
    assert len(adapters) > 5
    for name, adapter in adapters:
        for wrong in (
            '{"op": "pins.list", "x": "canary"}',
            '["canary"]',
            '"canary',
            '{"canary": ["canary"]}',
        ):
            try:
                _ = adapter.validate_json(wrong)
            except ValidationError as error:
                # A key of a mapping is a place, and is told.
                told = str(error).replace("\ncanary\n", "\n")
                assert "canary" not in told, f"{name}: {wrong}"


def _adapters() -> Iterator[tuple[str, TypeAdapter[object]]]:
    for module in modules():
        for name, value in cast("dict[str, object]", vars(module)).items():
            if isinstance(value, TypeAdapter):
                yield f"{module!r}.{name}", cast("TypeAdapter[object]", value)


def test_errors_are_read_without_their_input() -> None:
    """pydantic's details hold the input even of a model that hides it: they are asked without."""  # noqa: D403  its name
    asked = [(place, call) for place, call in calls() if method(call) == "errors" and call.keywords]
    careless = [place for place, call in calls() if method(call) == "errors" and not call.keywords]
    assert len(asked) >= 2
    assert careless == []
    for place, call in asked:
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        assert given.get("include_input") == "False", place


def test_no_traceback_shows_variables() -> None:
    """Nothing in our code renders tracebacks with the variables of their frames."""
    text = "\n".join(path.read_text() for path in sorted(ROOT.rglob("*.py")))
    for careless in (
        "dict_tracebacks",  # of structlog: shows variables
        "show_locals=True",
        "capture_locals",
        "RichTracebackFormatter",
        "pretty_exceptions_enable=True",
        "import loguru",
        "import cgitb",
        "check_output(",  # its error holds arguments and output
        "check=True",  # the same
    ):
        assert careless not in text, careless
    assert "show_locals=False" in text
    assert "pretty_exceptions_enable=False" in text


def test_types_that_show_their_secrets_are_not_used() -> None:
    """Types of libraries whose text holds a secret are nowhere in our code."""
    careless = {"AccessToken", "StdioServerParameters", "ResolvedSecret"}
    for path, tree in trees().items():
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert not used & careless, path
