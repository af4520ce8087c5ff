"""The console of a whole project, in a real browser, against the real daemon."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast, final

import httpx2
import pytest
from typing_extensions import override

if TYPE_CHECKING:
    from tests.conftest import Browser
    from tests.e2e.conftest import Object, OpenProject, Project

AGENTS: Final = str(Path(sys.executable).with_name("agents"))
SERVERS: Final = Path(__file__).parents[1] / "servers"
PATIENCE: Final = 30
ENTER: Final = "\ue007"
NASTY: Final = "<script>window.pwned=1</script><img src=x onerror='window.pwned=1'>\u202eyap"
SERVER: Final = f"""
server: bank
description: A server for tests.
owner: tests
source: tests/servers/scripted.py
launch:
  command: ["{{python}}", -I, {SERVERS}/scripted.py, --tools, "echo,look"]
bands: {{names: [all]}}
tools:
  echo: {{band: all, class: DESTRUCTIVE, receipt: "Pays {{arguments.amount}} to {{arguments.to}}"}}
  look: {{band: all, class: READ}}
"""
ROLE: Final = """
role: payer
justification: It pays, and a person looks at each payment.
owner: tests
server: bank
bands: [all]
approval: [destructive]
"""


@final
class Console:
    """A console that runs, and the link that lets somebody in."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Wait for its link."""
        assert process.stdout is not None
        line = cast("str", process.stdout.readline())
        match = re.search(r"((http://127\.0\.0\.1:[0-9]+)/[\w-]{20})/login#(\S+)", line)
        assert match
        self.url: str = match[1]
        self.origin: str = match[2]
        self.code: str = match[3]
        self.login: str = f"{self.url.removeprefix(self.origin)}/login"

    @property
    def link(self) -> str:
        """The link, which is good once."""
        return f"{self.url}/login#{self.code}"

    def client(self) -> httpx2.Client:
        """Speak to it without a browser."""
        return httpx2.Client(base_url=self.url, headers={"origin": self.origin}, timeout=PATIENCE)

    def log_in(self, client: httpx2.Client) -> None:
        """Log in."""
        assert client.post("/login", data={"code": self.code}).status_code == 303


@contextmanager
def run_console(project: Project, *words: str) -> Generator[Console]:
    """Run a console of a project."""
    process = subprocess.Popen(
        [AGENTS, "console", "--no-open", *words],
        cwd=project.root,
        env=project.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Console(process)
    finally:
        process.send_signal(signal.SIGTERM)
        _ = process.communicate(timeout=PATIENCE)


@pytest.fixture(scope="module")
def bank(open_project: OpenProject) -> Generator[Project]:
    """Run a project with one role whose payments wait for a person."""
    with open_project() as project:
        _ = project.write("roles/servers/bank.yaml", SERVER)
        _ = project.write("roles/payer.yaml", ROLE)
        _ = project.agents("up", "-d")
        yield project


@pytest.fixture
def console(bank: Project) -> Generator[Console]:
    """Run a console of it, into which nobody came yet."""
    with run_console(bank) as console:
        yield console


@pytest.fixture(scope="module")
def office(bank: Project) -> Generator[httpx2.Client]:
    """Run one for most tests, and log in."""
    with run_console(bank) as console, console.client() as client:
        console.log_in(client)
        yield client


@pytest.fixture
def inside(browser: Browser, office: httpx2.Client) -> Browser:
    """Give a browser that is logged in there."""
    [cookie] = office.cookies.jar
    given = {"name": cookie.name, "value": cookie.value, "url": str(office.base_url)}
    _ = browser.driver.execute_cdp_cmd("Network.setCookie", {**given, "httpOnly": True})
    browser.open(str(office.base_url))
    browser.wait(lambda: browser.read("h1") == "Overview")
    return browser


def pay(bank: Project, **arguments: object) -> Object:
    """Have the agent ask for a payment, and tell what it hears."""
    words = ("call", "payer", "echo", json.dumps(arguments), "--yes")
    return bank.json(*words, check=None)


def ask_for(bank: Project, **arguments: object) -> str:
    """Have the agent ask for a payment that waits, and tell the approval."""
    heard = cast("Object", pay(bank, **arguments)["error"])
    assert heard["code"] == "approval.required"
    match = re.search(r"ap-\w+", str(heard["message"]))
    assert match
    return match[0]


def state_of(bank: Project, name: str) -> str:
    """Tell where an approval is."""
    return str(bank.ask({"op": "approval", "id": name})["state"])


def recorded(bank: Project, event: str) -> int:
    """Count the lines of the record about an event."""
    lines = bank.agents("calls", "-n", "100000", "--json").stdout.splitlines()
    return sum(cast("Object", json.loads(line))["event"] == event for line in lines)


def test_a_person_approves_a_call_by_keys_and_the_agent_makes_it(
    bank: Project, inside: Browser
) -> None:
    """It shows up by itself, is opened, read, approved and confirmed; then it works once."""
    name = ask_for(bank, to="alice", amount=25)
    inside.wait(lambda: "1 call waits for you" in inside.read())
    inside.press("j")
    inside.press(ENTER)
    inside.wait(lambda: inside.read("h1").startswith("echo"))
    assert "Pays 25 to alice" in inside.read(".receipt")
    assert "destructive" in inside.read("h1")
    inside.press("a")
    inside.wait(lambda: "Approve this call" in inside.read(".bar"))
    assert state_of(bank, name) == "pending"
    inside.press(ENTER)
    inside.wait(lambda: "The agent may now make exactly this call" in inside.read())
    assert state_of(bank, name) == "approved"
    assert not pay(bank, to="alice", amount=25).get("isError")
    inside.wait(lambda: "used" in inside.read(".decided"))
    assert ask_for(bank, to="alice", amount=25) != name
    assert inside.complaints() == []


def test_a_person_denies_a_call_and_says_why(bank: Project, inside: Browser) -> None:
    """The agent hears the reason; Escape does nothing before that."""
    name = ask_for(bank, to="bob", amount=7)
    inside.open(f"{inside.driver.current_url}approvals/{name}")
    inside.press("d")
    inside.wait(lambda: "Deny this call" in inside.read(".bar"))
    inside.press("\ue00c")
    inside.wait(lambda: "Approve…" in inside.read(".bar"))
    assert state_of(bank, name) == "pending"
    inside.press("d")
    inside.wait(lambda: "Deny this call" in inside.read(".bar"))
    inside.press("wrong recipient" + ENTER)
    inside.wait(lambda: "Denied. The call is not made." in inside.read())
    heard = cast("Object", pay(bank, to="bob", amount=7)["error"])
    assert heard["code"] == "approval.denied"
    assert "wrong recipient" in str(heard["message"])


def test_what_differs_from_the_last_approved_call_is_shown(bank: Project, inside: Browser) -> None:
    """The changed argument with both its values."""
    first = bank.ask({"op": "approval", "id": ask_for(bank, to="carol", amount=1)})
    word = {"op": "approval.decide", "id": first["id"], "decision": "approve"}
    _ = bank.ask({**word, "digest": first["digest"]})
    second = ask_for(bank, to="mallory", amount=1)
    inside.open(f"{inside.driver.current_url}approvals/{second}")
    assert "carol" in inside.read(".changes")
    assert "mallory" in inside.read(".changes")
    assert "Pays 1 to mallory" in inside.read(".diff .add")
    assert "Pays 1 to carol" in inside.read(".diff .del")


def test_nothing_that_an_agent_writes_becomes_markup(bank: Project, inside: Browser) -> None:
    """Scripts and invisible characters are shown as what they are, wherever they come from."""
    name = ask_for(bank, to=NASTY, **{"amount": 1, NASTY: NASTY})
    base = inside.driver.current_url
    _ = bank.agents("call", "payer", NASTY, "{}", check=None)
    for place in ("", "approvals", f"approvals/{name}", f"approvals/{name}?confirm=deny", "calls"):
        inside.open(base + place)
        assert inside.run("return window.pwned === undefined") is True
        assert inside.run("return document.querySelectorAll('main img').length") == 0
        if place.startswith("approval"):
            assert "<script>window.pwned=1</script>" in inside.read("main")
            assert "\u202e" not in inside.read("main")
    inside.open(f"{base}approvals/{name}?confirm=deny")
    inside.write("input[name=reason]", NASTY.replace("\u202e", ""))
    inside.click(".bar button")
    inside.wait(lambda: "Denied." in inside.read())
    assert "<script>" in inside.read(".votes")
    inside.open(f"{base}runs/%3Cscript%3Ewindow.pwned=1%3C%2Fscript%3E")
    inside.open(f"{base}calls?text=%22%3E%3Cscript%3Ewindow.pwned=1%3C/script%3E")
    assert inside.run("return window.pwned === undefined") is True
    assert [one for one in inside.complaints() if "Content Security Policy" in one] == []


def test_a_role_is_frozen_and_thawed_by_buttons(bank: Project, inside: Browser) -> None:
    """The very next call is refused, and goes through again after the thaw."""
    inside.wait(lambda: "ready" in inside.read("main"))
    inside.click("a[href*='/act/freeze']")
    inside.wait(lambda: "Freeze payer?" in inside.read("h1"))
    inside.write("input[name=reason]", "looking into it")
    inside.press(ENTER)
    inside.wait(lambda: "Payer is frozen." in inside.read())
    refused = bank.agents("call", "payer", "look", "{}", "--json", check=None)
    assert "role.frozen" in refused.stdout
    inside.wait(lambda: "frozen" in inside.read("table"))
    inside.click("a[href*='/act/thaw']")
    inside.wait(lambda: "Thaw payer?" in inside.read("h1"))
    inside.press(ENTER)
    inside.wait(lambda: "Payer is no longer frozen." in inside.read())
    assert not bank.json("call", "payer", "look", "{}").get("isError")


def test_a_login_link_opens_one_session(bank: Project, browser: Browser, console: Console) -> None:
    """It is refused the second time, in words, and that is recorded; a guess opens nothing."""
    before = recorded(bank, "console.login_replayed")
    browser.open(console.link)
    browser.wait(lambda: browser.read("h1") == "Overview")
    assert console.code not in browser.driver.current_url
    assert console.code not in str(browser.run("return document.cookie"))
    with console.client() as other:
        assert other.get("/").headers["location"] == console.login
        again = other.post("/login", data={"code": console.code})
        assert again.status_code == 403
        assert "used already" in again.text
        assert other.post("/login", data={"code": "guess"}).status_code == 403
        assert not other.cookies
    assert recorded(bank, "console.login_replayed") == before + 1


def test_forms_of_others_are_refused(bank: Project, console: Console) -> None:
    """Without our token, from another page, under another name, or too long: nothing is done."""
    name = ask_for(bank, to="eve", amount=3)
    digest = bank.ask({"op": "approval", "id": name})["digest"]
    form = {"decision": "approve", "digest": str(digest)}
    before = recorded(bank, "console.form_refused")
    with console.client() as client:
        console.log_in(client)
        place = f"/approvals/{name}"
        assert client.post(place, data=form).status_code == 403
        assert client.post(place, data={**form, "csrf": "guess"}).status_code == 403
        assert recorded(bank, "console.form_refused") == before + 2
        token = re.search(r'name="csrf" value="([^"]+)"', client.get(place).text)
        assert token
        whole = {**form, "csrf": token[1]}
        for headers in (
            {"origin": "http://127.0.0.1:1"},
            {"origin": "null"},
            {"origin": console.origin, "sec-fetch-site": "cross-site"},
            {"origin": console.origin, "sec-fetch-site": "same-site"},
        ):
            assert client.post(place, data=whole, headers=headers).status_code == 403
        evil = {"host": "evil.example", "origin": "http://evil.example"}
        assert client.post(place, data=whole, headers=evil).status_code == 421
        assert client.get("/", headers={"host": "evil.example"}).status_code == 421
        assert client.post(place, data={**whole, "reason": "x" * 70_000}).status_code == 413
        assert state_of(bank, name) == "pending"
        stale = {**whole, "digest": "0" * 64}
        assert client.post(place, data=stale, follow_redirects=True).status_code == 200
        assert state_of(bank, name) == "pending"
        assert client.post(place, data=whole).status_code == 303
        assert state_of(bank, name) == "approved"


def test_another_page_cannot_act_for_whoever_is_logged_in(bank: Project, inside: Browser) -> None:
    """A page at another port posts our form: the browser's own marks give it away."""
    target = inside.driver.current_url
    page = f'<form method="post" action="{target}act/freeze"><button>win</button></form>'

    class Evil(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            _ = self.wfile.write(page.encode())

        @override
        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Evil) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        inside.open(f"http://127.0.0.1:{server.server_port}/")
        inside.click("button")
        inside.wait(lambda: "came from another page" in inside.read())
        server.shutdown()
    assert bank.ask({"op": "guards"})["holds"] == []


def test_every_reply_is_closed_to_scripts_frames_and_caches(console: Console) -> None:
    """Pages, parts, files and refusals carry the policy; the cookie is out of reach of scripts."""
    with console.client() as client:
        let_in = client.post("/login", data={"code": console.code})
        cookie = let_in.headers["set-cookie"].casefold()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        refused = client.post("/login", data={"code": "x"})
        assert "set-cookie" not in refused.headers
        pages = [client.get(path) for path in ("/", "/live/overview", "/nosuch", "/login")]
        for reply in (let_in, refused, *pages):
            policy = reply.headers["content-security-policy"]
            assert "script-src 'self'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert reply.headers["cache-control"] == "no-store"
            assert "<script>" not in reply.text
            assert " style=" not in reply.text
        assert client.get("/static/%2e%2e%2fsessions.py").status_code == 404
        assert client.get("/static/sessions.py").status_code == 404


def test_the_theme_is_chosen_once(inside: Browser) -> None:
    """The button changes it, and the next page has it from its first paint."""
    first = inside.run("return getComputedStyle(document.body).backgroundColor")
    inside.click("#theme")
    second = inside.run("return getComputedStyle(document.body).backgroundColor")
    assert first != second
    inside.open(f"{inside.driver.current_url}calls")
    assert inside.run("return getComputedStyle(document.body).backgroundColor") == second
    inside.click("#theme")


def test_a_body_that_says_nothing_of_its_length_is_bounded(console: Console) -> None:
    """It is refused while it comes."""
    with console.client() as client:
        kind = {"content-type": "application/x-www-form-urlencoded"}
        pieces = (b"x" * 10_000 for _ in range(20))
        assert client.post("/login", content=pieces, headers=kind).status_code == 413


def test_a_page_that_is_open_when_its_session_ends_leads_to_the_login(console: Console) -> None:
    """What it asks for by itself is answered by a way out, and nothing else."""
    with console.client() as client:
        console.log_in(client)
        form = re.search(r'name="csrf" value="([^"]+)"', client.get("/").text)
        assert form
        assert client.get("/live/overview").status_code == 200
        assert client.post("/logout", data={"csrf": form[1]}).headers["location"] == console.login
        over = client.get("/live/overview")
        assert (over.status_code, over.headers["hx-redirect"], over.text) == (
            401,
            console.login,
            "",
        )
        assert client.get("/approvals").headers["location"] == console.login
        assert (
            client.post("/act/freeze", data={"csrf": form[1]}).headers["location"] == console.login
        )


def test_a_part_that_did_not_change_is_not_sent_again(office: httpx2.Client) -> None:
    """A page that looks every two seconds stays as it is, under the pointer and the focus."""
    part = office.get("/live/guards")
    address = re.search(r'hx-get="([^"]+)"', part.text)
    assert address
    again = office.get(office.base_url.join(address[1].replace("&amp;", "&")))
    assert (again.status_code, again.text) == (204, "")


def test_a_console_outlives_its_daemon(open_project: OpenProject) -> None:
    """It says in words that nothing runs, and goes on when something does."""
    with open_project() as project:
        _ = project.write("roles/servers/bank.yaml", SERVER)
        _ = project.write("roles/payer.yaml", ROLE)
        _ = project.agents("up", "-d")
        with run_console(project) as console, console.client() as client:
            console.log_in(client)
            _ = project.agents("down")
            gone = client.get("/")
            assert gone.status_code == 409
            assert "nothing is running in this project" in gone.text
            assert client.get("/live/overview").status_code == 503
            _ = project.agents("up", "-d")
            assert client.get("/").status_code == 200


def test_a_console_without_a_daemon_says_so(open_project: OpenProject) -> None:
    """It is not begun, and says what to do."""
    with open_project() as project:
        done = project.agents("console", "--no-open", check=10)
        assert "agents up" in done.stderr
        done = project.agents("console", "--listen", "0.0.0.0:8710", check=2)
        assert "--public-url" in done.stderr
        _ = project.agents("console", "--public-url", "http://a.example", check=2)
        assert not project.processes()
