"""MCP on the wire: revisions, methods, and the rewriting at each hop, without I/O.

The gateway looks into the methods named here; every other method is refused. The constants repeat
those of `mcp_types`, which costs too much to import; a test compares the two.

Legacy are the revisions that open with `initialize`; modern is 2026-07-28, where each request
describes itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from orchestrator.errors import InvalidParamsError, NotRelayedError, UnsupportedVersionError
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.snapshot import Era

LEGACY_VERSIONS: Final = ("2025-06-18", "2025-11-25")
MODERN_VERSIONS: Final = ("2026-07-28",)
LATEST_LEGACY: Final = LEGACY_VERSIONS[-1]
LATEST_MODERN: Final = MODERN_VERSIONS[-1]
# Values of the version header that lead to the legacy rules. The two oldest are never agreed on,
# but a caller without a header is taken to speak 2025-03-26, so one that says so is no worse.
# Source: MCP 2025-11-25, Transports, Protocol Version Header.
LEGACY_HEADERS: Final = frozenset({"2024-11-05", "2025-03-26", *LEGACY_VERSIONS})

HEADER_MISMATCH: Final = -32020
MISSING_CAPABILITY: Final = -32021
UNSUPPORTED_VERSION: Final = -32022
URL_ELICITATION_REQUIRED: Final = -32042

VERSION_KEY: Final = "io.modelcontextprotocol/protocolVersion"
CLIENT_INFO_KEY: Final = "io.modelcontextprotocol/clientInfo"
CLIENT_CAPABILITIES_KEY: Final = "io.modelcontextprotocol/clientCapabilities"
LOG_LEVEL_KEY: Final = "io.modelcontextprotocol/logLevel"
SERVER_INFO_KEY: Final = "io.modelcontextprotocol/serverInfo"
PROGRESS_TOKEN_KEY: Final = "progressToken"  # noqa: S105 - the name of a field of the protocol
REQUEST_ID_KEY: Final = "dev.bandmaster/requestId"
# Marks the answer to a call that was recorded and not made.
SHADOW_KEY: Final = "dev.bandmaster/shadow"

# What a legacy server knows nothing of; a modern one gets the gateway's own in its place.
_MODERN_META: Final = (VERSION_KEY, CLIENT_INFO_KEY, CLIENT_CAPABILITIES_KEY, LOG_LEVEL_KEY)
# Of what a caller writes into `_meta`, this never reaches an instance as it is.
REPLACED_META: Final = frozenset(
    {VERSION_KEY, CLIENT_INFO_KEY, CLIENT_CAPABILITIES_KEY, PROGRESS_TOKEN_KEY, REQUEST_ID_KEY}
)
_MODERN_RESULT_KEYS: Final = ("resultType", "ttlMs", "cacheScope")

# Source: MCP 2026-07-28, Streamable HTTP, and the SDK for the rest: codes without a row go out
# with status 200.
STATUS_OF_CODE: Final[Mapping[int, int]] = MappingProxyType(
    {
        -32700: 400,
        -32600: 400,
        -32602: 400,
        HEADER_MISMATCH: 400,
        MISSING_CAPABILITY: 400,
        UNSUPPORTED_VERSION: 400,
        -32601: 404,
    }
)

# Which parameter `Mcp-Name` repeats.
NAME_PARAMETER: Final[Mapping[str, str]] = MappingProxyType(
    {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
)

_BOTH: Final = frozenset(
    {
        "tools/list",
        "tools/call",
        "resources/list",
        "resources/templates/list",
        "resources/read",
        "prompts/list",
        "prompts/get",
        "completion/complete",
    }
)
# Default deny: what is not here is not served, extensions and experiments included.
SERVED: Final[Mapping[Era, frozenset[str]]] = MappingProxyType(
    {
        "legacy": _BOTH
        | {
            "initialize",
            "ping",
            "logging/setLevel",
            "resources/subscribe",
            "resources/unsubscribe",
        },
        "modern": _BOTH | {"server/discover", "subscriptions/listen"},
    }
)

# Parameters that are passed on, beside `_meta`; whatever else a caller writes is left behind.
KNOWN_PARAMETERS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "tools/call": ("name", "arguments"),
        "prompts/get": ("name", "arguments"),
        "resources/read": ("uri",),
        "completion/complete": ("ref", "argument", "context"),
        "resources/list": ("cursor",),
        "resources/templates/list": ("cursor",),
        "prompts/list": ("cursor",),
    }
)
# A server may answer these with questions instead of a result.
ASKING_METHODS: Final = frozenset({"tools/call", "prompts/get", "resources/read"})
# Source: MCP 2026-07-28, caching.
CACHEABLE_METHODS: Final = frozenset(
    {
        "server/discover",
        "tools/list",
        "prompts/list",
        "resources/list",
        "resources/templates/list",
        "resources/read",
    }
)
# What a server asks its caller, and the capability that a caller needs for it.
ASKED_CAPABILITY: Final[Mapping[str, str]] = MappingProxyType(
    {
        "elicitation/create": "elicitation",
        "sampling/createMessage": "sampling",
        "roots/list": "roots",
    }
)
# From the least to the most serious. Source: RFC 5424, as MCP takes it over.
LOG_LEVELS: Final = (
    "debug",
    "info",
    "notice",
    "warning",
    "error",
    "critical",
    "alert",
    "emergency",
)

# How long a caller may keep a list: short, as a caller need not listen for changes.
LIST_TTL_MS: Final = 5_000


@dataclass(slots=True)
class ToolCall:
    """The parameters of `tools/call` that decisions are made by; never changed.

    Attributes:
        name: The tool.
        arguments: Its arguments, None when the caller gave none.
    """

    name: str
    arguments: JsonObject | None


def parse_tool_call(params: JsonObject) -> ToolCall:
    """Read the parameters of `tools/call`.

    Raises:
        InvalidParamsError: The name is no text, or the arguments are no object.
    """
    name, arguments = params.get("name"), params.get("arguments")
    if not isinstance(name, str):
        raise InvalidParamsError("Invalid params: `name` must be a text")
    if arguments is not None and not isinstance(arguments, dict):
        raise InvalidParamsError("Invalid params: `arguments` must be an object")
    return ToolCall(name, arguments)


def parse_meta(params: JsonObject) -> JsonObject:
    """Read `_meta`, empty when there is none.

    Raises:
        InvalidParamsError: It is no object.
    """
    meta = params.get("_meta")
    if meta is None:
        return {}
    if not isinstance(meta, dict):
        raise InvalidParamsError("Invalid params: `_meta` must be an object")
    return meta


def check_envelope(params: JsonObject) -> Json:
    """Check that a modern request describes itself.

    Returns:
        The revision that it names; of any type, as the header is compared with it first.

    Raises:
        InvalidParamsError: A part is missing.

    Source: MCP 2026-07-28, Basic, per-request protocol fields.
    """
    meta = params.get("_meta")
    if not isinstance(meta, dict):
        raise InvalidParamsError(
            f"params._meta must be an object with the keys {VERSION_KEY} "
            f"and {CLIENT_CAPABILITIES_KEY}"
        )
    if VERSION_KEY not in meta or CLIENT_CAPABILITIES_KEY not in meta:
        missing = [key for key in (VERSION_KEY, CLIENT_CAPABILITIES_KEY) if key not in meta]
        raise InvalidParamsError(f"params._meta lacks {', '.join(missing)}")
    if not isinstance(meta[CLIENT_CAPABILITIES_KEY], dict):
        raise InvalidParamsError(f"{CLIENT_CAPABILITIES_KEY} must be an object")
    return meta[VERSION_KEY]


def check_modern_version(version: str) -> None:
    """Refuse a revision that is not served under the modern rules.

    Raises:
        UnsupportedVersionError: It is not.
    """
    if version not in MODERN_VERSIONS:
        raise UnsupportedVersionError(version)


def agree_on_version(params: JsonObject) -> str:
    """Answer the revision that an `initialize` asks for, or the newest legacy one.

    Raises:
        InvalidParamsError: It asks for none.
    """
    asked = params.get("protocolVersion")
    if not isinstance(asked, str):
        raise InvalidParamsError("Invalid params: `protocolVersion` must be a text")
    return asked if asked in LEGACY_VERSIONS else LATEST_LEGACY


def offered_capabilities(
    upstream: JsonObject, *, resources: bool, prompts: bool, era: Era
) -> JsonObject:
    """Tell what the gateway offers to callers of this era: what it relays, and no more.

    Args:
        upstream: Capabilities that the instance told.
        resources: Whether the role may read any.
        prompts: Whether the role may have any.
        era: The era of the caller.
    """
    offered: JsonObject = {"tools": {"listChanged": True}}
    if resources and isinstance(told := upstream.get("resources"), dict):
        subscribe: JsonObject = {"subscribe": True} if told.get("subscribe") is True else {}
        offered["resources"] = {"listChanged": True} | subscribe
    if prompts and "prompts" in upstream:
        offered["prompts"] = {"listChanged": True}
    if (resources or prompts) and "completions" in upstream:
        offered["completions"] = {}
    if "logging" in upstream or era == "legacy":
        # A session may set its level in any case: a server without logs just has none to give.
        offered["logging"] = {}
    return offered


def initialize_result(
    version: str, server_info: JsonObject, capabilities: JsonObject, instructions: str
) -> JsonObject:
    """Build the answer to `initialize`."""
    told: JsonObject = {"instructions": instructions} if instructions else {}
    return {
        "protocolVersion": version,
        "capabilities": capabilities,
        "serverInfo": server_info,
        **told,
    }


def discover_result(capabilities: JsonObject, instructions: str) -> JsonObject:
    """Build the answer to `server/discover`."""
    told: JsonObject = {"instructions": instructions} if instructions else {}
    return {
        "supportedVersions": [*MODERN_VERSIONS],
        "capabilities": capabilities,
        **told,
        "ttlMs": LIST_TTL_MS,
        "cacheScope": "private",
    }


def list_result(tools: tuple[JsonObject, ...]) -> JsonObject:
    """Build the answer to `tools/list`: one page.

    It is private, as it depends on the caller's role.
    """
    return {"tools": [*tools], "ttlMs": LIST_TTL_MS, "cacheScope": "private"}


def upstream_params(
    method: str,
    params: JsonObject,
    meta: JsonObject,
    era: Era,
    stamp: JsonObject,
) -> JsonObject:
    """Write the parameters of a request as an instance of this era gets them.

    Args:
        method: The method.
        params: The caller's parameters.
        meta: The caller's `_meta`.
        era: The era of the instance.
        stamp: What the gateway itself puts into `_meta`; for a modern instance a whole envelope.
    """
    passed: JsonObject = {**meta, **stamp}
    if era == "legacy":
        for key in _MODERN_META:
            _ = passed.pop(key, None)
    if method == "tools/call":
        written: JsonObject = {"name": params.get("name"), "_meta": passed}
        if params.get("arguments") is not None:
            written["arguments"] = params["arguments"]
        return written
    known = KNOWN_PARAMETERS.get(method, ())
    written = {key: params[key] for key in known if params.get(key) is not None}
    written["_meta"] = passed
    return written


def envelope(client_info: JsonObject, capabilities: JsonObject | None = None) -> JsonObject:
    """Write the `_meta` that a modern request describes itself with.

    Args:
        client_info: What the gateway says of itself.
        capabilities: What the caller can be asked; nothing if None, and a conforming server then
            never asks.
    """
    return {
        VERSION_KEY: LATEST_MODERN,
        CLIENT_CAPABILITIES_KEY: capabilities or {},
        CLIENT_INFO_KEY: client_info,
    }


def cut_capabilities(declared: Json, asks: tuple[str, ...]) -> JsonObject:
    """Keep what a caller declared of what the server may ask at all."""
    if not isinstance(declared, dict):
        return {}
    return {name: value for name in asks if isinstance(value := declared.get(name), dict)}


def result_for(era: Era, method: str, result: JsonObject, server_info: JsonObject) -> JsonObject:
    """Write a complete result as a caller of this era gets it.

    Args:
        era: The era of the caller.
        method: The method that it answers.
        result: A complete result, of either era; it is changed and returned.
        server_info: What the gateway says of itself.
    """
    meta = result.get("_meta")
    if era == "legacy":
        for key in _MODERN_RESULT_KEYS:
            _ = result.pop(key, None)
        if isinstance(meta, dict) and SERVER_INFO_KEY in meta:
            del meta[SERVER_INFO_KEY]
            if not meta:
                del result["_meta"]
        return result
    if "resultType" not in result:
        result["resultType"] = "complete"
    if method in CACHEABLE_METHODS and result["resultType"] == "complete":
        told = result.get("ttlMs")
        if isinstance(told, bool) or not isinstance(told, int | float):
            told = 0
        result["ttlMs"] = max(0, min(int(told), LIST_TTL_MS))
        # What one role may see depends on the role.
        result["cacheScope"] = "private"
    stamp: JsonObject = {SERVER_INFO_KEY: server_info}
    result["_meta"] = meta | stamp if isinstance(meta, dict) else stamp
    return result


def check_result_type(method: str, result: JsonObject) -> bool:
    """Tell whether a result asks its caller for more.

    Raises:
        NotRelayedError: It is of a kind that the gateway does not relay.
    """
    kind = result.get("resultType", "complete")
    if kind == "complete":
        return False
    if kind == "input_required" and method in ASKING_METHODS:
        return True
    raise NotRelayedError("The tool answers with something that is not available here")
