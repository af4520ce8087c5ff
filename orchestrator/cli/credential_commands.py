"""What the commands that replace and end credentials can be told."""

from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from orchestrator.cli.options import JsonOption, ProjectOption, RoleArgument
from orchestrator.cli.rotate_group import START, RotateGroup

rotations = typer.Typer(
    cls=RotateGroup,
    help="Replace credentials before they grow old, without dropping a call. The first word may be "
    "a subcommand; else it is a role, and `agents rotate ROLE` is short for `agents rotate start "
    "ROLE`. An agent that gets its token by hand is rotated only if --agent names it.",
    epilog="Examples: agents rotate --due; agents rotate treasury --purpose upstream; "
    "agents rotate treasury --agent alice; agents rotate --dry-run --json. "
    "Exit status: 9 if one was not replaced, 12 if one waits for a person.",
    subcommand_metavar="[ROLE]... | COMMAND [ARGS]...",
    options_metavar="[OPTIONS]",
    rich_markup_mode=None,
)
schedules = typer.Typer(
    help="Have `agents rotate --due` run every day.", no_args_is_help=True, rich_markup_mode=None
)
RotationArgument = Annotated[
    str, typer.Argument(metavar="ID", help="The rotation; see `agents rotate status`.")
]


@rotations.command(
    START, epilog="Example: agents rotate start treasury --reason 'a laptop is gone'"
)
def rotate_start(  # noqa: PLR0913  one for each option
    roles: Annotated[
        list[str] | None, typer.Argument(metavar="ROLE", help="The roles; by default all.")
    ] = None,
    *,
    due: Annotated[bool, typer.Option("--due", help="Only what is due.")] = False,
    purpose: Annotated[
        Literal["agent", "upstream"] | None,
        typer.Option(
            metavar="WHICH",
            help="agent: tokens for the gateway; upstream: what servers show others. "
            "[default: both]",
        ),
    ] = None,
    agent: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this agent's token.")
    ] = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is kept.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would be done, and do nothing.")
    ] = False,
    compose: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="In a stack of Docker Compose: give servers what their secrets are by now, or "
            "with --agent replace that token.",
        ),
    ] = None,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Replace credentials now, one after the other, from the least to the most powerful role."""
    if compose is not None:
        if due or dry_run or reason or purpose:
            raise typer.BadParameter("--compose goes with roles, --agent and --json only")
        from orchestrator.cli.stack_rotate import rotate_stack, rotate_token

        if agent is not None:
            rotate_token(compose, tuple(roles or ()), agent)
        rotate_stack(project, compose, tuple(roles or ()), as_json=json)
        return
    from orchestrator.cli.rotate import rotate as work

    work(
        project,
        tuple(roles or ()),
        purpose=purpose,
        agent=agent,
        due=due,
        dry_run=dry_run,
        reason=reason,
        as_json=json,
    )


@rotations.command(
    "status", epilog="Examples: agents rotate status; agents rotate status 4f0c9a1b22de"
)
def rotate_status(
    name: Annotated[
        str | None, typer.Argument(metavar="ID|ROLE", help="One rotation, or one role.")
    ] = None,
    *,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Show how old credentials are, when they are due, and how rotations went."""
    from orchestrator.cli.rotate_status import status as work

    work(project, name, as_json=json)


@rotations.command("resume", epilog="Example: agents rotate resume 4f0c9a1b22de")
def rotate_resume(
    rotation: RotationArgument, *, project: ProjectOption = None, json: JsonOption = False
) -> None:
    """Let a held rotation go on from where it was."""
    from orchestrator.cli.rotate import act as work

    work(project, rotation, "resume", as_json=json)


@rotations.command("abort", epilog="Example: agents rotate abort 4f0c9a1b22de")
def rotate_abort(
    rotation: RotationArgument, *, project: ProjectOption = None, json: JsonOption = False
) -> None:
    """Take a rotation back: the old credential goes on working, the new one is ended."""
    from orchestrator.cli.rotate import act as work

    work(project, rotation, "abort", as_json=json)


@rotations.command("approve-revoke", epilog="Example: agents rotate approve-revoke 4f0c9a1b22de")
def rotate_approve_revoke(
    rotation: RotationArgument, *, project: ProjectOption = None, json: JsonOption = False
) -> None:
    """Say that you ended the old credential yourself, where no program can; kept as your word."""
    from orchestrator.cli.rotate import act as work

    work(project, rotation, "approve-revoke", as_json=json)


@rotations.command("provide", epilog="Example: agents rotate provide 4f0c9a1b22de < new-key.txt")
def rotate_provide(
    rotation: RotationArgument, *, project: ProjectOption = None, json: JsonOption = False
) -> None:
    """Hand over a new credential that you made: from standard input, or from a hidden prompt."""
    from orchestrator.cli.agentsd import close_to_others
    from orchestrator.cli.rotate import provide as work

    close_to_others()
    work(project, rotation, as_json=json)


# In an emergency.

REVOKE_ALL_EXAMPLES: Final = (
    "Examples: agents revoke-all treasury --reason 'key on a public page'; "
    "agents revoke-all --everything --reason drill --yes"
)
REOPEN_EXAMPLE: Final = "Example: agents reopen treasury"


def revoke_all(  # noqa: PLR0913  one for each option
    roles: Annotated[list[str] | None, typer.Argument(metavar="ROLE", help="The roles.")] = None,
    *,
    everything: Annotated[bool, typer.Option("--everything", help="Every role.")] = False,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is kept.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """End every credential of roles at once, cut their calls, and keep them down."""
    from orchestrator.cli.revoke_all import revoke_all as work

    given = tuple(roles or ())
    work(project, given, everything=everything, reason=reason, yes=yes, as_json=json)


def reopen(role: RoleArgument, *, project: ProjectOption = None, json: JsonOption = False) -> None:
    """Let a role run again after `agents revoke-all`, with fresh credentials."""
    from orchestrator.cli.revoke_all import reopen as work

    work(project, role, as_json=json)


# Every day.


@schedules.command(
    "install",
    epilog="Examples: agents schedule install; agents schedule install --cron; "
    "agents schedule install --system --print",
)
def schedule_install(  # noqa: PLR0913  one for each option
    *,
    systemd: Annotated[bool, typer.Option("--systemd", help="By a timer. [default]")] = False,
    cron: Annotated[bool, typer.Option("--cron", help="By a line of a crontab.")] = False,
    user: Annotated[
        bool, typer.Option("--user", help="As this user's own. [default, unless root]")
    ] = False,
    system: Annotated[
        bool,
        typer.Option("--system", help="As the machine's, run as the project's owner; needs root."),
    ] = False,
    only_print: Annotated[
        bool, typer.Option("--print", help="Print what would be written, and write nothing.")
    ] = False,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Write down a daily `agents rotate --due` and switch it on; again brings it up to date."""
    if (systemd and cron) or (user and system):
        raise typer.BadParameter("take one of --systemd and --cron, and one of --user and --system")
    from orchestrator.cli.schedule import install as work

    is_system = system if system or user else None
    work(project, by_cron=cron, is_system=is_system, only_print=only_print, as_json=json)


@schedules.command("remove", epilog="Example: agents schedule remove")
def schedule_remove(*, project: ProjectOption = None, json: JsonOption = False) -> None:
    """Take away what `agents schedule install` wrote for this project, and nothing else."""
    from orchestrator.cli.schedule import remove as work

    work(project, as_json=json)


@schedules.command("status", epilog="Example: agents schedule status --json")
def schedule_status(*, project: ProjectOption = None, json: JsonOption = False) -> None:
    """Show what is installed for this project, when it runs next, and how it went last."""
    from orchestrator.cli.schedule import status as work

    work(project, as_json=json)
