"""Commands for the person who runs the server: agent tokens and the audit trail.

None of the tools revokes a token, as the real service does that elsewhere.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from walletserver.custody.agent_tokens import AgentTokens
from walletserver.custody.receipts import find_break
from walletserver.errors import WalletError
from walletserver.ledger.store import Store
from walletserver.settings import load_settings


def run(arguments: Sequence[str]) -> int:
    """Carry one command out.

    Args:
        arguments: The command line without the program.

    Returns:
        The exit status: 0 done, 1 failed, no such token, or a broken chain.

    Raises:
        SettingsError: The environment is wrong.
    """
    parser = argparse.ArgumentParser(prog="python -m walletserver")
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("tokens", help="list the good agent tokens of a wallet")
    listing.add_argument("wallet")
    revoking = commands.add_parser("revoke-token", help="make one agent token useless at once")
    revoking.add_argument("token_id")
    commands.add_parser("verify-audit", help="check the chain of the audit trail")
    values: dict[str, object] = vars(parser.parse_args(arguments))
    settings = load_settings()
    if values["command"] == "verify-audit":
        return _verify(settings.audit_path)
    store = Store(settings.ledger_path)
    tokens = AgentTokens(store)
    try:
        if values["command"] == "tokens":
            for token in tokens.of_wallet(str(values["wallet"])):
                sys.stdout.write(json.dumps(asdict(token)) + "\n")
            return 0
        return 0 if tokens.revoke(str(values["token_id"])) else 1
    except WalletError as error:
        sys.stderr.write(json.dumps(error.body()) + "\n")
        return 1
    finally:
        store.close()


def _verify(path: Path) -> int:
    try:
        with path.open("rb") as lines:
            broken = find_break(lines)
    except OSError:
        sys.stderr.write("the audit trail cannot be read\n")
        return 1
    verdict: dict[str, object] = {"chain": "holds" if broken is None else "broken"}
    if broken is not None:
        verdict["firstBadLine"] = broken
    sys.stdout.write(json.dumps(verdict) + "\n")
    return 0 if broken is None else 1
