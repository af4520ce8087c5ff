"""Takes what is held out of what the gateway serves, and tells a person about it; pure."""

from dataclasses import replace

from orchestrator.control.pins import Held
from orchestrator.model.snapshot import Route, TargetRef
from orchestrator.model.status import RoleStatus
from orchestrator.model.workload import Phase, WorkloadSpec


def release(route: Route, held: Held) -> Route:
    """Cut a route to what is not held: held tools are neither shown nor called."""
    if not held:
        return route
    names = set(held.tools)
    tools = tuple(tool for tool in route.tools if tool["name"] not in names)
    if not held.instructions:
        return replace(route, tools=tools)
    return replace(
        route,
        tools=tools,
        target=None if route.target is None else _mute(route.target),
        lanes=tuple(map(_mute, route.lanes)),
    )


def _mute(ref: TargetRef) -> TargetRef:
    return replace(ref, instructions="")


def tell(status: RoleStatus, spec: WorkloadSpec, held: Held) -> RoleStatus:
    """Say in a role's status what is held, and of which class each promised tool is."""
    news: dict[str, object] = {"classes": dict(spec.tools)}
    if held and status.state is Phase.READY:
        news["tools"] = tuple(name for name in status.tools if name not in held.tools)
        news["held"] = held.tools
        news["detail"] = f"{_count(held)}; see `agents pins diff {status.role}`"
    return status.model_copy(update=news)


def _count(held: Held) -> str:
    """Say what is held in a few words."""
    number, parts = len(held.tools), list[str]()
    if number:
        parts.append(f"{number} tool{'s' if number > 1 else ''} held: {', '.join(held.tools)}")
    if held.instructions:
        parts.append("its instructions are held" if not number else "and its instructions")
    return " ".join(parts)
