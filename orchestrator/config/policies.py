"""From what a role file and its server file say to the policy that the gateway decides by."""

from orchestrator.model.role import Role
from orchestrator.model.rules import RolePolicy
from orchestrator.model.server import Server


def policy_of(role: Role, server: Server) -> RolePolicy:
    """Tell what a role's calls may do, beyond which tools they may name."""
    return RolePolicy(
        limits=role.limits,
        tools=role.tools,
        sums=role.sums,
        resources=role.resources,
        prompts=role.prompts,
        asks=server.asks,
        shadow=role.shadow,
        approval=role.approval,
        identifies={
            name: tool.identifies
            for name, tool in server.tools.items()
            if tool.identifies and name in server.tools_of(role.band_names, role.mode)
        },
        receipts={
            name: tool.receipt
            for name, tool in server.tools.items()
            if tool.receipt and name in server.tools_of(role.band_names, role.mode)
        },
    )
