"""Which access tokens open a role, and which do not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from typing import TYPE_CHECKING, Final, cast

import jwt
import pytest

from orchestrator.model.base import Json, JsonObject

if TYPE_CHECKING:
    from tests.integration.gateway.oauth.conftest import OpenSite, Provider

# Stands for a time, so many seconds from now.
WHEN: Final = re.compile(r'"@(-?[0-9]+)"')
UNKNOWN: Final = "token.unknown"


def part(value: JsonObject) -> str:
    """Write one part of a token."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize("kid", ["ed", "ec", "rsa"])
async def test_a_token_of_the_provider_opens_its_role(
    open_site: OpenSite, provider: Provider, kid: str
) -> None:
    """Each of the three signatures is accepted, and the record names agent and token."""
    async with open_site() as site:
        token = provider.token(site.url(), kid, jti="one")
        assert await site.status(token) == 200
        record = site.rig.recorder.records[-1]
        digest = hashlib.sha256(f"{provider.issuer}\njti\none".encode()).hexdigest()
        assert (record.agent, record.token_id) == ("alice", f"jwt-{digest[:16]}")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"aud": "http://elsewhere/treasury/mcp"}, UNKNOWN),
        ({"aud": ["{url}"]}, UNKNOWN),
        ({"aud": "{url}/"}, UNKNOWN),
        ({"aud": None}, UNKNOWN),
        ({"iss": "http://127.0.0.1:1"}, UNKNOWN),
        ({"iss": None}, UNKNOWN),
        ({"sub": None}, UNKNOWN),
        ({"sub": 7}, UNKNOWN),
        ({"sub": "mallory"}, UNKNOWN),
        ({"sub": "alice", "client_id": "robot"}, UNKNOWN),
        ({"exp": None}, UNKNOWN),
        ({"iat": None}, UNKNOWN),
        ({"exp": "@-11", "iat": "@-300"}, "token.expired"),
        ({"exp": "@3600"}, UNKNOWN),
        ({"exp": "soon"}, UNKNOWN),
        ({"exp": 10**400}, UNKNOWN),
        ({"exp": True}, UNKNOWN),
        ({"exp": float("nan")}, UNKNOWN),
        ({"iat": "@60", "exp": "@300"}, UNKNOWN),
        ({"iat": "now"}, UNKNOWN),
        ({"nbf": "@60"}, UNKNOWN),
        ({"nbf": {}}, UNKNOWN),
        ({"jti": 7}, UNKNOWN),
        ({"cnf": {"jkt": "x"}}, UNKNOWN),
    ],
)
async def test_what_a_token_has_to_say(
    open_site: OpenSite, provider: Provider, changes: dict[str, Json], code: str
) -> None:
    """Another audience or issuer, a missing claim, and times that make no sense are refused."""
    async with open_site() as site:
        now = int(time.time())
        text = json.dumps(changes).replace("{url}", site.url())
        text = WHEN.sub(lambda found: str(now + int(found[1])), text)
        claims = {**provider.claims(site.url()), **cast("JsonObject", json.loads(text))}
        left: JsonObject = {name: value for name, value in claims.items() if value is not None}
        assert await site.status(provider.sign(left)) == 401
        assert site.last_code == code
        assert await site.status(provider.token(site.url())) == 200


async def test_a_list_of_audiences_with_the_right_one_is_refused(
    open_site: OpenSite, provider: Provider
) -> None:
    """A token for several services could be shown here by any of them."""
    async with open_site() as site:
        token = provider.token(site.url(), aud=[site.url(), "https://elsewhere"])
        assert await site.status(token) == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"typ": "logout+jwt"},
        {"typ": "dpop+jwt"},
        {"typ": 7},
        {"kid": "nobody"},
        {"kid": ""},
        {"kid": "ec"},
        {"crit": ["exp"], "exp": 1},
    ],
)
async def test_what_a_header_must_not_say(
    open_site: OpenSite, provider: Provider, headers: dict[str, Json]
) -> None:
    """A token that says it is something else, or names another key, is refused."""
    async with open_site() as site:
        assert await site.status(provider.sign(provider.claims(site.url()), headers=headers)) == 401
        assert site.last_code == UNKNOWN


async def test_signatures_that_are_none(open_site: OpenSite, provider: Provider) -> None:
    """No algorithm, a MAC with the public key, a cut signature: refused, and no key is fetched."""
    async with open_site() as site:
        claims = provider.claims(site.url())
        good = provider.sign(claims)
        head, body, signature = good.split(".")
        for alg in ("none", "None", "NONE", "", "HS256"):
            unsigned = f"{part({'alg': alg, 'typ': 'JWT', 'kid': 'rsa'})}.{part(claims)}"
            mac = hmac.digest(provider.public_pem(), unsigned.encode(), "sha256")
            for end in ("", "AA", base64.urlsafe_b64encode(mac).rstrip(b"=").decode()):
                assert await site.status(f"{unsigned}.{end}") == 401
        assert provider.asked == []
        for text in (f"{head}.{body}.", f"{head}.{body}.AAAA", f"{head}.{part({})}.{signature}"):
            assert await site.status(text) == 401
        wrong = jwt.encode(claims, "s" * 64, "HS512", headers={"kid": "ed"})
        assert await site.status(wrong) == 401
        assert await site.status(good) == 200


async def test_texts_that_are_no_tokens(open_site: OpenSite, provider: Provider) -> None:
    """Rubbish, a huge token and no token at all end as a 401, and ask the provider nothing."""
    async with open_site() as site:
        huge = provider.token(site.url(), junk="x" * 20_000)
        deep = part({"alg": "EdDSA", "kid": "ed", "x": 1}).replace("=", "")
        for text in ("x", ".", "..", "a.b.c", "é.é.é", "a" * 5000, huge, f"{deep}.{'W' * 9000}.A"):
            async with site.rig.http() as http:
                told = await http.post(
                    "/treasury/mcp", headers=[(b"authorization", f"Bearer {text}".encode())]
                )
            assert told.status_code == 401, text[:20]
        assert await site.status(None) == 401
        assert provider.times() <= 1


async def test_a_token_opens_only_the_role_it_names(
    open_site: OpenSite, provider: Provider
) -> None:
    """Of an agent with two roles, each role's token opens that one alone."""
    async with open_site() as site:
        token = provider.token(site.url("monitoring"), sub="robot-1", client_id="robot")
        assert await site.status(token, "monitoring") == 200
        assert await site.status(token, "treasury") == 401


async def test_roles_are_those_of_the_configuration(
    open_site: OpenSite, provider: Provider
) -> None:
    """A good token of an agent without the role is a 403, whatever roles it claims."""
    async with open_site() as site:
        token = provider.token(
            site.url("monitoring"), roles=["monitoring"], role="monitoring", groups=["monitoring"]
        )
        assert await site.status(token, "monitoring") == 403
        assert site.last_code == "token.scope"


async def test_scopes_that_are_asked_for(open_site: OpenSite, provider: Provider) -> None:
    """Every configured scope has to be there; others do no harm."""
    async with open_site(scopes=["mcp:call", "mcp:list"]) as site:
        cases: tuple[tuple[Json, int], ...] = (
            (None, 403),
            ("mcp:call", 403),
            (["mcp:call", "mcp:list"], 403),
            ("mcp:list openid mcp:call", 200),
        )
        for scope, status in cases:
            assert await site.status(provider.token(site.url(), scope=scope)) == status


async def test_algorithms_that_are_not_configured(open_site: OpenSite, provider: Provider) -> None:
    """A signature that could be verified is refused where its algorithm is not among those."""
    async with open_site(algorithms=["ES256"]) as site:
        assert await site.status(provider.token(site.url(), "ec")) == 200
        assert await site.status(provider.token(site.url(), "ed")) == 401
        assert await site.status(provider.token(site.url(), "rsa")) == 401


async def test_static_tokens_beside(open_site: OpenSite) -> None:
    """The workstation's own works on this machine; other static tokens do not at all."""
    async with open_site() as site:
        own, other = site.rig.token(agent="workstation"), site.rig.token(agent="alice")
        assert await site.status(own) == 200
        assert await site.status(own, "monitoring") == 401
        assert await site.status(other) == 401
        for name in ("x-forwarded-for", "forwarded", "via", "x-real-ip"):
            assert await site.status(own, **{name: "192.0.2.1"}) == 401
        site.rig.gateway.app.hosts |= {"agents.example.com"}
        assert await site.status(own, host="agents.example.com") == 401


async def test_two_headers_are_refused(open_site: OpenSite, provider: Provider) -> None:
    """Nobody decides between two tokens."""
    async with open_site() as site, site.rig.http() as http:
        value = f"Bearer {provider.token(site.url())}"
        headers = [("authorization", value), ("authorization", value)]
        assert (await http.post("/treasury/mcp", headers=headers)).status_code == 400


async def test_who_was_verified_is_not_verified_again(
    open_site: OpenSite, provider: Provider
) -> None:
    """A token that is known goes on while the provider is down, until it ends."""
    async with open_site() as site:
        token = provider.token(site.url())
        assert await site.status(token) == 200
        provider.answers = {path: (500, {}, b"") for path in set(provider.asked)}
        assert await site.status(token) == 200
        site.clock.ahead = 305
        assert await site.status(token) == 200
        site.clock.ahead = 311
        assert await site.status(token) == 401
