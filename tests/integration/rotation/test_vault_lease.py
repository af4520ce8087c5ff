"""Leases and tokens as credentials, against a real OpenBao server with a real PostgreSQL."""

from __future__ import annotations

import re
import secrets
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Final, cast

import pytest
from typing_extensions import override

from orchestrator.clock import SystemClock
from orchestrator.config.settings import load_settings
from orchestrator.errors import IssuerError, IssuerUncertainError
from orchestrator.model.issuers_cloud import VaultLeaseIssuer
from orchestrator.model.names import RoleName
from orchestrator.model.secret import SecretRef
from orchestrator.rotation.issuers.vault_lease import LeaseIssuer
from orchestrator.rotation.ports import Credential, Ending, Verdict

if TYPE_CHECKING:
    from collections.abc import Generator

    from orchestrator.rotation.issuers.program import Surroundings
    from tests.conftest import Bao, OpenStore, Postgres

ROLE = RoleName("treasury")
QUARTER = timedelta(days=90)
MONTH = timedelta(hours=768)
HOUR = timedelta(hours=1)

PAGE: Final = (Path(__file__).parents[3] / "docs/how-to/vault-and-aws.md").read_text()


def blocks(language: str) -> list[str]:
    """Return all blocks of the page that are in a language."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return cast("list[str]", found)


def block(language: str, word: str) -> str:
    """Return the one block of the page that is in a language and has a word in it."""
    [text] = [each for each in blocks(language) if word in each]
    return text


SWEEP = block("hcl", "auth/token/create")
TOKENS = SWEEP.partition("#")[0]
LEASES = block("hcl", "database/creds/app")
PROBE = block("python", "psycopg")


def name() -> str:
    """Make a name as the engine does."""
    return f"bm-treasury-{secrets.token_hex(6)}-1"


def text(credential: Credential, field: str) -> str:
    """Tell one field's value."""
    return credential.fields[field].get_secret_value()


def left(end: datetime | None) -> timedelta:
    """Tell how long something still lives."""
    assert end is not None
    return end - datetime.now(UTC)


class Make:
    """Makes issuers whose login may do just what they need."""

    def __init__(self, bao: Bao, open_store: OpenStore, around: Surroundings) -> None:
        """Keep what it takes."""
        self._around = around
        self._bao = bao
        self._open = open_store

    def tokens(self, *, rules: str = TOKENS, sweep: bool = False, **login: object) -> LeaseIssuer:
        """Make an issuer of tokens."""
        login = {"no_parent": True, "period": "768h", **login}
        return self.issuer(
            rules,
            login,
            path="auth/token/create",
            parameters={"policies": ["default"]},
            sweep=sweep,
        )

    def leases(self, **login: object) -> LeaseIssuer:
        """Make an issuer of users of the database."""
        login = {"no_parent": True, "period": "768h", **login}
        return self.issuer(LEASES, login, path="database/creds/app", probe="lease")

    def issuer(self, rules: str, login: dict[str, object], **settings: object) -> LeaseIssuer:
        """Make an issuer."""
        token = self._bao.token(rules, **login)
        # It has to give its own policies to make tokens with them: the administrator's parameters.
        client = self._open(self._bao.address, variables={"T": token}, token="env:T")
        model = VaultLeaseIssuer.model_validate(
            {"kind": "vault-lease", "store": "main", **settings}
        )
        return LeaseIssuer(model, client, SystemClock(), self._around)


@pytest.fixture
def make(bao: Bao, open_store: OpenStore, around: Surroundings) -> Make:
    """Make issuers at the real server."""
    return Make(bao, open_store, around)


async def test_a_token_is_made_probed_revoked_and_seen_refused(make: Make) -> None:
    """A token lives as long as the server says, not as it was asked to, and dies on request."""
    issuer = make.tokens()
    assert issuer.capabilities.overlap
    assert issuer.capabilities.probes
    assert not issuer.capabilities.lists
    made = await issuer.mint(name(), ROLE, QUARTER)
    assert MONTH - timedelta(minutes=1) < left(made.expires_at) <= MONTH
    assert set(made.credential.fields) == {"token", "accessor"}
    assert text(made.credential, "token") not in repr(made)
    assert await issuer.probe(made.credential) is Verdict.ACCEPTED
    for _ in range(2):
        assert await issuer.revoke(name(), made.handle) is Ending.ASKED
        assert await issuer.probe(made.credential) is Verdict.REFUSED


async def test_a_token_that_cannot_look_itself_up_is_not_taken_for_dead(
    bao: Bao, make: Make
) -> None:
    """A live token without the default policy is refused a look at itself, and still accepted."""
    issuer = make.issuer(
        TOKENS,
        {"no_parent": True, "period": "768h"},
        path="auth/token/create",
        parameters={"no_default_policy": True},
    )
    made = await issuer.mint(name(), ROLE, HOUR)
    assert bao.ask("GET", "auth/token/lookup-self", token=text(made.credential, "token"))[0] == 403
    assert await issuer.probe(made.credential) is Verdict.ACCEPTED
    _ = await issuer.revoke("", made.handle)
    assert await issuer.probe(made.credential) is Verdict.REFUSED


async def test_lost_tokens_are_found_by_name(make: Make) -> None:
    """With `sweep`, what a crash lost is found by the name that was chosen before."""
    issuer = make.tokens(rules=SWEEP, sweep=True)
    assert issuer.capabilities.lists
    lost = name()
    made = await issuer.mint(lost, ROLE, HOUR)
    _ = await issuer.mint(name(), ROLE, HOUR)
    assert await issuer.list(lost.rpartition("-")[0]) == {lost: made.handle}
    _ = await issuer.revoke(lost, made.handle)
    assert await issuer.list(lost) == {}
    assert await issuer.revoke(lost, {}) is Ending.ASKED
    without = make.tokens()
    # Its id is lost: time ends it.
    assert await without.revoke(lost, {}) is Ending.QUEUED
    with pytest.raises(IssuerError, match="does not tell"):
        _ = await without.list(lost)
    forbidden = make.tokens(sweep=True)
    with pytest.raises(IssuerError, match="may not do this"):
        _ = await forbidden.list(lost)


async def test_what_is_made_ends_with_the_login_that_made_it(make: Make) -> None:
    """The told end is the smallest of all: here that of our own login."""
    issuer = make.tokens(period="", ttl="2h", explicit_max_ttl="2h")
    made = await issuer.mint(name(), ROLE, QUARTER)
    assert HOUR < left(made.expires_at) <= 2 * HOUR
    # An hour that could become two days is prolonged before it is used.
    issuer = make.tokens(period="", ttl="1h", explicit_max_ttl="48h")
    made = await issuer.mint(name(), ROLE, timedelta(days=1))
    assert timedelta(hours=23) < left(made.expires_at) <= timedelta(days=1)


async def test_a_login_by_approle_gives_all_the_time_that_it_has(
    bao: Bao, open_store: OpenStore, around: Surroundings, database: str
) -> None:
    """Each credential comes with a login of its own, prolonged as far as the role allows."""
    role_id, secret_id = bao.approle(LEASES, token_ttl="10m", token_max_ttl="4h")
    approle = {"role_id": role_id, "secret_id": "env:S"}
    client = open_store(bao.address, variables={"S": secret_id}, approle=approle)
    settings = VaultLeaseIssuer.model_validate({"kind": "vault-lease", "path": database})
    issuer = LeaseIssuer(settings, client, SystemClock(), around)
    logins: set[str] = set()
    for _ in range(2):
        made = await issuer.mint(name(), ROLE, QUARTER)
        assert timedelta(hours=3.9) < left(made.expires_at) <= timedelta(hours=4)
        assert client._login is not None
        logins.add(client._login[0].get_secret_value())
    assert len(logins) == 2


@pytest.mark.usefixtures("database")
async def test_a_database_user_is_made_prolonged_and_revoked(
    make: Make, postgres: Postgres
) -> None:
    """A lease is prolonged as far as its role allows; revoked, the database refuses the login."""
    issuer = make.leases()
    made = await issuer.mint(name(), ROLE, QUARTER)
    login = text(made.credential, "username"), text(made.credential, "password")
    assert postgres.logs_in(*login)
    # Made for an hour, prolonged to the two days that the role allows, not the 90 that were asked.
    assert timedelta(hours=47) < left(made.expires_at) <= timedelta(hours=48)
    assert await issuer.probe(made.credential) is Verdict.ACCEPTED
    with postgres.connect(*login) as connection:
        for _ in range(2):
            assert await issuer.revoke("", made.handle) is Ending.ASKED
        assert not postgres.logs_in(*login)
        assert await issuer.probe(made.credential) is Verdict.REFUSED
        # What is open stays open: only ending the old process ends it.
        assert connection.execute("select 1").fetchone() == (1,)


@pytest.mark.usefixtures("database")
async def test_a_revocation_that_cannot_happen_is_no_success(
    bao: Bao, make: Make, postgres: Postgres
) -> None:
    """With the database down a queued revocation answers 202, ours fails, and nothing is proved."""
    issuer = make.leases()
    queued = await issuer.mint(name(), ROLE, HOUR)
    made = await issuer.mint(name(), ROLE, HOUR)
    postgres.stop()
    try:
        # What the same request says that does not wait, as `bao lease revoke` sends it.
        body = {"lease_id": queued.handle["lease_id"], "sync": False}
        assert bao.ask("PUT", "sys/leases/revoke", body)[0] == 202
        with pytest.raises(IssuerError, match="did not revoke") as caught:
            _ = await issuer.revoke("bm-x", made.handle)
        for field in ("username", "password"):
            assert text(made.credential, field) not in str(caught.value)
        assert await issuer.probe(made.credential) is not Verdict.REFUSED
        # The server says itself that it failed: nothing was made.
        with pytest.raises(IssuerError, match="creds/app"):
            _ = await issuer.mint(name(), ROLE, HOUR)
    finally:
        postgres.start()
    assert await issuer.revoke("bm-x", made.handle) is Ending.ASKED
    assert not postgres.logs_in(
        text(made.credential, "username"), text(made.credential, "password")
    )


@pytest.mark.usefixtures("database")
async def test_a_program_tells_what_the_database_says(
    make: Make, postgres: Postgres, tmp_path: Path
) -> None:
    """A declared program tries the login itself; what it cannot tell proves nothing."""
    script = tmp_path / "probe.py"
    _ = script.write_text(PROBE)
    program = [sys.executable, str(script), str(postgres.port)]
    issuer = make.issuer(LEASES, {"no_parent": True}, path="database/creds/app", probe=program)
    made = await issuer.mint(name(), ROLE, HOUR)
    assert await issuer.probe(made.credential) is Verdict.ACCEPTED
    postgres.stop()
    try:
        assert await issuer.probe(made.credential) is Verdict.UNKNOWN
    finally:
        postgres.start()
    _ = await issuer.revoke("", made.handle)
    assert await issuer.probe(made.credential) is Verdict.REFUSED


@pytest.mark.usefixtures("database")
async def test_without_a_declared_probe_nothing_is_proved(make: Make) -> None:
    """A lease says nothing of the database unless the operator takes the server's word."""
    issuer = make.issuer(LEASES, {"no_parent": True}, path="database/creds/app")
    assert not issuer.capabilities.probes
    made = await issuer.mint(name(), ROLE, HOUR)
    assert await issuer.probe(made.credential) is Verdict.UNKNOWN


async def test_what_comes_without_a_lease_is_refused(bao: Bao, make: Make) -> None:
    """A path that gives no lease, no such path, and a login that may not: each in words."""
    _ = bao.do("POST", "secret/data/static", {"data": {"key": "canary-static"}})
    rules = 'path "secret/data/static" { capabilities = ["read"] }'
    for path, words in (
        ("secret/data/static", "has no lease"),
        ("secret/data/other", "may not do this"),
    ):
        issuer = make.issuer(rules, {}, path=path)
        with pytest.raises(IssuerError, match=words) as caught:
            _ = await issuer.mint(name(), ROLE, HOUR)
        assert "canary" not in str(caught.value)


async def test_a_batch_token_is_not_taken(make: Make) -> None:
    """A token that nobody could revoke is no credential."""
    issuer = make.issuer(
        TOKENS,
        {"no_parent": True, "period": "768h"},
        path="auth/token/create",
        parameters={"type": "batch", "policies": ["default"]},
    )
    with pytest.raises(IssuerError, match="could not be revoked"):
        _ = await issuer.mint(name(), ROLE, HOUR)


async def test_a_request_that_may_have_happened_is_told_apart(
    open_store: OpenStore, around: Surroundings
) -> None:
    """A server that cannot be reached made nothing; one that is silent half-way may have."""
    settings = VaultLeaseIssuer.model_validate({"kind": "vault-lease", "path": "auth/token/create"})
    login = {"T": "canary-login"}
    client = open_store("http://127.0.0.1:9", variables=login, token="env:T")
    issuer = LeaseIssuer(settings, client, SystemClock(), around)
    with pytest.raises(IssuerError, match="cannot be reached"):
        _ = await issuer.mint(name(), ROLE, HOUR)
    credential = Credential({})
    assert await issuer.probe(credential) is Verdict.UNKNOWN
    with pytest.raises(IssuerError, match="cannot be reached"):
        _ = await issuer.revoke("bm-x", {"accessor": "a"})
    with silent_after_login() as address:
        client = open_store(address, variables=login, token="env:T")
        issuer = LeaseIssuer(settings, client, SystemClock(), around)
        with pytest.raises(IssuerUncertainError, match="does not answer"):
            _ = await issuer.mint(name(), ROLE, HOUR)


@contextmanager
def silent_after_login() -> Generator[str]:
    """Run a server that knows every login, and hangs up on everything else."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"data": {"ttl": 0}}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            _ = self.wfile.write(body)

        def do_POST(self) -> None:
            self.close_connection = True

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


def test_the_examples_of_the_page_are_right(tmp_path: Path) -> None:
    """What the page writes into `agents.yaml` and into role files is understood."""
    found = blocks("yaml")
    stores = next(each for each in found if each.startswith("stores:"))
    issuers = [each.partition("\n")[2] for each in found if each.startswith("issuers:")]
    (tmp_path / "agents.yaml").write_text(f"{stores}issuers:\n{''.join(issuers)}")
    settings = load_settings(tmp_path)
    assert set(settings.stores) == {"default", "dev", "aws"}
    assert set(settings.issuers) == {"shop-db", "vault-token", "shop-password"}
    written = "".join(each for each in found if each.startswith("secrets:"))
    texts = cast("list[str]", re.findall(r"^  [A-Z_]+: (\S+)", written, re.MULTILINE))
    references = [SecretRef.parse(text) for text in texts]
    assert {each.scheme for each in references} == {"vault", "aws-sm", "issued"}
