"""The `agents audit` commands: what they can be told."""

from pathlib import Path
from typing import Annotated, Final

import typer

from orchestrator.cli.options import JsonOption, ProjectOption

audit = typer.Typer(
    help="Prove, read and export the record: every call, decision, approval and change.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
RoleOption = Annotated[str, typer.Option("--role", metavar="ROLE", help="Of one role only.")]
SinceOption = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="From then on: 1h, 2d, 2026-11-20, or a time."),
]
UntilOption = Annotated[
    str | None, typer.Option("--until", metavar="TIME", help="Up to then, a day included.")
]
_SEARCH: Final = (
    "Examples: agents audit search --role executor --outcome flow --since 7d; "
    "agents audit search --event token; agents audit search 0x5aAe --json"
)
_EXPORT: Final = (
    "Examples: agents audit export --since 1d > calls.jsonl; "
    "agents audit export --format ocsf --role executor --out executor.ocsf.jsonl"
)


@audit.command("verify", epilog="Example: agents audit verify /backup/audit --key audit.pub")
def verify(
    directory: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", help="The record, or a copy. [default: the project's]"),
    ] = None,
    *,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY|FILE",
            help="The public key, as `agents audit key` printed it. [default: DIR/audit.pub]",
        ),
    ] = None,
    expect: Annotated[
        str | None,
        typer.Option(metavar="SEQ:HASH", help="A line that was noted elsewhere has to be there."),
    ] = None,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Look at every line, signature and file; exits with 13 if anything was changed.

    Needs neither the daemon nor the project, only the files.
    """
    from orchestrator.cli.audit_verify import verify as work

    work(project, directory, key, expect, as_json=json)


@audit.command("key", epilog="Example: agents audit key > bandmaster-audit.pub")
def key(*, project: ProjectOption = None, json: JsonOption = False) -> None:
    """Print the public key that checks the record; keep it where the record is not."""
    from orchestrator.cli.audit_verify import key as work

    work(project, as_json=json)


@audit.command("tail", epilog="Example: agents audit tail -f")
def tail(
    *,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
    role: RoleOption = "",
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Show the last events of every kind; with --json each line as it is."""
    from orchestrator.cli.audit_show import tail as work

    work(project, lines, role, follows=follow, as_json=json)


@audit.command("show", epilog="Example: agents audit show 3f2a9c0d5e6b7a81")
def show(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A session, a trace id, or a request id.")
    ],
    *,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Tell the story of a run in its order: calls, refusals, and what people decided about it."""
    from orchestrator.cli.audit_show import show as work

    work(project, run, as_json=json)


@audit.command("runs", epilog="Example: agents audit runs --role executor")
def runs(
    *,
    role: RoleOption = "",
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many runs.")] = 20,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """List the latest runs: who, with which program, how many calls, what was refused."""
    from orchestrator.cli.audit_show import list_runs as work

    work(project, role, lines, as_json=json)


@audit.command("search", epilog=_SEARCH)
def search(  # noqa: PLR0913  one for each option
    text: Annotated[
        str, typer.Argument(metavar="[TEXT]", help="Anywhere in the line, in capitals or not.")
    ] = "",
    *,
    role: RoleOption = "",
    agent: Annotated[str, typer.Option(metavar="NAME", help="Who asked.")] = "",
    tool: Annotated[str, typer.Option(metavar="TOOL", help="The tool.")] = "",
    outcome: Annotated[
        str, typer.Option(metavar="WORD", help="How it ended: ok, tool_error, flow, auth, ...")
    ] = "",
    code: Annotated[
        str, typer.Option(metavar="CODE", help="Code of a refusal, or its first part: policy.")
    ] = "",
    event: Annotated[
        str, typer.Option(metavar="EVENT", help="The event, or its first part: token, approval.")
    ] = "",
    since: SinceOption = None,
    until: UntilOption = None,
    lines: Annotated[
        int | None, typer.Option("--lines", "-n", min=0, help="No more than the last ones.")
    ] = None,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Find lines; with --json each of them as it is."""
    from orchestrator.audit.query import Query
    from orchestrator.cli.audit_show import search as work
    from orchestrator.cli.moments import read_moment

    query = Query(
        since=read_moment(since, "--since"),
        until=read_moment(until, "--until", is_end=True),
        role=role,
        agent=agent,
        tool=tool,
        outcome=outcome,
        code=code,
        event=event,
        text=text,
    )
    work(project, query, lines, as_json=json)


@audit.command("export", epilog=_EXPORT)
def export(  # noqa: PLR0913  one for each option
    *,
    form: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="jsonl, ocsf, cef or csv.")
    ] = "jsonl",
    since: SinceOption = None,
    until: UntilOption = None,
    role: RoleOption = "",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to, as a new private file. [default: stdout]"),
    ] = None,
    project: ProjectOption = None,
) -> None:
    """Write the record for other programs; jsonl is its lines as they are."""
    from orchestrator.cli.audit_export import export as work
    from orchestrator.cli.moments import read_moment

    since = read_moment(since, "--since")
    work(project, form, since, read_moment(until, "--until", is_end=True), role, out)
