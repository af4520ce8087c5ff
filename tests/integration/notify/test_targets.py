"""Messages that reach people: a real HTTP endpoint, a real mail server, a real program."""

from __future__ import annotations

import asyncio
import contextlib
import email
import email.policy
import hashlib
import hmac
import json
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import anyio
import pytest
import structlog
from pydantic import SecretStr, TypeAdapter

from orchestrator.clock import SystemClock
from orchestrator.errors import SecretNotFoundError
from orchestrator.model.message import Link
from orchestrator.model.notify import Target
from orchestrator.notify.post import Postman
from orchestrator.paths import Paths
from orchestrator.wiring.notifying import Ways

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from orchestrator.model.secret import SecretRef

LONGEST: Final = 30
TARGET: Final[TypeAdapter[Target]] = TypeAdapter(Target)
SECRETS: Final = {"HOOK": "canary-hook-secret", "MAIL": "canary-mail-password"}
LINKS: Final = (Link("Look", "https://console.example/a?b=canary-link"),)


@pytest.fixture
def place() -> Generator[Path]:
    """Make a short directory."""
    with tempfile.TemporaryDirectory(prefix="bm-", dir="/tmp") as name:
        yield Path(name)


@dataclass
class Served:
    """What came to a server.

    Attributes:
        port: Where it listens.
        requests: What came.
        answers: Statuses of the next answers; 200 when there is none left.
    """

    port: int = 0
    requests: list[tuple[dict[str, str], bytes]] = field(
        default_factory=list[tuple[dict[str, str], bytes]]
    )
    answers: list[str] = field(default_factory=list[str])


@asynccontextmanager
async def http_server() -> AsyncGenerator[Served]:
    """Serve HTTP as a webhook's endpoint does."""
    served = Served()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = dict(
            line.split(": ", 1) for line in head.lower().split("\r\n")[1:] if ": " in line
        )
        body = await reader.readexactly(int(headers["content-length"]))
        served.requests.append((headers, body))
        status = served.answers.pop(0) if served.answers else "200 OK"
        writer.write(f"HTTP/1.1 {status}\r\nlocation: /else\r\nconnection: close\r\n\r\n".encode())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    served.port = cast("int", server.sockets[0].getsockname()[1])
    async with server:
        yield served


@asynccontextmanager
async def mail_server(answers: dict[str, str] | None = None) -> AsyncGenerator[Served]:
    """Serve SMTP as far as one mail needs it.

    Args:
        answers: What is answered to a verb instead of yes.
    """
    served = Served()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 test\r\n")
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                line = (await reader.readuntil(b"\r\n")).decode().strip()
                verb = line.split(" ", 1)[0].upper()
                if answers and verb in answers:
                    writer.write(f"{answers[verb]}\r\n".encode())
                elif verb == "EHLO":
                    writer.write(b"250-test\r\n250 AUTH PLAIN\r\n")
                elif verb == "AUTH":
                    served.requests.append(({"auth": line}, b""))
                    writer.write(b"235 yes\r\n")
                elif verb == "DATA":
                    writer.write(b"354 go on\r\n")
                    body = await reader.readuntil(b"\r\n.\r\n")
                    served.requests.append(({}, body))
                    writer.write(b"250 yes\r\n")
                else:
                    writer.write(b"250 yes\r\n")
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    served.port = cast("int", server.sockets[0].getsockname()[1])
    async with server:
        yield served


@dataclass
class Office:
    """A postman at work.

    Attributes:
        postman: The postman.
        pauses: How long it paused between tries.
    """

    postman: Postman
    pauses: list[float]


OpenOffice = Callable[..., contextlib.AbstractAsyncContextManager[Office]]


@pytest.fixture
def office(place: Path) -> OpenOffice:
    """Give the way to a postman with some targets."""

    def look_up(reference: SecretRef) -> SecretStr:
        if reference.name not in SECRETS:
            raise SecretNotFoundError(f"{reference.name} is not set")
        return SecretStr(SECRETS[reference.name])

    @asynccontextmanager
    async def make(**targets: object) -> AsyncGenerator[Office]:
        known = {name: TARGET.validate_python(one) for name, one in targets.items()}
        pauses: list[float] = []

        async def pause(seconds: float) -> None:
            pauses.append(seconds)
            await asyncio.sleep(0)

        log = cast("FilteringBoundLogger", structlog.get_logger())
        paths = Paths(place, place / "state", place / "run")
        ways = Ways(paths, look_up, SystemClock())
        postman = Postman(lambda: known, ways.to, log, sleep=pause)
        async with anyio.create_task_group() as group:
            await group.start(postman.run)
            yield Office(postman, pauses)
            group.cancel_scope.cancel()

    return make


async def test_a_webhook_gets_what_slack_takes(office: OpenOffice) -> None:
    """The message is plain text in blocks with buttons, and signed; no link is in its text."""
    async with http_server() as served:
        url = f"http://127.0.0.1:{served.port}/hook?canary=1"
        async with office(ops={"webhook": url, "secret": "env:HOOK"}) as made:
            with anyio.fail_after(LONGEST):
                [done] = await made.postman.deliver(
                    "incident.started", "Trouble <!channel>", "*bold* <https://evil|here>", LINKS
                )
    assert (done.target, done.state, done.tries) == ("ops", "delivered", 1)
    [(headers, body)] = served.requests
    told = cast("dict[str, object]", json.loads(body))
    assert "<" not in str(told["text"])
    blocks = cast("list[dict[str, object]]", told["blocks"])
    assert [one["type"] for one in blocks] == ["header", "section", "actions"]
    assert {cast("dict[str, object]", one["text"])["type"] for one in blocks[:2]} == {"plain_text"}
    assert "https://console.example/a?b=canary-link" in json.dumps(blocks[2])
    stamp = headers["x-bandmaster-timestamp"]
    signed = hmac.new(b"canary-hook-secret", b"v1:%b:%b" % (stamp.encode(), body), hashlib.sha256)
    assert headers["x-bandmaster-signature"] == f"v1={signed.hexdigest()}"
    assert headers["x-bandmaster-topic"] == "incident.started"


async def test_a_busy_webhook_is_tried_again_and_no_redirect_is_followed(
    office: OpenOffice,
) -> None:
    """Trouble of its own passes; a refusal, and a redirect, are final; each try has one name."""
    async with http_server() as served:
        url = f"http://127.0.0.1:{served.port}/hook"
        async with office(ops={"webhook": url}) as made:
            for answers, state, tries in (
                (["503 Busy", "429 Slow"], "delivered", 3),
                (["404 Gone"], "failed", 1),
                (["302 Elsewhere"], "failed", 1),
                (["500 Oh"] * 5, "failed", 5),
            ):
                served.answers, served.requests = [*answers], []
                with anyio.fail_after(LONGEST):
                    [done] = await made.postman.deliver("incident.started", "T", "")
                assert (done.state, done.tries) == (state, tries), done
                names = {headers["x-bandmaster-delivery"] for headers, _ in served.requests}
                assert len(names) == 1
            assert made.postman.failures == {"ops": "it answered with status 500"}
            assert made.pauses[-4:] == [2.0, 10.0, 60.0, 300.0]


async def test_a_target_that_is_not_there_is_given_up(office: OpenOffice) -> None:
    """Nobody waits for it longer than asked; no secret and no URL is in what is told."""
    async with http_server() as served:
        port = served.port
    url = f"http://127.0.0.1:{port}/hook?canary=1"
    targets = {
        "ops": {"webhook": url},
        "lost": {"webhook": "env:NOWHERE"},
        "odd": {"webhook": "env:HOOK"},
    }
    async with office(**targets) as made:
        with anyio.fail_after(LONGEST):
            told = await made.postman.deliver("incident.started", "T", "")
    notes = {one.target: one.note for one in told}
    assert {one.state for one in told} == {"failed"}
    assert "nothing listens there" in notes["ops"]
    assert "NOWHERE is not set" in notes["lost"]
    assert "no https URL" in notes["odd"]
    assert "canary" not in str(notes)


async def test_mail_reaches_the_owner_too(office: OpenOffice) -> None:
    """It goes to who is listed and to the role's owner; nothing in a text becomes a header."""
    async with mail_server() as served:
        target = {
            "smtp": f"127.0.0.1:{served.port}",
            "security": "none",
            "user": "robot",
            "password": "env:MAIL",
            "from": "robot@example.com",
            "to": ["ops@example.com"],
        }
        async with office(mail=target) as made:
            with anyio.fail_after(LONGEST):
                [done] = await made.postman.deliver(
                    "incident.started",
                    "Trouble\r\nBcc: evil@example.com",
                    "What happened.\x1b[2J",
                    LINKS,
                    owner="Treasury team <owner@example.com>",
                )
    assert done.state == "delivered", done
    [(login, _), (_, body)] = served.requests
    assert login["auth"].startswith("AUTH PLAIN")
    mail = email.message_from_bytes(body, policy=email.policy.default)
    assert mail["To"] == "ops@example.com, owner@example.com"
    assert mail["Bcc"] is None
    assert "\\u000d\\u000aBcc" in str(cast("object", mail["Subject"]))
    assert "Look: https://console.example/a?b=canary-link" in mail.get_content()
    assert "\x1b" not in mail.get_content()


@pytest.mark.parametrize(
    ("answers", "state", "note"),
    [
        ({"AUTH": "535 no"}, "failed", "login"),
        ({"RCPT": "550 nobody"}, "failed", "addresses"),
        ({"MAIL": "451 later"}, "failed", "451"),
        ({"DATA": "554 spam"}, "failed", "554"),
    ],
)
async def test_a_mail_server_that_says_no(
    office: OpenOffice, answers: dict[str, str], state: str, note: str
) -> None:
    """What it says for good is not tried again; what may pass is, some times."""
    async with mail_server(answers) as served:
        target = {
            "smtp": f"127.0.0.1:{served.port}",
            "security": "none",
            "user": "robot",
            "password": "env:MAIL",
            "from": "robot@example.com",
            "to": ["ops@example.com"],
        }
        async with office(mail=target) as made:
            with anyio.fail_after(LONGEST):
                [done] = await made.postman.deliver("incident.started", "T", "")
    assert done.state == state
    assert note in done.note
    assert done.tries == (5 if "451" in note else 1)
    assert "canary" not in done.note


async def test_a_program_reads_the_message(office: OpenOffice, place: Path) -> None:
    """It gets all of it on stdin, and nothing on its command line; its status decides."""
    script = place / "page.py"
    _ = script.write_text(
        "import json, pathlib, sys\n"
        "told = json.load(sys.stdin)\n"
        f"pathlib.Path({str(place / 'told')!r}).write_text(json.dumps([told, sys.argv[1:]]))\n"
        "sys.exit(int(sys.argv[1]))\n"
    )
    script.chmod(0o700)
    good = {"command": [sys.executable, "-I", "{project}/page.py", "0"]}
    bad = {"command": [sys.executable, "-I", "{project}/page.py", "3"], "topics": ["approval"]}
    async with office(good=good, bad=bad) as made:
        with anyio.fail_after(LONGEST):
            [done] = await made.postman.deliver("incident.started", "T", "text", LINKS)
            assert done.state == "delivered", done
            told = cast("list[object]", json.loads((place / "told").read_text()))
            message = cast("dict[str, object]", told[0])
            assert (message["title"], told[1]) == ("T", ["0"])
            [_, other] = await made.postman.deliver("approval.required", "T", "")
            assert "status 3" in other.note
            script.chmod(0o722)
            [done] = await made.postman.deliver("incident.started", "T", "")
            assert done.state == "failed"
            assert "written" in done.note or "write" in done.note


async def test_each_target_gets_links_of_its_own(office: OpenOffice) -> None:
    """What makes links is asked once for each target, by its name."""
    asked: list[str] = []

    def links(target: str) -> tuple[Link, ...]:
        asked.append(target)
        return (Link("Look", f"https://console.example/{target}"),)

    async with http_server() as served:
        url = f"http://127.0.0.1:{served.port}/hook"
        async with office(a={"webhook": url}, b={"webhook": url}) as made:
            with anyio.fail_after(LONGEST):
                done = await made.postman.deliver("approval.required", "T", "", links)
    assert [one.state for one in done] == ["delivered"] * 2
    assert sorted(asked) == ["a", "b"]
    bodies = b"".join(body for _, body in served.requests)
    assert b"console.example/a" in bodies
    assert b"console.example/b" in bodies


async def test_whoever_sends_does_not_wait(office: OpenOffice) -> None:
    """A target that never answers holds up nobody; what is tried on is told so."""
    entered = asyncio.Event()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        entered.set()
        with contextlib.suppress(ConnectionError):
            while await reader.read(4096):
                pass
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    async with server:
        port = cast("int", server.sockets[0].getsockname()[1])
        async with office(ops={"webhook": f"http://127.0.0.1:{port}/hook"}) as made:
            made.postman.send("incident.started", "T", "")
            with anyio.fail_after(LONGEST):
                _ = await entered.wait()
                [done] = await made.postman.deliver("incident.started", "T", "", grace=0.05)
            assert done.state == "trying"
