"""A small project on disk, to be spoiled by each test."""

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.config.project import load_project
from orchestrator.errors import RoleFileError

SERVER = """\
server: shop
description: A shop.
owner: me@example.com
source: package shop 1.0
launch:
  command: ["{python}", -m, shop]
  env: {SHOP_DATA: "{state}/shop"}
  accepts:
    SHOP_COLOUR: Colour of the signs.
    SHOP_TOKEN: Opens the till.
bands:
  names: [look, order, pay]
  variable: SHOP_BANDS
  full: full
modes: {variable: SHOP_MODE, from_band: pay}
tools:
  list_goods: {band: look, class: READ}
  order_goods: {band: order, class: WRITE}
  pay_bill: {band: pay, class: DESTRUCTIVE}
  hire: {band: pay, class: WRITE, modes: [owner]}
bootstrap:
  bands: full
  mode: owner
  secrets: {SHOP_TOKEN: "file:{state}/shop/token"}
  generate: {"{state}/shop/token": 32}
  calls:
    - {tool: hire, arguments: {name: Ann}}
"""
ROLE = """\
role: clerk
justification: Sells goods.
owner: me@example.com
server: shop
bands: [look, order]
env: {SHOP_COLOUR: red}
secrets:
  SHOP_TOKEN: env:SHOP_TOKEN
"""

Write = Callable[[str, str | bytes], None]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the directory of a project without mistakes."""
    (tmp_path / "roles/servers").mkdir(parents=True)
    (tmp_path / "roles/servers/shop.yaml").write_text(SERVER)
    (tmp_path / "roles/clerk.yaml").write_text(ROLE)
    return tmp_path


@pytest.fixture
def role(root: Path) -> Callable[[str, str], None]:
    """Replace a part of the role file."""
    return lambda old, new: _replace(root / "roles/clerk.yaml", old, new)


@pytest.fixture
def server(root: Path) -> Callable[[str, str], None]:
    """Replace a part of the server file."""
    return lambda old, new: _replace(root / "roles/servers/shop.yaml", old, new)


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.fixture
def complaints(root: Path) -> Callable[[], list[str]]:
    """Load the project, and tell its problems as a person reads them."""

    def load() -> list[str]:
        try:
            load_project(root)
        except RoleFileError as error:
            return str(error).splitlines()
        return []

    return load
