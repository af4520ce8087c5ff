"""MCP on the wire: revisions, methods, and the rewriting at each hop, without I/O.

The gateway looks into the methods named here; every other method is refused. The constants repeat
those of `mcp_types`, which costs too much to import; a test compares the two.

Legacy are the revisions that open with `initialize`; modern is 2026-07-28, where each request
describes itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

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

# What belongs to the connection between a caller and the gateway, or asks for notifications that
# the gateway does not relay.
_OF_THIS_HOP: Final = frozenset(
    {VERSION_KEY, CLIENT_INFO_KEY, CLIENT_CAPABILITIES_KEY, LOG_LEVEL_KEY, PROGRESS_TOKEN_KEY}
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

Served: TypeAlias = Literal["initialize", "server/discover", "ping", "tools/list", "tools/call"]
# Default deny: resources, prompts, completion and logging are not relayed.
SERVED: Final[Mapping[Era, Mapping[str, Served]]] = MappingProxyType(
    {
        "legacy": MappingProxyType(
            {
                "initialize": "initialize",
                "ping": "ping",
                "tools/list": "tools/list",
                "tools/call": "tools/call",
            }
        ),
        "modern": MappingProxyType(
            {
                "server/discover": "server/discover",
                "tools/list": "tools/list",
                "tools/call": "tools/call",
            }
        ),
    }
)

# How long a caller may keep a list: short, as nothing tells it yet that the list has changed.
LIST_TTL_MS: Final = 5_000


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The parameters of `tools/call` that the gateway relays.

    Attributes:
        name: The tool.
        arguments: Its arguments, None when the caller gave none.
        meta: The caller's `_meta`, empty when there was none.
    """

    name: str
    arguments: JsonObject | None
    meta: JsonObject


def parse_tool_call(params: JsonObject) -> ToolCall:
    """Read the parameters of `tools/call`; unknown ones are left behind.

    Raises:
        InvalidParamsError: The name is no text, or arguments or `_meta` are no objects.
    """
    name, arguments = params.get("name"), params.get("arguments")
    if not isinstance(name, str):
        raise InvalidParamsError("Invalid params: `name` must be a text")
    if arguments is not None and not isinstance(arguments, dict):
        raise InvalidParamsError("Invalid params: `arguments` must be an object")
    return ToolCall(name, arguments, parse_meta(params))


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
    missing = [key for key in (VERSION_KEY, CLIENT_CAPABILITIES_KEY) if key not in meta]
    if missing:
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


def initialize_result(version: str, server_info: JsonObject) -> JsonObject:
    """Build the answer to `initialize`; tools are all that is relayed."""
    return {
        "protocolVersion": version,
        "capabilities": {"tools": {}},
        "serverInfo": server_info,
    }


def discover_result() -> JsonObject:
    """Build the answer to `server/discover`; tools are all that is relayed."""
    return {
        "supportedVersions": [*MODERN_VERSIONS],
        "capabilities": {"tools": {}},
        "ttlMs": LIST_TTL_MS,
        "cacheScope": "private",
    }


def list_result(tools: tuple[JsonObject, ...]) -> JsonObject:
    """Build the answer to `tools/list`: one page.

    It is private, as it depends on the caller's role.
    """
    return {"tools": [*tools], "ttlMs": LIST_TTL_MS, "cacheScope": "private"}


def upstream_call(call: ToolCall, era: Era, client_info: JsonObject, request_id: str) -> JsonObject:
    """Write the parameters of a call as an instance of this era gets them.

    Args:
        call: The call, as parsed.
        era: The era of the instance.
        client_info: What the gateway says of itself.
        request_id: The gateway's id of the request; it goes along in `_meta`.
    """
    meta = {key: value for key, value in call.meta.items() if key not in _OF_THIS_HOP}
    meta[REQUEST_ID_KEY] = request_id
    if era == "modern":
        meta |= envelope(client_info)
    params: JsonObject = {"name": call.name, "_meta": meta}
    if call.arguments is not None:
        params["arguments"] = call.arguments
    return params


def envelope(client_info: JsonObject) -> JsonObject:
    """Write the `_meta` that a modern request describes itself with.

    No capability is declared, so that a conforming server never asks the caller anything.
    """
    return {VERSION_KEY: LATEST_MODERN, CLIENT_CAPABILITIES_KEY: {}, CLIENT_INFO_KEY: client_info}


def result_for(era: Era, result: JsonObject, server_info: JsonObject) -> JsonObject:
    """Write a result as a caller of this era gets it.

    Args:
        era: The era of the caller.
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
    result["resultType"] = "complete"
    stamp: JsonObject = {SERVER_INFO_KEY: server_info}
    result["_meta"] = meta | stamp if isinstance(meta, dict) else stamp
    return result


def check_relayed(result: JsonObject) -> None:
    """Refuse a result that only a caller with a capability could use.

    Raises:
        NotRelayedError: The server asks the caller something, or uses an extension.
    """
    if result.get("resultType", "complete") != "complete":
        raise NotRelayedError("The tool asks its caller for more, which is not available here")
