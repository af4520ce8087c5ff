"""What the console asks the daemon, over the control socket, as any command does."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final, cast, final

from anyio import to_thread

from orchestrator.control.admin_client import ask_once
from orchestrator.model.base import Json, JsonObject

PATIENCE_SECONDS: Final = 30.0


@final
class Daemon:
    """Asks the daemon; each question is a connection of its own, in a thread."""

    def __init__(self, socket: Path) -> None:
        """Keep where it listens."""
        self._socket = socket

    async def ask(self, op: str, fields: Mapping[str, object] | None = None) -> Json:
        """Send one request, as `model.admin` describes it, and return its result.

        Raises:
            AgentsError: It cannot be done, or nobody answers.
        """
        # What is left out has its default there.
        given = {name: value for name, value in (fields or {}).items() if value is not None}
        question = partial(ask_once, self._socket, {"op": op, **given}, patience=PATIENCE_SECONDS)
        return cast("Json", await to_thread.run_sync(question))

    async def tell(self, op: str, fields: Mapping[str, object] | None = None) -> JsonObject:
        """Send one request whose result is an object, and return it. Raises as `ask`."""
        answer = await self.ask(op, fields)
        return answer if isinstance(answer, dict) else {}


def listed(answer: Json, name: str = "") -> list[JsonObject]:
    """Give the objects of a list, or of the list of that name in an object."""
    inner = answer.get(name) if isinstance(answer, dict) else answer
    return [one for one in inner if isinstance(one, dict)] if isinstance(inner, list) else []
