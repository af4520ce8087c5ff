"""`agents audit verify` and `key`: whether the record is as it was written."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.cli.output import paint, say, say_json
from orchestrator.cli.places import find_paths
from orchestrator.errors import NotRunningError, RecordChangedError, SettingsError
from orchestrator.model.text import visible

if TYPE_CHECKING:
    from orchestrator.audit.chain import Head
    from orchestrator.audit.keys import Keys
    from orchestrator.audit.verify import Report

_HEAD: Final = re.compile(r"([0-9]{1,18}):([0-9a-f]{64})")
_ATTEMPTS: Final = 3


def verify(
    project: Path | None,
    directory: Path | None,
    key: str | None,
    expect: str | None,
    *,
    as_json: bool,
) -> None:
    """Verify a record, and tell what was found.

    Raises:
        NotRunningError: There is no record.
        RecordChangedError: It is not as it was written.
        SettingsError: An option cannot be understood, or a file cannot be read.
    """
    from orchestrator.audit.chain import beside_key, read_head

    head, source, is_given = (None if expect is None else _read_head(expect)), "--expect", bool(key)
    if directory is not None:
        place, keys = directory, _read_keys(directory, key)
    else:
        paths = find_paths(project)
        # What is kept beside the key that signs, nobody changes who can write the record alone.
        kept_head, kept_keys = beside_key(paths.audit_key)
        place = paths.audit
        keys = _read_keys(place, str(kept_keys) if key is None and kept_keys.exists() else key)
        if head is None:
            found, is_signed = read_head(kept_head, keys)
            head, source = (found if is_signed else None), kept_head.name
    report = _look(place, keys, head, source)
    if as_json:
        say_json(_as_json(report, keys))
    else:
        _tell(report, keys, is_given=is_given)
    if report.count:
        raise RecordChangedError(
            f"the record in {place} is not as it was written: {report.count} "
            f"{'fault' if report.count == 1 else 'faults'}",
            hint="Keep the directory as it is for whoever looks into it; compare it with a copy.",
        )


def _look(place: Path, keys: "Keys", head: "Head | None", source: str) -> "Report":
    from orchestrator.audit.verify import verify as work

    for attempt in range(_ATTEMPTS):
        try:
            report = work(place, keys, expect=head, source=source)
        except FileNotFoundError as error:
            # Files that are too old may be removed meanwhile.
            if attempt == _ATTEMPTS - 1:
                raise SettingsError(f"a file of {place} is gone") from error
        except OSError as error:
            raise SettingsError(f"{place} cannot be read: {error.strerror}") from error
        else:
            if report.lines or report.count:
                return report
            break
    raise NotRunningError(
        f"{place} holds no record", hint="It begins with `agents up`; or name its directory."
    )


def _read_head(text: str) -> "Head":
    from orchestrator.audit.chain import Head

    match = _HEAD.fullmatch(text.strip())
    if match is None:
        raise SettingsError(
            "--expect: a line is its number, a colon and 64 hexadecimal digits",
            hint="`agents audit verify` prints the last one.",
        )
    return Head(int(match[1]), match[2])


def _read_keys(place: Path, key: str | None) -> "Keys":
    from orchestrator.audit.chain import PUBLIC
    from orchestrator.audit.keys import read_key_file, read_keys

    if key is None:
        own = place / PUBLIC
        keys = read_key_file(own) if own.exists() else {}
    elif key.startswith("ed25519:"):
        keys = read_keys(key)
    else:
        keys = read_key_file(Path(key))
    if key is not None and not keys:
        raise SettingsError(f"{key} holds no public key", hint="`agents audit key` prints it.")
    return keys


def _tell(report: "Report", keys: "Keys", *, is_given: bool) -> None:
    for fault in report.faults:
        where = f"{fault.file}:{fault.line}" if fault.line else fault.file
        number = f" (line {fault.seq})" if fault.seq else ""
        say(paint(visible(f"{where}{number}: {fault.what}", keep=""), "red"))
    if report.count > len(report.faults):
        say(f"... and {report.count - len(report.faults)} more")
    since, until = (text[:19].replace("T", " ") for text in (report.since, report.until))
    said = "CHANGED" if report.count else "as it was written"
    files = "1 file" if report.files == 1 else f"{report.files} files"
    whole = f"{report.lines} lines in {files}, {since} to {until} UTC: {said}"
    say(paint(visible(whole, keep=""), "red" if report.count else "green"))
    if report.removed:
        say(f"Lines up to {report.removed} were removed because of their age, as signed lines say.")
    if report.unchained:
        say(f"{report.unchained} lines are of an older format, in which a change does not show.")
    say(f"Signatures: {report.signed}; lines that are newer than the last one: {report.unsigned}.")
    for key in keys.values():
        say(f"Key {key.id}: {key.text}")
    if not is_given:
        say("That key lies on this machine: to be sure, give the one that you keep, with --key.")
    say(f"Last line, to note elsewhere: {report.last}")


def _as_json(report: "Report", keys: "Keys") -> object:
    return {
        "ok": report.count == 0,
        "files": report.files,
        "lines": report.lines,
        "first": report.first,
        "last": {"seq": report.last.seq, "hash": report.last.hash},
        "since": report.since,
        "until": report.until,
        "signatures": report.signed,
        "unsigned": report.unsigned,
        "unchained": report.unchained,
        "removed": report.removed,
        "growing": report.is_growing,
        "keys": [key.text for key in keys.values()],
        "count": report.count,
        "faults": [
            {"file": one.file, "line": one.line, "seq": one.seq, "what": one.what}
            for one in report.faults
        ],
    }


def key(project: Path | None, *, as_json: bool) -> None:
    """Print the public key, the newest one last.

    Raises:
        NotRunningError: There is none yet.
    """
    from orchestrator.audit.chain import PUBLIC, beside_key
    from orchestrator.audit.keys import read_key_file

    paths = find_paths(project)
    path = beside_key(paths.audit_key)[1]
    if not path.exists():
        path = paths.audit / PUBLIC
    if not path.exists():
        raise NotRunningError("nothing is recorded yet", hint="Start with `agents up`.")
    keys = tuple(read_key_file(path).values())
    if as_json:
        say_json([{"id": one.id, "key": one.text} for one in keys])
        return
    for one in keys:
        say(f"{one.text} # {one.id}")
