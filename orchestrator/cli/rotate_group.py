"""How `agents rotate` tells roles and subcommands apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from typer.core import TyperGroup
from typing_extensions import override

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter

# What it does when its first word is none of the subcommands.
START: Final = "start"


@final
class RotateGroup(TyperGroup):
    """Takes roles in place of a subcommand: `agents rotate treasury`."""

    @override
    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        own = {*self.commands, *ctx.help_option_names}
        return super().parse_args(ctx, args if args and args[0] in own else [START, *args])

    @override
    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        self.commands[START].format_options(ctx, formatter)
        self.format_commands(ctx, formatter)
