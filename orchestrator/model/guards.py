"""What is held back, and what was not done because of it: the answers of the control socket."""

from datetime import datetime
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from orchestrator.model.base import Model
from orchestrator.model.names import RoleName, ToolName

# `frozen`: no call; `read-only`: calls of READ tools alone; `disabled`: a tool;
# `shadow`: what changes something is recorded and not done.
HoldKind: TypeAlias = Literal["frozen", "read-only", "disabled", "shadow"]
# Who ends it: an operator, who edits the role file, or whoever closes an incident.
OF_OPERATOR = "operator"
OF_FILE = "file"
OF_INCIDENT = "incident:"


class Hold(Model):
    """One thing that is held back.

    Attributes:
        kind: How.
        role: At which role; None for all.
        tool: Which tool; None for all, of a shadow for all that change something.
        since: From when on; None if the role file says so.
        until: Until when; None for until somebody ends it.
        by: Who said so; empty if the role file says so.
        reason: Why, in words.
        origin: `operator`, `file`, or `incident:ID`.
    """

    kind: HoldKind
    role: RoleName | None
    tool: ToolName | None = None
    since: datetime | None = None
    until: datetime | None = None
    by: str = ""
    reason: str = ""
    origin: str = OF_OPERATOR


Holds = Annotated[tuple[Hold, ...], Field(strict=False)]


class GuardsReport(Model):
    """The answer to `guards`.

    Attributes:
        holds: Everything that is held back, the broadest first.
        problem: Why nobody knows what is held back, so that everything is frozen; empty usually.
    """

    holds: Holds
    problem: str = ""


class GuardChange(Model):
    """The answer to `freeze`, `thaw`, `disable`, `enable`, `shadow.start` and `shadow.stop`.

    Attributes:
        changed: Whether anything is otherwise than before.
        holds: What is held back now of what was meant, also by others than the one who asked.
    """

    changed: bool
    holds: Holds


class ShadowedCall(Model):
    """One call that was not made.

    Attributes:
        time: When it came, UTC.
        role: At which role.
        agent: Whose it was.
        tool: What was called.
        kind: The tool's class.
        request: The request's id, as the agent was told it.
        run: The agent's session or trace; empty if it told none.
        arguments_sha256: Names the arguments.
        summary: The arguments without what may be secret; empty if nothing can be said of them.
        receipt: What would have happened, in words; empty where the server file has no template.
    """

    time: str
    role: str
    agent: str
    tool: str
    kind: str
    request: str
    run: str = ""
    arguments_sha256: str
    summary: str = ""
    receipt: str = ""


class ShadowedTool(Model):
    """What would have happened with one tool at one role.

    Attributes:
        role: The role.
        tool: The tool.
        kind: The tool's class.
        calls: How many calls were not made.
        different: How many different ones these were, by their arguments.
        agents: Who made them.
        first: When the first of them came.
        last: When the last of them came.
    """

    role: str
    tool: str
    kind: str
    calls: int
    different: int
    agents: Annotated[tuple[str, ...], Field(strict=False)]
    first: str
    last: str


class ShadowReport(Model):
    """The answer to `shadow.report`.

    Attributes:
        since: From when on, UTC; None for as far as the record goes back.
        running: Shadows that are on now.
        tools: All calls that were not made, counted.
        calls: The newest of them, the newest first.
        omitted: How many older ones are left out of `calls`.
    """

    since: str | None
    running: Holds
    tools: Annotated[tuple[ShadowedTool, ...], Field(strict=False)]
    calls: Annotated[tuple[ShadowedCall, ...], Field(strict=False)]
    omitted: int = 0
