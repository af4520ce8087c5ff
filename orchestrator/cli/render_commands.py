"""The `agents render` commands: what they can be told."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import JsonOption, ProjectOption

renders = typer.Typer(
    help="Write files for engines that run the roles' servers in containers, and a gateway in "
    "front of them. No file holds a secret.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
RolesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[ROLE]...", help="By default all roles.")
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Where to; by default a directory of the project."),
]
ImageOption = Annotated[
    str | None,
    typer.Option(
        "--image", metavar="IMAGE", help="Bandmaster's own; by default that of agents.yaml."
    ),
]
NameOption = Annotated[
    str | None,
    typer.Option("--name", metavar="NAME", help="The project's; by default its directory's."),
]
GenerationOption = Annotated[
    list[str] | None,
    typer.Option(
        "--generation",
        metavar="ROLE=NUMBER",
        help="Generation of a role's secrets, if it is not the first; may be repeated.",
    ),
]
CheckOption = Annotated[
    bool, typer.Option("--check", help="Write nothing; exit with 2 if something differs.")
]


@renders.command(
    epilog="Example: agents render compose && docker compose -f compose/compose.yaml up -d --wait"
)
def compose(
    roles: RolesArgument = None,
    *,
    out: OutOption = None,
    check: CheckOption = False,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Write the files of a whole stack, and of one for each role, for Docker Compose."""
    from orchestrator.cli.render_compose import compose as work

    work(project, tuple(roles or ()), out=out, is_check=check, as_json=json)


@renders.command(epilog="Example: agents render kubernetes && kubectl apply -f kubernetes/")
def kubernetes(  # noqa: PLR0913  one for each option
    roles: RolesArgument = None,
    *,
    out: OutOption = None,
    image: ImageOption = None,
    name: NameOption = None,
    generation: GenerationOption = None,
    check: CheckOption = False,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Write manifests for Kubernetes."""
    from orchestrator.cli.render_cluster import Wanted, render_kubernetes

    render_kubernetes(Wanted(project, roles, image, name, generation, out, check, json))


@renders.command(
    epilog="Example: agents render swarm && docker stack deploy -c swarm/stack.yaml agents"
)
def swarm(  # noqa: PLR0913  one for each option
    roles: RolesArgument = None,
    *,
    out: OutOption = None,
    image: ImageOption = None,
    name: NameOption = None,
    generation: GenerationOption = None,
    publish: Annotated[
        int,
        typer.Option(
            metavar="PORT",
            min=0,
            max=65_535,
            help="Port of the gateway's node, in plain HTTP and open to whoever reaches that "
            "node; by default none: a proxy in the swarm that speaks TLS reaches it.",
        ),
    ] = 0,
    unencrypted: Annotated[
        bool,
        typer.Option("--unencrypted", help="For nodes without IPsec, on a network of your own."),
    ] = False,
    check: CheckOption = False,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Write a stack file for Docker Swarm."""
    from orchestrator.cli.render_cluster import Wanted, render_swarm

    wanted = Wanted(project, roles, image, name, generation, out, check, json)
    render_swarm(wanted, publish=publish, is_encrypted=not unencrypted)
