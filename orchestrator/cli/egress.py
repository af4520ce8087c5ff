"""`agents egress`: the forward proxy beside a role's servers."""

from pathlib import Path
from typing import Final

_LONGEST_BYTES: Final = 4096


def egress(allow: tuple[str, ...], listen: str, credential: Path | None) -> None:
    """Serve until SIGTERM.

    Raises:
        SettingsError: A destination, the address or the credential's file cannot be used.
    """
    import anyio

    from orchestrator.errors import SettingsError
    from orchestrator.model.destination import parse_destination
    from orchestrator.shim.egress import EgressProxy

    try:
        allowed = [parse_destination(each) for each in allow]
        host, _, port = listen.rpartition(":")
        place = host.removeprefix("[").removesuffix("]"), int(port)
    except ValueError as error:
        raise SettingsError(
            f"agents egress: {error}", hint="Example: --allow api.example.com:443 --listen :3128"
        ) from None
    proxy = EgressProxy(allowed, credential=_read(credential) if credential else "")
    try:
        anyio.run(proxy.run, *place, backend="asyncio")
    except (OSError, OverflowError) as error:
        raise SettingsError(
            f"agents egress: {listen} cannot be listened on: {error}",
            hint="Choose another address or port, or stop what listens there.",
        ) from None


def _read(path: Path) -> str:
    """Read `user:password` from the first line of a file."""
    from orchestrator.errors import SettingsError
    from orchestrator.files import read_regular

    try:
        content, _ = read_regular(path, _LONGEST_BYTES, follow=True)
        text = content.decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {type(error).__name__}") from None
    user, _, password = text.partition(":")
    if not user or not password or "\n" in text:
        raise SettingsError(f"{path} has to hold one line, user:password")
    return text
