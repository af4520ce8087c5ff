"""The `agents secrets` commands: what they can be told."""

from typing import Annotated

import typer

from orchestrator.cli.options import JsonOption, ProjectOption

secrets = typer.Typer(
    help="Look whether the secrets that roles refer to can be had; no value is ever shown.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@secrets.command("check", epilog="Example: agents secrets check treasury")
def check(
    roles: Annotated[
        list[str] | None, typer.Argument(metavar="[ROLE]...", help="By default all roles.")
    ] = None,
    *,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Resolve every reference as `agents up` in this shell would; exits with 3 if one fails.

    Equal fingerprints mean equal values, in this project.
    """
    from orchestrator.cli.agentsd import close_to_others
    from orchestrator.cli.secrets_check import check as work

    close_to_others()
    work(project, tuple(roles or ()), as_json=json)
