"""The gateway's own tables against the SDK's, and the rewriting between eras."""

import mcp_types
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared import inbound
from mcp_types import jsonrpc as sdk_jsonrpc
from mcp_types import methods, version

from orchestrator.errors import (
    HeaderMismatchError,
    InvalidParamsError,
    NotRelayedError,
    UnsupportedVersionError,
)
from orchestrator.model.base import JsonObject
from orchestrator.model.snapshot import Era
from orchestrator.protocol import headers, jsonrpc, mcp

INFO: JsonObject = {"name": "g", "version": "1"}
ASKS = "input_required"


def test_constants_are_those_of_the_sdk() -> None:
    """Revisions, codes, keys and statuses repeat `mcp_types`."""
    assert mcp.MODERN_VERSIONS == version.MODERN_PROTOCOL_VERSIONS
    assert mcp.LATEST_MODERN == version.LATEST_MODERN_VERSION
    assert mcp.LATEST_LEGACY == version.LATEST_HANDSHAKE_VERSION
    assert set(version.HANDSHAKE_PROTOCOL_VERSIONS) == mcp.LEGACY_HEADERS
    assert set(mcp.LEGACY_VERSIONS) < set(version.HANDSHAKE_PROTOCOL_VERSIONS)
    assert mcp_types.PROTOCOL_VERSION_META_KEY == mcp.VERSION_KEY
    assert mcp_types.CLIENT_INFO_META_KEY == mcp.CLIENT_INFO_KEY
    assert mcp_types.CLIENT_CAPABILITIES_META_KEY == mcp.CLIENT_CAPABILITIES_KEY
    assert mcp_types.LOG_LEVEL_META_KEY == mcp.LOG_LEVEL_KEY
    assert mcp_types.SERVER_INFO_META_KEY == mcp.SERVER_INFO_KEY
    assert sdk_jsonrpc.HEADER_MISMATCH == mcp.HEADER_MISMATCH
    assert sdk_jsonrpc.MISSING_REQUIRED_CLIENT_CAPABILITY == mcp.MISSING_CAPABILITY
    assert sdk_jsonrpc.UNSUPPORTED_PROTOCOL_VERSION == mcp.UNSUPPORTED_VERSION
    assert sdk_jsonrpc.URL_ELICITATION_REQUIRED == mcp.URL_ELICITATION_REQUIRED
    assert sdk_jsonrpc.PARSE_ERROR == jsonrpc.PARSE_ERROR
    assert sdk_jsonrpc.INVALID_REQUEST == jsonrpc.INVALID_REQUEST
    assert sdk_jsonrpc.METHOD_NOT_FOUND == jsonrpc.METHOD_NOT_FOUND
    assert sdk_jsonrpc.INVALID_PARAMS == jsonrpc.INVALID_PARAMS
    assert sdk_jsonrpc.INTERNAL_ERROR == jsonrpc.INTERNAL_ERROR
    assert inbound.ERROR_CODE_HTTP_STATUS == mcp.STATUS_OF_CODE
    assert inbound.NAME_BEARING_METHODS == mcp.NAME_PARAMETER


def test_served_methods_exist() -> None:
    """Every served method is one of its era's revisions in the SDK."""
    for era, versions in (("legacy", mcp.LEGACY_VERSIONS), ("modern", mcp.MODERN_VERSIONS)):
        for method in mcp.SERVED["legacy" if era == "legacy" else "modern"]:
            for revision in versions:
                assert (method, revision) in methods.CLIENT_REQUESTS


def offered(era: Era) -> JsonObject:
    """Offer all that there is."""
    abilities: JsonObject = {
        "resources": {"subscribe": True, "listChanged": True},
        "prompts": {},
        "completions": {},
        "logging": {},
        "tasks": {},
    }
    return mcp.offered_capabilities(abilities, resources=True, prompts=True, era=era)


def test_no_more_is_offered_than_the_role_has() -> None:
    """What the server does not have, and what the role may not use, is not offered."""
    assert set(offered("modern")) == {"tools", "resources", "prompts", "completions", "logging"}
    abilities: JsonObject = {"resources": {}, "prompts": {}, "completions": {}}
    eras: tuple[Era, ...] = ("legacy", "modern")
    for era in eras:
        none = mcp.offered_capabilities(abilities, resources=False, prompts=False, era=era)
        assert set(none) - {"logging"} == {"tools"}
        some = mcp.offered_capabilities(abilities, resources=True, prompts=False, era=era)
        assert some["resources"] == {"listChanged": True}
        assert "prompts" not in some
        absent = mcp.offered_capabilities({}, resources=True, prompts=True, era=era)
        assert set(absent) - {"logging"} == {"tools"}


def test_answers_are_valid_results() -> None:
    """What the gateway answers itself is what the SDK's models of each revision accept."""
    tools: tuple[JsonObject, ...] = ({"name": "a", "inputSchema": {"type": "object"}},)
    for revision in mcp.LEGACY_VERSIONS:
        for method, result in (
            ("initialize", mcp.initialize_result(revision, INFO, offered("legacy"), "Be kind.")),
            ("tools/list", mcp.list_result(tools)),
        ):
            _ = methods.validate_server_result(
                method, revision, mcp.result_for("legacy", method, result, INFO)
            )
    for method, result in (
        ("server/discover", mcp.discover_result(offered("modern"), "Be kind.")),
        ("tools/list", mcp.list_result(tools)),
    ):
        _ = methods.validate_server_result(
            method, mcp.LATEST_MODERN, mcp.result_for("modern", method, result, INFO)
        )


def test_result_changes_era() -> None:
    """The modern keys are added toward a modern caller and removed toward a legacy one."""
    content: JsonObject = {"content": [], "isError": False}
    modern = mcp.result_for("modern", "tools/call", {**content, "_meta": {"a": 1}}, INFO)
    assert modern == {
        **content,
        "resultType": "complete",
        "_meta": {"a": 1, mcp.SERVER_INFO_KEY: INFO},
    }
    legacy = mcp.result_for("legacy", "tools/call", modern, INFO)
    assert legacy == {**content, "_meta": {"a": 1}}
    told: JsonObject = {**content, "_meta": {mcp.SERVER_INFO_KEY: {}}}
    stamped = mcp.result_for("modern", "tools/call", told, INFO)
    assert stamped["_meta"] == {mcp.SERVER_INFO_KEY: INFO}
    assert mcp.result_for("legacy", "tools/call", stamped, INFO) == content


@pytest.mark.parametrize(
    ("told", "kept"), [(0, 0), (10**9, mcp.LIST_TTL_MS), (-5, 0), (1.5, 1), (True, 0), ("x", 0)]
)
def test_what_depends_on_the_role_is_kept_by_nobody_else(told: float | str, kept: int) -> None:
    """A list of a server is private here, whatever it says, and is not kept for long."""
    result: JsonObject = {"resources": [], "ttlMs": told, "cacheScope": "public"}
    modern = mcp.result_for("modern", "resources/list", result, INFO)
    assert (modern["ttlMs"], modern["cacheScope"]) == (kept, "private")
    asked: JsonObject = {"resultType": "input_required", "requestState": "s"}
    assert "ttlMs" not in mcp.result_for("modern", "resources/read", asked, INFO)


def test_request_is_rewritten_at_the_hop() -> None:
    """Connection keys are restamped or dropped, and unknown parameters are left behind."""
    meta: JsonObject = {
        **mcp.envelope({"name": "caller"}, {"sampling": {}}),
        mcp.LOG_LEVEL_KEY: "debug",
        mcp.PROGRESS_TOKEN_KEY: 1,
        "traceparent": "00",
    }
    params: JsonObject = {"name": "t", "arguments": {"a": 1}, "_meta": meta, "task": {"ttl": 1}}
    kept: JsonObject = {"traceparent": "00", mcp.PROGRESS_TOKEN_KEY: 1, mcp.REQUEST_ID_KEY: "r1"}
    stamp: JsonObject = {mcp.REQUEST_ID_KEY: "r1"}
    legacy = mcp.upstream_params("tools/call", params, meta, "legacy", stamp)
    assert legacy == {"name": "t", "arguments": {"a": 1}, "_meta": kept}
    stamp |= mcp.envelope(INFO)
    modern = mcp.upstream_params("tools/call", params, meta, "modern", stamp)
    assert modern["_meta"] == {
        **kept,
        mcp.LOG_LEVEL_KEY: "debug",
        mcp.VERSION_KEY: mcp.LATEST_MODERN,
        mcp.CLIENT_CAPABILITIES_KEY: {},
        mcp.CLIENT_INFO_KEY: INFO,
    }
    bare = mcp.upstream_params("tools/call", {"name": "t", "arguments": None}, {}, "legacy", stamp)
    assert "arguments" not in bare
    assert params["_meta"] is meta
    assert mcp.CLIENT_INFO_KEY in meta


def test_capabilities_are_cut_to_what_the_server_may_ask() -> None:
    """A server learns of no capability that its role does not let it use."""
    declared: JsonObject = {"sampling": {}, "elicitation": {"url": {}}, "roots": True, "tasks": {}}
    assert mcp.cut_capabilities(declared, ()) == {}
    assert mcp.cut_capabilities(declared, ("elicitation", "roots")) == {"elicitation": {"url": {}}}
    assert mcp.cut_capabilities(["sampling"], ("sampling",)) == {}


@pytest.mark.parametrize(
    "params",
    [{}, {"name": 1}, {"name": "a", "arguments": 1}],
)
def test_calls_of_a_wrong_shape_are_refused(params: JsonObject) -> None:
    """A name that is no text, and arguments that are no object, are invalid."""
    with pytest.raises(InvalidParamsError):
        _ = mcp.parse_tool_call(params)


def test_meta_is_an_object_or_nothing() -> None:
    """A `_meta` of another type is invalid."""
    assert mcp.parse_meta({}) == mcp.parse_meta({"_meta": None}) == {}
    with pytest.raises(InvalidParamsError):
        _ = mcp.parse_meta({"_meta": []})


def test_versions_are_agreed_on() -> None:
    """A served legacy revision is echoed, anything else is answered with the newest legacy one."""
    assert mcp.agree_on_version({"protocolVersion": "2025-06-18"}) == "2025-06-18"
    assert mcp.agree_on_version({"protocolVersion": "2026-07-28"}) == "2025-11-25"
    with pytest.raises(InvalidParamsError):
        _ = mcp.agree_on_version({})
    mcp.check_modern_version("2026-07-28")
    with pytest.raises(UnsupportedVersionError):
        mcp.check_modern_version("2025-11-25")


def test_only_what_may_be_asked_is_no_complete_result() -> None:
    """Only the three methods may ask, and other kinds of results are not relayed."""
    assert not mcp.check_result_type("tools/call", {})
    assert not mcp.check_result_type("tools/list", {"resultType": "complete"})
    for method in ("tools/call", "prompts/get", "resources/read"):
        assert mcp.check_result_type(method, {"resultType": "input_required"})
    for method, kind in (("tools/call", "task"), ("tools/call", None), ("tools/list", ASKS)):
        with pytest.raises(NotRelayedError):
            _ = mcp.check_result_type(method, {"resultType": kind})


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_header_values_are_written_like_the_sdk_does(value: str) -> None:
    """Any text survives a header, in the SDK's own spelling."""
    written = headers.encode_value(value)
    assert written == inbound.encode_header_value(value)
    assert headers.decode_value(written.encode("latin-1")) == value


@pytest.mark.parametrize("value", ["=?base64?x?=", "=?base64?ZWN=?=", "=?base64?/w==?="])
def test_broken_wrapping_matches_nothing(value: str) -> None:
    """A wrapping that is no canonical Base64 of UTF-8 reads as nothing."""
    assert headers.decode_value(value.encode()) is None
    assert inbound.decode_header_value(value) is None


SCHEMAS: list[JsonObject] = [
    {"properties": {"a": {"type": "string", "x-mcp-header": "A"}}},
    {"properties": {"a": {"type": "integer", "x-mcp-header": "A"}}},
    {"properties": {"a": {"type": "boolean", "x-mcp-header": "A"}}},
    {"properties": {"o": {"properties": {"a": {"type": "string", "x-mcp-header": "A"}}}}},
    {"properties": {"a": {"type": "number", "x-mcp-header": "A"}}},
    {"properties": {"a": {"type": ["string"], "x-mcp-header": "A"}}},
    {"properties": {"a": {"type": "string", "x-mcp-header": "A B"}}},
    {"properties": {"a": {"type": "string", "x-mcp-header": 5}}},
    {"x-mcp-header": "A", "type": "string"},
    {"items": {"type": "string", "x-mcp-header": "A"}},
    {"anyOf": [{"properties": {"a": {"type": "string", "x-mcp-header": "A"}}}]},
    {"$defs": {"d": {"type": "string", "x-mcp-header": "A"}}},
    {"default": {"x-mcp-header": "A"}},
    {
        "properties": {
            "a": {"type": "string", "x-mcp-header": "A"},
            "b": {"type": "string", "x-mcp-header": "a"},
        }
    },
]
ARGUMENTS: list[JsonObject] = [
    {},
    {"a": None},
    {"a": "x"},
    {"a": " ü "},
    {"a": 42},
    {"a": 42.0},
    {"a": 10**5000},
    {"a": True},
    {"a": [1]},
    {"o": {"a": "x"}},
    {"o": 1},
]
VALUES = [
    None,
    "x",
    "42",
    "42.0",
    "42.5",
    "true",
    "9" * 5000,
    "=?base64?IMO8IA==?=",
    "=?base64?!?=",
]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_parameter_headers_agree_with_the_sdk(schema: JsonObject) -> None:
    """For every pairing of schema, argument and header the SDK would decide alike."""
    rules = headers.parameter_headers(schema)
    for arguments in ARGUMENTS:
        for value in VALUES:
            sent = [] if value is None else [("mcp-param-a", value)]
            expected = inbound.validate_mcp_param_headers(schema, arguments, dict(sent))
            raw = [(name.encode(), text.encode()) for name, text in sent]
            try:
                headers.check_parameters(rules, arguments, raw)
            except HeaderMismatchError:
                assert expected is not None, (schema, arguments, value)
            else:
                assert expected is None, (schema, arguments, value)


def test_repeated_parameter_header_is_refused() -> None:
    """Two copies of a header would let two readers differ."""
    rules = headers.parameter_headers(SCHEMAS[0])
    with pytest.raises(HeaderMismatchError):
        headers.check_parameters(rules, {"a": "x"}, [(b"mcp-param-a", b"x")] * 2)


def classify(sent: dict[str, str], method: str, params: JsonObject) -> int | None:
    """Check a modern request as the gateway does; tell the code of the refusal."""
    try:
        named = mcp.check_envelope(params)
        raw = {name.encode(): value.encode("latin-1") for name, value in sent.items()}
        headers.check_standard(raw, named, method, params)
        mcp.check_modern_version(str(named))
    except InvalidParamsError:
        return mcp_types.INVALID_PARAMS
    except HeaderMismatchError:
        return mcp.HEADER_MISMATCH
    except UnsupportedVersionError:
        return mcp.UNSUPPORTED_VERSION
    return None


@given(
    st.sampled_from([None, "2026-07-28", "2027-01-01"]),
    st.sampled_from([None, "tools/call", "tools/list"]),
    st.sampled_from([None, "a", "b", "=?base64?YQ==?=", "=?base64?YR==?="]),
    st.sampled_from([None, "2026-07-28", "2027-01-01"]),
    st.sampled_from(["tools/call", "tools/list"]),
    st.sampled_from([None, "a", 5]),
    st.booleans(),
    st.booleans(),
)
def test_requests_are_checked_like_the_sdk_does(  # noqa: PLR0917 - each is drawn on its own
    version_header: str | None,
    method_header: str | None,
    name_header: str | None,
    named: str | None,
    method: str,
    name: str | int | None,
    has_capabilities: bool,
    has_meta: bool,
) -> None:
    """Any disagreement of headers and body gets the code that the SDK gives it."""
    meta: JsonObject = {} if named is None else {mcp.VERSION_KEY: named}
    if has_capabilities:
        meta[mcp.CLIENT_CAPABILITIES_KEY] = {}
    params: JsonObject = {"_meta": meta} if has_meta else {}
    if name is not None:
        params["name"] = name
    sent = {
        header: value
        for header, value in (
            ("mcp-protocol-version", version_header),
            ("mcp-method", method_header),
            ("mcp-name", name_header),
        )
        if value is not None
    }
    verdict = inbound.classify_inbound_request({"method": method, "params": params}, headers=sent)
    expected = verdict.code if isinstance(verdict, inbound.InboundLadderRejection) else None
    assert classify(sent, method, params) == expected


def test_capabilities_are_an_object() -> None:
    """Capabilities of another type are invalid parameters."""
    with pytest.raises(InvalidParamsError):
        _ = mcp.check_envelope(
            {"_meta": {mcp.VERSION_KEY: "2026-07-28", mcp.CLIENT_CAPABILITIES_KEY: []}}
        )
