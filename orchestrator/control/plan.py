"""The difference between what should run and what does, as ordered actions; pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from orchestrator.model.names import RoleName
from orchestrator.model.workload import WorkloadSpec

# Given by the control plane itself.
_OWN: Final = frozenset({"generation", "part", "credential"})
_OF_NO_PROCESS: Final = frozenset({"policy", "rotation"})


@dataclass(frozen=True, slots=True)
class Start:
    """Run a role that did not run."""

    role: RoleName
    spec: WorkloadSpec
    verb: Literal["start"] = "start"


@dataclass(frozen=True, slots=True)
class Update:
    """Decide a role's calls by another policy, replace its credentials by other rules.

    Its processes stay.
    """

    role: RoleName
    spec: WorkloadSpec
    changes: tuple[str, ...] = ("policy",)
    verb: Literal["update"] = "update"


@dataclass(frozen=True, slots=True)
class Replace:
    """Run a changed role beside the old one, then switch."""

    role: RoleName
    spec: WorkloadSpec
    changes: tuple[str, ...]
    verb: Literal["replace"] = "replace"


@dataclass(frozen=True, slots=True)
class Remove:
    """Stop a role that should not run."""

    role: RoleName
    verb: Literal["remove"] = "remove"


Action: TypeAlias = Start | Update | Replace | Remove


def changes(old: WorkloadSpec, new: WorkloadSpec) -> tuple[str, ...]:
    """Name what differs between two specs, in the model's order.

    Returns:
        Names of fields. A policy counts as two: `asks`, of which processes are told when they are
        opened, and `policy` for all the rest, which is no concern of theirs.
    """
    found = [
        name
        for name in WorkloadSpec.model_fields
        if name not in _OWN and name != "policy" and getattr(old, name) != getattr(new, name)
    ]
    if old.policy.asks != new.policy.asks:
        found.append("asks")
    if old.policy != new.policy.model_copy(update={"asks": old.policy.asks}):
        found.append("policy")
    return tuple(found)


def plan(
    desired: Mapping[RoleName, WorkloadSpec], current: Mapping[RoleName, WorkloadSpec]
) -> tuple[Action, ...]:
    """Tell what has to be done, in order: starts, updates and replacements by name, then removals.

    Args:
        desired: What should run; generations are not looked at.
        current: What runs.

    Returns:
        The actions; empty when nothing has to change.
    """
    actions: list[Action] = []
    for role in sorted(desired):
        spec = desired[role]
        old = current.get(role)
        if old is None:
            actions.append(Start(role, spec))
            continue
        different = changes(old, spec)
        if different and _OF_NO_PROCESS.issuperset(different):
            actions.append(Update(role, spec, different))
        elif different:
            actions.append(Replace(role, spec, different))
    actions.extend(Remove(role) for role in sorted(current) if role not in desired)
    return tuple(actions)
