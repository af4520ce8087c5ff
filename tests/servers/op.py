"""Stands in for 1Password's program `op`, which needs an account: the same contract, other vault.

`op read --no-newline op://VAULT/ITEM/FIELD` writes the value and nothing else to stdout, with
status 0; else one line `[ERROR] DATE TIME text` to stderr, with status 1. It logs in by
OP_SERVICE_ACCOUNT_TOKEN, or by OP_CONNECT_HOST and OP_CONNECT_TOKEN, which go first.

Source: 1Password CLI 2, https://developer.1password.com/docs/cli/reference/commands/read
"""

import os
import sys
import time
from typing import NoReturn

SERVICE = "ops_canary-service-account"
CONNECT = "canary-connect-token"
ITEMS = {
    "op://Shop/Till/password": "canary-of-the-till",
    "op://Shop/Till/pin": "1234",
    "op://Shop/Till/empty": "",
    "op://Shop/Till/two lines/key": "canary-line-1\ncanary-line-2\n",
}


def fail(text: str) -> NoReturn:
    """End as op does."""
    sys.exit(f"[ERROR] 2026/11/20 12:00:00 {text}")


def main() -> None:
    """Answer one `op read`."""
    if os.environ.get("OP_CONNECT_HOST"):
        if os.environ.get("OP_CONNECT_TOKEN") != CONNECT:
            fail("could not read secret: status 401: Authentication: (Invalid token)")
    elif "OP_SERVICE_ACCOUNT_TOKEN" not in os.environ:
        fail("no accounts configured for use with 1Password CLI")
    elif os.environ["OP_SERVICE_ACCOUNT_TOKEN"] != SERVICE:
        token = os.environ["OP_SERVICE_ACCOUNT_TOKEN"]
        fail(f"failed to deserialize service account token {token}: invalid")
    if sys.argv[1:3] != ["read", "--no-newline"]:
        fail("unknown command")
    reference = sys.argv[3]
    if reference == "op://Shop/Slow/password":
        time.sleep(600)
    value = ITEMS.get(reference)
    if value is None:
        item = reference.split("/")[3]
        fail(f"could not read secret '{reference}': \"{item}\" isn't an item in the vault")
    _ = sys.stdout.write(value)


if __name__ == "__main__":
    main()
