"""`vault://` references, against a real OpenBao server."""

from __future__ import annotations

import logging
import secrets
import socket
import sys
import time
import traceback
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Final, cast

import pytest
from typing_extensions import override

from orchestrator.errors import SecretError, SecretNotFoundError, SecretStoreUnavailableError
from orchestrator.model.secret import SecretRef
from orchestrator.secrets.vault import VaultStore

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from orchestrator.secrets.vault_client import VaultClient
    from tests.conftest import Bao, OpenStore

VALUE = "canary-kv-value"


@pytest.fixture
def path(bao: Bao) -> str:
    """Keep two versions of something, and tell where."""
    place = f"app/{secrets.token_hex(4)}"
    _ = bao.do("POST", f"secret/data/{place}", {"data": {"key": f"{VALUE}-1"}})
    _ = bao.do("POST", f"secret/data/{place}", {"data": {"key": f"{VALUE}-2", "n": 7, "empty": ""}})
    return place


@pytest.fixture
def client(bao: Bao, open_store: OpenStore) -> VaultClient:
    """Open the server with a token that may read the KV store alone."""
    token = bao.token('path "secret/data/*" { capabilities = ["read"] }')
    return open_store(bao.address, variables={"T": token}, token="env:T")


def read(client: VaultClient, text: str) -> str:
    """Read one reference of the store `main`."""
    return VaultStore({"main": client}).read(SecretRef.parse(text)).value.get_secret_value()


def failure(client: VaultClient, text: str, kind: type[SecretError]) -> str:
    """Read in vain; return the error's words, and make sure that no value is anywhere in it."""
    with pytest.raises(kind) as caught:
        _ = read(client, text)
    whole = "".join(traceback.format_exception(caught.value))
    assert VALUE not in whole
    assert text in str(caught.value)
    return f"{caught.value} {caught.value.hint}"


async def test_a_field_is_read_in_its_newest_or_a_named_version(
    client: VaultClient, path: str
) -> None:
    """A field comes in the newest version, or in the one that the reference names."""
    reference = SecretRef.parse(f"vault://main/secret/{path}#key")
    secret = VaultStore({"main": client}).read(reference)
    assert secret.value.get_secret_value() == f"{VALUE}-2"
    assert secret.version_id == "2"
    assert read(client, f"vault://main/secret/{path}?version=1#key") == f"{VALUE}-1"


def test_a_reference_without_a_store_means_the_default_one(client: VaultClient, path: str) -> None:
    """`vault:///` goes to the store that is called `default`."""
    reference = SecretRef.parse(f"vault:///secret/{path}#key")
    store = VaultStore({"default": client})
    assert store.read(reference).value.get_secret_value() == f"{VALUE}-2"
    problem = failure(client, f"vault:///secret/{path}#key", SecretStoreUnavailableError)
    assert "there is no store default of kind vault" in problem


def test_what_is_not_there_is_told_by_its_reference(
    bao: Bao, client: VaultClient, path: str
) -> None:
    """A wrong path, field, version or mount, a deleted and a destroyed version: each in words."""
    kinds = {
        f"vault://main/secret/{path}-x#key": "nothing is kept there",
        f"vault://main/secret/{path}?version=9#key": "nothing is kept there",
        f"vault://main/secret/{path}#other": "no such field Fields there: empty, key, n.",
    }
    for text, words in kinds.items():
        assert words in failure(client, text, SecretNotFoundError)
    _ = bao.do("POST", f"secret/delete/{path}", {"versions": [1]})
    text = f"vault://main/secret/{path}?version=1#key"
    assert "this version was deleted" in failure(client, text, SecretNotFoundError)
    _ = bao.do("PUT", f"secret/destroy/{path}", {"versions": [1]})
    assert "this version was destroyed" in failure(client, text, SecretNotFoundError)
    text = f"vault://main/secret/{path}#n"
    assert "the field is no text" in failure(client, text, SecretStoreUnavailableError)
    # An empty text is what the store holds; the resolver refuses it, as it does for every store.
    assert read(client, f"vault://main/secret/{path}#empty") == ""
    text = "vault://main/elsewhere/x#key"
    assert "may not do this" in failure(client, text, SecretStoreUnavailableError)


def test_a_path_cannot_climb(client: VaultClient) -> None:
    """A reference whose path would be another one after the HTTP library is refused."""
    for path in ("secret/../sys/x", "secret/a/%2E%2E/b", "secret/a//b", "%2E%2E/a"):
        with pytest.raises(SecretError, match="malformed"):
            _ = VaultStore({"main": client}).read(SecretRef("vault", path, "key", "main"))


def test_a_wrong_login_is_told_without_it(bao: Bao, open_store: OpenStore, path: str) -> None:
    """A wrong token, one that no header can hold, and a missing one."""
    text = f"vault://main/secret/{path}#key"
    for token, words in (
        (f"{VALUE}-token", "refuses the login"),
        (f"{VALUE}\ntoken", "the login is none"),
    ):
        client = open_store(bao.address, variables={"T": token}, token="env:T")
        assert words in failure(client, text, SecretStoreUnavailableError)
    client = open_store(bao.address, variables={}, token="env:T")
    assert "T is not set" in failure(client, text, SecretStoreUnavailableError)


def test_a_login_by_approle_is_made_anew_when_it_was_taken_back(
    bao: Bao, open_store: OpenStore, path: str
) -> None:
    """The login is kept between requests; once it is refused, one more login is made."""
    rules = 'path "secret/data/*" { capabilities = ["read"] }'
    role_id, secret_id = bao.approle(rules, token_ttl="1h")
    approle = {"role_id": role_id, "secret_id": "env:S"}
    client = open_store(bao.address, variables={"S": secret_id}, approle=approle)
    text = f"vault://main/secret/{path}#key"
    assert read(client, text) == f"{VALUE}-2"
    first = client._login
    assert read(client, text) == f"{VALUE}-2"
    assert client._login is first
    assert first is not None
    _ = bao.do("POST", "auth/token/revoke", {"token": first[0].get_secret_value()})
    assert read(client, text) == f"{VALUE}-2"
    assert client._login is not first
    wrong = open_store(bao.address, variables={"S": f"{VALUE}-wrong"}, approle=approle)
    assert "refuses the login by approle" in failure(wrong, text, SecretStoreUnavailableError)


def test_a_server_that_is_down_silent_or_sealed_is_told_so(
    open_store: OpenStore, start_bao: Callable[[], AbstractContextManager[Bao]]
) -> None:
    """Nobody there, somebody who never answers, and a sealed server: each within its time."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = cast("int", silent.getsockname()[1])
        client = open_store(
            f"http://127.0.0.1:{port}", variables={"T": VALUE}, token="env:T", timeout="300ms"
        )
        text = "vault://main/secret/x#key"
        began = time.monotonic()
        assert "does not answer" in failure(client, text, SecretStoreUnavailableError)
        assert time.monotonic() - began < 30
    assert "cannot be reached" in failure(client, text, SecretStoreUnavailableError)
    with start_bao() as server:
        _ = server.do("PUT", "sys/seal")
        client = open_store(server.address, variables={"T": server.root_token}, token="env:T")
        assert "it is sealed" in failure(client, text, SecretStoreUnavailableError)


def test_certificates_are_checked(open_store: OpenStore) -> None:
    """A server without an accepted certificate is shown no token; a missing `ca` is told."""
    with socket.create_server(("127.0.0.1", 0)) as plain:
        port = cast("int", plain.getsockname()[1])
        client = open_store(
            f"https://127.0.0.1:{port}",
            variables={"T": VALUE},
            token="env:T",
            ca="nowhere/ca.pem",
            timeout="300ms",
        )
        problem = failure(client, "vault://main/secret/x#key", SecretStoreUnavailableError)
        assert "file of authorities cannot be read" in problem


def test_a_proxy_and_netrc_of_the_environment_are_not_asked(
    client: VaultClient, path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Requests go to the server itself, whatever the environment says of proxies."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    (tmp_path / ".netrc").write_text("default login a password b\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read(client, f"vault://main/secret/{path}#key") == f"{VALUE}-2"


def test_a_missing_library_is_named_with_its_extra(
    client: VaultClient, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without hvac the error says what to install."""
    monkeypatch.setitem(sys.modules, "hvac.adapters", None)
    problem = failure(client, f"vault://main/secret/{path}#key", SecretStoreUnavailableError)
    assert "pip install 'bandmaster[vault]'" in problem


def test_not_even_the_most_talkative_log_holds_a_value(
    client: VaultClient, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a value nor the login is in any log."""
    caplog.set_level(logging.DEBUG)
    assert read(client, f"vault://main/secret/{path}#key") == f"{VALUE}-2"
    token = client._resolve(SecretRef.parse("env:T")).get_secret_value()
    assert VALUE not in caplog.text
    assert token not in caplog.text


# What a server could answer, good or bad: status, headers and body, and what is said of it.
ANSWERS: Final[dict[str, tuple[int, dict[str, str], bytes, str]]] = {
    "words with values": (400, {}, b'{"errors": ["canary-kv-value"]}', "it refuses the request"),
    "a failure": (500, {}, b"canary-kv-value", "it answers with status 500"),
    "another place": (307, {"Location": "http://127.0.0.1:9/canary"}, b"", "sends to another"),
    "no JSON": (200, {}, b"canary-kv-value", "its answer is no JSON"),
    "a list": (200, {}, b"[1]", "its answer is no JSON"),
    "too deep": (200, {}, b"[" * 100_000, "its answer is no JSON"),
    "too much": (200, {}, b" " * 3_000_000, "does not answer"),
    "too little": (200, {"Content-Length": "50"}, b"{", "does not answer"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_no_answer_of_a_server_brings_more_than_an_error(case: str, open_store: OpenStore) -> None:
    """Whatever a server says is an error in our own words, and never repeated."""
    status, headers, body, words = ANSWERS[case]
    with answering(status, headers, body) as address:
        client = open_store(address, variables={"T": VALUE}, token="env:T", timeout="500ms")
        text = "vault://main/secret/x#key"
        assert words in failure(client, text, SecretStoreUnavailableError)


@contextmanager
def answering(status: int, headers: dict[str, str], body: bytes) -> Generator[str]:
    """Run a server that always answers the same."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):
                _ = self.wfile.write(body)

        @override
        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
