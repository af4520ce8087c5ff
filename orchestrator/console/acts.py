"""What a person can have done from the console, as data: each is asked once more before it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Act:
    """One thing that can be done.

    Attributes:
        title: What the button says; `{what}` is what it is about.
        consequence: What follows from it, in words.
        done: What is said when it was done.
        takes: Fields that name what it is about; those that end with `?` may be empty.
        asks: Fields that the person fills in beside the reason: `read_only`, `lasts`.
        needs_reason: Whether it is not done without a reason.
        is_grave: Whether it cannot be undone with a click.
    """

    title: str
    consequence: str
    done: str
    takes: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()
    needs_reason: bool = False
    is_grave: bool = False


ACTS: Final[Mapping[str, Act]] = {
    "freeze": Act(
        "Freeze {what}",
        "From the next call on, agents of {what} are refused. Calls under way end by themselves. "
        "It stays so, also over a restart, until somebody thaws it.",
        "{what} is frozen.",
        takes=("role?",),
        asks=("read_only",),
    ),
    "thaw": Act(
        "Thaw {what}",
        "Agents of {what} may call again what the role file allows.",
        "{what} is no longer frozen.",
        takes=("role?",),
    ),
    "disable": Act(
        "Disable {what}",
        "From the next call on, {what} is refused. It stays in the lists of tools.",
        "{what} is disabled.",
        takes=("tool", "role?"),
    ),
    "enable": Act(
        "Enable {what}",
        "Agents may call {what} again.",
        "{what} may be called again.",
        takes=("tool", "role?"),
    ),
    "shadow.start": Act(
        "Put {what} into shadow",
        "Calls that would change something are recorded and not made; agents are told so. "
        "Calls that only read go on.",
        "{what} is in shadow.",
        takes=("role", "tool?"),
        asks=("lasts",),
    ),
    "shadow.stop": Act(
        "End the shadow of {what}",
        "Calls that change something are made again.",
        "Calls of {what} are made again.",
        takes=("role", "tool?"),
    ),
    "incident.start": Act(
        "Start an incident for {what}",
        "At once: {what} is frozen, its tokens are revoked, what it has open is cut, its record is "
        "exported, and its owner is told.",
        "An incident is open for {what}.",
        takes=("role",),
        needs_reason=True,
        is_grave=True,
    ),
    "incident.close": Act(
        "Close incident {what}",
        "What may be undone is undone, each step checked: the workstation's token is made anew, "
        "and the role is thawed. What stays revoked is told.",
        "Incident {what} is closed.",
        takes=("id",),
    ),
    "rotation.resume": Act(
        "Go on with rotation {what}",
        "What it waited for is taken as done, and it goes on from there.",
        "Rotation {what} goes on.",
        takes=("id",),
    ),
    "rotation.abort": Act(
        "Take rotation {what} back",
        "The old credential stays; the new one is ended.",
        "Rotation {what} is taken back.",
        takes=("id",),
    ),
    "rotation.approve-revoke": Act(
        "Say that the old credential of {what} is dead",
        "You vouch that the old credential is refused by whoever issued it. Its text is dropped.",
        "It is written down that the old credential of {what} is dead.",
        takes=("id",),
        is_grave=True,
    ),
}


def about(values: Mapping[str, str]) -> str:
    """Name what an act is about, from its fields."""
    role, tool = values.get("role", ""), values.get("tool", "")
    if tool:
        return f"{tool} at {role}" if role else f"{tool} everywhere"
    return role or values.get("id", "") or "every role"
