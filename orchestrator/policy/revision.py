"""The name of a policy: what was decided by it can be told from what another would have decided."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Final

from orchestrator.model.base import JsonObject
from orchestrator.model.names import ToolName
from orchestrator.model.rules import RolePolicy
from orchestrator.model.server import ToolClass

_DIGITS: Final = 12


def revision_of(
    policy: RolePolicy, tools: Sequence[JsonObject], classes: Mapping[ToolName, ToolClass]
) -> str:
    """Name a role's policy, its tools and their classes.

    Args:
        policy: The policy.
        tools: The role's tools as they were attested.
        classes: Class of each.

    Returns:
        12 hexadecimal digits; the same whenever all of it is the same.
    """
    content = {
        "policy": policy.model_dump(mode="json"),
        "tools": list(tools),
        "classes": dict(classes),
    }
    # Not orjson: a server's schema may hold integers of any size.
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
