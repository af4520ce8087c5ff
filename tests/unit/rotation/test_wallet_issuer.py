"""Agent tokens of a wallet: what is asked of the owner's instance, and what may become of it."""

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import final

import pytest

from orchestrator.errors import (
    AgentsError,
    IssuerError,
    IssuerUncertainError,
    NotRunningError,
    SecretNotFoundError,
    UpstreamProtocolError,
    WorkloadStartError,
)
from orchestrator.model.base import JsonObject
from orchestrator.model.issuers import WalletSuiteIssuer
from orchestrator.model.names import RoleName, ToolName
from orchestrator.rotation.issuers.walletsuite import DEFAULT_FILE, WalletIssuer
from orchestrator.rotation.ports import WHOLE, Credential, Ending, Owner, Verdict

ROLE = RoleName("executor")
NAME = "bm-executor-0123456789ab-1"
TOKEN = "mpc_key_" + "c0ffee" * 10 + "0000"
FACTS: JsonObject = {"tokenId": "tok_1", "expiresAt": "2030-01-02T03:04:05.000Z"}

Behaviour = Callable[[Path, JsonObject], JsonObject]


@final
class Owners:
    """Stands for owner's instances, whose one tool behaves as it is told."""

    def __init__(self, home: Path, behave: Behaviour, refuses: AgentsError | None = None) -> None:
        """Keep what happens."""
        self.home = home
        self.behave = behave
        self.refuses = refuses
        self.asked: list[tuple[str, JsonObject]] = []
        self.open_now = 0

    @asynccontextmanager
    async def open(self, role: RoleName) -> AsyncGenerator[Owner]:
        """Run one."""
        assert role == ROLE
        if self.refuses is not None:
            raise self.refuses
        self.open_now += 1
        try:
            yield self
        finally:
            self.open_now -= 1

    async def call_tool(self, tool: ToolName, arguments: JsonObject) -> JsonObject:
        """Do what it is told to do."""
        self.asked.append((tool, arguments))
        return self.behave(self.home, arguments)


def write(home: Path, text: str = TOKEN + "\n") -> Path:
    """Write the token where such servers do."""
    path = home / DEFAULT_FILE
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def good(home: Path, _: JsonObject) -> JsonObject:
    """Do what the server should."""
    return {"structuredContent": {"tokenFile": str(write(home)), **FACTS}}


def silent(_home: Path, _: JsonObject) -> JsonObject:
    """Tell nothing, and do nothing."""
    return {}


def issuer(owners: Owners, **settings: object) -> WalletIssuer:
    """Make an issuer."""
    wanted = {"kind": "walletsuite", "wallet": "main", **settings}
    return WalletIssuer(WalletSuiteIssuer.model_validate(wanted), owners)


def told(error: BaseException | None) -> str:
    """Tell everything that an error carries along, causes included."""
    parts: list[str] = []
    while error is not None:
        parts += [repr(error), str(error), str(vars(error))]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(parts)


async def test_the_token_is_moved_out_of_its_file(tmp_path: Path) -> None:
    """The tool is called once, the value becomes the credential, and the file is gone."""
    owners = Owners(tmp_path, good)
    minted = await issuer(owners).mint(NAME, ROLE, timedelta(days=30, hours=1))
    assert minted.credential.fields[WHOLE].get_secret_value() == TOKEN
    assert minted.handle == {"wallet": "main", "tokenId": "tok_1"}
    assert minted.expires_at == datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert owners.asked == [
        ("create_agent_api_key", {"walletName": "main", "label": NAME, "ttlDays": 31})
    ]
    assert not (tmp_path / DEFAULT_FILE).exists()
    assert owners.open_now == 0
    assert TOKEN not in repr(minted)


async def test_what_is_asked_follows_the_settings(tmp_path: Path) -> None:
    """Arguments are left out and added as written; a life is bounded by the server's and ours."""
    owners = Owners(tmp_path, good)
    _ = await issuer(owners, omit=["label"], arguments={"scope": "sign"}, max_life="2d").mint(
        NAME, ROLE, timedelta(days=90)
    )
    _ = await issuer(owners, max_life="3000d").mint(NAME, ROLE, timedelta(days=3000))
    _ = await issuer(owners).mint(NAME, ROLE, timedelta(minutes=1))
    assert [asked for _, asked in owners.asked] == [
        {"walletName": "main", "ttlDays": 2, "scope": "sign"},
        {"walletName": "main", "label": NAME, "ttlDays": 365},
        {"walletName": "main", "label": NAME, "ttlDays": 1},
    ]


async def test_a_file_without_a_name_is_looked_for_where_it_is_by_default(tmp_path: Path) -> None:
    """A server that tells nothing of its file wrote it to the default place."""

    def quiet(home: Path, _: JsonObject) -> JsonObject:
        return {"content": [write(home).name]}

    minted = await issuer(Owners(tmp_path, quiet)).mint(NAME, ROLE, timedelta(days=1))
    assert minted.credential.fields[WHOLE].get_secret_value() == TOKEN
    assert minted.handle == {"wallet": "main"}
    assert minted.expires_at is None


async def test_a_token_of_an_earlier_crash_is_never_taken_for_the_new_one(tmp_path: Path) -> None:
    """What lies there from before is removed first: with it the call fails, nothing is adopted."""
    _ = write(tmp_path, "mpc_key_of_an_earlier_attempt")
    with pytest.raises(IssuerUncertainError):
        _ = await issuer(Owners(tmp_path, silent)).mint(NAME, ROLE, timedelta(days=1))
    assert not (tmp_path / DEFAULT_FILE).exists()


def refusal(code: object, category: str) -> Behaviour:
    """Answer with an error whose own words hold a secret."""
    facts: JsonObject = {"code": str(code), "category": category, "message": TOKEN}

    def behave(_home: Path, _: JsonObject) -> JsonObject:
        return {"isError": True, "structuredContent": facts}

    return behave


async def test_a_refusal_made_nothing(tmp_path: Path) -> None:
    """The code of the error is told, its words are not; behind the server anything may be."""
    for behave, kind, shown in (
        (refusal("POLICY_REQUIRED", "flow"), IssuerError, "POLICY_REQUIRED"),
        (refusal(TOKEN, "flow"), IssuerError, "unknown"),
        (refusal("TIMEOUT", "upstream"), IssuerUncertainError, "TIMEOUT"),
    ):
        with pytest.raises(kind, match=shown) as caught:
            _ = await issuer(Owners(tmp_path, behave)).mint(NAME, ROLE, timedelta(days=1))
        assert TOKEN not in told(caught.value)


@pytest.mark.parametrize(
    "error", [WorkloadStartError("no"), SecretNotFoundError("no"), NotRunningError("no")]
)
async def test_an_instance_that_does_not_start_made_nothing(
    tmp_path: Path, error: AgentsError
) -> None:
    """Before the tool is called, failures are sure ones."""
    with pytest.raises(IssuerError):
        _ = await issuer(Owners(tmp_path, good, error)).mint(NAME, ROLE, timedelta(days=1))


@pytest.mark.parametrize("error", [WorkloadStartError("ended"), UpstreamProtocolError(TOKEN)])
async def test_an_instance_that_ends_in_the_call_is_uncertain(
    tmp_path: Path, error: AgentsError
) -> None:
    """Once the tool was called nobody knows, and a server's words are not repeated."""

    def fail(*_: object) -> JsonObject:
        raise error

    with pytest.raises(IssuerUncertainError) as caught:
        _ = await issuer(Owners(tmp_path, fail)).mint(NAME, ROLE, timedelta(days=1))
    assert TOKEN not in told(caught.value)


def _outside(home: Path, _: JsonObject) -> JsonObject:
    path = home.parent / "outside"
    path.write_text(TOKEN)
    return {"structuredContent": {"tokenFile": str(path)}}


def _upwards(home: Path, _: JsonObject) -> JsonObject:
    (home.parent / "outside").write_text(TOKEN)
    return {"structuredContent": {"tokenFile": f"{home}/../outside"}}


def _link(home: Path, _: JsonObject) -> JsonObject:
    (home.parent / "outside").write_text(TOKEN)
    (home / "token").symlink_to(home.parent / "outside")
    return {"structuredContent": {"tokenFile": str(home / "token")}}


def _folder_link(home: Path, _: JsonObject) -> JsonObject:
    (home.parent / "folder").mkdir()
    (home.parent / "folder" / "outside").write_text(TOKEN)
    (home / "folder").symlink_to(home.parent / "folder")
    return {"structuredContent": {"tokenFile": str(home / "folder" / "outside")}}


def _twin(home: Path, _: JsonObject) -> JsonObject:
    (home.parent / "outside").write_text(TOKEN)
    (home / "token").hardlink_to(home.parent / "outside")
    return {"structuredContent": {"tokenFile": str(home / "token")}}


def _pipe(home: Path, _: JsonObject) -> JsonObject:
    os.mkfifo(home / "token")
    return {"structuredContent": {"tokenFile": str(home / "token")}}


def _nothing(home: Path, _: JsonObject) -> JsonObject:
    return {"structuredContent": {"tokenFile": str(home / "token")}}


def _text(text: str) -> Behaviour:
    def behave(home: Path, _: JsonObject) -> JsonObject:
        return {"structuredContent": {"tokenFile": str(write(home, text))}}

    return behave


WRONG: dict[str, Behaviour] = {
    "outside": _outside,
    "upwards": _upwards,
    "a link": _link,
    "a linked directory": _folder_link,
    "a second name": _twin,
    "a pipe": _pipe,
    "nothing": _nothing,
    "empty": _text(""),
    "short": _text("short"),
    "two words": _text("two tokens-of-enough-length"),
    "not printable": _text("token-of-enough-length\x07"),
}


@pytest.mark.parametrize("how", WRONG)
async def test_a_file_that_is_not_the_servers_own_is_not_taken(tmp_path: Path, how: str) -> None:
    """Another place, a link, a second name, a pipe, no token: uncertain; what is outside stays."""
    home = tmp_path / "home"
    home.mkdir()
    with pytest.raises(IssuerUncertainError) as caught:
        _ = await issuer(Owners(home, WRONG[how])).mint(NAME, ROLE, timedelta(days=1))
    assert TOKEN not in told(caught.value)
    outside = (home.parent / "outside", home.parent / "folder" / "outside")
    assert all(path.read_text() == TOKEN for path in outside if path.exists())


async def test_the_rest_is_for_a_person(tmp_path: Path) -> None:
    """No tool lists, probes or ends a token."""
    wallet = issuer(Owners(tmp_path, good))
    can = wallet.capabilities
    assert (can.overlap, can.revoke, can.lists, can.probes) == (False, "manual", False, False)
    assert issuer(Owners(tmp_path, good), overlap=True).capabilities.overlap
    assert await wallet.revoke(NAME, {}) is Ending.BY_PERSON
    assert await wallet.probe(Credential({})) is Verdict.UNKNOWN
    with pytest.raises(IssuerError):
        _ = await wallet.list("bm-")
