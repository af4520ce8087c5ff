"""What a client finds out that knows a role's address: all of it, or with static tokens nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from tests.integration.gateway.conftest import OpenRig
    from tests.integration.gateway.oauth.conftest import OpenSite, Provider

RESOURCE: Final = "/.well-known/oauth-protected-resource"
NEVER: Final = (
    "/.well-known/oauth-authorization-server",
    "/.well-known/oauth-authorization-server/treasury/mcp",
    "/.well-known/openid-configuration",
    "/treasury/mcp/.well-known/openid-configuration",
    "/.well-known/",
    "/.well-known/agent.json",
    "/register",
    "/authorize",
    "/token",
)


async def test_metadata_of_a_role(open_site: OpenSite, provider: Provider) -> None:
    """Anybody may read which provider issues tokens for a role's address."""
    async with open_site(scopes=["mcp:call"]) as site, site.rig.http() as http:
        told = await http.get(f"{RESOURCE}/treasury/mcp")
        assert (told.status_code, told.headers["content-type"]) == (200, "application/json")
        assert told.json() == {
            "resource": site.url(),
            "authorization_servers": [provider.issuer],
            "bearer_methods_supported": ["header"],
            "scopes_supported": ["mcp:call"],
        }


async def test_metadata_of_nothing(open_site: OpenSite) -> None:
    """What names no role has no document, and the gateway is no authorization server."""
    async with open_site() as site, site.rig.http() as http:
        for path in (
            RESOURCE,
            f"{RESOURCE}/nobody/mcp",
            f"{RESOURCE}/treasury",
            f"{RESOURCE}/treasury/mcp/",
            f"{RESOURCE}treasury/mcp",
            *NEVER,
        ):
            told = await http.get(path)
            assert (told.status_code, "location" in told.headers) == (404, False), path
        site.rig.withdraw("monitoring")
        site.rig.withdraw("executor")
        assert (await http.get(RESOURCE)).json()["resource"] == site.url()


async def test_refusals_say_where_tokens_are_to_be_had(
    open_site: OpenSite, provider: Provider
) -> None:
    """A 401 and a 403 carry the metadata's address; a role that is none has no address."""
    async with open_site(scopes=["mcp:call", "x"]) as site, site.rig.http() as http:
        where = f'resource_metadata="{site.rig.base}{RESOURCE}/treasury/mcp"'
        told = await http.post("/treasury/mcp", json={})
        assert told.status_code == 401
        assert told.headers.get_list("www-authenticate") == [
            f'Bearer error="invalid_token", {where}, scope="mcp:call x"'
        ]
        header = f"Bearer {provider.token(site.url())}"
        told = await http.post("/treasury/mcp", json={}, headers={"authorization": header})
        assert told.status_code == 403
        assert told.headers.get_list("www-authenticate") == [
            f'Bearer error="insufficient_scope", {where}, scope="mcp:call x"'
        ]
        told = await http.post("/no%22%0d%0abody/mcp", json={})
        assert (
            told.headers["www-authenticate"] == 'Bearer error="invalid_token", scope="mcp:call x"'
        )


async def test_with_static_tokens_there_is_none_of_it(open_rig: OpenRig) -> None:
    """Clear 404s, and a challenge that leads nowhere."""
    async with open_rig() as rig, rig.http() as http:
        rig.publish("treasury", None)
        for path in (RESOURCE, f"{RESOURCE}/treasury/mcp", *NEVER):
            told = await http.get(path)
            assert (told.status_code, "location" in told.headers) == (404, False), path
        told = await http.post("/treasury/mcp", json={})
        assert told.status_code == 401
        assert told.headers["www-authenticate"] == 'Bearer error="invalid_token"'


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_every_request_is_asked_for_a_token(open_site: OpenSite, method: str) -> None:
    """No method of a role's address is open."""
    async with open_site() as site, site.rig.http() as http:
        told = await http.request(method, "/treasury/mcp")
        assert (told.status_code, "resource_metadata" in told.headers["www-authenticate"]) == (
            401,
            True,
        )
