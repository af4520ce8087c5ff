"""What is kept of calls and decisions, as data; arguments, results and tokens never are."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, TypeAlias

import orjson

from orchestrator.model.base import JsonObject
from orchestrator.model.names import AgentName, RoleName, TokenId
from orchestrator.model.server import ToolClass
from orchestrator.protocol.canonical import canonical

FORMAT: Final = 2

# `intent`: a call that changes something is about to be sent to its instance.
# `stream`: a caller begins to listen; an `outcome` follows when it ends.
# `outcome`: how a request ended.
# `decision`: the gateway refused a request, and no instance heard of it.
# Beside these, the writer tells of itself:
# `start`, `stop`: the record was opened and closed.
# `checkpoint`: signs all before it.
# `tombstone`: older lines may be removed; signed.
# `omitted`: so many more lines like one before were left out.
# `gap`: so many requests are without a line, because none could be written.
CallEvent: TypeAlias = Literal["intent", "stream", "outcome", "decision"]
Fields: TypeAlias = dict[str, str | int | datetime | dict[str, str] | None]


@dataclass(slots=True)
class CallRecord:
    """One line about one request. Not frozen: that would cost as much as writing the line.

    Attributes:
        event: Which moment of the request it is.
        request_id: The request's id.
        role: The role in the URL, `?` if it is no role's name.
        agent: Who asked, None if nobody proved to be anybody.
        token_id: The token's public id, None like the agent.
        session: Short name of the caller's session, empty if there is none.
        method: The message's method, empty if it could not be read; `GET` or `DELETE` for these.
        tool: The tool, None if no tool was called.
        kind: The tool's class, None if no tool of the role was called.
        category: How it ended: `ok`, `tool_error` or `rpc_error` for what the server itself
            answered, otherwise the category of the gateway's own refusal; empty before the end.
        code: Public code of the refusal, empty if there was none.
        status: The HTTP status, 0 before the end.
        duration_us: From the request's head to the reply, in microseconds.
        policy: Revision of the policy that decided, empty if none did.
        rule: Which rule decided, empty for none.
        attempt: How often the call had gone to an instance before.
        workload: The instance, empty if none was claimed.
        pid: Its process, 0 like the instance.
        arguments_sha256: Of the tool's arguments as canonical JSON, empty if no tool was called.
        trace_id: The caller's trace, empty if it told none.
        client: The program that asks, as it calls itself; empty if it does not.
        run: What the request is a part of: a session, or a trace; empty for neither.
        approval: The approval that a call is made by, or waits for; empty for none.
        resources: What a call is about: values of arguments that the server file names.
        summary: Kind and size of each argument.
    """

    event: CallEvent
    request_id: str
    role: RoleName
    agent: AgentName | None = None
    token_id: TokenId | None = None
    session: str = ""
    method: str = ""
    tool: str | None = None
    kind: ToolClass | None = None
    category: str = ""
    code: str = ""
    status: int = 0
    duration_us: int = 0
    policy: str = ""
    rule: str = ""
    attempt: int = 0
    workload: str = ""
    pid: int = 0
    arguments_sha256: str = ""
    trace_id: str = ""
    client: str = ""
    run: str = ""
    approval: str = ""
    resources: dict[str, str] | None = None
    summary: dict[str, str] | None = None

    def fields(self) -> Fields:  # noqa: C901, PLR0912 - one branch for each field
        """Tell it as the fields of a line; what has nothing to tell is left out."""
        told: Fields = {"event": self.event, "request": self.request_id, "role": self.role}
        # One by one: to make all and take the empty ones out again costs twice as much.
        if self.agent is not None:
            told["agent"] = self.agent
            told["token"] = self.token_id
        if self.session:
            told["session"] = self.session
        if self.method:
            told["method"] = self.method
        if self.tool is not None:
            told["tool"] = self.tool
            told["arguments_sha256"] = self.arguments_sha256
        if self.kind is not None:
            told["class"] = self.kind
        if self.category:
            told["outcome"] = self.category
        if self.code:
            told["code"] = self.code
        if self.status:
            told["status"] = self.status
            told["duration_us"] = self.duration_us
        if self.policy:
            told["policy"] = self.policy
        if self.rule:
            told["rule"] = self.rule
        if self.attempt:
            told["attempt"] = self.attempt
        if self.workload:
            told["workload"] = self.workload
            told["pid"] = self.pid
        if self.trace_id:
            told["trace"] = self.trace_id
        if self.client:
            told["client"] = self.client
        if self.run:
            told["run"] = self.run
        if self.approval:
            told["approval"] = self.approval
        if self.resources:
            told["resources"] = self.resources
        if self.summary:
            told["summary"] = self.summary
        return told

    def likeness(self) -> tuple[str | int | None, ...]:
        """Tell what makes refusals alike; all of them are, of callers who proved to be nobody.

        Names that nobody here knows count for none: there is no end of them.
        """
        if self.agent is None:
            return (self.code, self.status)
        method = self.method if self.policy else ""
        tool = self.tool if self.kind is not None else None
        return (self.agent, self.token_id, self.role, method, tool, self.code)


def hash_arguments(arguments: JsonObject | None) -> str:
    """Name a call's arguments, so that it can be proved later what they were; none are `{}`."""
    return hashlib.sha256(canonical(arguments or {})).hexdigest()


def seal(fields: Fields) -> bytes:
    """Make a line: canonical JSON, as all names are ASCII and all numbers small and whole.

    Every line of the record is made here, one after the other, in the order of the file.
    """
    return orjson.dumps(fields, option=orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z)


def write_time(moment: datetime) -> str:
    """Write a time in UTC so that it sorts as text."""
    return moment.isoformat(timespec="microseconds")[:-6] + "Z"
