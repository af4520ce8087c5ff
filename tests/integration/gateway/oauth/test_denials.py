"""Access tokens that end, are denied, or are replaced, with something open."""

from __future__ import annotations

import base64
import sqlite3
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import anyio
import anyio.to_thread
import pytest

from orchestrator.clock import SystemClock
from orchestrator.errors import SettingsError, StateUnwritableError
from orchestrator.model.auth import Auth
from orchestrator.model.base import JsonObject
from orchestrator.model.names import AgentName, RoleName
from orchestrator.tokens.denial import KEPT, Denial, make_denial
from orchestrator.tokens.desk import TokenDesk
from orchestrator.tokens.store import TokenStore
from orchestrator.tokens.verify import TokenIndex

if TYPE_CHECKING:
    from tests.integration.gateway.oauth.conftest import OpenSite, Provider, Site

ROLE: Final = RoleName("treasury")


def desk_of(site: Site, path: Path) -> TokenDesk:
    """Open a desk that cares for the gateway's access tokens."""
    store = TokenStore(path / "agents.db", site.clock)
    desk = TokenDesk(store, TokenIndex(site.clock), site.clock, path / "tokens")
    desk.attend(site.access.auth, site.access)
    return desk


async def test_a_denied_token_is_refused_at_once(
    open_site: OpenSite, provider: Provider, tmp_path: Path
) -> None:
    """The token of a `jti`, and no other; likewise by the id that the record has."""
    async with open_site() as site:
        desk = desk_of(site, tmp_path)
        first, second = (provider.token(site.url(), jti=name) for name in ("first", "second"))
        assert [await site.status(one) for one in (first, second)] == [200, 200]
        seen = site.rig.recorder.records[-1].token_id
        _ = await anyio.to_thread.run_sync(lambda: desk.deny(jti="first"))
        assert [await site.status(one) for one in (first, second)] == [401, 200]
        _ = await anyio.to_thread.run_sync(lambda: desk.deny(token_id=str(seen)))
        assert await site.status(second) == 401
        assert site.last_code == "token.revoked"


async def test_a_denied_token_has_no_second_text(
    open_site: OpenSite, provider: Provider, tmp_path: Path
) -> None:
    """A token without a `jti` stays denied with the other signature that its own one makes."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    async with open_site() as site:
        desk = desk_of(site, tmp_path)
        token = provider.token(site.url(), "ec", jti=None)
        signed, _, text = token.rpartition(".")
        signature = base64.urlsafe_b64decode(f"{text}==")
        mirrored = (order - int.from_bytes(signature[32:])).to_bytes(32)
        other = base64.urlsafe_b64encode(signature[:32] + mirrored).decode().rstrip("=")
        twin = f"{signed}.{other}"
        assert [await site.status(one) for one in (token, twin)] == [200, 200]
        seen = site.rig.recorder.records[-2].token_id
        _ = await anyio.to_thread.run_sync(lambda: desk.deny(token_id=str(seen)))
        assert [await site.status(one) for one in (token, twin)] == [401, 401]


async def test_a_denied_subject_begins_anew(
    open_site: OpenSite, provider: Provider, tmp_path: Path
) -> None:
    """What was issued to it until now is refused, its next tokens and other subjects are not."""
    async with open_site() as site:
        desk = desk_of(site, tmp_path)
        mine, unseen = provider.token(site.url()), provider.token(site.url())
        others = provider.token(site.url(), sub="bob")
        assert [await site.status(one) for one in (mine, others)] == [200, 200]
        _ = await anyio.to_thread.run_sync(lambda: desk.deny(subject="alice"))
        assert [await site.status(one) for one in (mine, unseen, others)] == [401, 401, 200]
        site.clock.ahead = 30
        now = int(time.time()) + 30
        assert await site.status(provider.token(site.url(), iat=now, exp=now + 60)) == 200


async def test_what_a_denied_token_has_open_is_ended(
    open_site: OpenSite, provider: Provider, tmp_path: Path
) -> None:
    """Its calls and its streams end; another agent's go on."""
    async with open_site(routed="treasury") as site:
        desk = desk_of(site, tmp_path)
        mine = provider.token(site.url(), jti="mine")
        others = provider.token(site.url(), sub="bob")
        ended = anyio.Event()

        async def listen() -> None:
            async with (
                site.rig.session(mine) as http,
                http.stream("GET", "/treasury/mcp") as stream,
            ):
                assert stream.status_code == 200
                async for _ in stream.aiter_lines():
                    pass
            ended.set()

        answers: list[int] = []

        async def call() -> None:
            params: JsonObject = {"name": "hold", "arguments": {}}
            body: JsonObject = {"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": params}
            async with site.rig.session(mine) as http:
                answers.append((await http.post("/treasury/mcp", json=body)).status_code)

        async with site.rig.session(others) as bob, anyio.create_task_group() as group:
            group.start_soon(listen)
            group.start_soon(call)
            await site.rig.until(lambda: site.rig.in_flight() == 1)
            async with bob.stream("GET", "/treasury/mcp") as stream:
                assert stream.status_code == 200

                def streams() -> int:
                    return sum(one.event == "stream" for one in site.rig.recorder.records)

                await site.rig.until(lambda: streams() == 2)
                _ = await anyio.to_thread.run_sync(lambda: desk.deny(jti="mine"))
                with anyio.fail_after(30):  # neither would end by itself
                    await ended.wait()
                    await site.rig.until(lambda: answers)
                assert answers == [401]
                body = {"jsonrpc": "2.0", "id": 3, "method": "tools/list"}
                assert (await bob.post("/treasury/mcp", json=body)).status_code == 200


async def test_a_stream_ends_with_its_token(open_site: OpenSite, provider: Provider) -> None:
    """What is open at the end of a token's time, leeway included, is ended."""
    async with open_site(routed="treasury") as site:
        token = provider.token(site.url())
        async with (
            site.rig.session(token) as http,
            http.stream("GET", "/treasury/mcp") as stream,
        ):
            assert stream.status_code == 200
            site.clock.ahead = 311
            with anyio.fail_after(30):
                async for _ in stream.aiter_lines():
                    pass
        assert site.last_code == "token.expired"


async def test_a_session_goes_on_with_the_next_token(
    open_site: OpenSite, provider: Provider
) -> None:
    """A session is its agent's: a new token of the same agent works on it, another agent's not."""
    async with open_site(routed="treasury") as site:
        async with site.rig.session(provider.token(site.url())) as http:
            session = http.headers["mcp-session-id"]
        body = {"jsonrpc": "2.0", "id": 3, "method": "tools/list"}
        for subject, status in (("alice", 200), ("bob", 404)):
            token = provider.token(site.url(), sub=subject)
            async with site.rig.http(token, **{"mcp-session-id": session}) as http:
                assert (await http.post("/treasury/mcp", json=body)).status_code == status


async def test_new_tokens_bring_no_new_room(open_site: OpenSite, provider: Provider) -> None:
    """What an agent has open is counted together, however many tokens it shows."""
    async with open_site(routed="treasury") as site:
        for _ in range(3):
            assert await site.status(provider.token(site.url())) == 200
        assert len({one.token_id for one in site.rig.recorder.records}) == 3
        accounts = {"oauth:alice/treasury"}
        counted = _open_of(site)
        assert set(counted) == accounts


def _open_of(site: Site) -> dict[str, object]:
    """Look what is counted."""
    owner = cast("object", getattr(site.access.on_denied, "__self__", None))
    return cast("dict[str, object]", getattr(owner, "_open", {}))


async def test_a_denial_outlives_a_restart(
    open_site: OpenSite, provider: Provider, tmp_path: Path
) -> None:
    """Denials are on disk before they count, and are read at the start."""
    async with open_site() as site:
        token = provider.token(site.url(), jti="old")
        _ = desk_of(site, tmp_path).deny(jti="old")
        assert await site.status(token) == 401
    async with open_site() as site:
        token = provider.token(site.url(), jti="old")
        assert await site.status(token) == 200
        _ = desk_of(site, tmp_path)
        assert await site.status(token) == 401


async def test_a_damaged_database_leaves_no_token_open(
    open_site: OpenSite, provider: Provider, tmp_path: Path
) -> None:
    """A denial that cannot be written counts all the same, and is told as failed."""
    async with open_site() as site:
        desk = desk_of(site, tmp_path)
        token = provider.token(site.url(), jti="one")
        assert await site.status(token) == 200
        with closing(sqlite3.connect(tmp_path / "agents.db")) as other:
            _ = other.execute("DROP TABLE denials")
        with pytest.raises(StateUnwritableError):
            _ = desk.deny(jti="one")
        assert await site.status(token) == 401


def test_denials_are_forgotten_when_they_cannot_matter(tmp_path: Path) -> None:
    """The list does not grow for ever."""
    store, now = TokenStore(tmp_path / "agents.db", SystemClock()), SystemClock().now()
    for age in (KEPT + timedelta(hours=1), timedelta()):
        store.deny([Denial("subject", "https://idp", "alice", now - age, now - age)])
    assert store.load_denials() == (Denial("subject", "https://idp", "alice", now, now),)


def test_what_cannot_be_denied() -> None:
    """Without a provider nothing, and not two things or none at once."""
    now = SystemClock().now()
    auth = Auth.model_validate(
        {
            "mode": "oauth",
            "issuer": "https://idp",
            "base": "https://gateway",
            "agents": [{"subject": "a", "agent": "a", "roles": ["treasury"]}],
        }
    )
    for settings, given in (
        (Auth(), {"jti": "x"}),
        (auth, {}),
        (auth, {"jti": "x", "subject": "y"}),
        (auth, {"token_id": "mga_0"}),
    ):
        with pytest.raises(SettingsError):
            _ = make_denial(settings, now, **given)


async def test_static_tokens_are_for_the_workstation(open_site: OpenSite, tmp_path: Path) -> None:
    """Nobody is given a token that the gateway would not take."""
    async with open_site() as site:
        desk = desk_of(site, tmp_path)
        desk.keep_workstation_tokens([ROLE])
        with pytest.raises(SettingsError):
            _ = desk.issue(AgentName("alice"), ROLE, timedelta(days=1))
