"""What is answered without an instance, and what is taken out of an instance's lists.

It stands before the relay, so that an agent opens and lists whatever its instance does just now.
"""

from collections.abc import Awaitable, Callable
from typing import Final, final

from orchestrator.errors import InvalidParamsError, MethodNotAllowedError, TooManyCallsError
from orchestrator.gateway.context import Exchange, Handler, Reply
from orchestrator.gateway.hub import Hub, Stream, read_interest
from orchestrator.gateway.sessions import (
    HEADER,
    LONGEST_URIS,
    MAX_SUBSCRIPTIONS,
    Session,
    Sessions,
)
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.names import RoleName
from orchestrator.protocol import jsonrpc, mcp

_RELAYED: Final = frozenset(
    {
        "tools/call",
        "resources/list",
        "resources/templates/list",
        "resources/read",
        "prompts/list",
        "prompts/get",
        "completion/complete",
    }
)


@final
class Disclose:
    """Answers what the gateway knows itself."""

    def __init__(  # noqa: PLR0913 - each is a part that somebody else owns
        self,
        server_info: JsonObject,
        sessions: Sessions,
        hub: Hub,
        owner_of: Callable[[Exchange], str],
        on_level: Callable[[RoleName], None],
        *,
        max_streams: int,
    ) -> None:
        """Answer as this server.

        Args:
            server_info: What the gateway says of itself.
            sessions: Where sessions are opened and changed.
            hub: Where streams are announced to.
            owner_of: Tells whose instance speaks to a caller.
            on_level: Is told that a session of a role changed its log level.
            max_streams: How many streams of one token may be open at the same time.
        """
        self._server_info = server_info
        self._sessions = sessions
        self._hub = hub
        self._owner_of = owner_of
        self._on_level = on_level
        self._max_streams = max_streams

    def __call__(self, exchange: Exchange, /, then: Handler) -> Awaitable[Reply]:
        """Answer, or pass on what only an instance can answer.

        Raises:
            InvalidParamsError: The parameters do not have the method's shape.
        """
        if exchange.method in _RELAYED:
            return then(exchange)
        return self._answer(exchange)

    async def _answer(self, exchange: Exchange) -> Reply:
        headers: tuple[tuple[bytes, bytes], ...] = ()
        match exchange.method:
            case "subscriptions/listen":
                return self._listen(exchange)
            case "initialize":
                result, session = self._initialize(exchange)
                headers = ((HEADER, session.encode("ascii")),)
            case "server/discover":
                capabilities, instructions = _offer(exchange)
                result = mcp.discover_result(capabilities, instructions)
            case "tools/list":
                result = _list_tools(exchange)
            case "logging/setLevel":
                result = self._set_level(exchange)
            case "resources/subscribe" | "resources/unsubscribe":
                result = self._subscribe(exchange)
            case _:
                result = {}
        if exchange.request_id is None:
            raise AssertionError("only requests get here")
        result = mcp.result_for(exchange.era, exchange.method, result, self._server_info)
        body = jsonrpc.encode(jsonrpc.result_body(exchange.request_id, result))
        return Reply(200, body, headers=headers)

    def _initialize(self, exchange: Exchange) -> tuple[JsonObject, str]:
        version = mcp.agree_on_version(exchange.params)
        capabilities, instructions = _offer(exchange)
        agent = exchange.principal.agent if exchange.principal is not None else None
        if agent is None:
            raise AssertionError("authenticated before")
        session = self._sessions.open(exchange.role, agent, exchange.params, version)
        exchange.session = session
        result = mcp.initialize_result(version, self._server_info, capabilities, instructions)
        return result, session.id

    def _set_level(self, exchange: Exchange) -> JsonObject:
        level = exchange.params.get("level")
        if not isinstance(level, str) or level not in mcp.LOG_LEVELS:
            raise InvalidParamsError(
                f"Invalid params: `level` is one of {', '.join(mcp.LOG_LEVELS)}"
            )
        if exchange.session is not None:
            exchange.session.level = level
            self._sessions.change(exchange.session)
            self._on_level(exchange.role)
        return {}

    def _subscribe(self, exchange: Exchange) -> JsonObject:
        session, uri = exchange.session, exchange.params.get("uri")
        if session is None or not isinstance(uri, str):
            raise AssertionError("checked before")
        if exchange.method == "resources/unsubscribe":
            session.uris.discard(uri)
        else:
            told = exchange.place.capabilities.get("resources") if exchange.place else None
            if not isinstance(told, dict) or told.get("subscribe") is not True:
                raise MethodNotAllowedError("Method not found")
            if uri not in session.uris:
                self._require_room(exchange, session, uri)
            session.uris.add(uri)
        self._sessions.change(session)
        self._hub.on_interest(exchange.role, self._owner_of(exchange))
        return {}

    def _require_room(self, exchange: Exchange, session: Session, uri: str) -> None:
        size = sum(map(len, session.uris)) + len(uri)
        if len(session.uris) >= MAX_SUBSCRIPTIONS or size > LONGEST_URIS:
            raise TooManyCallsError("The session has too many subscriptions")
        self._hub.require_room(exchange.role, session.agent, 1)

    def _listen(self, exchange: Exchange) -> Reply:
        place = exchange.place
        if place is None:
            raise AssertionError("authorized before")
        interest = read_interest(exchange.params, place.policy.resources.allows)
        stream = Stream(exchange, None, interest, self._owner_of(exchange))
        self._hub.require_room(exchange.role, stream.agent, len(interest.uris))
        _ = self._hub.add(stream)
        exchange.finally_do(lambda: self._hub.remove(stream))
        exchange.become_stream(self._max_streams)
        return Reply(200, stream=stream)


def _offer(exchange: Exchange) -> tuple[JsonObject, str]:
    place = exchange.place
    upstream: JsonObject = {} if place is None else place.capabilities
    offered = mcp.offered_capabilities(
        upstream,
        resources=place is not None and bool(place.route.policy.resources),
        prompts=place is not None and bool(place.route.policy.prompts),
        era=exchange.era,
    )
    return offered, "" if place is None else place.instructions


def _list_tools(exchange: Exchange) -> JsonObject:
    if exchange.params.get("cursor") is not None:
        # There is one page, so no cursor was ever given out.
        raise InvalidParamsError("Invalid params: unknown cursor")
    return mcp.list_result(() if exchange.place is None else exchange.place.policy.shown)


def cut_result(exchange: Exchange, result: JsonObject) -> None:
    """Take out of an instance's list what the role must not see; order and cursor stay."""
    place = exchange.place
    if place is None:
        return
    match exchange.method:
        case "resources/list":
            _cut(
                result, "resources", lambda item: _text(item, "uri", place.policy.resources.allows)
            )
        case "resources/templates/list":
            _cut(
                result,
                "resourceTemplates",
                lambda item: _text(item, "uriTemplate", place.policy.resources.shows),
            )
        case "prompts/list":
            _cut(result, "prompts", lambda item: _text(item, "name", place.policy.prompts.allows))
        case _:
            pass


def _cut(result: JsonObject, key: str, is_shown: Callable[[Json], bool]) -> None:
    listed = result.get(key)
    result[key] = [item for item in listed if is_shown(item)] if isinstance(listed, list) else []


def _text(item: Json, key: str, is_allowed: Callable[[str], bool]) -> bool:
    value = item.get(key) if isinstance(item, dict) else None
    return isinstance(value, str) and is_allowed(value)
