"""Whatever somebody does to a record's files is found, and told where."""

import json
import random
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypeAlias, cast

import orjson
import pytest

from orchestrator.audit.chain import Head, digest, sign
from orchestrator.audit.keys import (
    PublicKey,
    Signer,
    load_signer,
    read_key_file,
    read_keys,
    write_keys,
)
from orchestrator.audit.log import AuditLog
from orchestrator.audit.record import CallRecord, Fields
from orchestrator.audit.verify import Report, verify
from orchestrator.errors import SettingsError, StateCorruptError
from orchestrator.journal import segments
from orchestrator.model.base import JsonObject
from orchestrator.model.names import AgentName, RoleName

NOON = datetime(2027, 1, 15, 12, tzinfo=UTC)
FOREIGN = Signer(bytes(range(32)))


class DayClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        """Stand still."""
        self.moment = NOON

    def now(self) -> datetime:
        """Tell the wall time."""
        return self.moment

    def monotonic(self) -> float:
        """Tell seconds that only grow."""
        return self.moment.timestamp()


def call(number: int) -> CallRecord:
    """Make a record of a call."""
    return CallRecord(
        "outcome",
        f"r{number}",
        RoleName("treasury"),
        AgentName("alice"),
        category="ok",
        status=200,
        duration_us=number,
    )


def write(home: Path, days: int = 3, calls: int = 4) -> None:
    """Write a record of some days, closed at the end."""
    clock = DayClock()
    log = AuditLog(home / "audit", home / "audit.key", clock, "1.2.3")
    for day in range(days):
        for number in range(calls):
            log.record(call(10 * day + number))
        clock.moment += timedelta(days=1)
    clock.moment -= timedelta(days=1)
    log.close()


def keys_of(home: Path) -> dict[str, PublicKey]:
    """Tell the key as somebody keeps it who does not trust the directory."""
    public = load_signer(home / "audit.key").public
    return {public.id: public}


def look(home: Path, expect: Head | None = None) -> Report:
    """Verify the record."""
    return verify(home / "audit", keys_of(home), expect=expect)


def said(home: Path) -> str:
    """Tell all faults in one text."""
    return "\n".join(f"{one.file}:{one.line}: {one.what}" for one in look(home).faults)


@pytest.fixture
def record(home: Path) -> Path:
    """Write a record of three days."""
    write(home)
    assert look(home).count == 0
    return home / "audit"


def lines_of(path: Path) -> list[bytes]:
    """Read one file."""
    return path.read_bytes().splitlines(keepends=True)


def rewrite(path: Path, change: Callable[[list[bytes]], object]) -> None:
    """Change the lines of one file."""
    lines = lines_of(path)
    _ = change(lines)
    _ = path.write_bytes(b"".join(lines))


def test_a_record_that_nobody_touched(record: Path) -> None:
    """Days are files, each ends with a signed line, and the report names both ends."""
    report = look(record.parent)
    paths = segments(record)
    assert [path.name for path in paths] == [f"0000000{day}.jsonl" for day in (1, 2, 3)]
    for path in paths:
        assert cast("JsonObject", json.loads(lines_of(path)[-1]))["event"] == "checkpoint"
    every = [line for path in paths for line in lines_of(path)]
    assert (report.files, report.lines, report.first) == (3, len(every), 1)
    assert report.last == Head(len(every), digest(every[-1][:-1]), "2027-01-17T12:00:00.000000Z")
    assert (report.unsigned, report.unchained, report.removed) == (0, 0, 0)
    assert report.signed == 4
    assert look(record.parent, report.last).count == 0


def test_any_changed_byte_is_found(record: Path) -> None:
    """Wherever a byte is changed, in lines or in the head, there is a fault."""
    chance = random.Random(4711)  # noqa: S311 - which byte is no secret
    for path in (*segments(record), record / "head.json"):
        whole = path.read_bytes()
        for place in chance.sample(range(len(whole)), min(240, len(whole))):
            changed = bytearray(whole)
            changed[place] ^= 1 << chance.randrange(8)
            _ = path.write_bytes(changed)
            # All but the end of the head's own line, which says nothing.
            is_end = path.name == "head.json" and place == len(whole) - 1
            assert look(record.parent).count or is_end, (path.name, place)
        _ = path.write_bytes(whole)
    assert look(record.parent).count == 0


def test_a_changed_line_is_named(record: Path) -> None:
    """The fault names the file, the line and what does not follow from what."""
    path = segments(record)[1]
    rewrite(path, lambda lines: lines.__setitem__(1, lines[1].replace(b"alice", b"mallo")))
    (fault,) = look(record.parent).faults
    seq = cast("int", cast("JsonObject", json.loads(lines_of(path)[1]))["seq"])
    assert (fault.file, fault.line, fault.seq) == ("00000002.jsonl", 3, seq + 1)
    assert f"line {seq} before it was changed" in fault.what


Change: TypeAlias = Callable[[list[bytes]], object]
CHANGES: Final[dict[str, tuple[Change, str]]] = {
    "cut": (lambda lines: lines.pop(2), "before it is missing"),
    "cut at the end": (lambda lines: lines.pop(), "before it is missing"),
    "twice": (lambda lines: lines.insert(3, lines[2]), "out of order, or twice"),
    "swapped": (lambda lines: lines.insert(2, lines.pop(3)), "out of order"),
    "rubbish": (lambda lines: lines.insert(2, b"rubbish\n"), "is no line of a record"),
    "without a chain": (lambda lines: lines.insert(2, b'{"seq":9,"v":2}\n'), "is not chained"),
    "no end": (lambda lines: lines.__setitem__(-1, lines[-1][:-1]), "is not whole"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_lines_that_are_cut_swapped_or_added(record: Path, name: str) -> None:
    """Each has its own words."""
    change, words = CHANGES[name]
    rewrite(segments(record)[1], change)
    assert "00000002.jsonl" in said(record.parent) or "00000003.jsonl" in said(record.parent)
    assert words in said(record.parent)


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (0, "the record begins with line"),
        (1, "before it are missing"),
        (2, "names line"),
    ],
)
def test_a_missing_file_is_found(record: Path, missing: int, words: str) -> None:
    """At the beginning, in the middle, and at the end."""
    segments(record)[missing].unlink()
    assert words in said(record.parent)


def test_files_that_changed_places_are_found(record: Path) -> None:
    """The order of the files is that of the lines."""
    first, second, _ = segments(record)
    _ = first.rename(record / "x")
    _ = second.rename(first)
    _ = (record / "x").rename(second)
    assert "begins with line" in said(record.parent)
    assert "out of order" in said(record.parent)


def test_nothing_at_all_where_something_was(record: Path) -> None:
    """The head alone tells that there was a record."""
    for path in segments(record):
        path.unlink()
    assert "names line" in said(record.parent)


def chain_anew(record: Path, change: Callable[[JsonObject], bool], signer: Signer | None) -> None:
    """Do what an attacker does: change lines, and write all that follow anew."""
    prev, seq = "0" * 64, 0
    for path in segments(record):
        lines: list[bytes] = []
        for line in lines_of(path):
            told = cast("JsonObject", json.loads(line))
            if not change(told):
                continue
            seq += 1
            told |= {"prev": prev, "seq": seq}
            made = orjson.dumps(told, option=orjson.OPT_SORT_KEYS)
            if "signature" in told and signer is not None:
                rest = {name: value for name, value in told.items() if name != "signature"}
                made = sign(cast("Fields", rest), signer)
            prev = digest(made)
            lines.append(made + b"\n")
        _ = path.write_bytes(b"".join(lines))


def rename_alice(told: JsonObject) -> bool:
    """Put the blame on somebody else."""
    if told.get("request") == "r11":
        told["agent"] = "mallory"
    return True


def test_a_chain_that_was_written_anew_has_no_signature(record: Path) -> None:
    """Every signed line behind the change is wrong, and so is the head."""
    chain_anew(record, rename_alice, None)
    assert said(record.parent).count("its signature is wrong") == 2
    assert "is another one now" in said(record.parent)


def test_a_chain_that_was_signed_by_somebody_else(record: Path) -> None:
    """A key that is not the record's own counts for nothing, even if it lies beside the lines."""
    chain_anew(record, rename_alice, FOREIGN)
    assert said(record.parent).count("is signed with another key") == 4
    keys = read_key_file(record / "audit.pub")
    assert verify(record, keys).count
    assert verify(record, {**keys, FOREIGN.public.id: FOREIGN.public}).count == 1  # the head


def test_a_line_left_out_of_a_new_chain(record: Path) -> None:
    """Numbers without a hole help nobody."""
    chain_anew(record, lambda told: told.get("request") != "r11", None)
    assert "its signature is wrong" in said(record.parent)


def test_a_chain_without_signatures(record: Path) -> None:
    """Whoever leaves the signed lines out has the head against them."""
    chain_anew(record, lambda told: told.get("event") != "checkpoint", None)
    assert "cut" in said(record.parent)
    (record / "head.json").unlink()
    assert said(record.parent) == "head.json:0: is missing, or cannot be read"


def test_an_end_that_was_cut_with_an_older_signature(record: Path) -> None:
    """No head can be made of a line that was signed earlier."""
    last = segments(record)[-1]
    rewrite(last, lambda lines: lines.__delitem__(slice(None)))
    line = lines_of(segments(record)[1])[-1].rstrip(b"\n")
    told = cast("JsonObject", json.loads(line))
    head = cast("JsonObject", json.loads((record / "head.json").read_bytes()))
    head |= {"seq": told["seq"], "hash": digest(line), "signature": told["signature"]}
    _ = (record / "head.json").write_bytes(orjson.dumps(head))
    assert "head.json:0: is not signed with this record's key" in said(record.parent)
    _ = (record / "head.json").write_bytes(line)
    assert "head.json:0: is missing, or cannot be read" in said(record.parent)


def test_the_older_format_instead_of_the_chain(record: Path) -> None:
    """A record that shows no change at all is none that is accepted."""
    for path in segments(record):
        lines = [cast("JsonObject", json.loads(line)) for line in lines_of(path)]
        for told in lines:
            del told["prev"]
            told["v"] = 1
        _ = path.write_bytes(b"".join(orjson.dumps(told) + b"\n" for told in lines))
    (record / "head.json").unlink()
    assert "no line of this record is chained" in said(record.parent)


def test_a_line_noted_elsewhere(record: Path) -> None:
    """Who noted a line needs no key to see that it is still the same, or is gone."""
    home, keys = record.parent, keys_of(record.parent)
    seq = 5
    line = [one for path in segments(record) for one in lines_of(path)][seq - 1].rstrip(b"\n")
    assert verify(record, keys, expect=Head(seq, digest(line))).count == 0
    assert verify(record, keys, expect=Head(seq, "0" * 64)).count == 1
    (fault,) = verify(record, keys, expect=Head(10_000, "0" * 64)).faults
    assert fault.file == "--expect"
    assert "it was cut" in fault.what
    assert look(home).count == 0


def test_a_record_behind_one_of_the_older_format(home: Path) -> None:
    """A chain begins behind it, in a file of its own, and says behind which line."""
    (home / "audit").mkdir(mode=0o700)
    old = [b'{"event":"start","seq":1,"v":1}\n', b'{"event":"stop","seq":2,"v":1}\n']
    _ = (home / "audit" / "00000001.jsonl").write_bytes(b"".join(old))
    write(home, days=1)
    report = look(home)
    assert (report.count, report.unchained, report.files) == (0, 2, 2)
    start = cast("JsonObject", json.loads(lines_of(segments(home / "audit")[1])[0]))
    assert (start["event"], start["unchained"], start["seq"]) == ("start", 2, 3)
    # The last one of the older format is held fast by the first one of the chain.
    rewrite(
        segments(home / "audit")[0], lambda lines: lines.__setitem__(1, lines[1][:-2] + b" }\n")
    )
    assert "does not follow" in said(home)


def test_a_record_that_is_being_written(home: Path) -> None:
    """A line that is not whole yet is no fault, and what is not signed yet is counted."""
    log = AuditLog(home / "audit", home / "audit.key", DayClock(), "1")
    for number in range(3):
        log.record(call(number))
    path = segments(home / "audit")[0]
    whole = path.read_bytes()
    report = look(home)
    assert (report.count, report.unsigned) == (0, 3)
    log.close()
    assert look(home).unsigned == 0
    again = AuditLog(home / "audit", home / "audit.key", DayClock(), "1")
    for number in range(3):
        again.record(call(number))
    with path.open("ab") as file:
        _ = file.write(b'{"half":')
    report = look(home)
    assert (report.count, report.unsigned, report.is_growing) == (0, 3, True)
    assert path.read_bytes().startswith(whole)
    again._writer = None  # as after a kill


def test_a_cut_end_is_remembered_by_the_next_start(record: Path) -> None:
    """What the daemon finds gone at its start stays to be told, whatever head it signs later."""
    home = record.parent
    last = segments(record)[-1]
    rewrite(last, lambda lines: lines.__delitem__(slice(2, None)))
    kept = len([line for path in segments(record) for line in lines_of(path)])
    write(home, days=1)
    report = look(home)
    assert report.count >= 1
    assert any("did not hold" in one.what for one in report.faults)
    assert report.last.seq > kept


def test_a_damaged_line_does_not_break_what_follows(record: Path) -> None:
    """Lines behind one that cannot be read are chained to it, so that it is the only fault."""
    home = record.parent
    with segments(record)[-1].open("ab") as file:
        _ = file.write(b"\0\0\0\n")
    write(home, days=1)
    (fault,) = look(home).faults
    assert fault.what == "is no line of a record"


def test_a_new_key_is_published_beside_the_old_one(record: Path) -> None:
    """A record whose key was lost goes on with another, and each line is checked with its own."""
    home = record.parent
    old = read_key_file(record / "audit.pub")
    (home / "audit.key").unlink()
    write(home, days=1)
    both = read_key_file(record / "audit.pub")
    assert len(both) == 2
    assert verify(record, both).count == 0
    assert any("another key" in one.what for one in verify(record, old).faults)


def test_keys_that_are_none(home: Path) -> None:
    """A file that holds no key is refused, not replaced."""
    _ = (home / "audit.key").write_bytes(b"short")
    with pytest.raises(StateCorruptError, match="holds no key of 32 bytes"):
        _ = load_signer(home / "audit.key")
    for text in ("ed25519:AAAA", "rubbish", "ed25519:\u00e4"):
        with pytest.raises(SettingsError, match="a public key of a record is"):
            _ = read_keys(text)
    assert read_keys("# nothing\n\n") == {}
    with pytest.raises(SettingsError, match="cannot be read"):
        _ = read_key_file(home / "missing")
    _ = (home / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="holds no public keys"):
        _ = read_key_file(home / "bytes")


def test_a_copy_elsewhere_is_verified_as_well(record: Path) -> None:
    """Nothing but the files and the key is needed."""
    shutil.copytree(record, record.parent / "copy")
    assert verify(record.parent / "copy", keys_of(record.parent)).count == 0


def test_lines_written_anew_behind_an_older_head(home: Path) -> None:
    """Whoever puts a head of yesterday back cannot write thousands of lines of their own."""
    write(home, days=1)
    record = home / "audit"
    head = (record / "head.json").read_bytes()
    clock = DayClock()
    log = AuditLog(record, home / "audit.key", clock, "1")
    for number in range(3_000):
        log.record(call(number))
    log.close()
    seq = cast("int", cast("JsonObject", json.loads(head))["seq"])

    def keep(told: JsonObject) -> bool:
        return "signature" not in told or cast("int", told["seq"]) <= seq

    chain_anew(record, keep, None)
    _ = (record / "head.json").write_bytes(head)
    (fault,) = look(home).faults
    assert (fault.file, fault.seq) == ("00000001.jsonl", seq + 1)
    assert "have no signature" in fault.what


def test_a_record_in_the_place_of_another_is_told(record: Path) -> None:
    """A record that was put back as it was, or taken away whole, shows at the next start."""
    home = record.parent
    shutil.copytree(record, home / "older")
    write(home, days=1)
    assert look(home).count == 0
    shutil.rmtree(record)
    shutil.copytree(home / "older", record)
    assert look(home).count == 0
    write(home, days=1)
    assert "did not hold" in said(home)

    shutil.rmtree(record)
    write(home, days=1)
    (fault,) = look(home).faults
    assert (fault.file, fault.line) == ("00000001.jsonl", 1)


def test_a_foreign_key_beside_the_lines_is_not_published(record: Path) -> None:
    """Which keys are the record's own is not told by the directory that it lies in."""
    public = record / "audit.pub"
    _ = public.write_bytes(write_keys([FOREIGN.public, *read_key_file(public).values()]))
    write(record.parent, days=1)
    assert list(read_key_file(public)) == list(keys_of(record.parent))
