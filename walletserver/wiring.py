"""Builds the services a set of bands needs, and its tools."""

from dataclasses import dataclass

from walletserver.bands import Band, tool_names
from walletserver.ledger.embedded import EmbeddedLedger
from walletserver.ledger.store import Store
from walletserver.settings import Settings
from walletserver.tools.bound import BoundTool
from walletserver.tools.read import ReadTools


@dataclass(frozen=True, slots=True)
class Assembly:
    """What the server serves, and what it has to close at the end."""

    tools: tuple[BoundTool, ...]
    store: Store


def assemble(settings: Settings) -> Assembly:
    """Build the tools of the active bands and mode, and nothing beyond them."""
    store = Store(settings.ledger_path)
    backend = EmbeddedLedger(store)
    tools = list(ReadTools(backend).bound())
    if Band.PREPARE in settings.bands:
        # Each band's code is loaded by the instances that have the band.
        from walletserver.tools.prepare import PrepareTools  # noqa: PLC0415

        tools += PrepareTools(backend).bound()
    if Band.SIGN in settings.bands:
        tools += _sign_tools(settings, store, backend)
    names = tool_names(settings.bands, settings.auth_mode)
    return Assembly(tuple(tool for tool in tools if tool.name in names), store)


def _sign_tools(settings: Settings, store: Store, backend: EmbeddedLedger) -> tuple[BoundTool, ...]:
    from walletserver.custody.agent_tokens import AgentTokens  # noqa: PLC0415 (as above)
    from walletserver.custody.audit import AuditTrail  # noqa: PLC0415
    from walletserver.custody.desk import Credentials, Custody, SigningDesk  # noqa: PLC0415
    from walletserver.custody.policies import Policies  # noqa: PLC0415
    from walletserver.custody.vault import Vault  # noqa: PLC0415
    from walletserver.custody.wallets import Wallets  # noqa: PLC0415
    from walletserver.tools.sign import SignTools  # noqa: PLC0415

    custody = Custody(
        store=store,
        backend=backend,
        wallets=Wallets(store, Vault(settings.passphrase), backend),
        policies=Policies(store),
        tokens=AgentTokens(store),
        audit=AuditTrail(settings.audit_path),
    )
    desk = SigningDesk(custody, Credentials(settings.auth_mode, settings.agent_token))
    return SignTools(custody, desk, settings.token_file).bound()
