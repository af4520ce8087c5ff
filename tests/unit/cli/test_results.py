"""A tool's answer, laid out for a person."""

import pytest

from orchestrator.cli.reach import refusal_in, refusal_of
from orchestrator.cli.report import report
from orchestrator.cli.results import lines_of
from orchestrator.control.admin_client import RemoteError
from orchestrator.errors import CallerAskedError, ToolFailedError
from orchestrator.model.base import Json, JsonObject


def told(*content: Json, is_terminal: bool = True, **fields: Json) -> list[str]:
    """Lay a result out."""
    return list(lines_of({"content": list(content), **fields}, is_terminal=is_terminal))


def text(words: str) -> JsonObject:
    """Make a text block."""
    return {"type": "text", "text": words}


def test_text_is_text() -> None:
    """Each block is on lines of its own."""
    assert told(text("one\ntwo"), text("three")) == ["one\ntwo", "three"]


def test_nothing_steers_a_terminal() -> None:
    """Escapes are written out on a terminal, and are left alone where a program reads."""
    evil = "\x1b]0;title\x07\u202edrow"
    assert told(text(evil)) == ["\\u001b]0;title\\u0007\\u202edrow"]
    assert told(text(evil), is_terminal=False) == [evil]
    assert told(structuredContent={"a": evil}, is_terminal=False) == [
        '{\n  "a": "\\u001b]0;title\\u0007\\u202edrow"\n}'
    ]


def test_structured_content_is_told_once() -> None:
    """A text that repeats it is left out; any other text is not."""
    assert told(text('{"a":1}'), structuredContent={"a": 1}) == ['{\n  "a": 1\n}']
    assert told(text("One."), structuredContent={"a": 1}) == ["One.", '{\n  "a": 1\n}']


def test_everything_else_is_a_line() -> None:
    """Images, sounds, resources, links, and kinds that nobody knows yet."""
    assert told(
        {"type": "image", "data": "AAAA" * 1000, "mimeType": "image/png"},
        {"type": "audio", "data": "AAA="},
        {"type": "resource", "resource": {"uri": "a:b", "text": "c", "mimeType": "text/plain"}},
        {"type": "resource", "resource": {"uri": "a:b", "blob": "AA=="}},
        {"type": "resource_link", "name": "n\x07", "uri": "a:b"},
        {"type": "hologram"},
        {"type": "text"},
        "rubbish",
        {},
    ) == [
        "[image: image/png, 3 KiB]",
        "[audio: unknown, 2 bytes]",
        "[resource: a:b, text/plain]",
        "c",
        "[resource: a:b, unknown, 1 bytes]",
        "[link: n\\u0007, a:b]",
        "[hologram]",
        "[text]",
        "[unknown]",
    ]


def test_an_answer_without_content_is_nothing() -> None:
    """Whatever a server leaves out."""
    assert list(lines_of({}, is_terminal=True)) == []
    assert list(lines_of({"content": "x", "structuredContent": None}, is_terminal=True)) == []


REFUSED: JsonObject = {"category": "limit", "code": "policy.too_many_calls", "message": "Later"}


@pytest.mark.parametrize(
    ("data", "status", "hint"),
    [
        (REFUSED, 5, None),
        ({**REFUSED, "retryAfterMs": 2400}, 5, "Try again in 2 s."),
        ({**REFUSED, "requiredAction": "Look first."}, 5, "Look first."),
        ({**REFUSED, "code": "upstream.timeout"}, 7, None),
        ({**REFUSED, "code": "protocol.of_a_later_version"}, 8, None),
        ({**REFUSED, "code": "internal"}, 1, None),
        ({**REFUSED, "code": "token"}, 4, None),
    ],
)
def test_a_refusal_of_the_gateway_keeps_its_code(
    data: JsonObject, status: int, hint: str | None
) -> None:
    """As a JSON-RPC error, or as a result that names the request, it ends with its exit status."""
    for error in (
        refusal_of({"code": -31004, "message": "x", "data": data}),
        refusal_in({"isError": True, "structuredContent": {**data, "requestId": "r"}}),
    ):
        assert isinstance(error, RemoteError)
        assert (error.remote_code, error.hint) == (data["code"], hint)
        assert report(error) == status


def test_a_refusal_of_the_server_is_the_tools_own() -> None:
    """It has no code of ours, and its words are made visible."""
    own: list[Json] = [None, {}, {"category": "limit", "code": "NO_MONEY"}, {"code": "token"}]
    for data in own:
        error = refusal_of({"code": -31999, "message": "no\x1b[31m", "data": data})
        assert isinstance(error, ToolFailedError)
        assert str(error) == "the server refused the request: no\\u001b[31m (-31999)"


def test_a_server_that_wants_an_answer_is_explained() -> None:
    """A missing capability is told as what it means here."""
    assert isinstance(refusal_of({"code": -32021, "message": "x"}), CallerAskedError)


@pytest.mark.parametrize(
    "result",
    [
        {"isError": False, "structuredContent": {**REFUSED, "requestId": "r"}},
        {"isError": True, "structuredContent": REFUSED},
        {"isError": True, "structuredContent": {"code": "NO_MONEY", "requestId": "r"}},
        {"isError": True, "content": []},
    ],
)
def test_a_tools_own_error_is_no_refusal(result: JsonObject) -> None:
    """Only what the gateway itself says counts as one."""
    assert refusal_in(result) is None
