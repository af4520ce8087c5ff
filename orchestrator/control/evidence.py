"""What the record says of a role, copied for whoever looks into an incident."""

import hashlib
import json
import os
from pathlib import Path
from typing import Final

from orchestrator.audit import reader
from orchestrator.files import (
    PRIVATE_FILE,
    make_private_directory,
    sync_directory,
    write_atomically,
)
from orchestrator.model.names import RoleName

FILE: Final = "record.jsonl"
MANIFEST: Final = "manifest.json"


def copy_record(record: Path, role: RoleName, folder: Path) -> dict[str, str | int | bool]:
    """Copy every line about a role, as it is; blocks.

    A second time replaces what the first one left.

    Args:
        record: The directory of the record.
        role: The role.
        folder: Where the copy goes: `record.jsonl`, and `manifest.json` with what names it.

    Returns:
        The file, how many lines it has, and its SHA-256.

    Raises:
        OSError: It cannot be read or written.
    """
    make_private_directory(folder)
    path, part = folder / FILE, folder / f".{FILE}.part"
    # Most lines are of other roles, and reading all of them as JSON takes ten times as long.
    mark = b'"role":"%b"' % role.encode()
    count, digest = 0, hashlib.sha256()
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(part, flags, PRIVATE_FILE), "wb") as file:
        for line in reader.since(record, ""):
            if mark not in line:
                continue
            told = reader.parse(line)
            if told is None or told.get("role") != role:
                continue
            whole = line + b"\n"
            _ = file.write(whole)
            digest.update(whole)
            count += 1
        file.flush()
        os.fsync(file.fileno())
    _ = part.replace(path)
    sync_directory(folder)
    facts: dict[str, str | int | bool] = {
        "file": str(path),
        "lines": count,
        "sha256": digest.hexdigest(),
    }
    write_atomically(folder / MANIFEST, json.dumps(facts, indent=2).encode() + b"\n")
    return facts
