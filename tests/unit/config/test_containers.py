"""Containers in files: what they may say, each mistake with its place, and what follows from it."""

import shutil
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Final

import pytest

from orchestrator.cli.project import check_project
from orchestrator.config.places import InsidePlaces
from orchestrator.config.schema import schemas
from orchestrator.model.container import Container, format_size, is_pinned, parse_size
from orchestrator.model.names import RoleName, SecretName
from orchestrator.model.workload import WorkloadSpec

Replace = Callable[[str, str], None]
Complaints = Callable[[], list[str]]

DIGEST: Final = "sha256:" + 64 * "a"
BLOCK: Final = f"""\
container:
  image: shop.example/shop@{DIGEST}
  command: [shop, --data, "{{state}}/shop"]
  env: {{SHOP_PLACE: "{{project}}/goods/today"}}
  keep:
    "{{state}}/shop": /var/lib/shop
    "{{project}}/goods": /goods
  memory: 1GiB
  cpus: 2
bands:
"""


@pytest.fixture
def tmp_path() -> Generator[Path]:
    """Make a directory that leaves room for the path of a socket."""
    path = Path(tempfile.mkdtemp(prefix="bm-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def boxed(server: Replace, role: Replace) -> None:
    """Let the project's server and role be ones that run in containers."""
    server("bands:\n", BLOCK)
    role("server: shop\n", "server: shop\nruntime: container\n")


@pytest.mark.usefixtures("boxed")
def test_what_a_container_is_told(root: Path) -> None:
    """Placeholders mean the places inside; limits and directories are the file's, user too."""
    spec = check_project(root, None, ()).desired.roles[RoleName("clerk")]
    assert spec.argv == ("shop", "--data", "/var/lib/shop")
    assert spec.directory == ""
    assert spec.env[SecretName("SHOP_DATA")] == "/var/lib/shop"
    assert spec.env[SecretName("SHOP_PLACE")] == "/goods/today"
    assert spec.env[SecretName("HOME")] == "/tmp"  # noqa: S108 - inside
    assert SecretName("PATH") not in spec.env
    container = spec.container
    assert container is not None
    assert container.keep == {f"{root}/.agents/shop": "/var/lib/shop", f"{root}/goods": "/goods"}
    assert (container.memory, container.cpus, container.pids) == (2**30, 2.0, 64)
    assert (container.user, container.engine) == ("mcp", "/var/run/docker.sock")
    assert WorkloadSpec.model_validate_json(spec.model_dump_json(), strict=False) == spec


def test_the_same_server_as_a_process(server: Replace, root: Path) -> None:
    """A role that does not ask for a container gets a process, whatever else its server offers."""
    server("bands:\n", BLOCK)
    spec = check_project(root, None, ()).desired.roles[RoleName("clerk")]
    assert spec.container is None
    assert spec.argv[1:] == ("-m", "shop")


@pytest.mark.usefixtures("boxed")
def test_a_bootstrap_runs_where_the_roles_do(root: Path) -> None:
    """What is done once before roles start is done in a container, by the user of their files."""
    (bootstrap,) = check_project(root, None, ()).desired.bootstraps.values()
    assert bootstrap.spec.container is not None


@pytest.mark.usefixtures("boxed")
def test_a_bootstrap_without_a_program(server: Replace, root: Path) -> None:
    """Without a program for processes a bootstrap runs in a container like the roles."""
    server('  command: ["{python}", -m, shop]\n', "")
    (bootstrap,) = check_project(root, None, ()).desired.bootstraps.values()
    assert bootstrap.spec.container is not None


@pytest.mark.usefixtures("boxed")
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            f"shop@{DIGEST}",
            "shop:1.2",
            "12:10: container.image: is a tag, which may be another image",
        ),
        (
            f"shop@{DIGEST}",
            "Shop Image",
            "12:10: container.image: this is not a proper name; an image",
        ),
        ("cpus: 2", "cpus: 0", "19:9: container.cpus: has the wrong length or size; at least 0.01"),
        (
            "memory: 1GiB",
            "memory: 1GB",
            "18:11: container.memory: a size is a number with KiB, MiB",
        ),
        (
            "memory: 1GiB",
            "memory: 0MiB",
            "18:11: container.memory: a size has to be more than nothin",
        ),
        ("cpus: 2", "user: '0'", "19:9: container.user: `0` is not a proper name; a user's name"),
        (
            '"{state}/shop": /var/lib/shop',
            '"/etc/shop": /var/lib/shop',
            "container.keep./etc/shop: has to be a directory inside the state or the project",
        ),
        (
            '"{project}/goods": /goods',
            '"{project}/roles": /goods',
            "17:5: container.keep.?: is where files are that decide what runs",
        ),
        (
            '"{project}/goods": /goods',
            '"{state}/tokens": /goods',
            "17:5: container.keep.?: is where Bandmaster keeps its own; name another",
        ),
        (": /goods", ": /var/lib/shop", "has this place inside too; name another one"),
        (
            '"{project}/goods": /goods',
            '"{state}/shop/goods": /goods',
            "17:5: container.keep.?: is inside another one, which the container writes itself",
        ),
        (": /goods", ": /proc/x", "this place inside the container is taken; name another"),
        (": /goods", ": ../x", "a place inside a container is an absolute path"),
        (
            '--data, "{state}/shop"',
            '--data, "{state}/till"',
            "13:27: container.command[2]: nothing of {state} is inside the container there",
        ),
        (
            "{project}/goods/today",
            "{projekt}",
            "14:21: container.env.SHOP_PLACE: unknown placeholder",
        ),
        (
            "SHOP_PLACE:",
            "SHOP_BANDS:",
            "14:9: container.env.SHOP_BANDS: Bandmaster sets this variab",
        ),
        (
            'SHOP_PLACE: "{project}/goods/today"',
            "SHOP_TOKEN: canary-0pen-sesame",
            "14:21: container.env.SHOP_TOKEN: looks like a secret; put it under",
        ),
        (
            "--data,",
            "--api-key=canary,",
            "13:19: container.command[1]: looks like a secret, and every",
        ),
        (
            '  command: ["{python}", -m, shop]\n',
            "  transport: http\n",
            "container: nothing tells the server inside where to listen; put {socket} into",
        ),
    ],
)
def test_mistakes_of_a_server(
    server: Replace, complaints: Complaints, old: str, new: str, message: str
) -> None:
    """Each mistake in what is said of a container is told with its place and a cure."""
    server(old, new)
    found = complaints()
    assert any(message in each for each in found), found
    assert "canary" not in str(found)


@pytest.mark.usefixtures("boxed")
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "runtime: container",
            "egress: [a.example:443]",
            "egress: a process can reach whatever this",
        ),
        ("runtime: container", "runtime: box", "runtime: `box` is not possible here"),
        (
            "runtime: container",
            "runtime: container\negress: [a.example:443]",
            "egress: needs Bandmaster's own image, for the proxy",
        ),
        (
            "runtime: container",
            "runtime: container\nuser: clerk",
            "user: is of processes; a container runs as a user of its image",
        ),
        (
            "runtime: container",
            "runtime: container\negress: [a.example]",
            "egress[0]: a destination is a host and a port",
        ),
    ],
)
def test_mistakes_of_a_role(
    role: Replace, complaints: Complaints, old: str, new: str, message: str
) -> None:
    """The same for roles."""
    role(old, new)
    found = complaints()
    assert len(found) == 1, found
    assert message in found[0]


@pytest.mark.usefixtures("boxed")
def test_destinations(root: Path, role: Replace, complaints: Complaints) -> None:
    """With an image for the proxy a role may list destinations, each once, no wildcard address."""
    (root / "agents.yaml").write_text(f"docker: {{image: {DIGEST}}}\n")
    role("runtime: container", "runtime: container\negress: [A.example:443, '[::1]:80']")
    assert complaints() == []
    spec = check_project(root, None, ()).desired.roles[RoleName("clerk")]
    assert spec.container is not None
    assert spec.container.egress == ("a.example:443", "[::1]:80")
    assert spec.container.proxy == DIGEST
    role("[A.example:443,", "[0.0.0.0:443, '[::1]:80',")
    assert [line.partition("; ")[0] for line in complaints()] == [
        "roles/clerk.yaml:6:10: egress[0]: is no address of one machine",
        "roles/clerk.yaml:6:35: egress[2]: [::1]:80 stands here twice",
    ]


def test_a_server_that_nothing_starts(server: Replace, complaints: Complaints) -> None:
    """A server file names a program or an image."""
    server('  command: ["{python}", -m, shop]\n', "")
    (found,) = complaints()
    assert "launch.command: nothing says how this server is started" in found


def test_a_process_without_a_program(server: Replace, complaints: Complaints) -> None:
    """A role that runs as a process needs a program."""
    server('  command: ["{python}", -m, shop]\n', "")
    server("bands:\n", BLOCK)
    (found,) = complaints()
    assert "server: the server shop names no program for processes" in found


@pytest.mark.usefixtures("boxed")
def test_roles_that_share_files(root: Path, server: Replace, complaints: Complaints) -> None:
    """Where files are shared, all roles run in the same way."""
    server("  accepts:\n", "  shares_files: true\n  accepts:\n")
    text = (root / "roles/clerk.yaml").read_text()
    other = text.replace("role: clerk", "role: other").replace("runtime: container\n", "")
    (root / "roles/other.yaml").write_text(other.replace("  SHOP_TOKEN: env:SHOP_TOKEN", "  {}"))
    (found,) = complaints()
    assert "roles/other.yaml" in found
    assert "its server shares files with the role clerk, which runs as a container" in found


def test_sizes() -> None:
    """Sizes are written as they are read."""
    for text in ("1KiB", "256MiB", "3GiB"):
        assert format_size(parse_size(text)) == text
    assert format_size(parse_size("1024MiB")) == "1GiB"
    with pytest.raises(ValueError, match="a size is"):
        parse_size(True)  # noqa: FBT003 - what YAML may hold


def test_images() -> None:
    """Only what nobody can put another image behind counts as pinned."""
    assert is_pinned(DIGEST)
    assert is_pinned(f"a.example:5000/b/c:1@{DIGEST}")
    assert not is_pinned("a/b:sha256")
    assert Container(image="localhost:5000/a_b/c-d:v1.2").image
    assert not is_pinned("localhost:5000/a_b/c-d:v1.2")


def test_the_longest_kept_directory_counts() -> None:
    """Of two kept directories the inner one decides, and a longer name is another directory."""
    places = InsidePlaces({"{state}/a": "/a", "{state}/a/b": "/b"}, "clerk")
    assert (
        places.fill("{state}/a/b/c:{state}/a/x:{state}/ab:{role}") == "/b/c:/a/x:{state}/ab:clerk"
    )


def test_schemas_write_sizes_as_people_do() -> None:
    """An editor is shown sizes with their units."""
    assert '"default": "256MiB"' in str(schemas()["server.schema.json"]).replace("'", '"')
