"""What `agents approvals`, `agents grants` and `agents approvers` can be told."""

from pathlib import Path
from typing import Annotated, Final

import typer

from orchestrator.cli.options import JsonOption, ProjectOption, RoleArgument

approvals = typer.Typer(
    help="See what agents wait for, and say yes or no to it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
grants = typer.Typer(
    help="Approve calls of a tool beforehand, for a time.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
approvers = typer.Typer(
    help="Name the people who may approve; from the first one on nobody else may.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The approval, such as ap-7k3m9q2x.")]
GrantArgument = Annotated[str, typer.Argument(metavar="ID", help="The grant, such as gr-7k3m9q2x.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The person.")]
MaybeRole = Annotated[str | None, typer.Argument(metavar="[ROLE]", help="Only of this role.")]
ReasonOption = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Why; it is recorded, and agents read it.")
]
AsOption = Annotated[
    str | None,
    typer.Option("--as", metavar="NAME", help="Who you are, where approvers are named."),
]
PassphraseOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Holds your passphrase; - is standard input. [default: it is asked]"
    ),
]
YesOption = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not ask; whatever the call is, as it is now.")
]
DigestOption = Annotated[
    str | None,
    typer.Option(metavar="DIGEST", help="Only if it is what `show` showed; asks nothing."),
]
_DECIDE: Final = "ap-7k3m9q2x --as alice --reason 'invoice 17'"


@approvals.command("list", epilog="Example: agents approvals list --all --json")
def list_approvals(
    role: MaybeRole = None,
    *,
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="Those that are over, too.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 100,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """List the calls that wait for a person, the newest first."""
    from orchestrator.cli.approvals import list_all as work

    work(project, role, everything=everything, limit=limit, as_json=json)


@approvals.command("show", epilog="Example: agents approvals show ap-7k3m9q2x")
def show_approval(
    identity: IdArgument, *, project: ProjectOption = None, json: JsonOption = False
) -> None:
    """Show what a call will do, and how it differs from the last one that was approved."""
    from orchestrator.cli.approvals import show as work

    work(project, identity, as_json=json)


@approvals.command("approve", epilog=f"Example: agents approvals approve {_DECIDE}")
def approve(  # noqa: PLR0913  one for each option
    identity: IdArgument,
    *,
    name: AsOption = None,
    passphrase_file: PassphraseOption = None,
    reason: ReasonOption = "",
    digest: DigestOption = None,
    yes: YesOption = False,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Let exactly this call be made, once."""
    from orchestrator.cli.approvals import decide as work
    from orchestrator.cli.approver import Who

    who = Who(name, passphrase_file)
    work(project, identity, "approve", who, reason=reason, digest=digest, yes=yes, as_json=json)


@approvals.command("deny", epilog=f"Example: agents approvals deny {_DECIDE}")
def deny(  # noqa: PLR0913  one for each option
    identity: IdArgument,
    *,
    name: AsOption = None,
    passphrase_file: PassphraseOption = None,
    reason: ReasonOption = "",
    digest: DigestOption = None,
    yes: YesOption = False,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Refuse a call; its agent is told the reason when it makes the call again."""
    from orchestrator.cli.approvals import decide as work
    from orchestrator.cli.approver import Who

    who = Who(name, passphrase_file)
    work(project, identity, "deny", who, reason=reason, digest=digest, yes=yes, as_json=json)


@approvals.command("watch", epilog="Example: agents approvals watch")
def watch(
    role: MaybeRole = None, *, project: ProjectOption = None, json: JsonOption = False
) -> None:
    """Show each call that begins to wait, until Ctrl-C; with --json one line for each."""
    from orchestrator.cli.approvals import watch as work

    work(project, role, as_json=json)


@grants.command("list", epilog="Example: agents grants list executor")
def list_grants(
    role: MaybeRole = None, *, project: ProjectOption = None, json: JsonOption = False
) -> None:
    """List standing grants, the newest first."""
    from orchestrator.cli.grants import list_all as work

    work(project, role, as_json=json)


@grants.command(
    "give",
    epilog="Example: agents grants give executor send_transaction --for 2h --calls 10 "
    "--agent payroll --reason 'monthly payroll'",
)
def give_grant(  # noqa: PLR0913  one for each option
    role: RoleArgument,
    tool: Annotated[str, typer.Argument(metavar="TOOL", help="Name of the tool.")],
    *,
    lasts: Annotated[str, typer.Option("--for", metavar="TIME", help="How long: 30m, 2h; 7d.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is recorded.")],
    calls: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="How many calls. [default: any number]")
    ] = None,
    agent: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this agent's. [default: each agent's]")
    ] = None,
    name: AsOption = None,
    passphrase_file: PassphraseOption = None,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Let calls of a tool be made without asking, whatever their arguments."""
    from orchestrator.cli.approver import Who
    from orchestrator.cli.grants import give as work

    who = Who(name, passphrase_file)
    work(
        project, role, tool, who, lasts=lasts, reason=reason, calls=calls, agent=agent, as_json=json
    )


@grants.command("end", epilog="Example: agents grants end gr-7k3m9q2x")
def end_grant(  # noqa: PLR0913  one for each option
    identity: GrantArgument,
    *,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why; it is recorded.")
    ] = "",
    name: AsOption = None,
    passphrase_file: PassphraseOption = None,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """End a grant; from the next call on people are asked again."""
    from orchestrator.cli.approver import Who
    from orchestrator.cli.grants import end as work

    work(project, identity, Who(name, passphrase_file), reason=reason, as_json=json)


@approvers.command("list", epilog="Example: agents approvers list")
def list_approvers(*, project: ProjectOption = None, json: JsonOption = False) -> None:
    """List the people who may approve."""
    from orchestrator.cli.approvers import list_all as work

    work(project, as_json=json)


@approvers.command("add", epilog="Example: agents approvers add alice --role executor --generate")
def add_approver(  # noqa: PLR0913  one for each option
    person: NameArgument,
    *,
    role: Annotated[
        list[str] | None,
        typer.Option(metavar="ROLE", help="Only for this role; may be repeated. [default: all]"),
    ] = None,
    subject: Annotated[
        str,
        typer.Option(metavar="SUB", help="The person as the agents' identity provider calls them."),
    ] = "",
    generate: Annotated[
        bool, typer.Option("--generate", help="Make a passphrase, and print it once.")
    ] = False,
    new_passphrase_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Holds the passphrase of the new approver."),
    ] = None,
    name: AsOption = None,
    passphrase_file: PassphraseOption = None,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Name a person who may approve; the first one by the operator, others by an approver."""
    from orchestrator.cli.approver import Who
    from orchestrator.cli.approvers import add as work

    who = Who(name, passphrase_file)
    work(
        project,
        person,
        who,
        roles=tuple(role or ()),
        subject=subject,
        generate=generate,
        file=new_passphrase_file,
        as_json=json,
    )


@approvers.command("remove", epilog="Example: agents approvers remove alice --as bob")
def remove_approver(
    person: NameArgument,
    *,
    name: AsOption = None,
    passphrase_file: PassphraseOption = None,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Take an approver's right away, from now on; what they approved stays approved."""
    from orchestrator.cli.approver import Who
    from orchestrator.cli.approvers import remove as work

    work(project, person, Who(name, passphrase_file), as_json=json)
