"""Directories that containers keep, where they are on this machine: each mistake with its place."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

Replace = Callable[[str, str], None]
Complaints = Callable[[], list[str]]

DIGEST: Final = "sha256:" + 64 * "a"
BLOCK: Final = f"""\
container:
  image: {DIGEST}
  command: [shop]
  keep:
    "{{state}}/shop": /var/lib/shop
bands:
"""


@pytest.fixture
def keep(server: Replace) -> Callable[[str], None]:
    """Have the server's containers keep one directory."""
    server("bands:\n", BLOCK)
    server('  env: {SHOP_DATA: "{state}/shop"}\n', "")
    return lambda place: server('"{state}/shop":', f'"{place}":')


def add_server(root: Path, name: str, place: str, key: str = "container") -> None:
    """Add another server whose containers keep one directory."""
    text = (root / "roles/servers/shop.yaml").read_text()
    text = text.replace("server: shop", f"server: {name}")
    text = text.replace('"{state}/shop":', f'"{place}":')
    if key == "bootstrap":
        text = text.replace("  keep:\n", "").replace(f'    "{place}": /var/lib/shop\n', "")
        where = text.index("bootstrap:\n") + len("bootstrap:\n")
        text = f'{text[:where]}  keep:\n    "{place}": /own\n{text[where:]}'
    _ = (root / f"roles/servers/{name}.yaml").write_text(text)


@pytest.mark.parametrize(
    ("mine", "others", "told"),
    [
        ("{state}/shop", "{state}/shop/more", "other"),
        ("{state}/shop/more", "{state}/shop", "shop"),
        ("{project}/.agents-x", "{state}/shop", ""),
    ],
)
def test_one_server_inside_another(
    root: Path, complaints: Complaints, keep: Callable[[str], None], *, mine: str, others: str,
    told: str,
) -> None:  # fmt: skip
    """What one server keeps must not be inside what another one writes, whichever comes first."""
    add_server(root, "other", others)
    keep(mine)
    found = [line for line in complaints() if "is inside a directory" in line]
    if told:
        (line,) = found
        another = {"shop": "other", "other": "shop"}[told]
        assert line.startswith(f"roles/servers/{told}.yaml:")
        assert f"is inside a directory that the server {another} writes" in line
    else:
        assert found == []


@pytest.mark.parametrize(
    ("settings", "place", "wrong"),
    [
        ("state: data", "{project}/data", True),
        ("state: data", "{project}/data/vault", True),
        ("state: data", "{project}/data/keys", True),
        ("state: data", "{project}/data/agents.db", True),
        ("state: data", "{project}/data/shop", False),
        ("state: var/agents", "{project}/var", True),
        ("run: sockets", "{project}/sockets", True),
        ("run: sockets", "{project}/sockets/at", True),
        ("state: data", "{project}/link", True),
        ("state: data", "{project}/goods", False),
    ],
)
def test_what_bandmaster_keeps(
    root: Path,
    complaints: Complaints,
    keep: Callable[[str], None],
    *,
    settings: str,
    place: str,
    wrong: bool,
) -> None:
    """By whatever name: what Bandmaster itself keeps is written by no container."""
    _ = (root / "agents.yaml").write_text(f"{settings}\n")
    (root / "link").symlink_to("data/tokens")
    keep(place)
    found = complaints()
    assert [": is where Bandmaster keeps its own" in line for line in found] == [True] * wrong, (
        found
    )
    assert all(line.startswith("roles/servers/shop.yaml:") for line in found)


def test_a_bootstrap_has_directories_of_its_own(
    root: Path, complaints: Complaints, keep: Callable[[str], None]
) -> None:
    """What only the bootstrap's container writes is kept for nobody else, here or elsewhere."""
    keep("{state}/shop")
    add_server(root, "own", "{state}/secrets", key="bootstrap")
    assert complaints() == []
    add_server(root, "both", "{state}/shop", key="bootstrap")
    (line,) = complaints()
    assert line.startswith("roles/servers/both.yaml:")
    assert "is kept for containers of the server shop, too" in line


@pytest.mark.parametrize(("tag", "wrong"), [("", True), (", allow_tag: true", False)])
def test_the_proxy_s_image(root: Path, complaints: Complaints, tag: str, *, wrong: bool) -> None:
    """Bandmaster's own image is named by what is in it, unless somebody says otherwise."""
    _ = (root / "agents.yaml").write_text(f"docker: {{image: bandmaster:local{tag}}}\n")
    found = complaints()
    assert len(found) == wrong
    assert all(line.startswith("agents.yaml:1:17: docker.image: is a tag") for line in found)
