"""Names that appear in files, addresses and records, each with its own alphabet."""

import hashlib
import re
from typing import Annotated, Final, NewType

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
ARGUMENT_PATTERN = r"^[A-Za-z0-9_.-]{1,64}$"
HTTP_PATH_PATTERN = r"^/[A-Za-z0-9._~/-]{0,255}$"
USER_PATTERN = r"^[a-z_][a-z0-9_-]{0,31}$"
AGENT_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}$"

RoleField = Annotated[RoleName, StringConstraints(pattern=SLUG_PATTERN)]
ServerField = Annotated[ServerName, StringConstraints(pattern=SLUG_PATTERN)]
ToolField = Annotated[ToolName, StringConstraints(pattern=TOOL_PATTERN)]
BandField = Annotated[BandName, StringConstraints(pattern=SLUG_PATTERN)]
SecretField = Annotated[SecretName, StringConstraints(pattern=ENVIRONMENT_PATTERN)]
AgentField = Annotated[AgentName, StringConstraints(pattern=AGENT_PATTERN)]
UserField = Annotated[str, StringConstraints(pattern=USER_PATTERN)]


# The second process of a role with `standby: 1`. Which of the two serves changes.
SECOND: Final = "2"
PART_PATTERN = r"^(|2|[lm](-[0-9a-f]{10})?)$"


def lane_part(era: str, owner: str) -> str:
    """Name what sets a lane apart from the other processes of its generation.

    Names of workloads are parts of paths whose length is bounded, and an owner may be called
    anything: the name holds a hash.

    Args:
        era: The lane's era, `legacy` or `modern`.
        owner: Whose alone it is; empty for everybody's.
    """
    if not owner:
        return era[0]
    return f"{era[0]}-{hashlib.sha256(owner.encode()).hexdigest()[:10]}"


def workload_name(
    role: RoleName, server: ServerName, generation: int, part: str = ""
) -> WorkloadName:
    """Name one process of one generation of a role, as engine, logs and records call it."""
    return WorkloadName(f"{role}.{server}.g{generation}" + (f".{part}" if part else ""))


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


def check_tool_name(text: str) -> ToolName:
    """Take a tool's name from the command line.

    Raises:
        SettingsError: It is none.
    """
    if not re.fullmatch(TOOL_PATTERN, text):
        raise SettingsError(
            f"{text!r} is no name of a tool", hint="`agents tools ROLE` lists them."
        )
    return ToolName(text)


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
