"""JSON-RPC messages, read and written."""

import json
import math
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import MalformedMessageError, UnreadableMessageError
from orchestrator.model.base import Json
from orchestrator.protocol import jsonrpc

LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES: st.SearchStrategy[Json] = st.recursive(
    LEAVES | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_written_reads_back(value: Json) -> None:
    """Any value survives writing and reading, whole numbers of any size included."""
    value = cast("Json", json.loads(json.dumps(value)))
    assert jsonrpc.decode(jsonrpc.encode(value)) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error(data: bytes) -> None:
    """No bytes lead anywhere but to a message or one of two errors."""
    try:
        value = jsonrpc.decode(data)
        jsonrpc.check_depth(data, value)
        message = jsonrpc.parse(value)
    except (UnreadableMessageError, MalformedMessageError):
        return
    assert isinstance(message, jsonrpc.Request | jsonrpc.Notification | jsonrpc.Response)


@given(VALUES)
def test_any_value_is_a_message_or_an_error(value: Json) -> None:
    """No JSON value leads anywhere but to a message or an error."""
    for candidate in (value, {"jsonrpc": "2.0", "id": 1, "result": value, "error": value}):
        try:
            _ = jsonrpc.parse(candidate)
        except MalformedMessageError:
            continue


@pytest.mark.parametrize("text", ["1e999", "-1e999", "NaN", "[Infinity]", "01", "'a'", "{a:1}"])
def test_what_parsers_read_differently_is_refused(text: str) -> None:
    """Numbers and words outside of the standard are no JSON."""
    with pytest.raises(UnreadableMessageError):
        _ = jsonrpc.decode(text.encode())


def test_large_whole_numbers_stay_exact() -> None:
    """An integer beyond 64 bits is read and written digit by digit."""
    text = b'{"wei":115792089237316195423570985008687907853269984665640564039457584007913129639935}'
    assert jsonrpc.encode(jsonrpc.decode(text)) == text


def test_a_number_that_no_reader_stands_is_refused() -> None:
    """A number of ten thousand digits is an error, and no crash."""
    with pytest.raises(UnreadableMessageError):
        _ = jsonrpc.decode(b"9" * 10_000)


def test_nan_cannot_be_written() -> None:
    """NaN inside a value that the fast writer refuses is an error."""
    with pytest.raises(ValueError, match="JSON compliant"):
        _ = jsonrpc.encode([2**70, math.nan])


@pytest.mark.parametrize("shape", ["[{}]", '{{"a":{}}}'])
def test_depth_is_bounded(shape: str) -> None:
    """Nesting at the bound passes, one level more does not."""
    text = "1"
    for _ in range(jsonrpc.MAX_DEPTH):
        text = shape.format(text)
    jsonrpc.check_depth(text.encode(), jsonrpc.decode(text.encode()))
    text = shape.format(text)
    with pytest.raises(MalformedMessageError):
        jsonrpc.check_depth(text.encode(), jsonrpc.decode(text.encode()))


def test_many_shallow_brackets_pass() -> None:
    """Width is no depth."""
    text = b"[" + b",".join([b"[]"] * 1000) + b"]"
    jsonrpc.check_depth(text, jsonrpc.decode(text))


@pytest.mark.parametrize("text", [",", "[", "{", r"\",", r"\\", '"a":1,', "1,2\n"])
def test_a_long_text_is_one_value(text: str) -> None:
    """However many commas, brackets and quotes are inside of a text, it passes."""
    long = text * (4 * 1024 * 1024 // len(text))
    data = jsonrpc.encode({"text": long, "after": [long[:100], 1]})
    jsonrpc.check_breadth(data)
    assert jsonrpc.decode(data) == {"text": long, "after": [long[:100], 1]}


WIDE = {
    "numbers": b"1,",
    "texts": b'"",',
    "long texts": rb'"a\\","\"b",',
    "arrays": b"[],",
    "objects": b'{"a":1},',
    "keys": b'"k":"v",',
}


@pytest.mark.parametrize("shape", WIDE)
def test_breadth_is_bounded(shape: str) -> None:
    """Up to the bound of values a text passes; a text of twice as many does not."""
    piece = WIDE[shape]
    begin, end = (b"{", b'"z":1}') if shape == "keys" else (b"[", b"1]")
    honest = begin + piece * (jsonrpc.MAX_VALUES // 3 - 1) + end
    jsonrpc.check_breadth(honest)
    with pytest.raises(MalformedMessageError):
        jsonrpc.check_breadth(begin + piece * (2 * jsonrpc.MAX_VALUES) + end)


@given(VALUES, st.binary(max_size=100))
def test_breadth_of_anything_small_passes(value: Json, data: bytes) -> None:
    """What is small is never refused for its breadth, whatever it is."""
    jsonrpc.check_breadth(jsonrpc.encode(value))
    jsonrpc.check_breadth(data)


def test_breadth_is_exact_around_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Separators outside of texts count, those inside do not, whatever is escaped next to them."""
    monkeypatch.setattr(jsonrpc, "MAX_VALUES", 4)
    for text in (",,,,,,", "\\,,,,,", '",",",",', "\\", '\\"', '"', '[{,\\"'):
        jsonrpc.check_breadth(jsonrpc.encode([text, text, {text: text}]))
        with pytest.raises(MalformedMessageError):
            jsonrpc.check_breadth(jsonrpc.encode([text, text, {text: text}, text]))


def test_responses_are_read() -> None:
    """A response has a result or a proper error, never both."""
    read = jsonrpc.parse({"jsonrpc": "2.0", "id": "a", "result": {"x": 1}})
    assert read == jsonrpc.Response("a", {"x": 1}, None)
    error: dict[str, Json] = {"code": -1, "message": "m"}
    assert jsonrpc.parse({"jsonrpc": "2.0", "id": 2, "error": error}) == jsonrpc.Response(
        2, None, error
    )
    cases: tuple[dict[str, Json], ...] = (
        {"result": {}, "error": error},
        {"result": []},
        {"error": {"code": "x", "message": "m"}},
        {"error": {"code": True, "message": "m"}},
        {"error": {"code": 1}},
    )
    for broken in cases:
        with pytest.raises(MalformedMessageError):
            _ = jsonrpc.parse({"jsonrpc": "2.0", "id": 1, **broken})


def test_messages_are_built() -> None:
    """What is built reads back as what it was meant to be."""
    assert jsonrpc.parse(jsonrpc.request_body(1, "m", {})) == jsonrpc.Request(1, "m", {})
    assert jsonrpc.parse(jsonrpc.notification_body("m", {})) == jsonrpc.Notification("m", {})
    assert jsonrpc.parse(jsonrpc.result_body(1, {})) == jsonrpc.Response(1, {}, None)
    built = jsonrpc.error_body(None, -1, "m", {"a": 1})
    assert built == {
        "jsonrpc": "2.0",
        "id": None,
        "error": {"code": -1, "message": "m", "data": {"a": 1}},
    }
    assert "data" not in str(jsonrpc.error_body(1, -1, "m"))
