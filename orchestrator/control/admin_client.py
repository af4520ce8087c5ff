"""Client of the control socket, standard library only: `agents status` has to be quick."""

import json
import os
import socket
from collections.abc import Generator
from pathlib import Path
from typing import Final, TypeAlias, cast

from orchestrator.errors import AgentsError, ControlUnavailableError, NotRunningError
from orchestrator.runtimes.identity import peer_of

Object: TypeAlias = "dict[str, object]"
CONNECT_SECONDS: Final = 5.0
# `sun_path` holds 108 bytes, the last one NUL.
LONGEST_ADDRESS_BYTES: Final = 107


class RemoteError(AgentsError):
    """An error that the daemon reported, with its own code, exit status and hint."""

    def __init__(self, code: str, exit_code: int, message: str, hint: str | None) -> None:
        """Take over what the daemon said."""
        super().__init__(message, hint=hint)
        self.remote_code: str = code
        self.remote_exit_code: int = exit_code


def is_listening(path: Path) -> bool:
    """Tell whether a daemon listens on the control socket."""
    try:
        _connect(path).close()
    except AgentsError:
        return False
    return True


def ask(
    path: Path, request: Object, *, patience: float | None = 60.0
) -> Generator[Object, None, object]:
    """Send one request and follow its replies.

    Args:
        path: The control socket.
        request: The request, as `model.admin` describes it.
        patience: Longest silence between two replies, in seconds; None waits for ever.

    Yields:
        The body of each progress reply.

    Returns:
        The body of the result.

    Raises:
        NotRunningError: Nobody listens.
        ControlUnavailableError: The daemon went away or is silent.
        RemoteError: The daemon reported an error.
    """
    with _connect(path) as connection:
        connection.settimeout(patience)
        try:
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as replies:
                for line in replies:
                    reply = cast("Object", json.loads(line))
                    if reply["type"] == "progress":
                        yield cast("Object", reply["body"])
                    elif reply["type"] == "result":
                        return reply["body"]
                    else:
                        raise _remote(reply)
        except TimeoutError as error:
            raise ControlUnavailableError(
                "the control plane does not answer", hint="See its log: `agents logs --daemon`."
            ) from error
        except (OSError, ValueError) as error:
            raise ControlUnavailableError("the connection to the control plane broke") from error
    raise ControlUnavailableError(
        "the control plane went away before it answered",
        hint="supervisord starts it again; try once more, and see `agents logs --daemon`.",
    )


def ask_once(path: Path, request: Object, *, patience: float | None = 60.0) -> object:
    """Send one request and return its result; progress is passed over. Raises as `ask`."""
    replies = ask(path, request, patience=patience)
    while True:
        try:
            _ = next(replies)
        except StopIteration as end:
            return cast("object", end.value)


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(CONNECT_SECONDS)
    if len(os.fsencode(path)) > LONGEST_ADDRESS_BYTES:
        connection.close()
        raise NotRunningError(
            f"nothing can run here: {path} is too long for a socket",
            hint="Set `run:` in agents.yaml to a short directory.",
        )
    try:
        connection.connect(str(path))
        _check_peer(connection, path)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        connection.close()
        raise NotRunningError(
            "nothing is running in this project", hint="Start it with `agents up`."
        ) from error
    except OSError as error:
        connection.close()
        raise ControlUnavailableError(f"{path} cannot be reached: {error}") from error
    return connection


def _check_peer(connection: socket.socket, path: Path) -> None:
    """Refuse to talk to anybody but ourselves: another user may have made the socket."""
    _, uid = peer_of(connection)
    if uid != os.geteuid():
        connection.close()
        raise ControlUnavailableError(f"{path} belongs to another user", hint="Set another `run:`.")


def _remote(reply: Object) -> RemoteError:
    hint = reply.get("hint")
    return RemoteError(
        str(reply.get("code")),
        int(str(reply.get("exit_code", 1))),
        str(reply.get("message")),
        None if hint is None else str(hint),
    )
