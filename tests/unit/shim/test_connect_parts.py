"""The parts of `agents connect` that do no I/O: headers, addresses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.inbound import mcp_param_headers, x_mcp_header_map

from orchestrator.errors import InvalidParamsError, SettingsError
from orchestrator.model.base import JsonObject
from orchestrator.protocol import mcp
from orchestrator.protocol.header_writer import HeaderWriter
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
    assert writer.write("initialize", {}) == []
    assert writer.write("tools/call", modern(name="ü")) == [
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "=?base64?w7w=?="),
    ]
    writer.learn_opening({"protocolVersion": "a\r\nb: c"}, "a\r\nb: c")
    assert writer.write("ping", {}) == []


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
