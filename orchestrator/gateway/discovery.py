"""Where tokens are to be had, as a client that knows nothing but a role's address finds out.

All or nothing: with static tokens there is none of this, as clients take the least sign of an
authorization server for a reason to ignore the token that they were given.

Source: RFC 9728, Protected Resource Metadata; RFC 6750, section 3; MCP 2026-07-28, Authorization.
"""

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Final, final

from orchestrator.gateway.context import Exchange, Handler, Reply
from orchestrator.model.auth import Auth
from orchestrator.model.base import JsonObject
from orchestrator.model.names import RoleName
from orchestrator.protocol import jsonrpc

PATH: Final = "/.well-known/oauth-protected-resource"
_CHALLENGE: Final = b"www-authenticate"


@final
class Discovery:
    """Tells of the identity provider: in documents, and in each refusal of a token."""

    def __init__(self, auth: Auth, roles: Callable[[], Collection[RoleName]]) -> None:
        """Tell what is configured, for the roles that there are."""
        self._auth = auth
        self._roles = roles

    def document(self, path: str) -> Reply | None:
        """Give the metadata of the role that a path names; None if it names none."""
        if not path.startswith(PATH):
            return None
        rest, roles = path[len(PATH) :], self._roles()
        if not rest and len(roles) == 1:
            return self._describe(next(iter(roles)))
        role = RoleName(rest[1:-4])
        if rest != f"/{role}/mcp" or role not in roles:
            return None
        return self._describe(role)

    async def challenge(self, exchange: Exchange, /, then: Handler) -> Reply:
        """Say in refusals of a token where one is to be had."""
        reply = await then(exchange)
        if reply.status == 401:  # noqa: PLR2004 - what HTTP calls it
            return self._challenged(reply, exchange, "invalid_token")
        if reply.status == 403:  # noqa: PLR2004 - the same
            return self._challenged(reply, exchange, "insufficient_scope")
        return reply

    def _challenged(self, reply: Reply, exchange: Exchange, error: str) -> Reply:
        parts = [f'Bearer error="{error}"']
        # A role that is none is text of the caller's, and has no document.
        if exchange.role in self._roles():
            parts.append(f'resource_metadata="{self._auth.base}{PATH}/{exchange.role}/mcp"')
        if self._auth.scopes:
            parts.append(f'scope="{" ".join(self._auth.scopes)}"')
        others = tuple(pair for pair in reply.headers if pair[0] != _CHALLENGE)
        told = (_CHALLENGE, ", ".join(parts).encode("latin-1"))
        return replace(reply, headers=(*others, told))

    def _describe(self, role: RoleName) -> Reply:
        document: JsonObject = {
            "resource": self._auth.url_of(role),
            "authorization_servers": [str(self._auth.issuer)],
            "bearer_methods_supported": ["header"],
        }
        if self._auth.scopes:
            document["scopes_supported"] = [*self._auth.scopes]
        return Reply(200, jsonrpc.encode(document), headers=((b"cache-control", b"no-store"),))
