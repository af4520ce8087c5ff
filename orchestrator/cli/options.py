"""Options and arguments that many commands share."""

from pathlib import Path
from typing import Annotated

import typer

ProjectOption = Annotated[
    Path | None,
    typer.Option(
        "--project",
        "-C",
        metavar="DIR",
        help="The project; by default the nearest directory upwards with agents.yaml or roles/.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RoleArgument = Annotated[str, typer.Argument(metavar="ROLE", help="Name of the role.")]
