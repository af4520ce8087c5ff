"""Issuers that are programs or persons: real programs, and everything that they may do wrong."""

# ruff: noqa: ASYNC110 - what is watched here is /proc and small files, and nothing
# else runs in this loop

import json
import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import anyio
import pytest
from pydantic import SecretStr

from orchestrator.errors import (
    IssuerError,
    IssuerPersonError,
    IssuerUncertainError,
    SecretNotFoundError,
)
from orchestrator.files import script_of
from orchestrator.model.issuers import CommandIssuer, ManualIssuer
from orchestrator.model.names import RoleName, SecretName
from orchestrator.model.secret import SecretRef
from orchestrator.rotation.issuers.command import ProgramIssuer
from orchestrator.rotation.issuers.manual import PersonIssuer
from orchestrator.rotation.issuers.program import Surroundings
from orchestrator.rotation.ports import WHOLE, Credential, Ending, Verdict
from orchestrator.runtimes.identity import look_up

ROOT = Path(__file__).parents[3]
PROGRAM = str(ROOT / "tests" / "servers" / "issuer.py")
GUIDE = ROOT / "docs" / "how-to" / "rotate-with-a-program.md"
ROLE = RoleName("treasury")
NAME = "bm-treasury-0123456789ab-1"
DAY = timedelta(days=1)
CANARY = "canary-0d1f6b2f-secret"
CREDENTIAL = Credential({WHOLE: SecretStr(CANARY)})

Make = Callable[..., ProgramIssuer]


async def resolve(secrets: Mapping[SecretName, SecretRef]) -> Mapping[SecretName, SecretStr]:
    """Resolve references to the canary, or to nothing."""
    if any(reference.name == "MISSING" for reference in secrets.values()):
        raise SecretNotFoundError("MISSING is not set")
    return {name: SecretStr(CANARY) for name in secrets}


def surroundings(settings: CommandIssuer | ManualIssuer, root: Path) -> Surroundings:
    """Give a program what its settings say."""
    places = {"{python}": sys.executable, "{project}": str(root)}

    def fill(text: str) -> str:
        for word, place in places.items():
            text = text.replace(word, place)
        return text

    return Surroundings(fill, settings.env, settings.secrets, resolve, settings.timeout)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Give a function that makes an issuer of the test program."""

    def build(how: str, answer: object = None, **settings: object) -> ProgramIssuer:
        env = {"HOW": how, "NOTES": "{project}/notes", "ANSWER": json.dumps(answer)}
        wanted = CommandIssuer.model_validate(
            {
                "kind": "command",
                "run": ["{python}", "-I", "-S", PROGRAM],
                "overlap": True,
                "revoke": "api",
                "lists": True,
                "probes": True,
                "timeout": "30s",
                **settings,
                "env": env,
            }
        )
        return ProgramIssuer(wanted, surroundings(wanted, tmp_path))

    return build


def notes(root: Path) -> list[dict[str, object]]:
    """Tell what the program noted."""
    lines = (root / "notes").read_text().splitlines()
    return [cast("dict[str, object]", json.loads(line)) for line in lines]


def told(error: BaseException | None) -> str:
    """Tell everything that an error carries along, causes included."""
    parts: list[str] = []
    while error is not None:
        parts += [repr(error), str(error), str(vars(error))]
        error = error.__cause__ or error.__context__
    return "\n".join(parts)


async def test_the_program_is_given_just_what_it_needs(make: Make, tmp_path: Path) -> None:
    """The question comes on stdin; its variables are its own, and its arguments hold no secret."""
    answer = {"secret": CANARY, "handle": {"id": "k1"}, "expiresAt": "2030-01-02T03:04:05Z"}
    issuer = make("answers", answer, secrets={"ADMIN": "env:ADMIN"})
    minted = await issuer.mint(NAME, ROLE, DAY)
    assert {name: text.get_secret_value() for name, text in minted.credential.fields.items()} == {
        WHOLE: CANARY
    }
    assert minted.handle == {"id": "k1"}
    assert minted.expires_at == datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    (note,) = notes(tmp_path)
    assert json.loads(cast("str", note["read"])) == {
        "verb": "mint", "name": NAME, "role": ROLE, "lifeSeconds": 86_400
    }  # fmt: skip
    env = cast("dict[str, str]", note["env"])
    assert env.keys() - {"LC_CTYPE"} == {
        "PATH", "LANG", "TZ", "HOW", "NOTES", "ANSWER", "ADMIN"
    }  # fmt: skip
    assert env["ADMIN"] == CANARY
    assert env["NOTES"] == f"{tmp_path}/notes"
    assert note["argv"] == []
    assert CANARY not in repr(minted)


async def test_a_credential_of_several_fields(make: Make, tmp_path: Path) -> None:
    """It comes by its fields, is probed by them, and may have a user's name in its handle."""
    fields = {"username": "ann", "password": CANARY}
    minted = await make("answers", {"fields": fields, "handle": {"user": "ann"}}).mint(
        NAME, ROLE, DAY
    )
    assert set(minted.credential.fields) == set(fields)
    assert minted.expires_at is None
    issuer = make("answers", {"verdict": "accepted"})
    assert await issuer.probe(minted.credential) is Verdict.ACCEPTED
    assert json.loads(cast("str", notes(tmp_path)[-1]["read"])) == {
        "verb": "probe", "fields": fields
    }  # fmt: skip


async def test_a_life_is_never_asked_for_longer_than_it_may_be(make: Make, tmp_path: Path) -> None:
    """`max_life` bounds what the program is asked for."""
    issuer = make("answers", {"secret": CANARY}, max_life="1h")
    _ = await issuer.mint(NAME, ROLE, DAY)
    assert json.loads(cast("str", notes(tmp_path)[0]["read"]))["lifeSeconds"] == 3600
    assert issuer.capabilities.max_life == timedelta(hours=1)


@pytest.mark.parametrize("how", ["slow", "silent", "rubbish", "list", "flood", "fails", "child"])
async def test_a_mint_without_an_answer_is_uncertain(make: Make, tmp_path: Path, how: str) -> None:
    """Whatever went wrong, something may have been made; nothing of the program is left over."""
    issuer = make(how, timeout="4s" if how in {"slow", "child"} else "30s")
    with anyio.fail_after(60):
        with pytest.raises(IssuerUncertainError) as caught:
            _ = await issuer.mint(NAME, ROLE, DAY)
        assert NAME not in told(caught.value)  # it repeats what it reads, as if it were the secret
        for note in notes(tmp_path):
            while (facts := look_up(cast("int", note["pid"]))) and facts.state not in {"Z", "X"}:
                await anyio.sleep(0.005)


WRONG_ANSWERS: dict[str, object] = {
    "no secret": {},
    "empty": {"secret": ""},
    "a number": {"secret": 7},
    "both": {"secret": CANARY, "fields": {"a": CANARY}},
    "no fields": {"fields": {}},
    "a field that is no text": {"fields": {"a": CANARY, "b": 1}},
    "NUL": {"secret": CANARY + "\0"},
    "far too long": {"secret": "x" * 70_000},
    "no handle": {"secret": CANARY, "handle": "k1"},
    "a handle that holds it": {"secret": CANARY, "handle": {"id": [f"key {CANARY}"]}},
    "a handle named as it": {"secret": CANARY, "handle": {CANARY: 1}},
    "no moment": {"secret": CANARY, "expiresAt": "tomorrow"},
    "no zone": {"secret": CANARY, "expiresAt": "2030-01-02T03:04:05"},
    "a number as a moment": {"secret": CANARY, "expiresAt": 7},
    "before all time": {"secret": CANARY, "expiresAt": "0001-01-01T00:00:00+14:00"},
    "too deep": {"secret": CANARY, "handle": {"a": json.loads("[" * 400 + "]" * 400)}},
}


@pytest.mark.parametrize("answer", WRONG_ANSWERS)
async def test_an_answer_that_is_no_credential_is_uncertain(make: Make, answer: str) -> None:
    """A malformed answer to mint leaves open what was made, and is never repeated."""
    with pytest.raises(IssuerUncertainError) as caught:
        _ = await make("answers", WRONG_ANSWERS[answer]).mint(NAME, ROLE, DAY)
    assert CANARY not in told(caught.value)


async def test_a_program_that_surely_did_nothing(make: Make, tmp_path: Path) -> None:
    """Status 75, a program that is not there, and a variable that is missing made nothing."""
    told_of = f"mint: {re.escape(f'{sys.executable} {PROGRAM}')} ended with status 75"
    with pytest.raises(IssuerError, match=told_of):
        _ = await make("refuses").mint(NAME, ROLE, DAY)
    with pytest.raises(IssuerError, match="nothing cannot be run"):
        _ = await make("answers", run=["{project}/nothing"]).mint(NAME, ROLE, DAY)
    (tmp_path / "notes").unlink()
    with pytest.raises(IssuerError, match="MISSING"):
        _ = await make("answers", secrets={"A": "env:MISSING"}).mint(NAME, ROLE, DAY)
    assert not (tmp_path / "notes").exists()


async def test_a_program_that_others_could_replace(make: Make, tmp_path: Path) -> None:
    """It would be given the secrets of the issuer, so it is not run."""
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    program.chmod(0o777)
    issuer = make("answers", run=[str(program)], secrets={"ADMIN": "env:ADMIN"})
    with pytest.raises(IssuerError, match="could be replaced"):
        _ = await issuer.mint(NAME, ROLE, DAY)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("fault", ["writable", "in a writable directory", "missing", "closed"])
async def test_a_script_that_others_could_replace(make: Make, tmp_path: Path, fault: str) -> None:
    """What an interpreter is given is as good as a program: it is looked at before it is run."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    script = folder / "issuer.py"
    _ = script.write_text("print('{}')")
    script.chmod(0o600)
    run = ["{python}", "-I", "{project}/scripts/issuer.py", str(tmp_path / "data"), "word"]
    good = make("answers", run=run)
    with pytest.raises(IssuerUncertainError, match="no credential"):
        _ = await good.mint(NAME, ROLE, DAY)
    match fault:
        case "writable":
            script.chmod(0o622)
        case "in a writable directory":
            folder.chmod(0o777)
        case "missing":
            script.unlink()
        case _:
            script.unlink()
            script.mkdir()
    problem = "could be replaced" if "writable" in fault else "cannot be run"
    with pytest.raises(IssuerError, match=f"{script} {problem}"):
        _ = await good.mint(NAME, ROLE, DAY)


def test_what_interpreters_run(tmp_path: Path) -> None:
    """The first file is the script; code, a module or a program of its own has none."""
    _ = (tmp_path / "a.sh").write_text("")
    for words, script in {
        "/usr/bin/python3.11 -I /x/a.py /y": "/x/a.py",
        "python -m http.server /y": None,
        "python3 -c print() /y": None,
        "/bin/sh -e a.sh": str(tmp_path / "a.sh"),
        "bash -ec true /y": None,
        "node --no-warnings /x/a.js": "/x/a.js",
        "node missing.js": None,
        "/usr/bin/curl /x": None,
    }.items():
        found = script_of(words.split(), tmp_path)
        assert (None if found is None else str(found)) == script


async def test_a_program_need_not_read(make: Make) -> None:
    """One that closes its stdin is no error if it answers."""
    credential = Credential({WHOLE: SecretStr("x" * 200_000)})
    assert await make("deaf", {"verdict": "refused"}).probe(credential) is Verdict.REFUSED


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ({"verdict": "accepted"}, Verdict.ACCEPTED),
        ({"verdict": "refused"}, Verdict.REFUSED),
        ({"verdict": "unknown"}, Verdict.UNKNOWN),
        ({"verdict": True}, Verdict.UNKNOWN),
        ({}, Verdict.UNKNOWN),
    ],
)
async def test_only_what_is_said_counts(make: Make, answer: object, verdict: Verdict) -> None:
    """A probe tells what the program told; anything unexpected proves nothing."""
    assert await make("answers", answer).probe(CREDENTIAL) is verdict


@pytest.mark.parametrize("how", ["slow", "rubbish", "fails", "refuses", "flood"])
async def test_a_probe_never_raises(make: Make, how: str) -> None:
    """A program that fails proves nothing about the credential."""
    assert await make(how, timeout="500ms").probe(CREDENTIAL) is Verdict.UNKNOWN


async def test_ends_are_asked_for(make: Make, tmp_path: Path) -> None:
    """The program is told name and handle, and tells how the end goes; failures may be repeated."""
    for word, ending in (
        ("asked", Ending.ASKED), ("queued", Ending.QUEUED), ("by-person", Ending.BY_PERSON)
    ):  # fmt: skip
        assert await make("answers", {"ending": word}).revoke(NAME, {"id": "k"}) is ending
    assert json.loads(cast("str", notes(tmp_path)[0]["read"])) == {
        "verb": "revoke", "name": NAME, "handle": {"id": "k"}
    }  # fmt: skip
    for wrong in (make("answers", {}), make("fails"), make("rubbish"), make("refuses")):
        with pytest.raises(IssuerError):
            _ = await wrong.revoke(NAME, {})


async def test_ends_that_no_program_makes(make: Make, tmp_path: Path) -> None:
    """Where only time or a person ends it no program is run."""
    assert await make("answers", revoke="manual").revoke(NAME, {}) is Ending.BY_PERSON
    assert await make("answers", revoke="expiry", max_life="1h").revoke(NAME, {}) is Ending.QUEUED
    assert await make("answers", probes=False).probe(CREDENTIAL) is Verdict.UNKNOWN
    assert not (tmp_path / "notes").exists()


async def test_what_was_made_is_listed(make: Make) -> None:
    """Names that begin otherwise are left out; anything that is no list is an error."""
    made = {NAME: {"id": 1}, "other": {}}
    assert await make("answers", {"made": made}).list("bm-treasury-") == {NAME: {"id": 1}}
    wrong_ones: tuple[object, ...] = ({}, {"made": []}, {"made": {NAME: 1}})
    for wrong in wrong_ones:
        with pytest.raises(IssuerError):
            _ = await make("answers", wrong).list("bm-")


async def test_each_verb_may_have_a_program(make: Make, tmp_path: Path) -> None:
    """A program under `verbs` is asked instead of the one for all, and one has to be there."""
    verbs = {"probe": ["{python}", "-I", "-S", PROGRAM, "mine"]}
    issuer = make("answers", {"verdict": "accepted", "made": {}}, verbs=verbs)
    assert await issuer.probe(CREDENTIAL) is Verdict.ACCEPTED
    assert await issuer.list("bm-") == {}
    assert [note["argv"] for note in notes(tmp_path)] == [["mine"], []]
    with pytest.raises(IssuerError, match="no program"):
        _ = await make("answers", run=None, verbs=verbs).list("bm-")


async def test_the_example_of_the_guide_works(tmp_path: Path) -> None:
    """The program in docs/how-to makes, tells, lists and ends a key, as the settings there say."""
    (code,) = [
        match[1] for match in re.finditer(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    ]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tracker-keys").write_text(code)
    settings = CommandIssuer.model_validate(
        {
            "kind": "command",
            "run": ["{python}", "{project}/bin/tracker-keys"],
            "overlap": True,
            "revoke": "api",
            "lists": True,
            "probes": True,
            "max_life": "30d",
            "env": {"TRACKER_KEYS": "{project}/keys.json"},
            "secrets": {"TRACKER_ADMIN": "env:TRACKER_ADMIN"},
        }
    )
    parts = surroundings(settings, tmp_path)

    async def admin(secrets: Mapping[SecretName, SecretRef]) -> Mapping[SecretName, SecretStr]:
        return dict.fromkeys(secrets, SecretStr("open sesame"))

    issuer = ProgramIssuer(
        settings, Surroundings(parts.fill, parts.env, parts.secrets, admin, parts.timeout)
    )
    first = await issuer.mint(NAME, ROLE, DAY)
    second = await issuer.mint(NAME.replace("-1", "-2"), ROLE, DAY)
    assert first.expires_at is not None
    assert first.expires_at > datetime.now(UTC)
    assert set(await issuer.list("bm-treasury-")) == {NAME, NAME.replace("-1", "-2")}
    for _ in range(2):
        assert await issuer.revoke(NAME, first.handle) is Ending.ASKED
    assert await issuer.probe(first.credential) is Verdict.REFUSED
    assert await issuer.probe(second.credential) is Verdict.ACCEPTED
    with pytest.raises(IssuerError):  # with another administrator it does nothing
        _ = await ProgramIssuer(settings, parts).mint(NAME, ROLE, DAY)


async def test_a_person_is_told_what_to_do(tmp_path: Path) -> None:
    """A manual issuer names the credential, repeats its instructions, and how it is given."""
    settings = ManualIssuer(kind="manual", instructions="Make a key in the console.", overlap=True)
    issuer = PersonIssuer(settings, surroundings(settings, tmp_path))
    with pytest.raises(IssuerPersonError) as caught:
        _ = await issuer.mint(NAME, ROLE, DAY)
    assert NAME in str(caught.value)
    assert "Make a key in the console." in str(caught.value)
    assert "agents rotate provide 0123456789ab" in str(caught.value.hint)
    assert await issuer.revoke(NAME, {}) is Ending.BY_PERSON
    assert await issuer.probe(CREDENTIAL) is Verdict.UNKNOWN
    assert not issuer.capabilities.probes
    with pytest.raises(IssuerError):
        _ = await issuer.list("bm-")


async def test_a_program_may_probe_for_a_person(tmp_path: Path) -> None:
    """With `probe` a program tells what is accepted; one that fails proves nothing."""
    for how, verdict in (("answers", Verdict.REFUSED), ("fails", Verdict.UNKNOWN)):
        settings = ManualIssuer.model_validate(
            {
                "kind": "manual",
                "instructions": "Make a key in the console.",
                "overlap": False,
                "probe": ["{python}", "-I", "-S", PROGRAM],
                "env": {
                    "HOW": how, "NOTES": "{project}/notes", "ANSWER": '{"verdict": "refused"}'
                },
            }
        )  # fmt: skip
        issuer = PersonIssuer(settings, surroundings(settings, tmp_path))
        assert issuer.capabilities.probes
        assert await issuer.probe(CREDENTIAL) is verdict
