"""Checks of the sinks of the record, beyond one key."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, assert_never

from orchestrator.config.places import OF_SETTINGS, Places, unknown_placeholders
from orchestrator.config.problems import quoted
from orchestrator.config.secretlike import looks_random
from orchestrator.config.yamlfile import Document, Loc
from orchestrator.errors import FileProblem
from orchestrator.model.settings import Settings
from orchestrator.model.sinks import FileSink, HttpSink, OtlpSink, Sink, SyslogSink

_PARTS: Final = re.compile(r"[/?&=]")


def check_sinks(settings: Settings, document: Document, root: Path) -> Iterator[FileProblem]:
    """Check that sinks do not write where others do, and that no URL holds a secret.

    Args:
        settings: What `agents.yaml` says.
        document: Where it says it.
        root: The project's directory.
    """
    state = Path(os.path.normpath(root / settings.state))
    places = Places(root, state)
    taken: dict[Path, str] = {}
    for name, sink in settings.audit.sinks.items():
        loc: Loc = ("audit", "sinks", name)
        yield from _check_places(sink, document, loc)
        if not isinstance(sink, FileSink):
            continue
        path = Path(os.path.normpath(root / places.fill(sink.file)))
        if path.is_relative_to(state):
            yield document.problem(
                (*loc, "file"),
                "is inside the state, where only Bandmaster writes",
                "name a file elsewhere",
            )
        elif path in taken:
            yield document.problem(
                (*loc, "file"), f"is the file of {quoted(taken[path])} too", "name another one"
            )
        taken[path] = name


def _check_places(sink: Sink, document: Document, loc: Loc) -> Iterator[FileProblem]:
    match sink:
        case FileSink():
            yield from _check_words(sink.file, document, (*loc, "file"))
        case SyslogSink():
            yield from _check_words(sink.ca, document, (*loc, "ca"))
        case HttpSink():
            yield from _check_words(sink.ca, document, (*loc, "ca"))
            yield from _check_url(sink.http, document, (*loc, "http"))
        case OtlpSink():
            yield from _check_words(sink.ca, document, (*loc, "ca"))
            yield from _check_url(sink.otlp, document, (*loc, "otlp"))
        case _:
            assert_never(sink)


def _check_words(text: str | None, document: Document, loc: Loc) -> Iterator[FileProblem]:
    for word in unknown_placeholders(text or "", OF_SETTINGS):
        known = ", ".join(f"{{{each}}}" for each in OF_SETTINGS)
        yield document.problem(loc, f"unknown placeholder {quoted(word)}", f"known: {known}")


def _check_url(url: str, document: Document, loc: Loc) -> Iterator[FileProblem]:
    if any(map(looks_random, _PARTS.split(url.partition("://")[2]))):
        yield document.problem(
            loc,
            "looks like it holds a secret",
            "put it under `secret:` as a reference, such as env:SIEM_TOKEN",
        )
