"""Makes an approval of a call that came without one."""

import hashlib
import re
import secrets
from datetime import datetime
from typing import Final

from orchestrator.approvals.receipt import write_receipt
from orchestrator.errors import ArgumentsRefusedError
from orchestrator.model.approval import Approval, Wish
from orchestrator.model.base import JsonObject
from orchestrator.protocol.canonical import canonical

# Nobody reads more than that before saying yes.
LONGEST_ARGUMENTS: Final = 64 * 1024
# Crockford's digits: none is taken for another, and no word is made of them.
_DIGITS: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_NAME: Final = re.compile(r"(ap|gr)-[0-9a-z]{10}")


def new_name(kind: str) -> str:
    """Make a name that nothing else has.

    Args:
        kind: `ap` for an approval, `gr` for a grant.
    """
    return f"{kind}-{''.join(secrets.choice(_DIGITS) for _ in range(10))}"


def name_one(text: str) -> str:
    """Tell a name that somebody wrote, `?` if it is none."""
    return text if _NAME.fullmatch(text) else "?"


def require_short(wish: Wish) -> None:
    """Refuse arguments that no person could look at.

    Raises:
        ArgumentsRefusedError: They are too long.
    """
    if len(canonical(wish.arguments)) > LONGEST_ARGUMENTS:
        raise ArgumentsRefusedError(
            f"A person has to approve {wish.asked.tool}, and nobody can read arguments of more "
            f"than {LONGEST_ARGUMENTS // 1024} KiB; nothing was done",
            rule=wish.demand.rule,
        )


def draft(wish: Wish, now: datetime) -> Approval:
    """Write down what a call asks people for."""
    receipt = write_receipt(wish.receipt, wish.arguments)
    name, asked, demand = new_name("ap"), wish.asked, wish.demand
    shown: JsonObject = {
        "id": name,
        "role": asked.role,
        "agent": asked.agent,
        "tool": asked.tool,
        "class": wish.kind,
        "arguments_sha256": asked.arguments_sha256,
        "policy": asked.policy,
        "receipt": receipt.text,
        "warnings": [*receipt.warnings],
        "quorum": demand.quorum,
    }
    return Approval(
        id=name,
        asked=asked,
        kind=wish.kind,
        rule=demand.rule,
        state="pending",
        arguments=wish.arguments,
        receipt=receipt.text,
        warnings=receipt.warnings,
        digest=hashlib.sha256(canonical(shown)).hexdigest(),
        quorum=demand.quorum,
        lasts_seconds=max(1, round(demand.lasts.total_seconds())),
        created_at=now,
        expires_at=now + demand.lasts,
        request_id=wish.request_id,
        subject=wish.subject,
    )
