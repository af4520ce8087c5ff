"""What sets a call apart from the last one that was approved."""

import difflib
from collections.abc import Iterator

from orchestrator.approvals.describe import iso
from orchestrator.model.approval import Approval
from orchestrator.model.base import Json, JsonObject


def differences(before: Approval, after: Approval) -> JsonObject:
    """Tell how a call differs from an earlier one, as `describe` says."""
    decided = before.decided_at or before.created_at
    changes: list[Json] = []
    if before.arguments is not None and after.arguments is not None:
        changes = [*_changes(before.arguments, after.arguments, "")]
    return {
        "against": before.id,
        "decided_at": iso(decided),
        "receipt": [*_lines(before.receipt, after.receipt)],
        "arguments": changes,
    }


def _lines(before: str, after: str) -> Iterator[str]:
    # Not `ndiff`, which looks into lines that are alike: an agent can make that take minutes.
    old, new = before.splitlines(), after.splitlines()
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for tag, first, last, begin, end in matcher.get_opcodes():
        if tag == "equal":
            yield from (f"  {line}" for line in old[first:last])
        else:
            yield from (f"- {line}" for line in old[first:last])
            yield from (f"+ {line}" for line in new[begin:end])


def _changes(before: JsonObject, after: JsonObject, inside: str) -> Iterator[JsonObject]:
    for name in [*before, *(name for name in after if name not in before)]:
        place = f"{inside}.{name}" if inside else name
        old, new = before.get(name), after.get(name)
        if name not in after:
            yield {"place": place, "before": old, "after": None, "kind": "removed"}
        elif name not in before:
            yield {"place": place, "before": None, "after": new, "kind": "added"}
        elif isinstance(old, dict) and isinstance(new, dict):
            yield from _changes(old, new, place)
        elif old != new:
            yield {"place": place, "before": old, "after": new, "kind": "changed"}
