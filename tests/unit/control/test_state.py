"""What the control plane knows after a crash."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.control.state import ControlState, ProcessRecord, StateFile, read_state
from orchestrator.errors import StateCorruptError, StateUnwritableError
from orchestrator.model.desired import BootstrapSpec, GatewaySettings
from orchestrator.model.names import RoleName, ServerName, WorkloadName
from orchestrator.model.secret import SecretRef
from orchestrator.model.workload import WorkloadSpec

MakeSpec = Callable[..., WorkloadSpec]
READER = RoleName("reader")
RECORD = ProcessRecord(
    pid=4711,
    started=99,
    boot_id="b",
    directory="/run/seat",
    era="modern",
    protocol_version="2026-07-28",
    server_info={"name": "shop", "version": "1"},
    capabilities={"tools": {"listChanged": True}, "logging": {}},
    instructions="Look before you pay.",
    owner="alice@example.com",
    restarts=3,
    credential="bm-reader-0123456789ab-1",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the state is kept."""
    return tmp_path / "control.json"


def test_nothing_is_the_empty_state(path: Path) -> None:
    """A project that never ran has an empty state, and reading it makes no file."""
    assert read_state(path) == ControlState()
    assert not path.exists()


def test_everything_reads_back(path: Path, make_spec: MakeSpec) -> None:
    """Every field survives a restart exactly as it was, and the file is private."""
    reference = SecretRef("dotenv", "/srv/a#b/.env", "TOKEN")
    spec = make_spec(
        generation=7,
        era="legacy",
        secrets={"A": "env:A", "B": "file:/run/b", "C": reference},
        restart={"backoff": "10ms", "give_up_after": 3},
        probe={"startup": "1h30m", "misses": 1},
        stop={"drain": "0s"},
        sharing="per-session",
        standby=1,
        policy={
            "limits": {"calls_per_minute": 7, "queue_patience": "1h30m"},
            "tools": {"order_goods": {"arguments": {"properties": {"n": {"const": 1.5}}}}},
            "sums": ({"tool": "order_goods", "argument": "a.b", "window": "24h", "max": "0.10"},),
            "resources": "all",
            "prompts": ("hello",),
            "asks": ("elicitation", "roots"),
        },
    )
    bootstrap = BootstrapSpec.model_validate(
        {
            "server": "shop",
            "spec": spec,
            "generate": {"/run/a": 32},
            "calls": ({"tool": "hire", "arguments": {"n": [1, None, {"x": "y"}]}},),
            "produces": ("/run/b",),
        }
    )
    file = StateFile(path)
    file.update(
        revision=12,
        port=8700,
        gateway=GatewaySettings(host="::1", port=0, hosts=("a.example",), origins=()),
        bootstraps={ServerName("shop"): bootstrap},
        bootstrapped={ServerName("shop"): "1"},
        eras={ServerName("shop"): "modern"},
        unspoken={ServerName("shop"): ("legacy",)},
    )
    file.keep_role(READER, spec)
    file.keep_process(spec.name, RECORD)
    file.keep_staged(make_spec(generation=8, credential="v2"))
    file.update(leaving={READER: (make_spec(generation=5), make_spec(generation=6))})
    file.update(closed={RoleName("treasury"): "it leaked"})
    assert file.next_generation(READER) == 1
    assert read_state(path) == file.state
    assert path.stat().st_mode & 0o777 == 0o600


def test_roles_and_processes_are_forgotten(path: Path, make_spec: MakeSpec) -> None:
    """What was dropped is gone from the disk, too; dropping it twice changes nothing."""
    file, spec = StateFile(path), make_spec()
    file.keep_role(READER, spec)
    file.keep_process(spec.name, RECORD)
    file.drop_process(spec.name)
    before = path.stat().st_ino
    file.drop_process(spec.name)
    file.drop_process(WorkloadName("nobody.shop.g1"))
    assert path.stat().st_ino == before
    file.drop_role(READER)
    assert read_state(path) == ControlState()


def test_a_switch_is_one_write(path: Path, make_spec: MakeSpec) -> None:
    """At no moment does the disk hold a role with two generations that serve, or with none."""
    file = StateFile(path)
    first, second, third = (make_spec(generation=number) for number in (1, 2, 3))
    file.keep_role(READER, first)
    for previous, following in ((first, second), (second, third)):
        file.keep_staged(following)
        assert read_state(path).roles == {READER: previous}
        file.switch(following, previous)
        assert (read_state(path).roles, read_state(path).staged) == ({READER: following}, {})
    assert read_state(path).leaving == {READER: (first, second)}
    file.drop_leaving(first)
    file.drop_leaving(first)
    assert read_state(path).leaving == {READER: (second,)}
    file.drop_leaving(second)
    assert read_state(path).leaving == {}


def test_a_closed_role_stays_closed(path: Path, make_spec: MakeSpec) -> None:
    """Nothing but opening it again lets a closed role run, not even that it is forgotten."""
    file, spec = StateFile(path), make_spec()
    file.keep_role(READER, spec)
    file.keep_staged(spec)
    file.update(leaving={READER: (spec,)})
    file.close(READER, "it leaked")
    state = read_state(path)
    assert (state.staged, state.leaving, state.closed) == ({}, {}, {READER: "it leaked"})
    file.drop_role(READER)
    assert read_state(path) == ControlState(closed={READER: "it leaked"})
    for _ in range(2):
        file.reopen(READER)
    assert read_state(path) == ControlState()


def test_the_state_of_an_earlier_version_is_read(path: Path, make_spec: MakeSpec) -> None:
    """What an earlier version wrote has no credentials, and nothing that comes or goes."""
    file, spec = StateFile(path), make_spec()
    file.keep_role(READER, spec)
    file.keep_process(spec.name, RECORD)
    old = cast("dict[str, dict[str, dict[str, object]]]", json.loads(path.read_bytes()))
    for key in ("staged", "leaving", "closed"):
        del old[key]
    for key in ("credential", "rotation"):
        del old["roles"][READER][key]
    del old["processes"][spec.name]["credential"]
    path.write_text(json.dumps(old))
    state = read_state(path)
    assert state.roles == {READER: spec}
    assert state.processes == {spec.name: RECORD.model_copy(update={"credential": ""})}
    assert (state.staged, state.leaving, state.closed) == ({}, {}, {})


def test_some_are_forgotten_without_a_write(path: Path, make_spec: MakeSpec) -> None:
    """The end of a process that comes and goes often is written down with the next change."""
    file, spec = StateFile(path), make_spec()
    file.keep_process(spec.name, RECORD)
    before = path.stat().st_ino
    file.forget_process(spec.name)
    assert (file.state.processes, path.stat().st_ino) == ({}, before)
    file.update(revision=1)
    assert read_state(path).processes == {}


def test_only_what_is_wanted_is_kept(path: Path) -> None:
    """Records of processes that belong to nothing any more go; without one nothing is written."""
    file = StateFile(path)
    one, two = WorkloadName("reader.shop.g1"), WorkloadName("reader.shop.g1.l")
    file.keep_process(one, RECORD)
    file.keep_process(two, RECORD, eras={ServerName("shop"): "modern"})
    assert read_state(path).eras == {"shop": "modern"}
    file.keep_only({two, WorkloadName("other.shop.g1")})
    assert read_state(path).processes.keys() == {two}
    before = path.stat().st_ino
    file.keep_only({two})
    assert path.stat().st_ino == before


def test_eras_are_forgotten_together(path: Path) -> None:
    """What a server spoke and what it did not is one piece of knowledge."""
    file, shop, bank = StateFile(path), ServerName("shop"), ServerName("bank")
    file.update(eras={shop: "modern", bank: "legacy"}, unspoken={shop: ("legacy",)})
    file.forget_eras(shop)
    assert (read_state(path).eras, read_state(path).unspoken) == ({bank: "legacy"}, {})
    before = path.stat().st_ino
    file.forget_eras(shop)
    assert path.stat().st_ino == before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"format":2}',
        b'{"format":1,"surprise":1}',
        b'{"format":1,"revision":"many"}',
        b'{"format":1,"roles":{"reader":{}}}',
        b'{"format":1,"generations":{"reader":0}}',
        b"\xff\xfe",
    ],
)
def test_what_is_not_understood_is_refused(path: Path, content: bytes) -> None:
    """A damaged or newer file is told with a way out, and stays as it was."""
    _ = path.write_bytes(content)
    with pytest.raises(StateCorruptError) as caught:
        _ = StateFile(path)
    assert str(path) in str(caught.value)
    assert caught.value.hint
    assert path.read_bytes() == content


def test_damage_is_told_without_its_words(path: Path) -> None:
    """The error names the place and never the value, which may be anything."""
    _ = path.write_text(json.dumps({"gateway": {"host": "canary", "port": "canary"}}))
    with pytest.raises(StateCorruptError) as caught:
        _ = read_state(path)
    assert "gateway.port" in str(caught.value)
    assert "canary" not in str(caught.value)


def test_what_cannot_be_read_is_refused(path: Path) -> None:
    """A state that is there and cannot be read is never taken for an empty one."""
    path.mkdir()
    with pytest.raises(StateCorruptError, match="cannot be read"):
        _ = read_state(path)


def test_no_generation_is_given_twice(path: Path, make_spec: MakeSpec) -> None:
    """Numbers only grow: over restarts, and over the removal of the role."""
    given_out: list[int] = []
    for _ in range(3):
        file = StateFile(path)
        given_out += [file.next_generation(READER), file.next_generation(READER)]
        file.keep_role(READER, make_spec(generation=given_out[-1]))
        file.drop_role(READER)
    assert given_out == [1, 2, 3, 4, 5, 6]


def test_a_crash_before_the_rename_leaves_the_old_state(path: Path) -> None:
    """A process that dies with the new bytes half written has changed nothing."""
    StateFile(path).update(revision=1)
    child = os.fork()
    if child == 0:  # pragma: no cover - dies on purpose
        real = os.fsync

        def die(descriptor: int) -> None:
            real(descriptor)
            os._exit(9)

        os.fsync = die
        StateFile(path).update(revision=2)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 9
    left = [other.name for other in path.parent.iterdir() if other != path]
    assert left == [f".control.json.{child}.tmp"]
    file = StateFile(path)
    assert file.state.revision == 1
    file.update(revision=3)
    assert read_state(path).revision == 3


def test_a_failed_write_leaves_the_old_state(path: Path) -> None:
    """When the disk does not take a change, memory and disk both stay at the old one."""
    file = StateFile(path)
    file.update(revision=1)
    path.unlink()
    path.mkdir()  # nothing can be renamed over a directory
    with pytest.raises(StateUnwritableError):
        file.update(revision=2)
    assert file.state.revision == 1
    assert list(path.parent.iterdir()) == [path]


@example(folder="a#b", scheme="dotenv")
@given(
    folder=st.text(st.characters(codec="utf-8", exclude_characters="\0\n"), max_size=20),
    scheme=st.sampled_from(["dotenv", "file"]),
)
def test_any_directory_may_hold_secrets(folder: str, scheme: str) -> None:
    """A reference reads back whatever the project's directory is called."""
    name = "TOKEN" if scheme == "dotenv" else ""
    reference = SecretRef("dotenv" if scheme == "dotenv" else "file", f"/srv/{folder}/x", name)
    assert SecretRef.parse(str(reference)) == reference
