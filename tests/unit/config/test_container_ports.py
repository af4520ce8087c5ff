"""Servers that listen on a port of their container: what their files may say of it."""

from collections.abc import Callable
from typing import Final

import pytest

Replace = Callable[[str, str], None]
Complaints = Callable[[], list[str]]

BLOCK: Final = """\
container:
  image: shop:1
  allow_tag: true
  keep: {{"{{state}}/shop": /var/lib/shop}}
  http: {{{0}}}
bands:
"""


@pytest.mark.parametrize(
    "words",
    [
        'env: {PORT: "{port}", WHO: "{role}", PLACE: "{state}/shop/x"}',
        'command: [shop, "--port={port}"], path: /rpc',
        'health: [answers, "http://127.0.0.1:{port}/health"]',
    ],
)
def test_what_means_something_inside(server: Replace, complaints: Complaints, words: str) -> None:
    """The port, the role and kept directories may be named."""
    server("bands:\n", BLOCK.format(words))
    assert complaints() == []


@pytest.mark.parametrize(
    ("words", "place", "said"),
    [
        ('env: {PORT: "{prot}"}', "container.http.env.PORT", "{prot} means nothing inside"),
        ('command: ["{socket}"]', "container.http.command", "{socket} means nothing inside"),
        ('health: ["{state}/other"]', "container.http.health", "{state} means nothing inside"),
        ("path: rpc", "container.http.path", ""),
        ("port: 1", "container.http.port", ""),
    ],
)
def test_what_does_not(
    server: Replace, complaints: Complaints, words: str, place: str, said: str
) -> None:
    """Anything else is an error at its place."""
    server("bands:\n", BLOCK.format(words))
    [complaint] = complaints()
    assert place in complaint
    assert said in complaint
