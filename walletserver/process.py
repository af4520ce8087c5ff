"""One server process, from its settings to its end."""

import gc

from walletserver.about import VERSION
from walletserver.logs import log_event
from walletserver.server import InFlight, WalletMcpServer
from walletserver.settings import Settings, Transport
from walletserver.shutdown import StopSignal
from walletserver.wiring import assemble


def run(settings: Settings) -> None:
    """Serve until the client leaves or a signal comes.

    Raises:
        OSError: In HTTP mode, the address cannot be bound.
    """
    stop = StopSignal(settings.shutdown_seconds)
    in_flight = InFlight()
    assembly = assemble(settings)
    server = WalletMcpServer(assembly.tools, in_flight)
    log_event(
        "started",
        version=VERSION,
        transport=settings.transport.value,
        authMode=settings.auth_mode.value,
        bands=",".join(settings.bands),
        tools=len(assembly.tools),
    )
    # All that lives now lives to the end; the collector, off until here, need not look at it.
    gc.freeze()
    gc.enable()
    # Each transport is loaded by the instances that use it.
    if settings.transport is Transport.HTTP:
        from walletserver.streamable_http import serve_http  # noqa: PLC0415

        serve_http(server, settings)
    else:
        from walletserver.stdio import serve_stdio  # noqa: PLC0415

        serve_stdio(server, in_flight, stop, settings.shutdown_seconds)
    assembly.store.close()
    log_event("stopped")
