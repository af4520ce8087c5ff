"""Audit receipts and the hashes that chain them.

The content hash covers the receipt as compact UTF-8 JSON with its keys in the order below,
absent fields left out and the three chain fields excluded; hashes are lower-case hex, and the
entry hash is taken over hex text.

Source: fact sheet section 11.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, cast

from walletserver.custody.policy import Verdict
from walletserver.errors import WalletError

_CHAIN_FIELDS: Final = ("contentHash", "prevHash", "entryHash")
_DIGEST_PART: Final = 8
NOT_EVALUATED: Final = "NOT_EVALUATED"


@dataclass(slots=True)
class Draft:
    """What is known of a call so far; filled in while it is handled."""

    tool: str
    wallet: str | None = None
    chain: str | None = None
    payload: str | None = None
    approval: str = "not_required"
    verdict: Verdict | None = None
    tx_hash: str | None = None
    error: WalletError | None = field(default=None)

    def content(self, receipt_id: str, timestamp: str, elapsed_ms: int) -> dict[str, object]:
        """Return the receipt without its chain fields, keys in their fixed order."""
        receipt: dict[str, object] = {
            "receiptId": receipt_id,
            "timestamp": timestamp,
            "tool": self.tool,
            "walletName": self.wallet,
        }
        if self.chain is not None:
            receipt["chain"] = self.chain
        if self.payload is not None:
            receipt["txDigest"] = digest(self.payload)
        if self.tx_hash is not None:
            receipt["txHash"] = self.tx_hash
        receipt |= {
            "approvalStatus": self.approval,
            "counterpartyCheck": {"status": "not_performed"},
            "policy": self._policy(),
            "outcome": "success" if self.error is None else "error",
        }
        if self.error is not None:
            receipt |= {"errorCode": self.error.code.value, "errorMessage": self.error.message}
        return receipt | {"elapsedMs": elapsed_ms}

    def _policy(self) -> dict[str, object]:
        verdict = self.verdict
        if verdict is None:
            # A call that failed before its policies were asked was not allowed by them.
            return {
                "result": "deny",
                "matchedRules": [],
                "policyIds": [],
                "denyReason": NOT_EVALUATED,
            }
        reason = verdict.deny_reason
        return {
            "result": "allow" if reason is None else "deny",
            "matchedRules": [rule.value for rule in verdict.matched_rules],
            "policyIds": list(verdict.policy_ids),
            "denyReason": None if reason is None else reason.value,
        }


def digest(payload: str) -> str:
    """Cut a transaction's hex text to its first and last eight characters."""
    if len(payload) <= 2 * _DIGEST_PART:
        return payload
    return f"{payload[:_DIGEST_PART]}…{payload[-_DIGEST_PART:]}"


def chain_line(content: Mapping[str, object], previous: str | None) -> bytes:
    """Return the finished line of a receipt, with its line break.

    Args:
        content: The receipt without chain fields.
        previous: Entry hash of the receipt before it, or None for the first.
    """
    content_hash = _content_hash(content)
    links = {"contentHash": content_hash}
    if previous is not None:
        links["prevHash"] = previous
    links["entryHash"] = _entry_hash(content_hash, previous)
    return _canonical({**content, **links}) + b"\n"


def entry_hash_of(line: bytes) -> str:
    """Read the entry hash of a finished line.

    Raises:
        ValueError: The line is not a receipt.
    """
    receipt = _parse(line)
    entry = receipt.get("entryHash")
    if not isinstance(entry, str):
        raise ValueError  # noqa: TRY004 (one type for every bad line)
    return entry


def find_break(lines: Iterable[bytes]) -> int | None:
    """Check a whole trail.

    Args:
        lines: The file's lines, in order.

    Returns:
        The number of the first line that does not follow from those before it, counted from 1;
        None when the chain holds.
    """
    previous: str | None = None
    for position, line in enumerate(lines, start=1):
        try:
            receipt = _parse(line)
        except ValueError:
            return position
        content = {name: value for name, value in receipt.items() if name not in _CHAIN_FIELDS}
        content_hash = _content_hash(content)
        entry = _entry_hash(content_hash, previous)
        claimed = tuple(receipt.get(name) for name in _CHAIN_FIELDS)
        if claimed != (content_hash, previous, entry):
            return position
        previous = entry
    return None


def _parse(line: bytes) -> dict[str, object]:
    parsed = cast("object", json.loads(line))
    # Not a receipt, as the chain check will find for want of its fields.
    return cast("dict[str, object]", parsed) if isinstance(parsed, dict) else {}


def _canonical(content: Mapping[str, object]) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def _content_hash(content: Mapping[str, object]) -> str:
    return hashlib.sha256(_canonical(content)).hexdigest()


def _entry_hash(content_hash: str, previous: str | None) -> str:
    linked = content_hash if previous is None else f"{previous}:{content_hash}"
    return hashlib.sha256(linked.encode()).hexdigest()
