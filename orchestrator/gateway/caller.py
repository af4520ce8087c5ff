"""Callers as the connections to the instances see them: who hears notifications and questions."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

from orchestrator.gateway.filters.guard import refusal_of
from orchestrator.gateway.questions import Questions
from orchestrator.gateway.sessions import Session
from orchestrator.gateway.upstream.base import Question
from orchestrator.guards.index import Guards
from orchestrator.model.base import Json, JsonObject
from orchestrator.protocol import jsonrpc, mcp

if TYPE_CHECKING:
    from orchestrator.gateway.context import Exchange

_PROGRESS: Final = "notifications/progress"
_LOG: Final = "notifications/message"
_ELICITED: Final = "notifications/elicitation/complete"
_GONE: Final[JsonObject] = {"code": jsonrpc.INTERNAL_ERROR, "message": "The caller went away"}


def can_be_asked(method: str, capabilities: JsonObject, asks: tuple[str, ...]) -> bool:
    """Tell whether a caller with these capabilities may be asked this by its role's server."""
    name = mcp.ASKED_CAPABILITY.get(method)
    return name is not None and name in asks and name in capabilities


def may_repeat(exchange: "Exchange") -> bool:
    """Tell whether nothing can happen twice if a request is sent once more."""
    return exchange.attempt == 0 and not is_announced(exchange)


def is_announced(exchange: "Exchange") -> bool:
    """Tell whether it is kept before that a call is made: it changes something, or was approved."""
    return exchange.kind not in {None, "READ"} or bool(exchange.approval)


@final
class LegacyCaller:
    """A caller with a session: is asked on its request's own stream."""

    __slots__ = ("_asks", "_exchange", "_guards", "_is_asked", "_questions", "_session")

    def __init__(
        self,
        exchange: "Exchange",
        session: Session,
        questions: Questions,
        asks: tuple[str, ...],
        guards: Guards,
    ) -> None:
        """Speak for this request of this session.

        Args:
            exchange: The request.
            session: Its session.
            questions: Where answers are waited for.
            asks: What the server may ask.
            guards: What is held back: no answer gets to a server then.
        """
        self._exchange = exchange
        self._guards = guards
        self._session = session
        self._questions = questions
        self._asks = asks
        self._is_asked = False

    @property
    def agent(self) -> str:
        """Whose request it is."""
        principal = self._exchange.principal
        return "" if principal is None else principal.agent

    @property
    def owner(self) -> str:
        """Tells whether two requests come from the same session."""
        return self._session.key

    @property
    def may_move(self) -> bool:
        """Whether the request may be made again; not if its caller would be asked again."""
        return not self._is_asked and may_repeat(self._exchange)

    def tell(self, method: str, params: JsonObject) -> None:
        """Take a notification about the request; one that it cannot take is lost."""
        if method == _LOG:
            level = params.get("level")
            if not self._session.wants_level(level if isinstance(level, str) else ""):
                return
        elif method not in {_PROGRESS, _ELICITED}:
            return
        body = jsonrpc.notification_body(method, params)
        _ = self._exchange.outlet.push(body)

    def ask(self, question: Question) -> bool:
        """Take a question of the server; False if this caller cannot be asked it."""
        if not can_be_asked(question.method, self._session.capabilities, self._asks):
            return False
        return self.put(question.method, question.params, question.answer)

    def put(
        self,
        method: str,
        params: JsonObject,
        answer: Callable[[JsonObject | None, JsonObject | None], None],
    ) -> bool:
        """Ask the caller; `answer` takes the result or the error, also when the request ends."""

        def pass_on(result: JsonObject | None, error: JsonObject | None) -> None:
            if result is not None and (refused := refusal_of(self._guards, self._exchange)):
                # What was answered may be what makes the server act: its call ends first.
                self._exchange.interrupt(refused)
                self._exchange.finally_do(lambda: answer(None, dict(_GONE)))
                return
            answer(result, error)

        identity = self._questions.put(self._session.key, pass_on)
        if identity is None:
            return False
        self._is_asked = True
        body = jsonrpc.request_body(identity, method, params)
        if not self._exchange.outlet.push(body):
            self._questions.drop(identity)
            return False
        gone = jsonrpc.Response(identity, None, dict(_GONE))
        self._exchange.finally_do(lambda: self._questions.answer(self._session.key, gone))
        return True


@final
class ModernCaller:
    """A caller without a session: hears what it asked to hear, and is never asked on the way."""

    __slots__ = ("_exchange", "_least")

    def __init__(self, exchange: "Exchange", level: Json) -> None:
        """Speak for this request, which wants log messages from `level` on, or none."""
        self._exchange = exchange
        known = isinstance(level, str) and level in mcp.LOG_LEVELS
        self._least = mcp.LOG_LEVELS.index(level) if known else len(mcp.LOG_LEVELS)

    @property
    def agent(self) -> str:
        """Whose request it is."""
        principal = self._exchange.principal
        return "" if principal is None else principal.agent

    @property
    def owner(self) -> str:
        """Two requests without a session have nothing in common."""
        return self._exchange.id

    @property
    def may_move(self) -> bool:
        """Whether the request may be made again."""
        return may_repeat(self._exchange)

    def tell(self, method: str, params: JsonObject) -> None:
        """Take a notification about the request; one that it cannot take is lost."""
        if method == _LOG:
            level = params.get("level")
            if not isinstance(level, str) or level not in mcp.LOG_LEVELS[self._least :]:
                return
        elif method != _PROGRESS:
            return
        body = jsonrpc.notification_body(method, params)
        _ = self._exchange.outlet.push(body)

    def ask(self, question: Question) -> bool:  # noqa: ARG002 - the protocol's
        """A modern caller is asked by a result, not by a request."""
        return False
