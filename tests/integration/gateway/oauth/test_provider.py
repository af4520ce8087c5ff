"""The official client, a certified OpenID provider, and the gateway between agents and servers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, cast

import httpx2
import jwt
import pytest
from mcp import Client
from mcp.client.auth import OAuthClientProvider, OAuthFlowError
from mcp.client.auth.extensions.client_credentials import (
    ClientCredentialsOAuthProvider,
    PrivateKeyJWTOAuthProvider,
    SignedJWTParameters,
)
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken

if TYPE_CHECKING:
    from tests.integration.gateway.oauth.conftest import OpenSite, RealProvider, Site

pytestmark = pytest.mark.node

SECRET: Final = "the-secret-of-a-client-of-the-tests"
SCOPE: Final = "mcp:call"


class Storage:
    """Keeps what the client was given."""

    def __init__(self) -> None:
        """Start empty."""
        self.tokens: OAuthToken | None = None
        self.client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        """Tell the tokens."""
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        """Keep tokens."""
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        """Tell the client."""
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        """Keep a client."""
        self.client = client_info

    @property
    def access(self) -> str:
        """The access token."""
        assert self.tokens is not None
        return self.tokens.access_token


def with_secret(url: str, storage: Storage, issuer: str) -> OAuthClientProvider:
    """Be the client that has a secret."""
    return ClientCredentialsOAuthProvider(url, storage, "alice", SECRET, issuer=issuer)


def with_key(url: str, storage: Storage, real: RealProvider) -> OAuthClientProvider:
    """Be the client that signs."""
    signed = SignedJWTParameters(
        issuer="bob", subject="bob", signing_key=real.key, signing_algorithm="ES256"
    )
    return PrivateKeyJWTOAuthProvider(
        url, storage, "bob", signed.create_assertion_provider(), issuer=real.issuer
    )


@asynccontextmanager
async def connected(
    url: str, provider: OAuthClientProvider, mode: str = "auto"
) -> AsyncGenerator[Client]:
    """Connect the official client, which knows nothing but the address and its own credentials."""
    http = httpx2.AsyncClient(auth=provider, timeout=60)
    transport = streamable_http_client(url, http_client=http)
    async with http, Client(transport, mode=mode, cache=None) as client:
        yield client


async def token_of(site: Site, real: RealProvider, role: str) -> str:
    """Get an access token by hand."""
    form = {"grant_type": "client_credentials", "resource": site.url(role), "scope": SCOPE}
    async with httpx2.AsyncClient(auth=("alice", SECRET), timeout=60) as http:
        told = await http.post(f"{real.issuer}/token", data=form)
    assert told.status_code == 200, told.text
    return str(cast("dict[str, object]", told.json())["access_token"])


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
@pytest.mark.parametrize(
    ("client", "role", "algorithm"),
    [
        ("alice", "treasury", "EdDSA"),
        ("bob", "monitoring", "ES256"),
        ("alice", "executor", "RS256"),
    ],
)
async def test_the_official_client_finds_its_way(
    open_site: OpenSite,
    real_provider: RealProvider,
    *,
    client: str,
    role: str,
    algorithm: str,
    mode: str,
) -> None:
    """Challenge, metadata, token, list and call, by a secret and by a key, in both eras."""
    async with open_site(routed=role, real=real_provider, scopes=[SCOPE]) as site:
        storage, url = Storage(), site.url(role)
        auth = (
            with_secret(url, storage, real_provider.issuer)
            if client == "alice"
            else with_key(url, storage, real_provider)
        )
        async with connected(url, auth, mode) as connection:
            tools = [tool.name for tool in (await connection.list_tools()).tools]
            assert "hidden" not in tools
            result = await connection.call_tool("echo", {"text": "hi"})
            assert not result.is_error, (result, tools)
        header = jwt.get_unverified_header(storage.access)
        assert (header["alg"], header["typ"]) == (algorithm, "at+jwt")
        assert {one.agent for one in site.rig.recorder.records if one.agent} == {client}


async def test_a_client_whose_agent_has_not_the_role(
    open_site: OpenSite, real_provider: RealProvider
) -> None:
    """Discovery leads to a token, and the token leads to a 403: our own list decides."""
    async with open_site(routed="treasury", real=real_provider) as site:
        token = await token_of(site, real_provider, "monitoring")
        assert await site.status(token, "monitoring") == 403
        assert await site.status(token, "treasury") == 401
        assert await site.status(await token_of(site, real_provider, "treasury")) == 200


async def test_a_client_of_another_issuer(open_site: OpenSite, real_provider: RealProvider) -> None:
    """A client that trusts another issuer sends its secret nowhere."""
    async with open_site(routed="treasury", real=real_provider) as site:
        auth = with_secret(site.url(), Storage(), "http://127.0.0.1:1")
        with pytest.RaisesGroup(OAuthFlowError, allow_unwrapped=True, flatten_subgroups=True):
            async with connected(site.url(), auth):
                pass


async def test_the_provider_changes_its_keys(
    open_site: OpenSite, real_provider: RealProvider
) -> None:
    """Tokens of the new key work after the cool-down at the latest, those of the old one go on."""
    async with open_site(routed="treasury", real=real_provider) as site:
        old = await token_of(site, real_provider, "treasury")
        assert await site.status(old) == 200
        real_provider.rotate()
        new = await token_of(site, real_provider, "treasury")
        kids = [jwt.get_unverified_header(one)["kid"] for one in (old, new)]
        assert kids[0] != kids[1]
        assert [await site.status(one) for one in (old, new)] == [200, 401]
        site.clock.ahead = 31
        assert [await site.status(one) for one in (old, new)] == [200, 200]
        real_provider.stop()
        assert [await site.status(one) for one in (old, new)] == [200, 200]
