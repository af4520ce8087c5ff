"""How soon the console shows something: first contentful paint in a real Chromium, on loopback.

Usage: python bench/console.py [LOADS]

Runs a project with one role, makes some calls so that pages have content, and loads each page
LOADS times (10 by default) with an empty cache. Also tells how long the server takes for a page.
"""

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol, cast

import httpx2
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

Object = dict[str, object]
ROOT: Final = Path(__file__).resolve().parents[1]
AGENTS: Final = str(Path(sys.executable).with_name("agents"))
PAGES: Final = ("/", "/approvals", "/calls", "/runs", "/rotations", "/guards", "/shadow")
BOUND_MS: Final = 300
SERVER: Final = f"""
server: bank
description: A server for the benchmark.
owner: bench
source: tests/servers/scripted.py
launch:
  command: ["{{python}}", -I, {ROOT}/tests/servers/scripted.py, --tools, "echo,look"]
bands: {{names: [all]}}
tools:
  echo: {{band: all, class: DESTRUCTIVE, receipt: "Pays {{arguments.amount}}"}}
  look: {{band: all, class: READ}}
"""
ROLE: Final = """
role: payer
justification: It pays.
owner: bench
server: bank
bands: [all]
approval: [destructive]
"""
# Waits for the paint, which comes after the page is loaded.
PAINT: Final = """
const done = arguments[0];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    if (entry.name === "first-contentful-paint") done(entry.startTime);
  }
}).observe({type: "paint", buffered: true});
"""


class Driver(Protocol):
    """What drives a browser: the part of Selenium that is used here, whose own types say less."""

    def get(self, url: str) -> None:
        """Go to an address."""
        ...

    def execute_async_script(self, script: str) -> object:
        """Run a script that calls back."""
        ...

    def execute_cdp_cmd(self, cmd: str, cmd_args: Object) -> object:
        """Have the browser do something."""
        ...

    def quit(self) -> None:
        """End it."""
        ...


@contextmanager
def project() -> Generator[tuple[Path, dict[str, str]]]:
    """Run a project, with the environment for its commands."""
    root = Path(tempfile.mkdtemp(prefix="bm-", dir="/tmp"))
    env = {"PATH": os.environ["PATH"], "HOME": str(root), "LANG": "C.UTF-8"}

    def agents(*words: str, check: bool = True) -> None:
        _ = subprocess.run([AGENTS, *words], cwd=root, env=env, check=check, capture_output=True)

    (root / "roles" / "servers").mkdir(parents=True)
    _ = (root / "agents.yaml").write_text("listen: 127.0.0.1:0\n")
    _ = (root / "roles" / "servers" / "bank.yaml").write_text(SERVER)
    _ = (root / "roles" / "payer.yaml").write_text(ROLE)
    try:
        agents("up", "-d")
        for number in range(5):
            agents("call", "payer", "look", "{}")
            words = ("echo", json.dumps({"amount": number}), "--yes")
            agents("call", "payer", *words, check=False)
        yield root, env
    finally:
        agents("down", check=False)
        shutil.rmtree(root, ignore_errors=True)


def open_browser() -> Driver:
    """Start Chromium without a window."""
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(word)
    service = ChromeService(shutil.which("chromedriver"))
    return cast("Driver", cast("object", Chrome(options, service)))


def measure(base: str, code: str, loads: int) -> float:
    """Measure all pages; tell the slowest one's 95th percentile."""
    worst = 0.0
    with httpx2.Client(base_url=base, headers={"origin": base.rpartition("/")[0]}) as client:
        _ = client.post("/login", data={"code": code})
        [cookie] = client.cookies.jar
        driver = open_browser()
        try:
            _ = driver.execute_cdp_cmd("Network.enable", {})
            _ = driver.execute_cdp_cmd("Network.setCacheDisabled", {"cacheDisabled": True})
            known: Object = {"name": cookie.name, "value": cookie.value, "url": f"{base}/"}
            _ = driver.execute_cdp_cmd("Network.setCookie", known)
            driver.get(f"{base}/")
            for page in PAGES:
                paints: list[float] = []
                replies: list[float] = []
                for _ in range(loads):
                    start = time.perf_counter()
                    _ = client.get(page)
                    replies.append((time.perf_counter() - start) * 1000)
                    driver.get("about:blank")
                    driver.get(base + page)
                    paints.append(float(str(driver.execute_async_script(PAINT))))
                last = sorted(paints)[int(0.95 * (len(paints) - 1))]
                worst = max(worst, last)
                print(
                    f"{page:<12} first paint p50 {statistics.median(paints):6.0f} ms, "
                    f"p95 {last:6.0f} ms; server p50 {statistics.median(replies):6.1f} ms"
                )
        finally:
            driver.quit()
    return worst


def main() -> int:
    """Return 1 when a page is slower than it may be."""
    loads = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    with (
        project() as (root, env),
        subprocess.Popen(
            [AGENTS, "console", "--no-open"],
            cwd=root,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        ) as console,
    ):
        try:
            assert console.stdout is not None  # noqa: S101  it is a pipe
            line = cast("str", console.stdout.readline())
            match = re.search(r"(http://[^/]+/[^/]+)/login#(\S+)", line)
            if match is None:
                raise RuntimeError("the console did not start")
            worst = measure(match[1], match[2], loads)
        finally:
            console.send_signal(signal.SIGTERM)
    print(f"slowest p95: {worst:.0f} ms (bound {BOUND_MS} ms)")
    return int(worst > BOUND_MS)


if __name__ == "__main__":
    sys.exit(main())
