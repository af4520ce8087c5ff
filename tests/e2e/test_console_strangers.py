"""The console and others on the same machine: they share its cookies' host, and may connect."""

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


@pytest.fixture(scope="module")
def bank(open_project: OpenProject) -> Generator[Project]:
    """Run a project with one role whose payments wait for a person."""
    with open_project() as project:
        _ = project.write("roles/servers/bank.yaml", SERVER)
        _ = project.write("roles/payer.yaml", ROLE)
        _ = project.agents("up", "-d")
        yield project


@pytest.fixture(scope="module")
def door(bank: Project) -> Generator[tuple[str, str, str]]:
    """Run a console; tell where it is, how its pages begin, and the code that lets one in."""
    process = subprocess.Popen(
        [AGENTS, "console", "--no-open", "--public-url", f"https://{PUBLIC}"],
        cwd=bank.root,
        env=bank.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = cast("str", process.stdout.readline())
        match = re.search(r"(http://127\.0\.0\.1:[0-9]+)(/\S*)/login#(\S+)", line)
        assert match
        yield match[1], match[2], match[3]
    finally:
        process.send_signal(signal.SIGTERM)
        _ = process.communicate(timeout=PATIENCE)


@pytest.fixture(scope="module")
def session(door: tuple[str, str, str]) -> Generator[httpx2.Client]:
    """Log in, once for all tests."""
    origin, home, code = door
    with httpx2.Client(base_url=origin, headers={"origin": origin}, timeout=PATIENCE) as client:
        assert client.post(f"{home}/login", data={"code": code}).status_code == 303
        yield client


@contextmanager
def stranger(cookies: list[str]) -> Generator[str]:
    """Serve a page at another port of this machine, which notes the cookies that it is shown."""

    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            cookies.append(self.headers.get("cookie", ""))
            self.send_response(200)
            self.end_headers()
            _ = self.wfile.write(b"<h1>a page of somebody else</h1>")

        @override
        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def ask_for(bank: Project, **arguments: object) -> str:
    """Have the agent ask for a payment that waits, and tell the approval."""
    words = ("call", "payer", "echo", json.dumps(arguments), "--yes")
    heard = cast("Object", bank.json(*words, check=None)["error"])
    match = re.search(r"ap-\w+", str(heard["message"]))
    assert match
    return match[0]


def recorded(bank: Project, event: str) -> int:
    """Count the lines of the record about an event."""
    lines = bank.agents("calls", "-n", "100000", "--json").stdout.splitlines()
    return sum(cast("Object", json.loads(line))["event"] == event for line in lines)


def let_in(browser: Browser, session: httpx2.Client, home: str) -> None:
    """Give a browser the session, as the console gave it."""
    [cookie] = session.cookies.jar
    assert cookie.path == home
    given = {"name": cookie.name, "value": cookie.value, "path": cookie.path}
    known: Object = {**given, "url": f"{session.base_url}", "httpOnly": True, "sameSite": "Strict"}
    _ = browser.driver.execute_cdp_cmd("Network.setCookie", known)
    browser.open(f"{str(session.base_url).rstrip('/')}{home}/")
    browser.wait(lambda: browser.read("h1") == "Overview")


def test_no_other_port_is_shown_the_session(
    browser: Browser, door: tuple[str, str, str], session: httpx2.Client
) -> None:
    """Browsers send cookies to every port of a host: to those pages that begin as ours."""
    let_in(browser, session, door[1])
    cookies: list[str] = []
    with stranger(cookies) as other:
        for path in ("/", "/approvals", "/login", "/live/overview"):
            browser.open(other + path)
            assert browser.read("h1") == "a page of somebody else"
    assert cookies
    assert [one for one in cookies if "bandmaster" in one] == []


def test_nobody_who_was_not_let_in_finds_a_page(
    bank: Project, door: tuple[str, str, str], session: httpx2.Client
) -> None:
    """Not even the login, nor an approval in the browser of whoever is in."""
    origin, home, _ = door
    name = ask_for(bank, to="ann", amount=1)
    cookie = {"cookie": "; ".join(f"{one.name}={one.value}" for one in session.cookies.jar)}
    with httpx2.Client(base_url=origin, headers={"origin": origin}, timeout=PATIENCE) as client:
        for path in ("/", "/login", f"/approvals/{name}", "/live/overview", "/guess/", home):
            reply = client.get(path, headers=cookie)
            assert (reply.status_code, "location" in reply.headers) == (404, False), path
        assert client.post("/login", data={"code": "x"}).status_code == 404
        assert client.get(f"{home}/approvals/").status_code == 404
        public = {"host": PUBLIC}
        assert client.get(f"{home}/", headers={**public, **cookie}).status_code == 404
    assert session.get(f"{home}/approvals/{name}").status_code == 200


def test_pages_of_others_take_nothing_of_ours(
    bank: Project, door: tuple[str, str, str], session: httpx2.Client
) -> None:
    """They may lead a person to a page; as a picture or in a script it is refused, and recorded."""
    home, before = door[1], recorded(bank, "console.request_refused")
    for site in ("same-site", "cross-site"):
        marks = {"sec-fetch-site": site, "sec-fetch-mode": "no-cors"}
        assert session.get(f"{home}/", headers=marks).status_code == 403
        led = {**marks, "sec-fetch-mode": "navigate"}
        assert session.get(f"{home}/", headers=led).status_code == 200
    assert session.get(f"{home}/", headers={"host": "evil.example"}).status_code == 421
    evil = {"origin": "http://evil.example"}
    assert session.post(f"{home}/act/freeze", headers=evil).status_code == 403
    assert recorded(bank, "console.request_refused") == before + 4


def test_a_link_tells_nobody_where_the_console_is(
    bank: Project, door: tuple[str, str, str], session: httpx2.Client
) -> None:
    """Whoever follows one is elsewhere, and has no business with other pages."""
    origin, home, _ = door
    assert home.strip("/") in session.get(f"{home}/").text
    sent: list[str] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.append(self.rfile.read(int(self.headers["content-length"])).decode())
            self.send_response(200)
            self.end_headers()

        @override
        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        notify = f"notify:\n  ops: {{webhook: 'http://127.0.0.1:{server.server_port}/'}}\n"
        _ = bank.write("agents.yaml", f"listen: 127.0.0.1:0\n{notify}")
        _ = bank.agents("up", "-d")

        def is_told() -> bool:
            count = len(sent)
            _ = ask_for(bank, to="ben", amount=2, turn=count)
            bank.wait(lambda: len(sent) > count)
            return PUBLIC in sent[-1]

        bank.wait(is_told)
        server.shutdown()
    match = re.search(rf"https://{PUBLIC}(/l/[\w.-]+)", sent[-1])
    assert match
    for path in (match[1], f"{match[1]}?confirm=approve", "/l/forged"):
        page = httpx2.get(origin + path, headers={"host": PUBLIC}, timeout=PATIENCE)
        assert home.strip("/") not in page.text
        assert "set-cookie" not in page.headers


def test_blanks_are_shown_as_they_are(
    bank: Project, browser: Browser, door: tuple[str, str, str], session: httpx2.Client
) -> None:
    """Two are not one: what is shown is what is approved."""
    let_in(browser, session, door[1])
    browser.open(f"{browser.driver.current_url}approvals/{ask_for(bank, to='al  ice', amount=3)}")
    assert "Pays 3 to al  ice" in browser.read(".receipt")
