"""Asks SecretSpec for one secret; `orchestrator.secrets.secretspec` runs it.

stdin: `{"file", "name", "profile", "scope"}`. stdout: `{"value"}` or `{"problem"}`. What the
library says in its errors is kept to itself, but for the kind of the error.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO, cast

if TYPE_CHECKING:
    from secretspec import Report

_KIND: Final = re.compile(r"[a-z_]{1,40}")
_REASON: Final = "Bandmaster starts the server of a role"
_NO_AUDIT: Final = "\n[audit]\nenabled = false\n"

Answer = dict[str, str | list[str]]


def _ask(request: Mapping[str, str]) -> Answer:
    try:
        import secretspec  # noqa: PLC0415  its absence is an answer
    except ImportError:
        return {"problem": "library"}
    builder = (
        secretspec.SecretSpec.builder()
        .with_path(request["file"])
        .with_profile(request["profile"] or None)
        .with_scope(request["scope"] or None)
        .with_reason(_REASON)
        .with_caller(secretspec.CallerContext("bandmaster"))
    )
    try:
        # Without values: resolving writes some secrets into files, and fails if any is missing.
        if problem := _problem(request["name"], builder.report()):
            return problem
        secret = builder.load().secrets[request["name"]]
    except secretspec.SecretSpecError as error:
        return {"problem": "failed", "kind": error.kind if _KIND.fullmatch(error.kind) else ""}
    if secret.source == "default":
        return {"problem": "default"}
    return {"problem": "missing"} if secret.value is None else {"value": secret.value}


def _problem(name: str, report: Report) -> Answer | None:
    """Tell why a secret cannot be had, None if it can."""
    found = {each.name: each for each in report.secrets}
    if name not in found:
        return {"problem": "unknown"}
    if files := [each.name for each in found.values() if each.as_path]:
        return {"problem": "files", "names": files}
    if found[name].default_applied:
        return {"problem": "default"}
    if found[name].status != "resolved":
        return {"problem": "missing"}
    others = [each.name for each in found.values() if each.status == "missing_required"]
    return {"problem": "others", "names": others} if others else None


def _without_audit(place: Path) -> None:
    """Have SecretSpec read the user's settings, and record nothing unless they say it should.

    By default it writes a file into the user's state directory and tells so on stderr.
    """
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    try:
        text = (home / "secretspec/config.toml").read_text(encoding="utf-8")
    except OSError:
        text = ""
    if "audit" in tomllib.loads(text):
        return
    (place / "secretspec").mkdir(mode=0o700)
    _ = (place / "secretspec/config.toml").write_text(text + _NO_AUDIT, encoding="utf-8")
    os.environ["XDG_CONFIG_HOME"] = str(place)


def main(answer_to: TextIO) -> None:
    """Answer the one question on stdin."""
    request = cast("dict[str, str]", json.load(sys.stdin))
    answer: Answer
    with tempfile.TemporaryDirectory(prefix="bm-") as place:
        try:
            _without_audit(Path(place))
            answer = _ask(request)
        except Exception:  # noqa: BLE001  whatever it is, its text could hold a secret
            answer = {"problem": "failed", "kind": ""}
    json.dump(answer, answer_to)
    answer_to.flush()


if __name__ == "__main__":
    # What libraries print goes nowhere.
    _out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    _null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(_null, 1)
    os.dup2(_null, 2)
    main(_out)
