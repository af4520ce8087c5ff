"""The console of a whole project, in a real browser, against the real daemon."""

from __future__ import annotations

import os
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

import anyio
import httpx2
import pytest
from typing_extensions import override

if TYPE_CHECKING:
    from mcp import Client

    from tests.conftest import Browser
    from tests.e2e.conftest import Object, OpenProject, Project

AGENTS: Final = str(Path(sys.executable).with_name("agents"))
PATIENCE: Final = 30
RECIPIENT: Final = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
PASSPHRASE: Final = "correct horse battery staple"
NASTY: Final = "<script>window.pwned=1</script><img src=x onerror=\"window.pwned=1\">'\"\u202egnp"


@final
class Console:
    """A console that runs, and the links that let people in."""

    def __init__(self, project: Project, process: subprocess.Popen[str]) -> None:
        """Wait for its link."""
        self.project = project
        self.process = process
        assert process.stdout is not None
        with anyio.fail_after_thread(PATIENCE) if False else _nothing():
            line = process.stdout.readline()
        match = re.search(r"(http://127\.0\.0\.1:[0-9]+)/login#(\S+)", line)
        assert match, line
        self.url: str = match[1]
        self.code: str = match[2]

    def log_in(self) -> httpx2.Client:
        """Log in without a browser."""
        client = httpx2.Client(
            base_url=self.url, headers={"origin": self.url}, timeout=PATIENCE
        )
        assert client.post("/login", data={"code": self.code}).status_code == 303
        return client
