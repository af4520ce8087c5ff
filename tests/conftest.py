"""Programs of the outside world: OpenBao, PostgreSQL, Chromium, and moto in place of AWS."""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast, final
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from pydantic import SecretStr
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from orchestrator.errors import SecretNotFoundError
from orchestrator.model.stores import AwsAccount, VaultAccount
from orchestrator.runtimes.ports import free_port
from orchestrator.secrets.aws_client import AwsClient
from orchestrator.secrets.vault_client import VaultClient

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping
    from contextlib import AbstractContextManager
    from http.client import HTTPResponse

    from orchestrator.model.secret import SecretRef

Object = dict[str, object]
LONGEST: Final = 120
STARTER: Final = Path(__file__).parent / "servers" / "chromium.py"

# Tests run beside each other: how long an example takes says something of the others.
settings.register_profile(
    "busy", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("busy")


@contextmanager
def program(
    *words: str, ready: str, cwd: Path, user: str | None = None
) -> Generator[subprocess.Popen[str]]:
    """Run a program whose output says when it is ready; its whole group ends with the context."""
    log = cwd / "log"
    # Before it has a user of its own, so that it need not open anything.
    with log.open("w") as output:
        started = subprocess.Popen(
            words,
            cwd=cwd,
            env={"PATH": os.environ["PATH"], "HOME": str(cwd), "LANG": "C.UTF-8", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            text=True,
            user=user,
            start_new_session=True,
        )
    try:
        # `tail` ends by itself when the program does.
        with subprocess.Popen(
            ["tail", "-n", "+1", "-F", f"--pid={started.pid}", "-s", "0.05", str(log)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as tail:
            seen = any(ready in line for line in cast("Iterable[str]", tail.stdout))
            tail.kill()
        assert seen, log.read_text()
        yield started
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGINT)
            try:
                _ = started.wait(LONGEST)
            except subprocess.TimeoutExpired:
                os.killpg(started.pid, signal.SIGKILL)
                _ = started.wait(LONGEST)


@contextmanager
def short_directory() -> Generator[Path]:
    """Make a directory with a short path."""
    place = Path(tempfile.mkdtemp(prefix="bm-", dir="/tmp"))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


@final
class Bao:
    """A real OpenBao server, and its administrator."""

    def __init__(self, address: str, root_token: str) -> None:
        """Keep where it is and who may do everything there."""
        self.address = address
        self.root_token = root_token

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        token: str | None = None,
    ) -> tuple[int, Object]:
        """Send a request as the administrator, unless another token is given."""
        request = Request(  # noqa: S310 # loopback
            f"{self.address}/v1/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"X-Vault-Token": token or self.root_token},
        )
        try:
            with cast("HTTPResponse", urlopen(request, timeout=LONGEST)) as reply:  # noqa: S310
                status, content = reply.status, reply.read()
        except HTTPError as error:
            status, content = error.code, error.read()
        return status, cast("Object", json.loads(content or b"{}"))

    def do(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Object:
        """Send a request that has to succeed."""
        status, answer = self.ask(method, path, body)
        assert status in {200, 204}, f"{method} {path}: {status} {answer}"
        return answer

    def policy(self, rules: str) -> str:
        """Write a policy, in the words of the policy language, and tell its name."""
        name = f"p{secrets.token_hex(4)}"
        _ = self.do("PUT", f"sys/policies/acl/{name}", {"policy": rules})
        return name

    def approle(self, rules: str, **more: object) -> tuple[str, str]:
        """Make a login of a machine that may do what a policy says: its two halves."""
        if "approle/" not in self.do("GET", "sys/auth"):
            _ = self.do("POST", "sys/auth/approle", {"type": "approle"})
        name = self.policy(rules)
        place = f"auth/approle/role/{name}"
        _ = self.do("POST", place, {"token_policies": name, **more})
        about = cast("dict[str, str]", self.do("GET", f"{place}/role-id")["data"])
        made = cast("dict[str, str]", self.do("POST", f"{place}/secret-id", {})["data"])
        return about["role_id"], made["secret_id"]

    def token(self, rules: str, **more: object) -> str:
        """Make a token that may do what a policy says."""
        name = self.policy(rules)
        made = self.do("POST", "auth/token/create", {"policies": [name], **more})
        return cast("dict[str, str]", made["auth"])["client_token"]


@contextmanager
def running_bao() -> Generator[Bao]:
    """Run a server of its own: unsealed, in memory, with a KV store at `secret`."""
    with short_directory() as place:
        port, root_token = free_port(), secrets.token_hex(12)
        with program(
            str(Path(sys.executable).with_name("bao")),
            "server",
            "-dev",
            "-dev-no-store-token",
            f"-dev-root-token-id={root_token}",
            f"-dev-listen-address=127.0.0.1:{port}",
            ready="OpenBao server started!",
            cwd=place,
        ):
            server = Bao(f"http://127.0.0.1:{port}", root_token)
            # The store is upgraded in the background at first.
            deadline = time.monotonic() + LONGEST
            while server.ask("GET", "secret/config")[0] != 200:
                assert time.monotonic() < deadline
            yield server


@pytest.fixture(scope="session")
def start_bao() -> Callable[[], AbstractContextManager[Bao]]:
    """Run a server that a test may seal or stop."""
    return running_bao


@pytest.fixture(scope="session")
def bao() -> Generator[Bao]:
    """Run one server for all tests; each takes paths and policies of its own."""
    with running_bao() as server:
        yield server


@final
class Postgres:
    """A real PostgreSQL server on the loopback, where every login needs its password."""

    def __init__(self, place: Path, user: str | None) -> None:
        """Make a new, empty cluster."""
        self.port = free_port()
        self.password = secrets.token_hex(12)
        self._place = place
        self._user = user
        self._running: Generator[subprocess.Popen[str]] | None = None
        key = place / "key"
        key.write_text(self.password)
        (place / "log").touch()
        if user:
            for each in (place, key, place / "log"):
                shutil.chown(each, user)
        _ = subprocess.run(
            [binary("initdb"), "-D", "data", "-U", "admin", "-A", "scram-sha-256",
             "--pwfile=key", "-N", "--locale=C"],
            cwd=place, user=user, check=True, capture_output=True,
        )  # fmt: skip

    def start(self) -> None:
        """Start the server, and return when it takes connections."""
        self._context = program(
            binary("postgres"), "-D", "data", "-p", str(self.port), "-k", str(self._place),
            "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off",
            ready="ready to accept connections", cwd=self._place, user=self._user,
        )  # fmt: skip
        _ = self._context.__enter__()

    def stop(self) -> None:
        """Stop the server and end all connections."""
        _ = self._context.__exit__(None, None, None)

    def logs_in(self, user: str, password: str) -> bool:
        """Tell whether a login is accepted."""
        try:
            self.connect(user, password).close()
        except psycopg.OperationalError as error:
            if "password authentication failed" not in str(error):
                raise
            return False
        return True

    def connect(self, user: str, password: str) -> psycopg.Connection:
        """Open a connection."""
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=user, password=password, dbname="postgres"
        )


def binary(name: str) -> str:
    """Find a program of PostgreSQL, which Debian keeps out of the way; skips where it is not."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which(name, path=os.pathsep.join([*map(str, folders), os.environ["PATH"]]))
    if found is None:
        if os.environ.get("BANDMASTER_TEST_ALL"):
            pytest.fail("scripts/dev-services has not installed PostgreSQL")
        pytest.skip("PostgreSQL is not installed (scripts/dev-services)")
    return found


@pytest.fixture(scope="session")
def postgres() -> Generator[Postgres]:
    """Run one PostgreSQL for all tests; whoever stops it starts it again."""
    _ = binary("initdb")
    # It refuses to run as root.
    user = None if os.geteuid() else unprivileged()
    with short_directory() as place:
        server = Postgres(place, user)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def unprivileged() -> str:
    """Tell a user who is not root."""
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    pytest.skip("no user but root")


@pytest.fixture(scope="session")
def aws() -> Generator[str]:
    """Run moto's server, which takes the place of AWS, and tell its address."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 # seconds to import

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture(scope="session")
def box() -> str:
    """Make an image of `tests/servers`, and tell its id; skips without an engine."""
    try:
        _ = subprocess.run(["docker", "version"], check=True, capture_output=True, timeout=LONGEST)
    except (OSError, subprocess.SubprocessError):
        if os.environ.get("BANDMASTER_TEST_ALL"):
            pytest.fail("scripts/dev-services has not started an engine for containers")
        pytest.skip("no engine for containers runs (scripts/dev-services)")
    script = Path(__file__).parent / "servers" / "box.py"
    if script.is_relative_to("/tmp"):  # noqa: S108 - what is there inside is an empty one
        if os.environ.get("BANDMASTER_TEST_ALL"):
            pytest.fail("a checkout below /tmp is hidden in containers; put it elsewhere")
        pytest.skip("a checkout below /tmp is hidden in containers")
    made = subprocess.run([sys.executable, str(script)], check=True, capture_output=True, text=True)
    return made.stdout.strip()


class OpenStore(Protocol):
    """Makes a client of a server."""

    def __call__(
        self, address: str, *, variables: Mapping[str, str], **settings: object
    ) -> VaultClient:
        """Return a client whose login is found in these variables."""
        ...


@pytest.fixture
def open_store() -> OpenStore:
    """Make clients of Vault servers, called `main`, as the wiring does."""

    def make(address: str, *, variables: Mapping[str, str], **settings: object) -> VaultClient:
        account = VaultAccount.model_validate(
            {"kind": "vault", "address": address, "timeout": "10s", **settings}
        )
        return VaultClient("main", account, _finder(variables), Path("/"))

    return make


@pytest.fixture
def region(aws: str) -> Callable[..., AwsClient]:
    """Make clients of a region, called `aws`, as the wiring does."""

    def make(**settings: object) -> AwsClient:
        account = AwsAccount.model_validate(
            {
                "kind": "aws",
                "region": "eu-central-1",
                "endpoint": aws,
                "access_key": "env:AWS_KEY",
                "secret_key": "env:AWS_SECRET",
                **settings,
            }
        )
        variables = {"AWS_KEY": "AKIA-testing", "AWS_SECRET": "canary-aws-secret"}
        return AwsClient("aws", account, _finder(variables))

    return make


def _finder(variables: Mapping[str, str]) -> Callable[[SecretRef], SecretStr]:
    def find(reference: SecretRef) -> SecretStr:
        if reference.name not in variables:
            raise SecretNotFoundError(f"{reference.name} is not set")
        return SecretStr(variables[reference.name])

    return find


class Element(Protocol):
    """A part of a page, as its driver gives it."""

    @property
    def text(self) -> str:
        """The text that a person sees."""
        ...

    def click(self) -> None:
        """Click it."""
        ...

    def send_keys(self, *value: str) -> None:
        """Press keys in it."""
        ...


class _Focus(Protocol):
    @property
    def active_element(self) -> Element: ...


class Driver(Protocol):
    """What drives a browser: the part of Selenium that is used here, whose own types say less."""

    current_url: str

    @property
    def switch_to(self) -> _Focus:
        """Where the focus is."""
        ...

    def get(self, url: str) -> None:
        """Go to an address."""
        ...

    def find_element(self, by: str, value: str) -> Element:
        """Find the first part that matches."""
        ...

    def find_elements(self, by: str, value: str) -> list[Element]:
        """Find all parts that match."""
        ...

    def execute_script(self, script: str) -> object:
        """Run a script in the page."""
        ...

    def execute_cdp_cmd(self, cmd: str, cmd_args: Object) -> object:
        """Have the browser do something."""
        ...

    def get_log(self, log_type: str) -> list[dict[str, str]]:
        """Tell what the browser logged."""
        ...

    def set_page_load_timeout(self, time_to_wait: float) -> None:
        """Bound how long a page may take."""
        ...

    def quit(self) -> None:
        """End it."""
        ...


@final
class Browser:
    """A real Chromium without a window."""

    def __init__(self, driver: Driver) -> None:
        """Take what drives it."""
        self.driver = driver

    def open(self, url: str) -> None:
        """Go to an address, and wait until its page is there."""
        self.driver.get(url)

    def read(self, selector: str = "body") -> str:
        """Tell the text that a person sees in the first part that matches; empty without one."""
        found = self.driver.find_elements("css selector", selector)
        return found[0].text if found else ""

    def click(self, selector: str) -> None:
        """Click the first part that matches."""
        self._touch(selector, lambda part: part.click())

    def write(self, selector: str, text: str) -> None:
        """Write into a field."""
        self._touch(selector, lambda part: part.send_keys(text))

    def _touch(self, selector: str, act: Callable[[Element], None]) -> None:
        """Act on the first part that matches; a live page may replace it in that moment."""
        end = time.monotonic() + LONGEST / 2
        while True:
            try:
                return act(self.driver.find_element("css selector", selector))
            except StaleElementReferenceException:
                assert time.monotonic() < end

    def press(self, keys: str) -> None:
        """Press keys where the focus is."""
        self.driver.switch_to.active_element.send_keys(keys)

    def run(self, script: str) -> object:
        """Run a script in the page, as no page of ours does, and tell its result."""
        return self.driver.execute_script(script)

    def wait(self, question: Callable[[], bool]) -> None:
        """Wait for something that the page does by itself."""
        end = time.monotonic() + LONGEST / 2
        while True:
            # A page that is just being replaced has no parts.
            with suppress(WebDriverException):
                if question():
                    return
            assert time.monotonic() < end, f"it did not happen: {self.read()}"
            time.sleep(0.05)  # the wait is bounded, and there is nothing to be told by

    def complaints(self) -> list[str]:
        """Tell what the browser complained of since the last time."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="session")
def chromium() -> Generator[Browser]:
    """Start one browser for all tests; skips where it is not installed."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        if os.environ.get("BANDMASTER_TEST_ALL"):
            pytest.fail("scripts/dev-services has not installed Chromium")
        pytest.skip("Chromium is not installed (scripts/dev-services)")
    options = ChromeOptions()
    place = Path(tempfile.mkdtemp(prefix="bm-", dir="/tmp"))
    start = place / "chromium"
    _ = start.write_text(f'#!/bin/sh\nexec {sys.executable} -I {STARTER} {program} "$@"\n')
    start.chmod(0o700)
    options.binary_location = str(start)
    # As root there is no sandbox; containers have little shared memory.
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(word)
    options.add_argument("--window-size=1280,900")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = cast("Driver", cast("object", Chrome(options, ChromeService(driver))))
    try:
        started.set_page_load_timeout(LONGEST)
        yield Browser(started)
    finally:
        started.quit()
        shutil.rmtree(place)


@pytest.fixture
def browser(chromium: Browser) -> Browser:
    """Give the browser, with nothing left of earlier tests."""
    chromium.open("about:blank")
    _ = chromium.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    _ = chromium.complaints()
    return chromium
