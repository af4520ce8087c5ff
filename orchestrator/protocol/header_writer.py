"""The HTTP headers of messages that come without any, one after the other, without I/O.

Source: MCP 2026-07-28, Streamable HTTP, standard and custom headers.
"""

import re
from typing import Final, TypeAlias, final

from orchestrator.errors import InvalidParamsError
from orchestrator.model.base import JsonObject
from orchestrator.protocol import mcp
from orchestrator.protocol.headers import (
    ParameterHeader,
    parameter_headers,
    write_parameters,
    write_standard,
)

Headers: TypeAlias = list[tuple[str, str]]

_WORD: Final = re.compile(r"[\x21-\x7e]{1,256}")
# Servers may seal what they know of a session in its id, as the gateway does.
_SESSION: Final = re.compile(r"[\x21-\x7e]{1,4096}")


def modern_version(params: JsonObject) -> str | None:
    """Tell the revision by which a message describes itself; None for a legacy one."""
    meta = params.get("_meta")
    version = meta.get(mcp.VERSION_KEY) if isinstance(meta, dict) else None
    return version if isinstance(version, str) else None


@final
class HeaderWriter:
    """Writes headers, with what it learned from the answers that passed by."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._version: str | None = None
        self._session: str | None = None
        self._rules: dict[str, tuple[ParameterHeader, ...]] = {}

    @property
    def session(self) -> str | None:
        """The open session's id."""
        return self._session

    def learn_opening(self, result: JsonObject, session: str | None) -> None:
        """Take the agreed revision from the answer to `initialize`, and the session's id."""
        version = result.get("protocolVersion")
        self._version = version if isinstance(version, str) and _WORD.fullmatch(version) else None
        self._session = session if session and _SESSION.fullmatch(session) else None

    def forget_session(self) -> None:
        """Name the session no more."""
        self._session = None

    def learn_tools(self, result: JsonObject) -> None:
        """Take from an answer to `tools/list` which arguments have to be repeated in headers."""
        tools = result.get("tools")
        for tool in tools if isinstance(tools, list) else []:
            if isinstance(tool, dict) and isinstance(name := tool.get("name"), str):
                self._rules[name] = parameter_headers(tool.get("inputSchema"))

    def write(self, method: str | None, params: JsonObject) -> Headers:
        """Write the headers of a message.

        Args:
            method: Its method, None for a response.
            params: Its parameters.

        Raises:
            InvalidParamsError: A header cannot hold the method or the revision.
        """
        version = modern_version(params)
        if version is None or method is None:
            return [] if method == "initialize" else self._write_legacy()
        if not _WORD.fullmatch(version) or not _WORD.fullmatch(method):
            raise InvalidParamsError("the method and the protocol version must be plain words")
        headers = write_standard(version, method, params)
        if method == "tools/call" and isinstance(name := params.get("name"), str):
            headers += write_parameters(self._rules.get(name, ()), params.get("arguments"))
        return headers

    def _write_legacy(self) -> Headers:
        known = (("mcp-protocol-version", self._version), ("mcp-session-id", self._session))
        return [(name, value) for name, value in known if value is not None]
