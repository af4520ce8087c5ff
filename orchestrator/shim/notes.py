"""What a client said in its session: what a successor of the session has to be told again."""

from typing import Final, final

from orchestrator.model.base import JsonObject
from orchestrator.protocol import jsonrpc

_LISTS: Final = ("tools", "prompts", "resources")


@final
class Notes:
    """Notes on one session.

    Attributes:
        opening: Parameters of the `initialize` that opened it; None as long as none did.
        is_begun: Whether the client said that it begins.
    """

    def __init__(self) -> None:
        """Begin without a session."""
        self.opening: JsonObject | None = None
        self.is_begun = False
        self._version = ""
        self._lists: tuple[str, ...] = ()
        self._level: JsonObject | None = None
        self._uris: dict[str, JsonObject] = {}

    def open(self, params: JsonObject, result: JsonObject) -> None:
        """Note that a session was opened, with what it offers."""
        self.opening = params
        self.is_begun = False
        self._version = str(result.get("protocolVersion"))
        self._lists = _told_lists(result)
        self._level = None
        self._uris.clear()

    def note(self, method: str, params: JsonObject) -> None:
        """Note a request that succeeded, if it changed the session."""
        uri = params.get("uri")
        match method:
            case "logging/setLevel":
                self._level = params
            case "resources/subscribe" if isinstance(uri, str):
                self._uris[uri] = params
            case "resources/unsubscribe" if isinstance(uri, str):
                _ = self._uris.pop(uri, None)
            case _:
                pass

    def take_over(self, result: JsonObject) -> bool:
        """Take what a successor of the session offers; False if the client could not use it."""
        if result.get("protocolVersion") != self._version:
            return False
        # A list that is offered no more has changed, too.
        self._lists = tuple(dict.fromkeys((*self._lists, *_told_lists(result))))
        return True

    def changes(self) -> list[tuple[str, JsonObject]]:
        """Tell the requests by which a new session becomes like the old one."""
        level = [] if self._level is None else [("logging/setLevel", self._level)]
        return [*level, *(("resources/subscribe", params) for params in self._uris.values())]

    def missed(self) -> list[JsonObject]:
        """Tell what may have been said while nobody listened."""
        return [
            *(
                jsonrpc.notification_body(f"notifications/{name}/list_changed", {})
                for name in self._lists
            ),
            *(
                jsonrpc.notification_body("notifications/resources/updated", {"uri": uri})
                for uri in self._uris
            ),
        ]


def _told_lists(result: JsonObject) -> tuple[str, ...]:
    """Tell the lists whose changes a server tells."""
    offered = result.get("capabilities")
    if not isinstance(offered, dict):
        return ()
    parts = ((name, offered.get(name)) for name in _LISTS)
    return tuple(
        name for name, part in parts if isinstance(part, dict) and part.get("listChanged") is True
    )
