"""The console's own process, with the arguments ROOT STATE RUN HOST PORT URL and `open` or `no`.

`agents console` becomes it. It holds no state of the project, writes no file of it, and asks the
daemon for everything; ending it ends every session.
"""

import gc
import secrets
import socket
import sys
import threading
import time
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import Final, cast

import anyio
import uvicorn

from orchestrator.console.app import make_app
from orchestrator.console.asking import Daemon
from orchestrator.console.patience import Patient
from orchestrator.console.render import Pages
from orchestrator.console.sessions import CODE_SECONDS, Sessions
from orchestrator.console.site import Site
from orchestrator.errors import AgentsError, SettingsError
from orchestrator.files import write_atomically
from orchestrator.paths import Paths

BACKLOG: Final = 64
# A third of the time after which a console is taken to be gone.
HERE_SECONDS: Final = 20.0


def main() -> int:
    """Serve until Ctrl-C or SIGTERM."""
    gc.freeze()
    root, state, run, host, port, public_url, opens = sys.argv[1:]
    paths = Paths(Path(root), Path(state), Path(run))
    try:
        listener = _listen(host, int(port))
    except AgentsError as error:
        _ = sys.stderr.write(f"agents: {error}\n{error.hint or ''}\n")
        return error.exit_code
    address = f"[{host}]" if ":" in host else host
    bound = cast("int", listener.getsockname()[1])
    here = f"{address}:{bound}"
    # Nobody who was not let in can name a page, or have a browser show them our cookie.
    home = f"/{secrets.token_urlsafe(15)}"
    site = Site(
        paths=paths,
        daemon=Daemon(paths.control_socket),
        pages=Pages(home),
        sessions=Sessions(_seconds),
        cookie=f"bandmaster-console-{bound}",
        home=home,
        public_url=public_url,
    )
    hosts = (here, f"localhost:{bound}")
    _invite(site, here, opens=opens == "open")
    if sys.stdin.isatty():
        threading.Thread(target=_invite_again, args=(site, here), daemon=True).start()
    config = uvicorn.Config(
        make_app(site, hosts),
        http=Patient,
        ws="none",
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=16 * 1024,
    )
    try:
        anyio.run(_serve, uvicorn.Server(config), listener, site)
    except KeyboardInterrupt:
        pass
    finally:
        _opener(paths).unlink(missing_ok=True)
    return 0


async def _serve(server: uvicorn.Server, listener: socket.socket, site: Site) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(_say_here, site)
        await server.serve(sockets=[listener])
        group.cancel_scope.cancel()
    await _say(site, "")


async def _say_here(site: Site) -> None:
    """Keep telling the daemon where links are opened; another daemon has to know it, too."""
    await site.note("console.opened")
    while site.public_url:
        await _say(site, site.public_url)
        await anyio.sleep(HERE_SECONDS)


async def _say(site: Site, url: str) -> None:
    if site.public_url:
        with suppress(AgentsError):
            _ = await site.daemon.ask("console.here", {"url": url})


def _seconds() -> float:
    """Tell the time, with that during which the machine slept: nobody was here then, either."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"the console cannot listen on {host}:{port}: {error.strerror}",
            hint="Choose another port with --listen, or leave it to the system: 127.0.0.1:0.",
        ) from error
    return listener


def _invite(site: Site, here: str, *, opens: bool) -> None:
    link = f"http://{here}{site.home}/login#{site.sessions.make_code()}"
    minutes = int(CODE_SECONDS // 60)
    _ = sys.stdout.write(f"Console: {link}\nThis link works once, within {minutes} minutes.\n")
    if sys.stdin.isatty():
        _ = sys.stdout.write("Press Enter for another one, Ctrl-C to end.\n")
    sys.stdout.flush()
    if opens:
        _open(site.paths, link)


def _invite_again(site: Site, here: str) -> None:
    for _ in sys.stdin:
        _invite(site, here, opens=False)


def _open(paths: Paths, link: str) -> None:
    """Open a browser, without a login code on anybody's command line."""
    page = _opener(paths)
    text = f'<!doctype html><meta http-equiv="refresh" content="0;url={link}">\n'
    write_atomically(page, text.encode())
    threading.Thread(target=webbrowser.open, args=(page.as_uri(),), daemon=True).start()


def _opener(paths: Paths) -> Path:
    return paths.run / "console.html"


if __name__ == "__main__":
    sys.exit(main())
