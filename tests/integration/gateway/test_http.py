"""Every status of the tables, told over plain HTTP."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, cast

import anyio
import anyio.abc
import pytest
from structlog.testing import capture_logs

from orchestrator.gateway.filters.record import LogRecorder
from orchestrator.gateway.settings import GatewaySettings
from orchestrator.tokens.mint import mint

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    import httpx2
    from integration.gateway.conftest import OpenRig, Rig

    from orchestrator.model.base import JsonObject
    from orchestrator.model.names import TokenId

    ModernRequest = Callable[..., tuple[JsonObject, dict[str, str]]]

URL = "/treasury/mcp"
OPENING = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "c", "version": "1"},
}


def legacy(method: str, params: object = None, request_id: object = 1) -> dict[str, object]:
    """Write a legacy request."""
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params or {}}


def error_of(response: httpx2.Response) -> dict[str, object]:
    """Read the JSON-RPC error of a reply."""
    body = cast("dict[str, dict[str, object]]", response.json())
    assert body["jsonrpc"] == "2.0"
    return body["error"]


def result_of(response: httpx2.Response) -> dict[str, object]:
    """Read the result of a reply."""
    assert response.status_code == 200, response.text
    return cast("dict[str, dict[str, object]]", response.json())["result"]


async def ready(rig: Rig) -> None:
    """Route a role to a quick server."""
    rig.publish("treasury", await rig.start("legacy.py", "legacy"))


async def test_open_paths(open_rig: OpenRig) -> None:
    """Health, readiness and discovery answer without a token; everything else is a 404."""
    async with open_rig() as rig, rig.http() as http:
        assert (await http.get("/ready")).status_code == 503
        health = await http.get("/health", headers={"host": "probe.example"})
        assert (health.status_code, health.json()) == (200, {"status": "ok"})
        rig.publish("treasury", None)
        told = await http.get("/ready")
        assert told.status_code == 503
        assert told.json() == {
            "ready": False,
            "roles": {"treasury": {"state": "not ready", "reason": "it is starting"}},
        }
        await ready(rig)
        told = await http.get("/ready")
        assert (told.status_code, told.json()) == (
            200,
            {"ready": True, "roles": {"treasury": {"state": "ready"}}},
        )
        for path in (
            "/.well-known/oauth-protected-resource",
            "/.well-known/oauth-protected-resource/treasury/mcp",
            "/.well-known/oauth-authorization-server",
            "/.well-known/openid-configuration",
            "/",
            "/treasury",
            "/treasury/mcp/",
            "/a/b/mcp",
        ):
            response = await http.get(path)
            assert response.status_code == 404, path
            assert "www-authenticate" not in response.headers
            assert "location" not in response.headers


async def test_every_bad_token_gets_the_same_401(open_rig: OpenRig) -> None:
    """Whatever is wrong with a token, or with the role, the reply is one and the same."""
    async with open_rig() as rig, rig.http() as http:
        await ready(rig)
        revoked = rig.token("treasury")
        rig.tokens.remove(cast("TokenId", revoked.split("_")[1]))
        good = rig.token("treasury")
        cases = {
            "absent": (URL, None),
            "basic": (URL, "Basic abc"),
            "malformed": (URL, "Bearer nonsense"),
            "empty": (URL, "Bearer"),
            "latin": (URL, "Bearer ü"),
            "crc": (URL, "Bearer " + good[:-1] + ("0" if good[-1] != "0" else "1")),
            "unknown": (URL, "Bearer " + mint().text.get_secret_value()),
            "expired": (URL, "Bearer " + rig.token("treasury", ttl=-1)),
            "revoked": (URL, "Bearer " + revoked),
            "foreign": (URL, "Bearer " + rig.token("monitoring")),
            "unknown role": ("/nobody/mcp", "Bearer " + good),
        }
        told: dict[bytes, list[str]] = {}
        for name, (url, text) in cases.items():
            headers = [] if text is None else [(b"authorization", text.encode("latin-1"))]
            for method in ("POST", "GET", "DELETE"):
                response = await http.request(method, url, headers=headers, content=b"{}")
                assert response.status_code == 401, (name, method)
                assert response.headers["www-authenticate"] == 'Bearer error="invalid_token"'
                assert response.headers["content-type"] == "application/json"
                told.setdefault(response.content, []).append(name)
        assert len(told) == 1
        body = cast("dict[str, object]", json.loads(next(iter(told))))
        assert body["id"] is None
        assert (
            await http.post(URL, headers={"authorization": f"bearer {good}"})
        ).status_code == 400


async def test_tokens_elsewhere_are_refused(open_rig: OpenRig) -> None:
    """A token in the query, and two Authorization headers, are a 400."""
    async with open_rig() as rig:
        await ready(rig)
        token = rig.token("treasury")
        async with rig.http() as http:
            assert (await http.post(f"{URL}?access_token={token}")).status_code == 400
            assert (await http.post(f"{URL}?x={token}")).status_code == 400
            twice = [(b"authorization", f"Bearer {token}".encode())] * 2
            response = await http.post(URL, headers=twice, json=legacy("ping"))
            assert response.status_code == 400
            assert error_of(response)["code"] == -32600


async def test_names_are_checked(open_rig: OpenRig) -> None:
    """A foreign Host is 421, a foreign Origin 403, none is fine; configured ones are served."""
    settings = GatewaySettings(hosts=("Gate.example",), origins=("https://ui.example",))
    async with open_rig(settings) as rig:
        await ready(rig)
        port = rig.port
        async with rig.session(rig.token("treasury")) as http:

            async def status(**headers: str) -> int:
                return (await http.post(URL, json=legacy("ping"), headers=headers)).status_code

            assert await status() == 200
            assert await status(host=f"localhost:{port}") == 200
            assert await status(host=f"LOCALHOST:{port}") == 200
            assert await status(host="gate.example") == 200
            assert await status(host="localhost") == 421
            assert await status(host="evil.example") == 421
            assert await status(host=f"evil.example:{port}") == 421
            assert await status(origin=f"http://localhost:{port}") == 200
            assert await status(origin="https://ui.example") == 200
            assert await status(origin="https://evil.example") == 403
            assert await status(origin="null") == 403
            assert (await http.get("/ready", headers={"host": "evil.example"})).status_code == 421


async def test_http_form_is_checked(open_rig: OpenRig) -> None:
    """Methods, content types, accepted types and sizes have their statuses."""
    async with open_rig(GatewaySettings(max_body_bytes=1000)) as rig:
        await ready(rig)
        async with rig.session(rig.token("treasury")) as http:
            for method in ("PUT", "OPTIONS", "HEAD"):
                response = await http.request(method, URL)
                assert (response.status_code, response.headers["allow"]) == (
                    405,
                    "POST, GET, DELETE",
                )
            for method in ("GET", "DELETE", "PUT"):
                headers = {"mcp-protocol-version": "2026-07-28"}
                response = await http.request(method, URL, headers=headers)
                assert (response.status_code, response.headers["allow"]) == (405, "POST")
            response = await http.get(URL, headers={"accept": "application/json"})
            assert response.status_code == 406

            async def status(content: bytes = b"", **more: str) -> int:
                body = content or json.dumps(legacy("ping")).encode()
                named = {name.replace("_", "-"): value for name, value in more.items()}
                given = {"content-type": "application/json", **named}
                return (await http.post(URL, content=body, headers=given)).status_code

            assert await status() == 200
            assert await status(content_type="Application/JSON; charset=utf-8") == 200
            assert await status(content_type="text/plain") == 400
            assert await status(content_type="application/jsonp") == 400
            assert await status(accept="application/json") == 200
            assert await status(accept="*/*") == 200
            assert await status(accept="text/event-stream, application/json;q=0.5") == 200
            assert await status(accept="text/event-stream") == 406
            assert await status(accept="") == 406
            padded = json.dumps(legacy("ping", {"x": "y" * 1000})).encode()
            assert await status(padded) == 413

            async def pieces() -> AsyncGenerator[bytes]:
                for _ in range(20):
                    yield b"x" * 100

            response = await http.post(
                URL, content=pieces(), headers={"content-type": "application/json"}
            )
            assert response.status_code == 413
            assert await status() == 200


@pytest.mark.parametrize("version", [None, "2025-03-26", "2025-06-18", "2025-11-25"])
async def test_legacy_table(open_rig: OpenRig, version: str | None) -> None:
    """A legacy caller gets what the table says, with or without a version header."""
    async with open_rig() as rig:
        await ready(rig)
        extra = {} if version is None else {"mcp-protocol-version": version}
        async with rig.http(rig.token("treasury"), **extra) as http:
            post = http.post
            opened = await post(URL, json=legacy("initialize", OPENING))
            assert result_of(opened) == {
                "protocolVersion": "2025-06-18",
                "capabilities": {"tools": {"listChanged": True}, "logging": {}},
                "serverInfo": {"name": "bandmaster", "version": "0"},
            }
            http.headers["mcp-session-id"] = opened.headers["mcp-session-id"]
            unknown = {**OPENING, "protocolVersion": "1999-01-01"}
            answer = result_of(await post(URL, json=legacy("initialize", unknown)))
            assert answer["protocolVersion"] == "2025-11-25"
            response = await post(URL, json=legacy("initialize"))
            assert error_of(response)["code"] == -32602
            assert "mcp-session-id" not in response.headers

            note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
            noted = await post(URL, json=note)
            assert (noted.status_code, noted.content) == (202, b"")
            answered = await post(URL, json={"jsonrpc": "2.0", "id": 1, "result": {}})
            assert answered.status_code == 202
            assert result_of(await post(URL, json=legacy("ping"))) == {}
            listed = result_of(await post(URL, json=legacy("tools/list")))
            assert set(listed) == {"tools"}
            called = result_of(await post(URL, json=legacy("tools/call", {"name": "echo"}, "é")))
            assert "resultType" not in called
            for method in (
                "server/discover",
                "subscriptions/listen",
                "resources/list",
                "prompts/list",
                "tasks/list",
                "nonsense",
            ):
                response = await post(URL, json=legacy(method))
                assert response.status_code == 200, method
                assert error_of(response)["code"] == -32601
            assert error_of(await post(URL, json=legacy("logging/setLevel")))["code"] == -32602
            for params in ({}, {"name": 1}, {"name": "echo", "arguments": "x"}, {"name": "x" * 9}):
                response = await post(URL, json=legacy("tools/call", params))
                assert response.status_code == 200
                assert error_of(response)["code"] == -32602
            response = await post(URL, json=legacy("tools/list", {"cursor": "x"}))
            assert error_of(response)["code"] == -32602


BROKEN = {
    b"": -32700,
    b"{": -32700,
    b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"x": NaN}}': -32700,
    b'{"jsonrpc": "2.0", "id": 1, "method": "ping\xff"}': -32700,
    b'{"jsonrpc": "2.0", "id": 1, "method": "\\ud800"}': -32700,
    b"\xef\xbb\xbf{}": -32700,
    b"[" * 5000 + b"]" * 5000: -32700,
    b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"x": '
    + b"[" * 200
    + b"]" * 200
    + b"}}": -32600,
    b'[{"jsonrpc": "2.0", "id": 1, "method": "ping"}]': -32600,
    b"[]": -32600,
    b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"x": ['
    + b"[]," * 200_000
    + b"1]}}": -32600,
    b'"ping"': -32600,
    b'{"jsonrpc": "2.0", "id": null, "method": "ping"}': -32600,
    b'{"jsonrpc": "2.0", "id": 1.5, "method": "ping"}': -32600,
    b'{"jsonrpc": "2.0", "id": true, "method": "ping"}': -32600,
    b'{"jsonrpc": "1.0", "id": 1, "method": "ping"}': -32600,
    b'{"id": 1, "method": "ping"}': -32600,
    b'{"jsonrpc": "2.0", "id": 1, "method": 5}': -32600,
    b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []}': -32600,
    b'{"jsonrpc": "2.0", "id": 1}': -32600,
    b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "result": {}}': -32600,
}


@pytest.mark.parametrize("version", ["2025-06-18", "2026-07-28"])
async def test_broken_bodies(open_rig: OpenRig, version: str) -> None:
    """A body that is no single message is a 400 with a null id in both eras."""
    async with open_rig() as rig:
        await ready(rig)
        headers = {"content-type": "application/json", "mcp-protocol-version": version}
        async with rig.http(rig.token("treasury"), **headers) as http:
            for body, code in BROKEN.items():
                response = await http.post(URL, content=body)
                assert response.status_code == 400, body[:80]
                told = error_of(response)
                assert told["code"] == code, body[:80]
                assert cast("dict[str, object]", response.json())["id"] is None
                data = cast("dict[str, object]", told["data"])
                assert data["category"] == "validation"
                assert data["requestId"] == response.headers["x-request-id"]


async def test_modern_table(  # noqa: PLR0915 - one row after the other
    open_rig: OpenRig, modern_request: ModernRequest
) -> None:
    """A modern caller gets what the table says."""
    async with open_rig() as rig:
        await ready(rig)
        async with rig.http(rig.token("treasury")) as http:

            async def post(
                body: object, headers: dict[str, str], **more: str | None
            ) -> httpx2.Response:
                given = {**headers, **{name.replace("_", "-"): v for name, v in more.items() if v}}
                for name, value in more.items():
                    if value is None:
                        del given[name.replace("_", "-")]
                return await http.post(URL, json=body, headers=given)

            info = {"io.modelcontextprotocol/serverInfo": {"name": "bandmaster", "version": "0"}}
            found = result_of(await post(*modern_request("server/discover")))
            assert found == {
                "resultType": "complete",
                "supportedVersions": ["2026-07-28"],
                "capabilities": {"tools": {"listChanged": True}},
                "ttlMs": 5000,
                "cacheScope": "private",
                "_meta": info,
            }
            listed = result_of(await post(*modern_request("tools/list")))
            assert (
                listed["resultType"],
                listed["cacheScope"],
                listed["ttlMs"],
                listed["_meta"],
            ) == (
                "complete",
                "private",
                5000,
                info,
            )
            call = modern_request("tools/call", {"name": "echo", "arguments": {}})
            called = result_of(await post(*call))
            assert (called["resultType"], called["_meta"]) == ("complete", info)
            assert "ttlMs" not in called
            sessioned = await post(*call, mcp_session_id="abc")
            assert sessioned.status_code == 200
            assert "mcp-session-id" not in sessioned.headers

            for more in (
                {"mcp_method": None},
                {"mcp_method": "tools/list"},
                {"mcp_method": "Tools/Call"},
                {"mcp_name": None},
                {"mcp_name": "other"},
                {"mcp_name": "=?base64?ZWNob?="},
                {"mcp_protocol_version": "2027-01-01"},
            ):
                response = await post(*call, **more)
                assert response.status_code == 400, more
                assert error_of(response)["code"] == -32020, more
            assert (await post(*call, mcp_name="=?base64?ZWNobw==?=")).status_code == 200
            twice = [*call[1].items(), ("mcp-name", "echo")]
            response = await http.post(URL, json=call[0], headers=twice)
            assert error_of(response)["code"] == -32020

            body, headers = modern_request("tools/list")
            later = json.dumps(body).replace("2026-07-28", "2027-01-01")
            future = cast("object", json.loads(later))
            response = await post(future, headers, mcp_protocol_version="2027-01-01")
            assert response.status_code == 400
            told = error_of(response)
            assert told["code"] == -32022
            data = cast("dict[str, object]", told["data"])
            assert (data["supported"], data["requested"]) == (["2026-07-28"], "2027-01-01")

            for key in ("protocolVersion", "clientCapabilities"):
                cut = cast("dict[str, dict[str, dict[str, object]]]", json.loads(json.dumps(body)))
                del cut["params"]["_meta"][f"io.modelcontextprotocol/{key}"]
                response = await post(cut, headers)
                assert (response.status_code, error_of(response)["code"]) == (400, -32602)
            response = await post(legacy("tools/list"), headers)
            assert (response.status_code, error_of(response)["code"]) == (400, -32602)

            for method in ("initialize", "ping", "resources/list", "logging/setLevel", "x"):
                response = await post(*modern_request(method))
                assert response.status_code == 404, method
                assert error_of(response)["code"] == -32601
            response = await post(*modern_request("tools/call", {"name": "nothing"}))
            assert response.status_code == 400
            assert error_of(response)["message"] == "Unknown tool: nothing"
            response = await post({"jsonrpc": "2.0", "id": 1, "result": {}}, headers)
            assert (response.status_code, error_of(response)["code"]) == (400, -32600)
            note = {"jsonrpc": "2.0", "method": "notifications/cancelled"}
            assert (await post(note, headers)).status_code == 202
            response = await post(note, headers, mcp_protocol_version="1.0")
            assert error_of(response)["code"] == -32022


async def test_policy_reads_the_body(open_rig: OpenRig) -> None:
    """A legacy caller's lying headers change nothing: the body's tool is what is decided on."""
    async with open_rig() as rig:
        instance = await rig.start("legacy.py", "legacy")
        rig.publish("treasury", instance, hide=frozenset({"rubbish"}))
        headers = {"mcp-protocol-version": "2025-11-25", "mcp-name": "echo"}
        async with rig.session(rig.token("treasury"), **headers) as http:
            denied = await http.post(URL, json=legacy("tools/call", {"name": "rubbish"}))
            assert error_of(denied)["code"] == -32602
            double = (
                b'{"jsonrpc":"2.0","id":1,"method":"tools/call",'
                b'"params":{"name":"echo","name":"rubbish"}}'
            )
            denied = await http.post(
                URL, content=double, headers={"content-type": "application/json"}
            )
            assert error_of(denied)["code"] == -32602
            padding = {"x": "y" * 70_000}
            denied = await http.post(
                URL, json=legacy("tools/call", {"arguments": padding, "name": "rubbish"})
            )
            assert error_of(denied)["code"] == -32602
        assert "rubbish" not in (instance.directory / "received").read_text()


async def test_parameter_headers(open_rig: OpenRig, modern_request: ModernRequest) -> None:
    """An argument that its tool wants in a header has to be there, and be the same."""
    async with open_rig() as rig:
        rig.publish("treasury", await rig.start())
        async with rig.http(rig.token("treasury")) as http:

            async def code(region: str | None, header: str | None) -> object:
                arguments = {} if region is None else {"region": region}
                body, headers = modern_request(
                    "tools/call", {"name": "routed", "arguments": arguments}
                )
                extra = {} if header is None else {"Mcp-Param-Region": header, "Mcp-Param-X": "y"}
                response = await http.post(URL, json=body, headers=headers | extra)
                return 200 if response.status_code == 200 else error_of(response)["code"]

            assert await code("eu", "eu") == 200
            assert await code(None, None) == 200
            assert await code("eü", "=?base64?ZcO8?=") == 200
            assert await code("eu", "us") == -32020
            assert await code("eu", None) == -32020
            assert await code(None, "eu") == -32020


async def test_nothing_secret_is_logged(open_rig: OpenRig) -> None:
    """The log of a call names agent, tool and outcome, and holds no token and no argument."""
    async with open_rig() as rig:
        await ready(rig)
        token, canary = rig.token("treasury"), "canary-4711"
        with capture_logs() as logs:
            async with rig.session(token) as http:
                session = http.headers["mcp-session-id"]
                params = {"name": "echo", "arguments": {"key": canary}}
                answered = await http.post(URL, json=legacy("tools/call", params))
                assert canary in answered.text
                _ = await http.post(f"{URL}?token={token}")
                foreign = rig.token("monitoring")
                _ = await http.post(URL, headers={"authorization": f"Bearer {foreign}"})
            for record in rig.recorder.records:
                LogRecorder().record(record)
        text = repr(logs) + repr(rig.recorder.records) + repr(rig.tokens.__dict__)
        assert "'outcome': 'ok'" in text
        assert "'tool': 'echo'" in text
        assert "token.unknown" in text
        assert session[:20] not in text
        for secret in (token, foreign, canary):
            assert secret not in text
            assert secret.rpartition("_")[2] not in text


async def test_no_part_of_the_address_is_logged_but_a_role(open_rig: OpenRig) -> None:
    """A token that somebody wrote into the path is in no log and in no record."""
    async with open_rig() as rig:
        await ready(rig)
        token = rig.token("treasury")
        secret = token.rpartition("_")[2]
        paths = [f"/{text}/mcp" for text in (token, token[:60], secret, "%6dga_x", "Treasury", "?")]
        paths.append("/sk-proj-abcdefghijklmnop/mcp")
        paths += [f"/{token}", f"/treasury/{token}/mcp", f"/treasury/mcp/{token}", "/nobody/mcp"]
        with capture_logs() as logs:
            async with rig.http() as plain, rig.session(token) as known:
                for path in paths:
                    assert (await plain.post(path)).status_code in {401, 404}
                    assert (await known.post(path)).status_code in {401, 404}
                assert (await known.post(URL, json=legacy("ping"))).status_code == 200
            for record in rig.recorder.records:
                LogRecorder().record(record)
        assert {record.role for record in rig.recorder.records} == {"?", "nobody", "treasury"}
        text = repr(logs) + repr(rig.recorder.records)
        for part in (token[:60], secret, "mga_", "Treasury", "sk-proj"):
            assert part not in text


async def test_slow_body_does_not_hold_others(open_rig: OpenRig) -> None:
    """A caller that never ends its body keeps nobody waiting."""
    async with open_rig() as rig:
        await ready(rig)
        token = rig.token("treasury")
        port = rig.port
        stream = await anyio.connect_tcp("127.0.0.1", port)
        async with stream:
            head = (
                f"POST {URL} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
                f"Authorization: Bearer {token}\r\nContent-Length: 900\r\n"
                "Content-Type: application/json\r\nAccept: */*\r\n\r\n{"
            )
            await stream.send(head.encode())
            async with rig.session(token) as http:
                assert (await http.post(URL, json=legacy("ping"))).status_code == 200


async def test_a_token_that_is_revoked_while_its_body_comes_opens_nothing(
    open_rig: OpenRig,
) -> None:
    """Who holds a request open until after the revocation gets a 401, and no tool hears of it."""
    async with open_rig() as rig:
        await ready(rig)
        token = rig.token("treasury")
        port = rig.port
        body = json.dumps(legacy("tools/call", {"name": "hold", "arguments": {}})).encode()
        head = (
            f"POST {URL} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            f"Authorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n"
            "Content-Type: application/json\r\nAccept: */*\r\n\r\n"
        )
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(head.encode() + body[:1])
            # Answered after the first one was read as far as it goes.
            async with rig.session(token) as http:
                assert (await http.post(URL, json=legacy("ping"))).status_code == 200
            await anyio.to_thread.run_sync(rig.tokens.remove, cast("TokenId", token.split("_")[1]))
            await stream.send(body[1:])
            with anyio.fail_after(30):
                assert (await stream.receive()).startswith(b"HTTP/1.1 401 ")
        last = rig.recorder.records[-1]
        assert (last.code, last.tool) == ("token.revoked", None)
        assert not (rig.instances[0].directory / "held").exists()


@pytest.mark.parametrize("part", ["one header", "many headers", "a path", "a trailer"])
async def test_a_head_without_end_is_cut(open_rig: OpenRig, part: str) -> None:
    """A stranger cannot make the gateway keep a head of any length."""
    pieces = {
        "one header": (b"POST / HTTP/1.1\r\nx: ", b"y" * 65_536),
        "many headers": (b"POST / HTTP/1.1\r\n", b"x: y\r\n" * 10_000),
        "a path": (b"POST /", b"y" * 65_536),
        "a trailer": (
            b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: ",
            b"y" * 65_536,
        ),
    }
    begin, more = pieces[part]
    async with open_rig() as rig:
        port = rig.port
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(begin)
            with anyio.fail_after(30), pytest.raises(anyio.BrokenResourceError):
                await send_for_ever(stream, more)
        async with rig.http() as http:
            assert (await http.get("/health")).status_code == 200


async def send_for_ever(stream: anyio.abc.SocketStream, data: bytes) -> None:
    """Send until the other end will not have any more."""
    while True:
        await stream.send(data)


async def test_connections_have_an_end(open_rig: OpenRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strangers cannot take the descriptors that the daemon needs."""
    monkeypatch.setattr("orchestrator.gateway.front.CONNECTIONS", 8)
    monkeypatch.setattr("orchestrator.gateway.front.HEAD_SECONDS", 0.5)
    monkeypatch.setattr("orchestrator.gateway.front.LOOK_SECONDS", 0.1)
    async with open_rig() as rig, AsyncExitStack() as stack:
        port = rig.port
        streams: list[anyio.abc.SocketStream] = []
        for _ in range(20):
            stream = await anyio.connect_tcp("127.0.0.1", port)
            streams.append(await stack.enter_async_context(stream))
        # Those that say nothing make room at once for whoever comes, and are let go in time.
        async with rig.http() as http:
            assert (await http.get("/health")).status_code == 200
        for stream in streams:
            cut = pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError))
            with anyio.fail_after(30), cut:
                _ = await stream.receive()
        async with rig.http() as http:
            assert (await http.get("/health")).status_code == 200
