"""How the provider's keys are asked for, and what happens when they are not to be had."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import anyio
import pytest

from orchestrator.model.base import JsonObject
from orchestrator.tokens import fetch
from orchestrator.tokens.fetch import FetchError, fetch_json

if TYPE_CHECKING:
    from tests.integration.gateway.oauth.conftest import OpenSite, Provider

METADATA: Final = "/.well-known/oauth-authorization-server"
OPENID: Final = "/.well-known/openid-configuration"


async def test_a_flood_of_unknown_keys_costs_one_question(
    open_site: OpenSite, provider: Provider
) -> None:
    """Whatever keys strangers name, the provider is asked once in a cool-down."""
    async with open_site() as site:
        claims = provider.claims(site.url())
        assert await site.status(provider.sign(claims)) == 200
        for number in range(50):
            token = provider.sign(claims, headers={"kid": f"k{number}"})
            assert await site.status(token) == 401
        assert provider.times() == 1
        site.clock.ahead = 31
        for number in range(50):
            token = provider.sign(claims, headers={"kid": f"l{number}"})
            assert await site.status(token) == 401
        assert provider.times() == 2


async def test_all_who_wait_share_one_question(open_site: OpenSite, provider: Provider) -> None:
    """Fifty first requests at once ask once, and nothing else waits meanwhile."""
    async with open_site() as site:
        provider.gate.clear()
        statuses: list[int] = []

        async def show() -> None:
            statuses.append(await site.status(provider.token(site.url())))

        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(show)
            await site.rig.until(lambda: provider.asked)
            async with site.rig.http() as http:
                assert (await http.get("/health")).status_code == 200
            own = site.rig.token(agent="workstation")
            assert await site.status(own) == 200
            assert statuses == []
            provider.gate.set()
        assert statuses == [200] * 50
        assert (provider.times(METADATA), provider.times()) == (1, 1)


async def test_a_provider_that_is_down_at_the_start(
    open_site: OpenSite, provider: Provider
) -> None:
    """Nobody gets in, in words that say so, and a few seconds after it came up all do."""
    provider.answers = {path: (503, {}, b"") for path in (METADATA, OPENID, "/jwks")}
    async with open_site() as site:
        token = provider.token(site.url())
        async with site.rig.http(token) as http:
            told = await http.post("/treasury/mcp", json={})
        assert told.status_code == 503
        assert told.json()["error"]["data"]["code"] == "token.unchecked"
        assert "www-authenticate" not in told.headers
        for _ in range(20):
            assert await site.status(token) == 503
        assert provider.times(METADATA) == 1
        assert provider.issuer in site.notes[-1]
        provider.answers.clear()
        assert await site.status(token) == 503
        site.clock.ahead = 6
        assert await site.status(token) == 200
        assert not site.notes[-1]


async def test_a_provider_that_goes_down_later(open_site: OpenSite, provider: Provider) -> None:
    """Known keys serve as long as a token lives that was signed before, and no longer."""
    async with open_site() as site:
        assert await site.status(provider.token(site.url())) == 200
        provider.answers = {path: (503, {}, b"") for path in (METADATA, OPENID, "/jwks")}
        for ahead, status in ((301, 200), (1150, 200), (1201, 503)):
            site.clock.ahead = ahead
            now = int(time.time()) + ahead
            token = provider.token(site.url(), iat=now, exp=now + 300)
            assert await site.status(token) == status, ahead
        asked = len(provider.asked)
        assert await site.status(provider.token(site.url(), iat=now, exp=now + 300)) == 503
        assert len(provider.asked) == asked


async def test_a_new_key_is_seen_after_the_cool_down(
    open_site: OpenSite, provider: Provider
) -> None:
    """The provider's rotation: 401 for at most thirty seconds; the old key goes with its tokens."""
    async with open_site() as site:
        old = provider.token(site.url())
        assert await site.status(old) == 200
        provider.add_key("ed", "ed2")
        new = provider.token(site.url(), "ed2")
        assert await site.status(new) == 401
        assert await site.status(old) == 200
        site.clock.ahead = 31
        assert await site.status(new) == 200
        assert await site.status(old) == 200
        provider.drop_key("ed")
        site.clock.ahead = 62
        assert await site.status(provider.sign({}, headers={"kid": "none"})) == 401
        assert await site.status(old) == 401
        assert await site.status(new) == 200


@pytest.mark.parametrize(
    "answer",
    [
        (200, {}, b""),
        (200, {}, b"<html>"),
        (200, {}, b"[]"),
        (200, {}, b"{}"),
        (200, {}, b'{"keys": []}'),
        (200, {}, b'{"keys": {"a": 1}}'),
        (200, {}, b'{"keys": [1, null, {}, {"kid": 7}, {"kid": "ed", "kty": "OKP", "crv": 7}]}'),
        (200, {}, b'{"keys": [{"kid": "ed", "kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}]}'),
        (200, {}, b'{"keys": [' + b"[" * 100_000 + b"]" * 100_000 + b"]}"),
        (200, {}, b'{"keys": ["' + b"x" * 300_000 + b'"]}'),
        (200, {"content-length": "999999"}, b"{}"),
        (204, {}, b""),
        (302, {"location": "{jwks}"}, b""),
        (301, {"location": "file:///etc/passwd"}, b""),
    ],
)
async def test_rubbish_for_keys(
    open_site: OpenSite, provider: Provider, answer: tuple[int, dict[str, str], bytes]
) -> None:
    """What is no set of keys, or stands elsewhere, is none; what was known before goes on."""
    status, headers, body = answer
    headers = {name: text.replace("{jwks}", "/others") for name, text in headers.items()}
    provider.answers["/others"] = (200, {}, json.dumps({"keys": [*provider.keys]}).encode())
    provider.answers["/jwks"] = status, headers, body
    async with open_site() as site:
        assert await site.status(provider.token(site.url())) == 503
        assert provider.times("/others") == 0
        good = provider.answers.pop("/jwks")
        site.clock.ahead = 6
        token = provider.token(site.url())
        assert await site.status(token) == 200
        provider.answers["/jwks"] = good
        site.clock.ahead = 37
        assert await site.status(provider.sign({}, headers={"kid": "none"})) == 401
        assert provider.times() == 3
        assert await site.status(token) == 200


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "{issuer}/", "jwks_uri": "{issuer}/jwks"},
        {"jwks_uri": "{issuer}/jwks"},
        {"issuer": "{issuer}"},
        {"issuer": "{issuer}", "jwks_uri": 7},
        {"issuer": "{issuer}", "jwks_uri": "file:///etc/passwd"},
        {"issuer": "{issuer}", "jwks_uri": "http://192.0.2.1/jwks"},
    ],
)
async def test_metadata_that_is_not_the_issuers(
    open_site: OpenSite, provider: Provider, metadata: JsonObject
) -> None:
    """Metadata of another issuer, or that leads to keys in the open, leads nowhere."""
    told = json.dumps(metadata).replace("{issuer}", provider.issuer).encode()
    provider.answers[METADATA] = 200, {}, told
    async with open_site() as site:
        assert await site.status(provider.token(site.url())) == 503
        assert provider.times() == 0


async def test_metadata_as_openid_has_it(open_site: OpenSite, provider: Provider) -> None:
    """A provider that has only the OpenID document is found too, and one whose place is told."""
    provider.answers[OPENID] = provider.answer(METADATA)
    provider.answers[METADATA] = 404, {}, b""
    async with open_site() as site:
        assert await site.status(provider.token(site.url())) == 200
    asked = provider.times(METADATA)
    async with open_site(jwks=f"{provider.issuer}/jwks") as site:
        assert await site.status(provider.token(site.url())) == 200
    assert provider.times(METADATA) == asked


@contextmanager
def drip(piece: bytes) -> Generator[int]:
    """Run a server that sends a byte now and then, without end."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection = listener.accept()[0]
            with connection:
                connection.sendall(piece)
                while not over.wait(0.02):
                    try:
                        connection.sendall(b"x")
                    except OSError:
                        return

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            thread.join(10)


@pytest.mark.parametrize("piece", [b"", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nx-a: "])
def test_a_server_that_drips(piece: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer has an end in time, in its head and in its body."""
    monkeypatch.setattr(fetch, "SECONDS", 0.3)
    with drip(piece) as port:
        began = time.monotonic()
        with pytest.raises(FetchError):
            _ = fetch_json(f"http://127.0.0.1:{port}/jwks")
        assert time.monotonic() - began < 30  # it has no end of its own


def test_other_schemes(provider: Provider) -> None:
    """Only web servers are read, and one without a proper certificate is none."""
    for url in (
        "file:///etc/passwd",
        "ftp://127.0.0.1/jwks",
        f"https://127.0.0.1:{provider.port}/jwks",
        "http://127.0.0.1:1/jwks",
    ):
        with pytest.raises(FetchError):
            _ = fetch_json(url)
