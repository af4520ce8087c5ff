"""The `agents` command: what it can be told, and how errors become exit statuses.

Only what `--help` needs is imported here; every command imports its own work when it runs, so that
help and `status` stay quick.
"""

import gc
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.approval_commands import (
    AsOption,
    PassphraseOption,
    approvals,
    approvers,
    grants,
)
from orchestrator.cli.audit_commands import audit
from orchestrator.cli.credential_commands import (
    REOPEN_EXAMPLE,
    REVOKE_ALL_EXAMPLES,
    reopen,
    revoke_all,
    rotations,
    schedules,
)
from orchestrator.cli.guard_commands import (
    FREEZE_EXAMPLES,
    disable,
    enable,
    freeze,
    guards,
    incidents,
    notices,
    shadows,
    thaw,
)
from orchestrator.cli.options import JsonOption, ProjectOption, RoleArgument
from orchestrator.cli.render_commands import renders
from orchestrator.cli.secret_commands import secrets
from orchestrator.errors import AgentsError

EPILOG = (
    "Exit status: 0 done; 1 unexpected; 2 usage or files; 3 a secret; 4 a token; 5 denied; "
    "6 an instance is not ready; 7 upstream; 8 protocol; 9 a credential was not replaced; "
    "10 state, or nothing is running; 11 the tool itself reports an error; "
    "12 a rotation waits for a person; 13 the record was changed; 14 a call waits for approval."
)

app = typer.Typer(
    name="agents",
    help="Runs AI agents against MCP servers, each role with the least power it needs.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
tokens = typer.Typer(
    help="Issue, list and revoke the tokens that agents show to the gateway.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(tokens, name="token")
pins = typer.Typer(
    help="See and accept what tools say of themselves; what changes is held until then.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(pins, name="pins")

app.add_typer(approvals, name="approvals")
app.add_typer(grants, name="grants")
app.add_typer(approvers, name="approvers")
app.add_typer(audit, name="audit")
app.add_typer(rotations, name="rotate")
app.add_typer(schedules, name="schedule")
app.add_typer(shadows, name="shadow")
app.add_typer(incidents, name="incident")
app.add_typer(notices, name="notify")
app.add_typer(secrets, name="secrets")
app.add_typer(renders, name="render")

RolesOption = Annotated[
    Path | None,
    typer.Option("--roles", metavar="DIR", help="Directory of the role files. [default: roles]"),
]


@app.command(epilog="Example: agents init && agents up")
def init(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where; by default here.")
    ] = Path(),
    *,
    json: JsonOption = False,
) -> None:
    """Write the three stock roles and the reference wallet server into a project."""
    from orchestrator.cli.files import init as work

    work(directory, as_json=json)


@app.command(epilog="Example: agents up -d --only monitoring --only treasury")
def up(  # noqa: PLR0913  one for each option
    *,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return as soon as every role is ready.")
    ] = False,
    roles: RolesOption = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="ROLE", help="Run just this role, no other; may be repeated."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would be done, and do nothing.")
    ] = False,
    users: Annotated[
        bool, typer.Option("--users", help="As root: make a unix user for each role without one.")
    ] = False,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Check all files, then run every role; in the foreground until Ctrl-C stops all of it."""
    from orchestrator.cli.up import up as work

    chosen = tuple(only or ())
    work(project, roles, chosen, detach=detach, dry_run=dry_run, users=users, as_json=json)


@app.command(epilog="Example: agents down")
def down(*, project: ProjectOption = None, json: JsonOption = False) -> None:
    """Drain and stop every role, the gateway and the engine."""
    from orchestrator.cli.down import down as work

    work(project, as_json=json)


@app.command(epilog="Example: agents status --json | jq '.roles[].state'")
def status(
    *,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show it again at every change.")
    ] = False,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Show every role: state, bands, tools, process, restarts; exits with 6 if one is not ready."""
    from orchestrator.cli.status import status as work

    work(project, watch=watch, as_json=json)


@app.command(epilog="Example: agents logs executor -f")
def logs(  # noqa: PLR0913  one for each option
    role: Annotated[str | None, typer.Argument(metavar="[ROLE]", help="Name of the role.")] = None,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as the log grows.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many lines.")] = 50,
    daemon: Annotated[
        bool, typer.Option("--daemon", help="The daemon's own log; calls are in `agents calls`.")
    ] = False,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Show what a role's instance wrote to stderr."""
    from orchestrator.cli.logs import logs as work

    work(project, role, follow=follow, lines=lines, daemon=daemon, as_json=json)


@app.command(
    epilog="Examples: agents calls; agents calls executor --since 1h; "
    "agents calls --follow --json | jq 'select(.event == \"decision\")'"
)
def calls(  # noqa: PLR0913  one for each option
    role: Annotated[str | None, typer.Argument(metavar="[ROLE]", help="Name of the role.")] = None,
    *,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="All that were so long ago: 10m, 1h, 2d.")
    ] = None,
    lines: Annotated[
        int | None,
        typer.Option("--lines", "-n", min=0, help="No more than the last ones. [default: 50]"),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as calls are recorded.")
    ] = False,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Show what agents called and how it ended; with --json each line of the record as it is."""
    from orchestrator.cli.calls import calls as work

    work(project, role, lines=lines, age=since, follows=follow, as_json=json)


@app.command(epilog="Example: agents restart treasury")
def restart(role: RoleArgument, *, project: ProjectOption = None, json: JsonOption = False) -> None:
    """Replace a role's instance by a fresh one; changed files are applied by `agents up`."""
    from orchestrator.cli.up import restart as work

    work(project, role, as_json=json)


_ = app.command("revoke-all", epilog=REVOKE_ALL_EXAMPLES)(revoke_all)
_ = app.command("reopen", epilog=REOPEN_EXAMPLE)(reopen)
_ = app.command("freeze", epilog=FREEZE_EXAMPLES)(freeze)
_ = app.command("thaw", epilog="Example: agents thaw treasury")(thaw)
_ = app.command("disable", epilog="Example: agents disable sign_transaction")(disable)
_ = app.command("enable", epilog="Example: agents enable sign_transaction")(enable)
_ = app.command("guards", epilog="Example: agents guards --json")(guards)


@app.command(epilog="Example: agents validate")
def validate(
    *, roles: RolesOption = None, project: ProjectOption = None, json: JsonOption = False
) -> None:
    """Check every file of the project; nothing is started or changed."""
    from orchestrator.cli.files import validate as work

    work(project, roles, as_json=json)


@app.command(epilog="Example, in a client's own configuration: agents connect monitoring")
def connect(role: RoleArgument, *, project: ProjectOption = None) -> None:
    """Be an MCP server on stdin and stdout that is the role's instance behind the gateway."""
    from orchestrator.cli.connect import connect as work

    work(project, role)


@app.command(epilog="Example: agents console --listen 127.0.0.1:8710 --no-open")
def console(
    *,
    listen: Annotated[
        str,
        typer.Option(metavar="ADDRESS:PORT", help="Where, on this machine alone; 0 is any port."),
    ] = "127.0.0.1:0",
    public_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="https address under which people open signed links."),
    ] = None,
    no_open: Annotated[
        bool, typer.Option("--no-open", help="Print the login link, and open no browser.")
    ] = False,
    project: ProjectOption = None,
) -> None:
    """Serve a page for people: what runs, what waits for approval, what was called."""
    from orchestrator.cli.console import console as work

    work(project, listen, public_url, opens=not no_open)


@app.command(epilog="Example: agents top --as alice")
def top(
    *,
    name: AsOption = None,
    passphrase_file: PassphraseOption = None,
    once: Annotated[bool, typer.Option("--once", help="One moment, and no keys.")] = False,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Show what runs, waits for a person and is called, live; approve, deny, freeze by a key."""
    from orchestrator.cli.approver import Who
    from orchestrator.cli.top import top as work

    work(project, Who(name, passphrase_file), once=once, as_json=json)


@app.command(epilog="Example: agents config treasury --client claude-code --write --hook")
def config(  # noqa: PLR0913  one for each option
    role: RoleArgument,
    *,
    client: Annotated[
        str,
        typer.Option(
            metavar="CLIENT", help="claude-code, claude-desktop, cursor, vscode, codex or json."
        ),
    ] = "json",
    write: Annotated[
        bool, typer.Option("--write", help="Merge it into the client's own file.")
    ] = False,
    hook: Annotated[
        bool,
        typer.Option("--hook", help="claude-code: ask its person before a destructive call."),
    ] = False,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Print what a client needs to reach a role; foreign entries of its file are never touched."""
    from orchestrator.cli.clients import config as work

    work(project, role, client, write=write, hook=hook, as_json=json)


@app.command(hidden=True)
def hook(role: RoleArgument, *, project: ProjectOption = None) -> None:
    """Be a client's hook: says on stdout whether its person is to be asked about a call."""
    from orchestrator.cli.client_hook import answer_hook as work

    work(project, role)


@app.command(epilog="Example: agents tools treasury --full")
def tools(
    role: RoleArgument,
    *,
    full: Annotated[
        bool, typer.Option("--full", help="Whole descriptions and schemas, for people.")
    ] = False,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """List the tools that a role's agents see: name, class, arguments, description."""
    from orchestrator.cli.tools import tools as work

    work(project, role, full=full, as_json=json)


@app.command(
    epilog="Examples: agents call monitoring get_price --arg symbol=ETH; "
    "agents call treasury prepare_transfer @transfer.json --json; "
    "echo '{}' | agents call monitoring list_chains -"
)
def call(  # noqa: PLR0913  one for each option
    role: RoleArgument,
    tool: Annotated[str, typer.Argument(metavar="TOOL", help="Name of the tool.")],
    arguments: Annotated[
        str | None,
        typer.Argument(
            metavar="[JSON]",
            help="Its arguments: a JSON object, @FILE that holds one, or - for standard input.",
        ),
    ] = None,
    *,
    arg: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="One argument; may be repeated."),
    ] = None,
    timeout: Annotated[
        str, typer.Option(metavar="TIME", help="How long to wait: 30s, 5m. Then it is taken back.")
    ] = "5m",
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Call a destructive tool without being asked.")
    ] = False,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Call a tool once, through the gateway like any agent, with this workstation's own token."""
    from orchestrator.cli.call import call as work

    given = tuple(arg or ())
    work(project, role, tool, arguments, given, timeout=timeout, yes=yes, as_json=json)


@app.command(epilog="Example: agents egress --listen :3128 --allow api.example.com:443")
def egress(
    *,
    listen: Annotated[
        str, typer.Option(metavar="ADDRESS:PORT", help="Where; without ADDRESS on all of them.")
    ],
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="What may be reached; may be repeated."),
    ] = None,
    credential: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Holds the user:password that clients have to show."),
    ] = None,
) -> None:
    """Be a forward proxy to the hosts that are listed, for a role's servers in containers."""
    from orchestrator.cli.egress import egress as work

    work(tuple(allow or ()), listen, credential)


@app.command(
    epilog="Example: agents gateway treasury --attach treasury=http://treasury-wallet:8080/mcp "
    "--listen 0.0.0.0:8700"
)
def gateway(
    roles: Annotated[
        list[str] | None, typer.Argument(metavar="ROLE", help="The roles; by default all.")
    ] = None,
    *,
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS:PORT",
            help="Where. Plain HTTP: let a network that is not yours reach it through TLS only. "
            "[default: `listen:` of agents.yaml]",
        ),
    ] = None,
    attach: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=URL", help="Where a role's server is; may be repeated. See `attach:`."
        ),
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="A name under which it is reached, too."),
    ] = None,
    project: ProjectOption = None,
) -> None:
    """Serve roles whose servers somebody else starts, such as Compose; in the foreground."""
    from orchestrator.cli.gateway import gateway as work

    given = tuple(attach or ())
    work(project, tuple(roles or ()), listen=listen, attached=given, hosts=tuple(host or ()))


@app.command(epilog="Example: agents attach treasury http://treasury-wallet-2:8080/mcp")
def attach(
    role: RoleArgument,
    url: Annotated[str, typer.Argument(metavar="URL", help="Where the other server is.")],
    *,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Have another server serve a role of `agents gateway`; the one before finishes its calls."""
    from orchestrator.cli.up import attach as work

    work(project, role, url, as_json=json)


@pins.command("list", epilog="Example: agents pins list treasury")
def pins_list(
    role: Annotated[str | None, typer.Argument(metavar="[ROLE]", help="Name of the role.")] = None,
    *,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """List the accepted definitions by their hashes."""
    from orchestrator.cli.pins import list_all as work

    work(project, role, as_json=json)


@pins.command("diff", epilog="Example: agents pins diff treasury")
def pins_diff(
    role: RoleArgument,
    *,
    full: Annotated[bool, typer.Option("--full", help="Every line, however many.")] = False,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Show how a role's live tools differ from the accepted ones; ends with the live hash."""
    from orchestrator.cli.pins import diff as work

    work(project, role, full=full, as_json=json)


@pins.command("approve", epilog="Example: agents pins approve treasury --expect 3f9a...")
def pins_approve(
    role: RoleArgument,
    *,
    expect: Annotated[
        str, typer.Option(metavar="HASH", help="The live hash that `agents pins diff` showed.")
    ],
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Accept what a role shows, if it is still what the diff showed; no instance is restarted."""
    from orchestrator.cli.pins import approve as work

    work(project, role, expect, as_json=json)


@tokens.command("issue", epilog="Example: agents token issue treasury --agent alice --ttl 30d")
def token_issue(
    role: RoleArgument,
    *,
    agent: Annotated[str, typer.Option(metavar="NAME", help="Who will show the token.")],
    ttl: Annotated[
        str, typer.Option(metavar="TIME", help="How long it is good for: 24h, 30d; at most 90d.")
    ] = "90d",
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Issue a token; its text is printed once and kept nowhere."""
    from orchestrator.cli.tokens import issue as work

    work(project, role, agent, ttl, as_json=json)


@tokens.command("list", epilog="Example: agents token list --json")
def token_list(*, project: ProjectOption = None, json: JsonOption = False) -> None:
    """List all tokens, never their text."""
    from orchestrator.cli.tokens import list_all as work

    work(project, as_json=json)


@tokens.command("revoke", epilog="Example: agents token revoke 4fG7xQ2LmZ0p")
def token_revoke(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="The token's id.")],
    *,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Revoke a token; it is refused from the next request on."""
    from orchestrator.cli.tokens import revoke as work

    work(project, token_id, as_json=json)


@tokens.command("deny", epilog="Example: agents token deny --subject treasury-bot")
def token_deny(
    *,
    jti: Annotated[str, typer.Option(metavar="JTI", help="One token, by its `jti`.")] = "",
    subject: Annotated[
        str, typer.Option(metavar="SUB", help="All that were issued to it until now.")
    ] = "",
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Refuse access tokens of the identity provider; what they have open is ended."""
    from orchestrator.cli.tokens import deny as work

    work(project, token_id="", jti=jti, subject=subject, as_json=json)


def _version(*, value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"agents {version('bandmaster')}")
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Runs AI agents against MCP servers, each role with the least power it needs."""


def main() -> None:
    """Run the command; expected errors become a message and an exit status."""
    # Commands end before garbage matters, and collecting it while modules load takes a sixth of
    # the time of a quick one.
    gc.disable()
    from orchestrator.cli.agentsd import write_no_cores

    write_no_cores()
    try:
        app()
    except AgentsError as error:
        from orchestrator.cli.report import report

        sys.exit(report(error))
    except BrokenPipeError:
        # Whoever read our output has enough. Python would complain once more at its end.
        sys.stdout = None
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # the last place: a user gets a sentence, never a traceback
        if "AGENTS_DEBUG" in os.environ:
            raise
        from orchestrator.cli.report import report_unexpected

        sys.exit(report_unexpected(error))


if __name__ == "__main__":
    main()
