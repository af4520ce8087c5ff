"""Open streams of callers that listen, and what is announced on them.

Legacy callers open one stream a session by GET; modern ones ask by `subscriptions/listen` for what
they want to hear. What changes at a role reaches both.

Source: MCP 2025-11-25, Transports, listening for messages; MCP 2026-07-28, subscriptions.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from orchestrator.errors import (
    AgentsError,
    CallCancelledError,
    InvalidParamsError,
    TooManyCallsError,
)
from orchestrator.gateway.sessions import LONGEST_URI, MAX_SUBSCRIPTIONS, Session
from orchestrator.model.base import JsonObject
from orchestrator.model.names import RoleName
from orchestrator.protocol import jsonrpc

if TYPE_CHECKING:
    from orchestrator.gateway.context import Exchange

TOOLS_CHANGED: Final = "notifications/tools/list_changed"
PROMPTS_CHANGED: Final = "notifications/prompts/list_changed"
RESOURCES_CHANGED: Final = "notifications/resources/list_changed"
RESOURCE_UPDATED: Final = "notifications/resources/updated"
# Subscriptions of all streams of one agent at one role.
MAX_OF_ONE: Final = 1_024
_ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"
_SUBSCRIPTION_KEY: Final = "io.modelcontextprotocol/subscriptionId"
_OF_FILTER: Final = {
    "toolsListChanged": TOOLS_CHANGED,
    "promptsListChanged": PROMPTS_CHANGED,
    "resourcesListChanged": RESOURCES_CHANGED,
}


@dataclass(frozen=True, slots=True)
class Interest:
    """What a modern listener wants to hear.

    Attributes:
        methods: List changes that it wants.
        uris: Resources whose changes it wants.
        told: The request's own words for it, as far as they are understood.
    """

    methods: frozenset[str]
    uris: frozenset[str]
    told: JsonObject


def read_interest(params: JsonObject, may_read: Callable[[str], bool]) -> Interest:
    """Read what a `subscriptions/listen` asks for; what the role may not read is left out.

    Raises:
        InvalidParamsError: It asks for nothing in a way that is understood.
    """
    asked = params.get("notifications")
    if not isinstance(asked, dict):
        raise InvalidParamsError("Invalid params: `notifications` must be an object")
    told: JsonObject = {name: True for name in _OF_FILTER if asked.get(name) is True}
    uris = asked.get("resourceSubscriptions", [])
    if not isinstance(uris, list) or len(uris) > MAX_SUBSCRIPTIONS:
        raise InvalidParamsError("Invalid params: `resourceSubscriptions` must be a short list")
    wanted = [
        uri for uri in uris if isinstance(uri, str) and len(uri) <= LONGEST_URI and may_read(uri)
    ]
    if wanted:
        told["resourceSubscriptions"] = [*wanted]
    return Interest(
        frozenset(_OF_FILTER[name] for name in told if name in _OF_FILTER), frozenset(wanted), told
    )


@final
class Stream:
    """One caller that listens.

    Attributes:
        role: The role that it listens at.
        agent: Whose it is.
        session: Its session, None for a modern caller.
        interest: What a modern caller wants to hear.
        owner: Whose instance speaks to it, where instances are not shared.
    """

    def __init__(
        self, exchange: "Exchange", session: Session | None, interest: Interest | None, owner: str
    ) -> None:
        """Listen on the request's own stream."""
        self.role: RoleName = exchange.role
        self.agent = "" if exchange.principal is None else str(exchange.principal.agent)
        self.session = session
        self.interest = interest
        self.owner = owner
        self._exchange = exchange
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def uris(self) -> "set[str] | frozenset[str]":
        """Resources whose changes it wants to hear of."""
        if self.interest is not None:
            return self.interest.uris
        return set() if self.session is None else self.session.uris

    def offer(self, method: str, params: JsonObject) -> None:
        """Pass a notification on, if it is wanted; a caller that does not read is let go."""
        if self.interest is not None:
            is_wanted = method in self.interest.methods or method == RESOURCE_UPDATED
            if not is_wanted:
                return
            params = self._stamp(params)
        outlet = self._exchange.outlet
        _ = outlet.push(jsonrpc.notification_body(method, params))
        if outlet.is_full:
            self.end()

    def end(self) -> None:
        """Let the caller go."""
        if not self._ended.done():
            self._ended.set_result(None)

    async def run(self) -> bytes:
        """Listen until the caller goes, or is let go.

        Returns:
            A last message for the caller; empty if there is none.
        """
        outlet = self._exchange.outlet
        if self.interest is None:
            outlet.begin()
        else:
            told = self._stamp({"notifications": self.interest.told})
            _ = outlet.push(jsonrpc.notification_body(_ACKNOWLEDGED, told))
        self._exchange.watch()
        try:
            await self._exchange.wait(self._ended)
        except CallCancelledError:
            return b""
        except AgentsError:
            pass
        request_id = self._exchange.request_id
        if self.interest is None or request_id is None:
            return b""
        result: JsonObject = self._stamp({"resultType": "complete"})
        return jsonrpc.encode(jsonrpc.result_body(request_id, result))

    def _stamp(self, params: JsonObject) -> JsonObject:
        meta = params.get("_meta")
        stamped: JsonObject = dict(meta) if isinstance(meta, dict) else {}
        stamped[_SUBSCRIPTION_KEY] = self._exchange.request_id
        return {**params, "_meta": stamped}


@final
class Hub:
    """All streams, by role.

    Attributes:
        on_interest: Is told of a role and an owner whose listeners' resources may have changed.
    """

    def __init__(self) -> None:
        """Start without any."""
        self._streams: dict[RoleName, set[Stream]] = {}
        self._of_session: dict[str, Stream] = {}
        self.on_interest: Callable[[RoleName, str], None] = _ignore

    def add(self, stream: Stream) -> bool:
        """Take a stream in; False if its session has one already."""
        if stream.session is not None:
            if stream.session.key in self._of_session:
                return False
            self._of_session[stream.session.key] = stream
        self._streams.setdefault(stream.role, set()).add(stream)
        if stream.uris:
            self.on_interest(stream.role, stream.owner)
        return True

    def remove(self, stream: Stream) -> None:
        """Forget a stream."""
        if stream.session is not None:
            _ = self._of_session.pop(stream.session.key, None)
        streams = self._streams.get(stream.role, set())
        streams.discard(stream)
        if not streams:
            _ = self._streams.pop(stream.role, None)
        if stream.uris:
            self.on_interest(stream.role, stream.owner)

    def end_session(self, key: str) -> None:
        """Let the listener of an ended session go."""
        stream = self._of_session.get(key)
        if stream is not None:
            stream.end()

    def end_role(self, role: RoleName) -> None:
        """Let everybody go who listens at a role that is gone."""
        for stream in self._streams.get(role, ()):
            stream.end()

    def announce(self, role: RoleName, method: str) -> None:
        """Tell everybody at a role that a list changed."""
        for stream in tuple(self._streams.get(role, ())):
            stream.offer(method, {})

    def tell_updated(self, role: RoleName, owner: str, params: JsonObject) -> None:
        """Tell those who want to know that a resource changed."""
        uri = params.get("uri")
        if not isinstance(uri, str):
            return
        for stream in tuple(self._streams.get(role, ())):
            if stream.owner == owner and uri in stream.uris:
                stream.offer(RESOURCE_UPDATED, {"uri": uri})

    def tell_session(self, key: str, method: str, params: JsonObject) -> None:
        """Tell the one session that an instance is for."""
        stream = self._of_session.get(key)
        level = params.get("level")
        if stream is None or stream.session is None:
            return
        if stream.session.wants_level(level if isinstance(level, str) else ""):
            stream.offer(method, params)

    def uris(self, role: RoleName, owner: str) -> frozenset[str]:
        """Tell the resources that listeners of a role's instance want to hear of."""
        listeners = [one for one in self._streams.get(role, ()) if one.owner == owner]
        return frozenset(uri for one in listeners for uri in one.uris)

    def require_room(self, role: RoleName, agent: str, more: int) -> None:
        """Refuse more subscriptions of one agent than anybody could mean.

        All of a role are looked at whenever one of them comes or goes.

        Raises:
            TooManyCallsError: It has too many with the others that it listens to.
        """
        own = sum(len(one.uris) for one in self._streams.get(role, ()) if one.agent == agent)
        if more and own + more > MAX_OF_ONE:
            raise TooManyCallsError("The agent has too many subscriptions")

    def owners(self, role: RoleName) -> frozenset[str]:
        """Tell whose instances somebody listens to."""
        return frozenset(stream.owner for stream in self._streams.get(role, ()))


def _ignore(_: RoleName, __: str) -> None:
    """Tell nobody."""
