"""Agent tokens of a wallet, made by an owner's instance of the role's own server.

The server answers with the path of a file; the token is moved from there and the file deleted. No
tool lists tokens or ends one.

Source: WalletSuite, core concepts, policy gates: `create_agent_api_key`.
"""

import os
import re
import stat
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, final

import anyio
import anyio.to_thread
from pydantic import SecretStr
from typing_extensions import override

from orchestrator.errors import (
    AgentsError,
    IssuerError,
    IssuerUncertainError,
    NotRunningError,
    SecretError,
    WorkloadError,
)
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.issuers import WalletSuiteIssuer
from orchestrator.model.names import RoleName, ToolName
from orchestrator.rotation.ports import (
    WHOLE,
    Capabilities,
    Credential,
    Ending,
    Issuer,
    Minted,
    Owner,
    Owners,
    Verdict,
)

TOOL: Final = ToolName("create_agent_api_key")
# Where such servers write it by themselves, below their home.
DEFAULT_FILE: Final = ".walletsuite/mpc-agent-token"
PATIENCE_SECONDS: Final = 120.0
_LIMIT_BYTES: Final = 8 * 1024
_LONGEST_DAYS: Final = 365
_CODE: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_TOKEN: Final = re.compile(r"[!-~]{16,4096}")


@final
class WalletIssuer(Issuer):
    """An issuer of kind `walletsuite`."""

    def __init__(self, settings: WalletSuiteIssuer, owners: Owners) -> None:
        """Keep what the file says.

        Args:
            settings: What the file says.
            owners: Runs the owner's instances.
        """
        self._settings = settings
        self._owners = owners

    @property
    @override
    def capabilities(self) -> Capabilities:
        return Capabilities(
            overlap=self._settings.overlap,
            revoke="manual",
            lists=False,
            probes=False,
            max_life=self._settings.max_life,
        )

    @override
    async def mint(self, name: str, role: RoleName, life: timedelta) -> Minted:
        asked = False
        try:
            with anyio.fail_after(PATIENCE_SECONDS):
                async with self._owners.open(role) as owner:
                    # One that a crash left there is of an earlier name; nobody has it.
                    await anyio.to_thread.run_sync(_remove, owner.home, DEFAULT_FILE)
                    asked = True
                    result = await owner.call_tool(TOOL, self._arguments(name, life))
                    return await self._take(owner, result)
        except (IssuerError, IssuerUncertainError):
            raise
        except TimeoutError:
            raise _failed("the owner's instance took too long", asked=asked) from None
        except (WorkloadError, SecretError, NotRunningError) as error:
            raise _failed(f"the owner's instance: {error}", asked=asked) from error
        except AgentsError as error:
            # What a server says of a call that failed may hold anything.
            raise _failed(f"the owner's instance failed ({error.code})", asked=asked) from None
        except OSError as error:
            reason = error.strerror or "unknown"
            raise _failed(f"the token's file cannot be taken: {reason}", asked=asked) from None

    @override
    async def probe(self, credential: Credential) -> Verdict:
        return Verdict.UNKNOWN

    @override
    async def revoke(self, name: str, handle: JsonObject) -> Ending:
        return Ending.BY_PERSON

    @override
    async def list(self, prefix: str) -> Mapping[str, JsonObject]:
        raise IssuerError("a wallet server cannot tell which tokens it made")

    def _arguments(self, name: str, life: timedelta) -> JsonObject:
        life = min(life, self._settings.max_life)
        days = min(max(1, -(-life // timedelta(days=1))), _LONGEST_DAYS)
        described: JsonObject = {"label": name[:64], "ttlDays": days}
        return {
            "walletName": self._settings.wallet,
            **{key: value for key, value in described.items() if key not in self._settings.omit},
            **self._settings.arguments,
        }

    async def _take(self, owner: Owner, result: JsonObject) -> Minted:
        """Move the token out of its file."""
        told = result.get("structuredContent")
        facts: JsonObject = told if isinstance(told, dict) else {}
        if result.get("isError"):
            code = _word(facts.get("code"), _CODE) or "unknown"
            message = f"{TOOL} failed with {code}"
            if facts.get("category") == "upstream":
                raise IssuerUncertainError(message)
            raise IssuerError(message, hint="See `agents logs bootstrap`.")
        path = facts.get("tokenFile")
        place = _below(owner.home, path) if isinstance(path, str) else DEFAULT_FILE
        if place is None:
            raise IssuerUncertainError(
                "the server wrote the token outside the home that it was given",
                hint="Take the file away, end that token, and leave the server's file at its "
                "default place.",
            )
        token = await anyio.to_thread.run_sync(_move, owner.home, place)
        if token is None:
            raise IssuerUncertainError("the server's file holds no token")
        handle: JsonObject = {"wallet": self._settings.wallet}
        if token_id := _word(facts.get("tokenId"), _ID):
            handle["tokenId"] = token_id
        return Minted(Credential({WHOLE: token}), handle, _moment(facts.get("expiresAt")))


def _failed(message: str, *, asked: bool) -> IssuerError | IssuerUncertainError:
    return (
        IssuerUncertainError(message, hint="Look whether the wallet has a token of this name.")
        if asked
        else IssuerError(message, hint="See `agents logs bootstrap`.")
    )


def _word(value: Json, form: re.Pattern[str]) -> str:
    return value if isinstance(value, str) and form.fullmatch(value) else ""


def _moment(value: Json) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        return moment.astimezone(UTC) if moment is not None and moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def _below(home: Path, path: str) -> str | None:
    """Tell a path relative to a home; None if it is not in it."""
    place = Path(path)
    if ".." in place.parts or not place.is_relative_to(home) or place == home:
        return None
    return str(place.relative_to(home))


def _open_parent(home: Path, place: str) -> int:
    """Open the directory of a file below a home; no link on the way is followed.

    The server owns what is in its home: a link there could lead to a file that is not its own.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    here = os.open(home, flags)
    for part in Path(place).parts[:-1]:
        try:
            inner = os.open(part, flags, dir_fd=here)
        finally:
            os.close(here)
        here = inner
    return here


def _remove(home: Path, place: str) -> None:
    try:
        parent = _open_parent(home, place)
    except FileNotFoundError:
        return
    try:
        os.unlink(Path(place).name, dir_fd=parent)
        os.fsync(parent)
    except FileNotFoundError:
        pass
    finally:
        os.close(parent)


def _move(home: Path, place: str) -> SecretStr | None:
    """Read the token and delete its file; None if there is no token in it."""
    name = Path(place).name
    parent = _open_parent(home, place)
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, dir_fd=parent), "rb") as file:
            facts = os.fstat(file.fileno())
            # A second name could be one that the server gave to a file which is not its own.
            is_own = stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1
            content = file.read(_LIMIT_BYTES) if is_own else b""
        os.unlink(name, dir_fd=parent)
        os.fsync(parent)
    finally:
        os.close(parent)
    text = content.decode("latin-1").strip()
    return SecretStr(text) if _TOKEN.fullmatch(text) else None
