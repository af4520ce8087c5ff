"""The difference between what should run and what does, as ordered actions; pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from orchestrator.model.names import RoleName
from orchestrator.model.workload import WorkloadSpec


@dataclass(frozen=True, slots=True)
class Start:
    """Run a role that did not run."""

    role: RoleName
    spec: WorkloadSpec
    verb: Literal["start"] = "start"


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


Action: TypeAlias = Start | Replace | Remove


def changes(old: WorkloadSpec, new: WorkloadSpec) -> tuple[str, ...]:
    """Name the fields in which two specs differ, generation aside, in the model's order."""
    return tuple(
        name
        for name in WorkloadSpec.model_fields
        if name != "generation" and getattr(old, name) != getattr(new, name)
    )


def plan(
    desired: Mapping[RoleName, WorkloadSpec], current: Mapping[RoleName, WorkloadSpec]
) -> tuple[Action, ...]:
    """Tell what has to be done, in order: starts and replacements by name, then removals.

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
        elif different := changes(old, spec):
            actions.append(Replace(role, spec, different))
    actions.extend(Remove(role) for role in sorted(current) if role not in desired)
    return tuple(actions)
