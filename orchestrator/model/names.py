"""Names that appear in files, addresses and records, each with its own alphabet."""

import re
from typing import Annotated, NewType

from pydantic import StringConstraints

from orchestrator.errors import SettingsError

RoleName = NewType("RoleName", str)
ServerName = NewType("ServerName", str)
ToolName = NewType("ToolName", str)
BandName = NewType("BandName", str)
SecretName = NewType("SecretName", str)
AgentName = NewType("AgentName", str)
TokenId = NewType("TokenId", str)
WorkloadName = NewType("WorkloadName", str)

# Role and server names are parts of file names, URLs and supervisord's program names, which may
# not hold a space, ":" or "/"; "." separates the parts of a workload's name.
SLUG_PATTERN = r"^[a-z][a-z0-9-]{0,31}$"
ENVIRONMENT_PATTERN = r"^[A-Z_][A-Z0-9_]{0,63}$"
# Source: MCP 2026-07-28, Tools, tool names. Longer ones are refused by common clients.
TOOL_PATTERN = r"^[A-Za-z0-9_./-]{1,128}$"
AGENT_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}$"

RoleField = Annotated[RoleName, StringConstraints(pattern=SLUG_PATTERN)]
ServerField = Annotated[ServerName, StringConstraints(pattern=SLUG_PATTERN)]
ToolField = Annotated[ToolName, StringConstraints(pattern=TOOL_PATTERN)]
BandField = Annotated[BandName, StringConstraints(pattern=SLUG_PATTERN)]
SecretField = Annotated[SecretName, StringConstraints(pattern=ENVIRONMENT_PATTERN)]
AgentField = Annotated[AgentName, StringConstraints(pattern=AGENT_PATTERN)]


def workload_name(role: RoleName, server: ServerName, generation: int) -> WorkloadName:
    """Name one generation of one role's instance, as engine, logs and records call it."""
    return WorkloadName(f"{role}.{server}.g{generation}")


def check_role_name(text: str) -> RoleName:
    """Take a role's name from the command line.

    Raises:
        SettingsError: It is none.
    """
    if not re.fullmatch(SLUG_PATTERN, text):
        raise SettingsError(
            f"{text!r} is no name of a role", hint="Lower-case letters, digits and dashes."
        )
    return RoleName(text)


def check_agent_name(text: str) -> AgentName:
    """Take an agent's name from the command line.

    Raises:
        SettingsError: It is none.
    """
    if not re.fullmatch(AGENT_PATTERN, text):
        raise SettingsError(
            f"{text!r} is no name of an agent", hint="Letters, digits and . _ @ - up to 64."
        )
    return AgentName(text)
