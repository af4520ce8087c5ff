"""What the commands that hold things back can be told."""

from typing import Annotated, Final

import typer

from orchestrator.cli.options import JsonOption, ProjectOption, RoleArgument

shadows = typer.Typer(
    help="Record calls that change something, and make none of them, for a time.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is recorded.")]
MaybeRole = Annotated[
    str | None, typer.Argument(metavar="[ROLE]", help="Name of the role; by default all.")
]
RoleOption = Annotated[
    str | None, typer.Option("--role", metavar="ROLE", help="Only at this role. [default: all]")
]
ToolArgument = Annotated[str, typer.Argument(metavar="TOOL", help="Name of the tool.")]
ToolOption = Annotated[
    str | None,
    typer.Option("--tool", metavar="TOOL", help="One tool. [default: all that change something]"),
]
FREEZE_EXAMPLES: Final = (
    "Examples: agents freeze treasury --reason 'odd transfers'; agents freeze --read-only. "
    "It holds over restarts, until `agents thaw`. `agents guards` lists what is held back."
)


def freeze(
    role: MaybeRole = None,
    *,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Let calls of READ tools through.")
    ] = False,
    reason: ReasonOption = "",
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Refuse every call of a role, or of all roles, from the next one on."""
    from orchestrator.cli.freeze import freeze as work

    work(project, role, read_only=read_only, reason=reason, as_json=json)


def thaw(
    role: MaybeRole = None,
    *,
    reason: ReasonOption = "",
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """End a freeze: that of one role, or the one of all roles."""
    from orchestrator.cli.freeze import thaw as work

    work(project, role, reason=reason, as_json=json)


def disable(
    tool: ToolArgument,
    *,
    role: RoleOption = None,
    reason: ReasonOption = "",
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Refuse every call of a tool, from the next one on; agents still see it."""
    from orchestrator.cli.freeze import disable as work

    work(project, tool, role, reason=reason, as_json=json)


def enable(
    tool: ToolArgument,
    *,
    role: RoleOption = None,
    reason: ReasonOption = "",
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Allow calls of a disabled tool again."""
    from orchestrator.cli.freeze import enable as work

    work(project, tool, role, reason=reason, as_json=json)


def guards(*, project: ProjectOption = None, json: JsonOption = False) -> None:
    """List what is held back: frozen roles, disabled tools, shadows."""
    from orchestrator.cli.freeze import guards as work

    work(project, as_json=json)


@shadows.command("start", epilog="Example: agents shadow start treasury --for 24h")
def shadow_start(  # noqa: PLR0913  one for each option
    role: RoleArgument,
    *,
    lasts: Annotated[
        str, typer.Option("--for", metavar="TIME", help="For how long: 1h, 24h, 7d; at most 90d.")
    ],
    tool: ToolOption = None,
    reason: ReasonOption = "",
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Record a role's calls from now on, and make none of them."""
    from orchestrator.cli.shadow import start as work

    work(project, role, tool, lasts, reason=reason, as_json=json)


@shadows.command("stop", epilog="Example: agents shadow stop treasury")
def shadow_stop(
    role: RoleArgument,
    *,
    tool: ToolOption = None,
    reason: ReasonOption = "",
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Have a role's calls made again."""
    from orchestrator.cli.shadow import stop as work

    work(project, role, tool, reason=reason, as_json=json)


@shadows.command("report", epilog="Example: agents shadow report treasury --since 24h")
def shadow_report(
    role: MaybeRole = None,
    *,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only so far back: 10m, 24h, 7d.")
    ] = None,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Show what would have happened."""
    from orchestrator.cli.shadow import report as work

    work(project, role, since, as_json=json)


incidents = typer.Typer(
    help="Stop a role at once, keep what it did for whoever looks into it, and undo that later.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
notices = typer.Typer(
    help="Tell people: the targets under `notify:` in agents.yaml.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
IncidentArgument = Annotated[
    str, typer.Argument(metavar="ID", help="The incident; see `agents incident list`.")
]


@incidents.command(
    "start", epilog="Example: agents incident start treasury --reason 'transfers nobody asked for'"
)
def incident_start(
    role: RoleArgument,
    *,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="What is wrong; it is told to people.")
    ],
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Freeze a role, revoke its tokens, cut its streams, copy its record, tell its owner."""
    from orchestrator.cli.incident import start as work

    work(project, role, reason=reason, as_json=json)


@incidents.command(
    "close", epilog="Example: agents incident close inc-20261105-3f9a1c --reason 'key replaced'"
)
def incident_close(
    incident: IncidentArgument,
    *,
    reason: ReasonOption = "",
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Undo what may be undone, and tell what may not."""
    from orchestrator.cli.incident import close as work

    work(project, incident, reason=reason, as_json=json)


@incidents.command("list", epilog="Example: agents incident list --json")
def incident_list(*, project: ProjectOption = None, json: JsonOption = False) -> None:
    """List incidents, the newest first."""
    from orchestrator.cli.incident import list_all as work

    work(project, as_json=json)


@incidents.command("show", epilog="Example: agents incident show inc-20261105-3f9a1c")
def incident_show(
    incident: IncidentArgument, *, project: ProjectOption = None, json: JsonOption = False
) -> None:
    """Show an incident with all its steps and their times."""
    from orchestrator.cli.incident import show as work

    work(project, incident, as_json=json)


@notices.command("test", epilog="Example: agents notify test ops")
def notify_test(
    target: Annotated[
        str | None, typer.Argument(metavar="[TARGET]", help="Name of one; by default all.")
    ] = None,
    *,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Send a test message; exits with 7 if a target did not take it."""
    from orchestrator.cli.notify import test as work

    work(project, target, as_json=json)
