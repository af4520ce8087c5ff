"""The parts of `agents connect` that do no I/O: headers, addresses, answers, bounds."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.inbound import mcp_param_headers, x_mcp_header_map

from orchestrator.errors import (
    AgentsError,
    InvalidParamsError,
    MalformedMessageError,
    SettingsError,
    TargetLostError,
    TokenUnknownError,
    TooManyCallsError,
    UnreadableMessageError,
    UpstreamProtocolError,
)
from orchestrator.model.base import JsonObject
from orchestrator.protocol import jsonrpc, mcp
from orchestrator.protocol.header_writer import HeaderWriter
from orchestrator.shim.budget import Budget
from orchestrator.shim.exchange import answer_to, read_json
from orchestrator.shim.refusal import refusal, unexpected
from orchestrator.shim.request import Endpoint

SCHEMA: JsonObject = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "deep": {
            "type": "object",
            "properties": {"n": {"type": "integer", "x-mcp-header": "N"}},
        },
        "flag": {"type": "boolean", "x-mcp-header": "Flag"},
    },
}
VALUES = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers())


def modern(**params: object) -> JsonObject:
    """Write parameters that describe themselves."""
    given: JsonObject = {"_meta": {mcp.VERSION_KEY: "2026-07-28"}}
    return {**given, **params}  # pyright: ignore[reportReturnType]  tests pass JSON


@given(VALUES, VALUES, VALUES)
def test_parameter_headers_are_the_clients(region: object, number: object, flag: object) -> None:
    """Arguments are repeated in headers exactly as the official client repeats them."""
    writer = HeaderWriter()
    writer.learn_tools({"tools": [{"name": "t", "inputSchema": SCHEMA}, "rubbish", {"name": 1}]})
    arguments: dict[str, object] = {"region": region, "deep": {"n": number}, "flag": flag}
    headers = dict(writer.write("tools/call", modern(name="t", arguments=arguments)))
    official = mcp_param_headers(x_mcp_header_map(SCHEMA), arguments)
    found = {name: value for name, value in headers.items() if name.startswith("mcp-param-")}
    assert found == {name.lower(): value for name, value in official.items()}
    assert headers["mcp-name"] == "t"


def test_headers_of_each_era() -> None:
    """Modern messages describe themselves; legacy ones carry what `initialize` agreed on."""
    writer = HeaderWriter()
    assert writer.write("initialize", {}) == []
    assert writer.write("ping", {}) == []
    writer.learn_opening({"protocolVersion": "2025-06-18"}, "session")
    agreed = [("mcp-protocol-version", "2025-06-18"), ("mcp-session-id", "session")]
    assert writer.write("tools/call", {"name": "t"}) == agreed
    assert writer.write(None, {}) == agreed
    assert writer.session == "session"
    assert writer.write("initialize", {}) == []
    assert writer.write("tools/call", modern(name="ü")) == [
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "=?base64?w7w=?="),
    ]
    writer.forget_session()
    assert writer.write("ping", {}) == agreed[:1]
    writer.learn_opening({"protocolVersion": "a\r\nb: c"}, "a\r\nb: c")
    assert writer.write("ping", {}) == []


def test_a_session_id_may_be_long() -> None:
    """The gateway seals in it what it knows of a client, which says of itself what it likes."""
    writer, session = HeaderWriter(), "s" * 2000
    writer.learn_opening({"protocolVersion": "2025-06-18"}, session)
    assert ("mcp-session-id", session) in writer.write("ping", {})


@given(st.text())
def test_no_text_breaks_out_of_a_header(text: str) -> None:
    """Whatever a client names, a header holds printable ASCII only, or the message is refused."""
    writer = HeaderWriter()
    params: JsonObject = {"_meta": {mcp.VERSION_KEY: text}, "name": text}
    for method in ("tools/call", text):
        try:
            headers = writer.write(method, params)
        except InvalidParamsError:
            continue
        assert all(value.isascii() and value.isprintable() for _, value in headers)


@pytest.mark.parametrize(
    "url",
    [
        "http://192.0.2.1:80/x",
        "https://127.0.0.1:80/x",
        "http://localhost.example:80/x",
        "http://127.0.0.1/x",
        "http://127.0.0.1:99999/x",
        "",
    ],
)
def test_other_machines_are_no_endpoint(url: str) -> None:
    """Only plain addresses of this machine are taken, as a token goes there without TLS."""
    with pytest.raises(SettingsError, match="no address of this machine"):
        _ = Endpoint.parse(url)


def test_endpoints_of_this_machine() -> None:
    """Both families are read."""
    assert Endpoint.parse("http://127.0.0.1:8700/a/mcp") == Endpoint("127.0.0.1", 8700, "/a/mcp")
    assert Endpoint.parse("http://[::1]:8700/a/mcp").authority == "[::1]:8700"


def test_a_budget_has_room_for_one_at_least() -> None:
    """Messages are counted, and their bytes; a single one may be of any size."""
    budget = Budget(3, 10)
    assert budget.take(50)
    assert not budget.take(1)
    budget.give(50)
    assert [budget.take(size) for size in (4, 4, 3, 2, 0)] == [True, True, False, True, False]
    budget.give(4)
    assert budget.take(0)


@pytest.mark.parametrize(
    ("error", "code", "category"),
    [
        (UnreadableMessageError("e"), -32700, "validation"),
        (MalformedMessageError("e"), -32600, "validation"),
        (InvalidParamsError("e"), -32602, "validation"),
        (TokenUnknownError("e"), -31003, "auth"),
        (TooManyCallsError("e"), -31004, "limit"),
        (TargetLostError("e"), -31001, "upstream"),
        (SettingsError("e"), -31001, "upstream"),
    ],
)
def test_refusals_are_told_as_the_gateway_tells_them(
    error: AgentsError, code: int, category: str
) -> None:
    """Category and code of each error, and what to do about it."""
    told = cast("JsonObject", jsonrpc.decode(refusal("i", error)))
    data: JsonObject = {"category": category, "code": error.code, "message": "e"}
    assert told == {
        "jsonrpc": "2.0",
        "id": "i",
        "error": {"code": code, "message": "e", "data": data},
    }
    error.hint = "Do it."
    told = cast("dict[str, JsonObject]", jsonrpc.decode(refusal(None, error)))
    assert told["id"] is None
    assert told["error"]["message"] == "e. Do it."
    assert cast("JsonObject", told["error"]["data"])["requiredAction"] == "Do it."


def test_the_unexpected_is_told_without_its_words() -> None:
    """They may hold anything; the kind says enough."""
    told = unexpected(5, ValueError("secret"))
    assert b"ValueError" in told
    assert b"secret" not in told


@pytest.mark.parametrize(
    "text",
    [
        b"[]",
        b'{"jsonrpc":"2.0","id":2,"result":{}}',
        b'{"jsonrpc":"2.0","id":1}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping"}',
        b'{"id":1,"result":{}}',
    ],
)
def test_answers_of_another_request_are_none(text: bytes) -> None:
    """Only a response with the request's own id is its answer."""
    with pytest.raises(UpstreamProtocolError):
        _ = answer_to(jsonrpc.Request(1, "ping", {}), jsonrpc.decode(text), text)


def test_answers_take_one_line_and_the_requests_id() -> None:
    """However they are laid out, and also if the gateway did not know the id."""
    request = jsonrpc.Request(1, "ping", {})
    text = b'{\r\n"jsonrpc":"2.0",\n"id":1,"result":{"a":"\\n"}}'
    value, line = answer_to(request, jsonrpc.decode(text), text)
    assert value["result"] == {"a": "\n"}
    assert line == b'{  "jsonrpc":"2.0", "id":1,"result":{"a":"\\n"}}'
    text = b'{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"no"}}'
    value, line = answer_to(request, jsonrpc.decode(text), text)
    assert value["id"] == 1
    assert jsonrpc.decode(line) == value
    with pytest.raises(UpstreamProtocolError, match="no JSON"):
        _ = read_json(b"{")
