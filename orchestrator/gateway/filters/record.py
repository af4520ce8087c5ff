"""Outermost: every request leaves one record, and every error becomes a reply here.

It stands around all others so that nothing ends without a record; no reply leaves before it.
"""

import re
import traceback
from dataclasses import dataclass
from typing import Final, Protocol, final

from typing_extensions import override

from orchestrator.clock import Clock
from orchestrator.errors import AgentsError
from orchestrator.gateway.context import Exchange, Handler, Reply
from orchestrator.gateway.log import get_log
from orchestrator.gateway.replies import refuse, refuse_unexpected
from orchestrator.model.names import SLUG_PATTERN, AgentName, RoleName, TokenId
from orchestrator.model.server import ToolClass

_ROLE: Final = re.compile(SLUG_PATTERN)
# Stands for what is no role's name: whoever wrote it may have put a token into the URL.
_NO_ROLE: Final = RoleName("?")


@dataclass(frozen=True, slots=True)
class CallRecord:
    """What is kept of one request; arguments, results and tokens never are.

    Attributes:
        request_id: The request's id.
        role: The role in the URL, `?` if it is no role's name.
        agent: Who asked, None if nobody proved to be anybody.
        token_id: The token's public id, None like the agent.
        method: The message's method, empty if it could not be read.
        tool: The tool, None if no tool was called.
        kind: The tool's class, None if no tool of the role was called.
        category: How it ended, as in `Reply`.
        code: Public code of the refusal, empty if there was none.
        status: The HTTP status.
        duration_ms: From the request's head to the reply.
    """

    request_id: str
    role: RoleName
    agent: AgentName | None
    token_id: TokenId | None
    method: str
    tool: str | None
    kind: ToolClass | None
    category: str
    code: str
    status: int
    duration_ms: float


class Recorder(Protocol):
    """Keeps records."""

    async def record(self, entry: CallRecord) -> None:
        """Keep one; the reply leaves when this returns."""
        ...


@final
class LogRecorder(Recorder):
    """Writes one structured log line for each record."""

    def __init__(self) -> None:
        """Take the log as it is configured when the first line is written."""
        self._log = get_log(__name__)

    @override
    async def record(self, entry: CallRecord) -> None:
        _ = self._log.info(
            "call",
            request_id=entry.request_id,
            role=entry.role,
            agent=entry.agent,
            token_id=entry.token_id,
            method=entry.method,
            tool=entry.tool,
            tool_class=entry.kind,
            outcome=entry.category,
            code=entry.code,
            status=entry.status,
            duration_ms=entry.duration_ms,
        )


@final
class Record:
    """Records each request, and turns errors into replies."""

    def __init__(self, recorder: Recorder, clock: Clock) -> None:
        """Keep records with `recorder`."""
        self._recorder = recorder
        self._clock = clock
        self._log = get_log(__name__)

    async def __call__(self, exchange: Exchange, then: Handler, /) -> Reply:
        """Answer, whatever happens."""
        try:
            reply = await then(exchange)
        except AgentsError as error:
            reply = refuse(exchange, error)
        except Exception as error:  # noqa: BLE001 - the top: told once, with an id
            # Without the error's own words: they may repeat arguments.
            _ = self._log.error(
                "unexpected_error",
                request_id=exchange.id,
                error=type(error).__name__,
                where=traceback.format_tb(error.__traceback__),
            )
            reply = refuse_unexpected(exchange)
        principal, call = exchange.principal, exchange.call
        await self._recorder.record(
            CallRecord(
                request_id=exchange.id,
                role=exchange.role if _ROLE.fullmatch(exchange.role) else _NO_ROLE,
                agent=None if principal is None else principal.agent,
                token_id=None if principal is None else principal.token_id,
                method=exchange.method[:128],
                tool=None if call is None else call.name[:128],
                kind=exchange.kind,
                category=reply.category,
                code=reply.code,
                status=reply.status,
                duration_ms=round((self._clock.monotonic() - exchange.started) * 1000, 3),
            )
        )
        return reply
