"""Calls of modern callers that wait, at a legacy server, for what the server asked in the middle.

A legacy server asks while its call runs; a modern caller is asked by a result, and answers with a
new request. So the call goes on without its caller for a while: it is parked here, under a name
that only its caller was given, sealed.
"""

import asyncio
import secrets
from typing import TYPE_CHECKING, Final, final

from orchestrator.gateway.caller import can_be_asked
from orchestrator.gateway.upstream.base import Caller, Question
from orchestrator.model.base import Json, JsonObject
from orchestrator.protocol import jsonrpc, mcp

if TYPE_CHECKING:
    from orchestrator.gateway.target import Target
    from orchestrator.model.names import RoleName

# How long a call waits for its caller's answer.
PATIENCE_SECONDS: Final = 300.0
MAX_PARKED: Final = 256
MAX_PARKED_OF_ONE: Final = 16
_CANCELLED: Final[JsonObject] = {"code": -1, "message": "The caller did not answer"}


@final
class OpenCall:
    """One call that outlives the request that began it.

    Attributes:
        name: Its name in the sealed state.
        agent: Whose it is.
        target: The instance that carries it out, once it is there.
        caller: Who listens just now, if anybody does.
        token: The progress token of its request.
    """

    def __init__(self, agent: str, capabilities: JsonObject, asks: tuple[str, ...]) -> None:
        """Begin for a caller that can be asked what is both in `capabilities` and in `asks`."""
        self.name = secrets.token_hex(16)
        self.agent = agent
        self.target: Target | None = None
        self.caller: Caller | None = None
        self.token: Json = None
        self._capabilities = capabilities
        self._asks = asks
        self._questions: dict[str, Question] = {}
        self._count = 0
        self._task: asyncio.Task[jsonrpc.Response] | None = None
        self._news: asyncio.Future[None] | None = None
        self.expiry: asyncio.TimerHandle | None = None

    # What the connection asks of a caller.

    @property
    def owner(self) -> str:
        """Two calls without a session have nothing in common."""
        return self.name

    @property
    def may_move(self) -> bool:
        """Its caller may have been asked already."""
        return False

    def tell(self, method: str, params: JsonObject) -> None:
        """Pass a notification on to whoever listens."""
        if self.caller is None:
            return
        if method == "notifications/progress":
            # The request that is answered now may have another token than the one that began it.
            if isinstance(self.token, bool) or not isinstance(self.token, str | int):
                return
            params = {**params, mcp.PROGRESS_TOKEN_KEY: self.token}
        self.caller.tell(method, params)

    def ask(self, question: Question) -> bool:
        """Keep a question for the caller's next look."""
        if not can_be_asked(question.method, self._capabilities, self._asks):
            return False
        self._count += 1
        self._questions[f"q{self._count}"] = question
        self._wake()
        return True

    # What the relay does with it.

    def begin(self, task: "asyncio.Task[jsonrpc.Response]") -> None:
        """Take the task that makes the call."""
        self._task = task
        task.add_done_callback(self._end)

    def news(self) -> "asyncio.Future[None]":
        """Give a future that is done when there is an answer or a question."""
        self._news = asyncio.get_running_loop().create_future()
        if self._questions or (self._task is not None and self._task.done()):
            self._news.set_result(None)
        return self._news

    def response(self) -> jsonrpc.Response | None:
        """Give the server's answer, None if there is none yet.

        Raises:
            UpstreamError: There will be none.
        """
        if self._task is None or not self._task.done():
            return None
        return self._task.result()

    def input_requests(self) -> JsonObject:
        """Write the open questions as an `input_required` result has them."""
        return {
            key: {"method": question.method, "params": question.params}
            for key, question in self._questions.items()
        }

    def answer(self, responses: JsonObject) -> None:
        """Give the server what the caller answered; other questions stay open."""
        for key in tuple(self._questions):
            value: Json = responses.get(key)
            if isinstance(value, dict):
                self._questions.pop(key).answer(value)

    def cancel(self) -> None:
        """Give the call up, and have the server told."""
        questions, self._questions = self._questions, {}

        def give_up(_: object) -> None:
            for question in questions.values():
                question.answer(None, _CANCELLED)

        if self._task is None:
            give_up(None)
            return
        # First that it is over: a server may take an answer that is none for leave to go on.
        self._task.add_done_callback(give_up)
        _ = self._task.cancel()

    def _end(self, task: "asyncio.Task[jsonrpc.Response]") -> None:
        if not task.cancelled():
            _ = task.exception()  # seen, whether or not anybody comes for it
        self._wake()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


@final
class Parking:
    """All calls that wait for their callers."""

    def __init__(self) -> None:
        """Start empty."""
        self._calls: dict[str, OpenCall] = {}

    def put(self, call: OpenCall) -> bool:
        """Keep a call for its caller; False if too many are kept already."""
        own = sum(1 for one in self._calls.values() if one.agent == call.agent)
        if len(self._calls) >= MAX_PARKED or own >= MAX_PARKED_OF_ONE:
            return False
        self._calls[call.name] = call
        call.expiry = asyncio.get_running_loop().call_later(
            PATIENCE_SECONDS, self._expire, call.name
        )
        return True

    def take(self, name: str, agent: str) -> OpenCall | None:
        """Give a call back to its caller, once."""
        call = self._calls.get(name)
        if call is None or call.agent != agent:
            return None
        del self._calls[name]
        if call.expiry is not None:
            call.expiry.cancel()
        return call

    def close(self) -> None:
        """Give up every call."""
        for name in tuple(self._calls):
            self._expire(name)

    def cut(self, role: "RoleName") -> int:
        """Give up the calls of a role; tell how many they were."""
        cut = [
            name
            for name, call in self._calls.items()
            if call.target is not None and call.target.role == role
        ]
        for name in cut:
            self._expire(name)
        return len(cut)

    def _expire(self, name: str) -> None:
        call = self._calls.pop(name, None)
        if call is not None:
            if call.expiry is not None:
                call.expiry.cancel()
            call.cancel()
