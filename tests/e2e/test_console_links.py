"""Links that a message brings: they open one decision, in time, once, and nothing else."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import httpx2
import pytest
from typing_extensions import override

if TYPE_CHECKING:
    from tests.conftest import Browser
    from tests.e2e.conftest import Object, OpenProject, Project

AGENTS: Final = str(Path(sys.executable).with_name("agents"))
SERVERS: Final = Path(__file__).parents[1] / "servers"
PATIENCE: Final = 30
PUBLIC: Final = "approve.example.com"
PASSPHRASE: Final = "canary correct horse battery"
SERVER: Final = f"""
server: bank
description: A server for tests.
owner: tests
source: tests/servers/scripted.py
launch:
  command: ["{{python}}", -I, {SERVERS}/scripted.py]
bands: {{names: [all]}}
tools:
  echo: {{band: all, class: DESTRUCTIVE, receipt: "Pays {{arguments.amount}} to {{arguments.to}}"}}
"""
ROLE: Final = """
role: payer
justification: It pays, and a person looks at each payment.
owner: tests
server: bank
bands: [all]
approval: [destructive]
"""
SETTINGS: Final = """
listen: 127.0.0.1:0
notify:
  ops: {webhook: "http://127.0.0.1:PORT/ops"}
  alice: {webhook: "http://127.0.0.1:PORT/alice", approver: alice}
"""


class Inbox:
    """What webhooks brought, by the path that they were sent to."""

    def __init__(self) -> None:
        """Begin empty."""
        self.messages: dict[str, list[Object]] = {}

    def links(self, path: str) -> list[str]:
        """Tell the links of the messages to a path."""
        return [
            str(element["url"])
            for message in self.messages.get(path, [])
            for block in cast("list[Object]", message["blocks"])
            for element in cast("list[Object]", block.get("elements", []))
        ]


@contextmanager
def receiving(inbox: Inbox) -> Generator[int]:
    """Take webhooks, and tell the port."""

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            inbox.messages.setdefault(self.path, []).append(cast("Object", json.loads(body)))
            self.send_response(200)
            self.end_headers()

        @override
        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture(scope="module")
def inbox() -> Inbox:
    """Have one inbox for all tests."""
    return Inbox()


@pytest.fixture(scope="module")
def bank(open_project: OpenProject, inbox: Inbox) -> Generator[Project]:
    """Run a project whose payments wait for approvers, who are told by webhooks."""
    with receiving(inbox) as port, open_project() as project:
        _ = project.write("agents.yaml", SETTINGS.replace("PORT", str(port)))
        _ = project.write("roles/servers/bank.yaml", SERVER)
        _ = project.write("roles/payer.yaml", ROLE)
        _ = project.agents("up", "-d")
        _ = project.ask({"op": "approver.add", "name": "alice", "passphrase": PASSPHRASE})
        ticket = project.ask({"op": "approver.login", "name": "alice", "passphrase": PASSPHRASE})
        bob = {"op": "approver.add", "name": "bob", "passphrase": PASSPHRASE + " of bob"}
        _ = project.ask({**bob, "ticket": ticket["ticket"]})
        yield project


@contextmanager
def run_console(bank: Project, *words: str) -> Generator[tuple[str, str, str]]:
    """Run a console; tell where it is, how its pages begin, and the code that lets one in."""
    process = subprocess.Popen(
        [AGENTS, "console", "--no-open", *words],
        cwd=bank.root,
        env=bank.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = cast("str", process.stdout.readline())
        match = re.search(r"(http://127\.0\.0\.1:[0-9]+)(/[\w-]{20})/login#(\S+)", line)
        assert match
        yield match[1], match[2], match[3]
    finally:
        process.send_signal(signal.SIGTERM)
        _ = process.communicate(timeout=PATIENCE)


@pytest.fixture(scope="module")
def away(bank: Project) -> Generator[httpx2.Client]:
    """Run a console that opens links, and reach it as people elsewhere do: by its public name."""
    headers = {"host": PUBLIC, "origin": f"https://{PUBLIC}"}
    with (
        run_console(bank, "--public-url", f"https://{PUBLIC}") as (url, _, _),
        httpx2.Client(base_url=url, headers=headers, timeout=PATIENCE) as client,
    ):
        yield client


def links_of(bank: Project, inbox: Inbox, **arguments: object) -> tuple[str, str, str]:
    """Have the agent ask for a payment; tell the approval, and the paths of the two links."""
    heard: Object = {}

    def is_told() -> bool:
        # The console has just come, perhaps: until the daemon knows of it, messages bring no link.
        before = (len(inbox.messages.get("/ops", [])), len(inbox.messages.get("/alice", [])))
        arguments["try"] = sum(before)
        words = ("call", "payer", "echo", json.dumps(arguments), "--yes")
        heard.update(bank.json(*words, check=None))
        bank.wait(lambda: len(inbox.messages.get("/ops", [])) > before[0])
        bank.wait(lambda: len(inbox.messages.get("/alice", [])) > before[1])
        last = [inbox.messages[path][-1] for path in ("/ops", "/alice")]
        return all(PUBLIC in json.dumps(message) for message in last)

    bank.wait(is_told)
    match = re.search(r"ap-\w+", str(cast("Object", heard["error"])["message"]))
    assert match
    ops, alice = (inbox.links(path)[-1] for path in ("/ops", "/alice"))
    start = f"https://{PUBLIC}"
    return match[0], ops.removeprefix(start), alice.removeprefix(start)


def state_of(bank: Project, name: str) -> str:
    """Tell where an approval is."""
    return str(bank.ask({"op": "approval", "id": name})["state"])


def refusals(bank: Project) -> list[str]:
    """Tell why links were refused, as the record has it."""
    lines = bank.agents("calls", "-n", "100000", "--json").stdout.splitlines()
    told = [cast("Object", json.loads(line)) for line in lines]
    return [str(one["why"]) for one in told if one.get("code") == "approval.link"]


def form_in(page: str, **more: str) -> dict[str, str]:
    """Fill in the form of a page."""
    hidden = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page)
    return {**dict(cast("list[tuple[str, str]]", hidden)), **more}


def test_an_approvers_own_link_decides_once(
    bank: Project, inbox: Inbox, away: httpx2.Client
) -> None:
    """Looking decides nothing; a word by it counts as that approver's, and the link is over."""
    name, _, link = links_of(bank, inbox, to="carol", amount=5)
    assert "Pays 5 to carol" in json.dumps(inbox.messages["/ops"][-1])
    for _ in range(2):
        shown = away.get(link)
        assert "Pays 5 to carol" in shown.text
        assert "You decide as alice." in shown.text
    asked = away.get(f"{link}?confirm=approve").text
    assert "Passphrase" not in asked
    assert state_of(bank, name) == "pending"
    done = away.post(link, data=form_in(asked, reason="invoice 12"))
    assert "The agent may now make exactly this call" in done.text
    assert state_of(bank, name) == "approved"
    votes = cast("list[Object]", bank.ask({"op": "approval", "id": name})["votes"])
    assert (votes[0]["by"], votes[0]["channel"]) == ("alice", "link")
    again = away.post(link, data=form_in(asked))
    assert again.status_code == 403
    assert "used already" in again.text
    assert refusals(bank)[-1] == "replayed"


def test_a_link_for_whoever_reads_it_needs_a_passphrase(
    bank: Project, inbox: Inbox, away: httpx2.Client
) -> None:
    """Without one, or with a wrong one, nothing is decided."""
    name, link, _ = links_of(bank, inbox, to="dave", amount=6)
    asked = away.get(f"{link}?confirm=deny").text
    assert "Passphrase" in asked
    for who, words in (("", ""), ("bob", "a guess"), ("bob", PASSPHRASE)):
        done = away.post(link, data=form_in(asked, name=who, passphrase=words))
        assert done.status_code == 403
        assert words == "" or words not in done.text
    assert state_of(bank, name) == "pending"
    waits = {"name": "alice", "passphrase": PASSPHRASE, "reason": "no"}
    assert "Denied." in away.post(link, data=form_in(asked, **waits)).text
    assert state_of(bank, name) == "denied"


def test_a_link_opens_nothing_else(bank: Project, inbox: Inbox, away: httpx2.Client) -> None:
    """Neither another approval, nor another page; a changed one is refused and recorded."""
    name, _, link = links_of(bank, inbox, to="erin", amount=7)
    other, _, _ = links_of(bank, inbox, to="frank", amount=8)
    for path in ("/", "/login", "/approvals", f"/approvals/{name}", "/live/overview", "/lost"):
        assert away.get(path).status_code == 404, path
    assert away.get("/static/console.css").status_code == 200
    before = refusals(bank).count("forged")
    said, _, signature = link.removeprefix("/l/").partition(".")
    for forged in (f"{said}x.{signature}", f"{said}.{signature[::-1]}", "x", "%00.%00"):
        refused = away.get(f"/l/{forged}")
        assert refused.status_code == 403
        assert "Nothing was decided" in refused.text
    assert refusals(bank).count("forged") == before + 4
    text = link.removeprefix("/l/")
    digest = str(bank.ask({"op": "approval", "id": other})["digest"])
    word = {"op": "approval.decide", "id": other, "decision": "approve", "digest": digest}
    with pytest.raises(Exception, match="another approval"):
        _ = bank.ask({**word, "link": text})
    for origin in ("https://evil.example", "null"):
        form = {"decision": "approve", "digest": digest}
        assert away.post(link, data=form, headers={"origin": origin}).status_code == 403
    assert {state_of(bank, one) for one in (name, other)} == {"pending"}


def test_an_approver_logs_in_at_the_console(bank: Project, browser: Browser) -> None:
    """With their passphrase, before they may decide; a wrong one says so and decides nothing."""
    words = ("call", "payer", "echo", json.dumps({"to": "heidi", "amount": 11}), "--yes")
    heard = cast("Object", bank.json(*words, check=None)["error"])
    match = re.search(r"ap-\w+", str(heard["message"]))
    assert match
    name = match[0]
    with run_console(bank) as (origin, home, code), httpx2.Client(base_url=origin) as client:
        url = origin + home
        let_in = client.post(f"{home}/login", data={"code": code}, headers={"origin": origin})
        assert let_in.status_code == 303
        [cookie] = client.cookies.jar
        known: Object = {"name": cookie.name, "value": cookie.value, "url": f"{url}/"}
        _ = browser.driver.execute_cdp_cmd("Network.setCookie", known)
        browser.open(f"{url}/approvals/{name}")
        assert "Only named approvers decide here." in browser.read(".bar")
        browser.write("input[name=name]", "alice")
        browser.write("input[name=passphrase]", "wrong and long enough")
        browser.click(".bar button")
        browser.wait(lambda: "has this passphrase" in browser.read(".said"))
        browser.write("input[name=name]", "alice")
        browser.write("input[name=passphrase]", PASSPHRASE)
        browser.click(".bar button")
        browser.wait(lambda: "You decide as alice." in browser.read(".bar"))
        browser.press("d")
        browser.wait(lambda: "Deny this call" in browser.read(".bar"))
        browser.click(".bar button")
        browser.wait(lambda: "Denied." in browser.read())
        votes = cast("list[Object]", bank.ask({"op": "approval", "id": name})["votes"])
        assert votes[0]["by"] == "alice"
        browser.click(".who button")
        browser.wait(lambda: "no approver here any more" in browser.read())


def test_a_link_is_followed_in_a_browser(
    bank: Project, inbox: Inbox, away: httpx2.Client, browser: Browser
) -> None:
    """The whole way with clicks, at the address of this machine."""
    name, link, _ = links_of(bank, inbox, to="grace", amount=9)
    browser.open(f"{away.base_url}{link}".replace("//l/", "/l/"))
    assert "Pays 9 to grace" in browser.read(".receipt")
    browser.click("a[href='?confirm=approve']")
    browser.wait(lambda: "Passphrase" in browser.read(".bar"))
    browser.write("input[name=name]", "alice")
    browser.write("input[name=passphrase]", PASSPHRASE)
    browser.click(".bar button")
    browser.wait(lambda: "The agent may now make exactly this call" in browser.read())
    assert state_of(bank, name) == "approved"
    assert browser.complaints() == []
