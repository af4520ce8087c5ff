"""Every error that the project raises on purpose, as one tree.

AgentsError                      code `internal`, exit status 1
├── ConfigError                  2: a file or an option of the user
│   ├── RoleFileError            problems of role, server and settings files, all of one run
│   ├── SettingsError            a place, port or option that cannot be used
│   └── SecretRefError           a reference that is no reference
├── SecretError                  3: a reference that does not resolve
│   ├── SecretNotFoundError
│   └── SecretStoreUnavailableError
├── TokenError                   4
│   ├── TokenUnknownError
│   ├── TokenExpiredError
│   ├── TokenRevokedError
│   ├── TokenScopeError          good, and not for this
│   └── TokenUncheckedError      nobody knows whether it is good
├── PolicyError                  5
│   ├── RuleError                a rule of the role, by name
│   │   ├── CallDeniedError
│   │   ├── RateLimitedError
│   │   ├── BusyError
│   │   ├── ArgumentsRefusedError
│   │   ├── SecretInArgumentsError
│   │   └── SumExceededError
│   ├── UnknownToolError
│   ├── LinkRefusedError         a link to an approval that opens nothing (any more)
│   ├── RoleFrozenError          an operator holds it back
│   ├── ToolDisabledError        the same, of one tool
│   ├── ShadowedError            recorded, and not done
│   └── TooManyCallsError
├── ApprovalError                14: a call that people have to approve
│   ├── ApprovalRequiredError    nobody has said anything yet
│   ├── ApprovalDeniedError
│   ├── ApprovalTakenError       it is another call's
│   ├── ApprovalUnknownError     told by commands: no such approval or grant
│   ├── ApprovalClosedError      it is over: decided, expired, used, of an earlier policy
│   ├── ApprovalChangedError     what was decided about is not what there is
│   └── ApproverError            who decides may not, or did not prove who they are
├── WorkloadError                6: an instance that does not run as it should
│   ├── RuntimeUnavailableError
│   ├── WorkloadStartError
│   ├── WorkloadNotReadyError
│   └── AttestationError
├── UpstreamError                7: between the gateway and an instance
│   ├── TargetLostError
│   ├── TargetUnavailableError
│   ├── RoleHeldError
│   ├── RoleClosedError
│   ├── UpstreamTimeoutError
│   ├── UpstreamProtocolError
│   ├── NotRelayedError
│   ├── CallCancelledError
│   ├── UndeliveredError         people outside could not be told
│   ├── ToolFailedError          11
│   └── CallerAskedError
├── ProtocolError                8: between an agent and the gateway
│   ├── UnreadableMessageError
│   ├── MalformedMessageError
│   ├── HeaderMismatchError
│   ├── UnsupportedVersionError
│   ├── InvalidParamsError
│   └── MethodNotAllowedError
├── RotationError                9: a credential that cannot be replaced now
│   ├── IssuerError              whoever makes credentials did not
│   ├── IssuerUncertainError     nobody knows whether it did
│   ├── IssuerPersonError        a person has to do it
│   ├── RotationBusyError
│   └── RotationUnknownError
└── StateError                   10
    ├── LockHeldError
    ├── StateCorruptError
    ├── StateUnwritableError
    ├── PinsChangedError
    ├── IncidentUnknownError
    ├── RecordUnavailableError
    ├── OutcomeUnrecordedError
    ├── RecordChangedError       13
    ├── NotRunningError
    └── ControlUnavailableError

`code` is public and stable; `str()` is the sentence for a person; `hint` says what to do next.
No error ever holds a secret, a token or a tool's arguments.
"""

from dataclasses import dataclass
from typing import ClassVar, final

from typing_extensions import override


class AgentsError(Exception):
    """Base of every expected error.

    Attributes:
        code: Stable public name of the error.
        exit_code: Exit status of a command that ends with it.
        hint: What the reader can do about it, or None.
    """

    code: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        """Keep the sentence and the hint."""
        super().__init__(message)
        self.message: str = message
        self.hint: str | None = hint

    @override
    def __str__(self) -> str:
        return self.message


class ConfigError(AgentsError):
    """A file or an option that the user wrote cannot be used."""

    code = "config"
    exit_code = 2


@dataclass(frozen=True, slots=True)
class FileProblem:
    """One thing that is wrong in one file.

    Attributes:
        path: The file, as the user named it.
        line: Line of the offending key or value, from 1; 0 when the whole file is meant.
        column: Column, from 1; 0 when the whole file is meant.
        field: Dotted path of the key inside the file, empty for the whole file.
        problem: What is wrong; never the text of a value that may be a secret.
        expected: What would be right.
    """

    path: str
    line: int
    column: int
    field: str
    problem: str
    expected: str

    @override
    def __str__(self) -> str:
        place = f"{self.path}:{self.line}:{self.column}" if self.line else self.path
        where = f"{self.field}: " if self.field else ""
        tail = f"; {self.expected}" if self.expected else ""
        return f"{place}: {where}{self.problem}{tail}"


@final
class RoleFileError(ConfigError):
    """One or more files do not pass their check; carries every problem of the run."""

    code = "config.files"

    def __init__(self, problems: tuple[FileProblem, ...]) -> None:
        """Keep the problems, in the order of files and lines."""
        super().__init__(
            "\n".join(str(problem) for problem in problems),
            hint="Nothing was started or changed. Correct the files, then try again.",
        )
        self.problems: tuple[FileProblem, ...] = problems


@final
class SettingsError(ConfigError):
    """A place, port or option cannot be used."""

    code = "config.settings"


@final
class SecretRefError(ConfigError):
    """A text that should be a secret reference is not one."""

    code = "config.secret_reference"


class SecretError(AgentsError):
    """A secret reference cannot be resolved."""

    code = "secret"
    exit_code = 3


@final
class SecretNotFoundError(SecretError):
    """The store has no value, or an empty one, for the reference."""

    code = "secret.not_found"


@final
class SecretStoreUnavailableError(SecretError):
    """The store cannot be read, or must not be trusted as it is."""

    code = "secret.store"


class TokenError(AgentsError):
    """An agent token cannot be used."""

    code = "token"
    exit_code = 4


@final
class TokenUnknownError(TokenError):
    """No such token."""

    code = "token.unknown"


@final
class TokenExpiredError(TokenError):
    """The token's time is over."""

    code = "token.expired"


@final
class TokenRevokedError(TokenError):
    """The token was revoked."""

    code = "token.revoked"


@final
class TokenScopeError(TokenError):
    """The token is good, and does not allow what it was shown for."""

    code = "token.scope"


@final
class TokenUncheckedError(TokenError):
    """The token cannot be checked now, so it opens nothing."""

    code = "token.unchecked"


class PolicyError(AgentsError):
    """A call is not allowed."""

    code = "policy"
    exit_code = 5


class RuleError(PolicyError):
    """A rule of the role refuses a call, of which nothing was done.

    Attributes:
        rule: The rule's name, as its place in the role file.
        retry_after_ms: When another try makes sense; None if the rule does not change by waiting.
    """

    def __init__(
        self, message: str, *, rule: str, retry_after_ms: int | None = None, hint: str | None = None
    ) -> None:
        """Keep the name of the rule that decided; the sentence is for agents."""
        super().__init__(message, hint=hint)
        self.rule: str = rule
        self.retry_after_ms: int | None = retry_after_ms


@final
class CallDeniedError(RuleError):
    """A rule denies the call."""

    code = "policy.denied"


@final
class RateLimitedError(RuleError):
    """Too many calls came in too short a time."""

    code = "policy.rate"


@final
class BusyError(RuleError):
    """As many calls are under way as may be, and no place became free in time."""

    code = "policy.busy"


@final
class ArgumentsRefusedError(RuleError):
    """The role narrows the tool to other arguments."""

    code = "policy.arguments"


@final
class SecretInArgumentsError(RuleError):
    """There is a secret in the arguments, which would leave by them."""

    code = "policy.secret"


@final
class SumExceededError(RuleError):
    """What the arguments add up to is more than the role allows."""

    code = "policy.sum"


@final
class UnknownToolError(PolicyError):
    """The role has no such tool; a hidden tool and one that never was are told alike."""

    code = "policy.unknown_tool"

    def __init__(self, name: str) -> None:
        """Name the tool as the caller wrote it."""
        super().__init__(f"Unknown tool: {name}")


@final
class UnknownResourceError(PolicyError):
    """The role has no such resource; a hidden one and one that never was are told alike."""

    code = "policy.unknown_resource"

    def __init__(self, uri: str) -> None:
        """Name the resource as the caller wrote it."""
        super().__init__(f"Resource not found: {uri}")


@final
class UnknownPromptError(PolicyError):
    """The role has no such prompt; a hidden one and one that never was are told alike."""

    code = "policy.unknown_prompt"

    def __init__(self, name: str) -> None:
        """Name the prompt as the caller wrote it."""
        super().__init__(f"Unknown prompt: {name}")


@final
class LinkRefusedError(PolicyError):
    """A link to an approval is none of ours, is over, or was used."""

    code = "approval.link"
    _SENTENCES: ClassVar[dict[str, str]] = {
        "forged": "this link was not made here, or was changed on its way",
        "expired": "the time of this link is over",
        "replayed": "this link was used already",
    }

    def __init__(self, why: str, approval: str = "") -> None:
        """Say why, and which approval it is for where that is known for certain.

        Args:
            why: `forged`, `expired` or `replayed`.
            approval: The approval.
        """
        super().__init__(
            self._SENTENCES.get(why, "this link opens nothing"),
            hint="See what waits with `agents approvals list`, or in the console.",
        )
        self.why: str = why
        self.approval: str = approval


@final
class RoleFrozenError(PolicyError):
    """An operator froze the role; nothing was done."""

    code = "role.frozen"


@final
class ToolDisabledError(PolicyError):
    """An operator disabled the tool; nothing was done."""

    code = "tool.disabled"


@final
class ShadowedError(PolicyError):
    """The role or tool is in shadow: the call was recorded and not made."""

    code = "shadow.not_executed"


@final
class TooManyCallsError(PolicyError):
    """A token has as much under way as one token may; nothing of this call was done."""

    code = "policy.too_many_calls"


class ApprovalError(AgentsError):
    """People have to approve a call.

    Attributes:
        approval: The approval's name, empty if there is none.
        required_action: What has to be done before the call is made again, for agents.
    """

    code = "approval"
    exit_code = 14

    def __init__(
        self,
        message: str,
        *,
        approval: str = "",
        required_action: str | None = None,
        hint: str | None = None,
    ) -> None:
        """Keep the sentence, and which approval it is about."""
        super().__init__(message, hint=hint)
        self.approval: str = approval
        self.required_action: str | None = required_action


@final
class ApprovalRequiredError(ApprovalError):
    """Nobody has approved the call yet; nothing was done."""

    code = "approval.required"


@final
class ApprovalDeniedError(ApprovalError):
    """A person denied the call; nothing was done."""

    code = "approval.denied"


@final
class ApprovalTakenError(ApprovalError):
    """The call's approval belongs to another call, made at the same time; nothing was done."""

    code = "approval.taken"


@final
class ApprovalUnknownError(ApprovalError):
    """There is no such approval or grant."""

    code = "approval.unknown"


@final
class ApprovalClosedError(ApprovalError):
    """Nothing can be decided about it any more; nothing was changed."""

    code = "approval.closed"


@final
class ApprovalChangedError(ApprovalError):
    """What a person decided about is not what they would have to be shown; nothing was changed."""

    code = "approval.changed"


@final
class ApproverError(ApprovalError):
    """Who decides may not, or did not prove who they are; nothing was changed."""

    code = "approval.approver"


class WorkloadError(AgentsError):
    """An instance does not run as it should."""

    code = "workload"
    exit_code = 6


class RuntimeUnavailableError(WorkloadError):
    """The engine that runs workloads cannot be reached or refuses."""

    code = "workload.engine"


@final
class ContainerEngineError(RuntimeUnavailableError):
    """The engine that runs containers cannot be reached, or may not be used."""

    code = "workload.container_engine"


@final
class ContainerError(WorkloadError):
    """A container cannot be made as it is described, or its name is somebody else's."""

    code = "workload.container"


@final
class WorkloadStartError(WorkloadError):
    """An instance could not be started."""

    code = "workload.start"


@final
class WorkloadNotReadyError(WorkloadError):
    """An instance runs and does not answer as an MCP server in its time."""

    code = "workload.not_ready"


@final
class AttestationError(WorkloadError):
    """An instance shows other tools than its role was promised."""

    code = "workload.attestation"

    def __init__(self, message: str, *, tools: tuple[str, ...]) -> None:
        """Keep the names of the tools that should not be there."""
        super().__init__(
            message,
            hint="Correct the server file, then `agents up`; or correct the server, then "
            "`agents restart` the role.",
        )
        self.tools: tuple[str, ...] = tools


class UpstreamError(AgentsError):
    """The gateway and an instance could not finish a call."""

    code = "upstream"
    exit_code = 7


@final
class TargetLostError(UpstreamError):
    """The instance ended while the call was with it; the outcome is unknown."""

    code = "upstream.outcome_unknown"


@final
class TargetUnavailableError(UpstreamError):
    """No ready instance took the call; nothing was sent."""

    code = "upstream.unavailable"


@final
class RoleHeldError(UpstreamError):
    """Calls of the role wait while a credential is replaced, and waited for long enough."""

    code = "upstream.held"


@final
class RoleClosedError(UpstreamError):
    """The role was closed in an emergency; nothing was sent."""

    code = "upstream.closed"


@final
class UpstreamTimeoutError(UpstreamError):
    """The instance did not answer in the call's time; the outcome is unknown."""

    code = "upstream.timeout"


@final
class UpstreamProtocolError(UpstreamError):
    """The instance sent something that is not MCP."""

    code = "upstream.protocol"


@final
class NotRelayedError(UpstreamError):
    """The instance answered with something that the gateway does not relay."""

    code = "upstream.not_relayed"


@final
class CallCancelledError(UpstreamError):
    """The caller gave the call up."""

    code = "upstream.cancelled"


@final
class UndeliveredError(UpstreamError):
    """A message to people did not reach all of its targets."""

    code = "notify.undelivered"


@final
class ToolFailedError(UpstreamError):
    """The tool itself says that it failed."""

    code = "upstream.tool_failed"
    exit_code = 11


@final
class CallerAskedError(UpstreamError):
    """The tool asks something that this caller cannot answer."""

    code = "upstream.asks_caller"


class ProtocolError(AgentsError):
    """An agent sent something that the gateway must not act on."""

    code = "protocol"
    exit_code = 8


@final
class SessionRequiredError(ProtocolError):
    """A legacy request names no session."""

    code = "protocol.session_required"


@final
class SessionUnknownError(ProtocolError):
    """A legacy request names a session that is not its caller's, or was ended."""

    code = "protocol.session"


@final
class StateUnknownError(ProtocolError):
    """A request state is none that was given to this caller for this request, or is too old."""

    code = "protocol.request_state"


@final
class UnreadableMessageError(ProtocolError):
    """The body is no JSON that every reader reads alike."""

    code = "protocol.unreadable"


@final
class MalformedMessageError(ProtocolError):
    """The body is no single JSON-RPC message."""

    code = "protocol.malformed"


@final
class HeaderMismatchError(ProtocolError):
    """Headers and body tell different things."""

    code = "protocol.header_mismatch"


@final
class UnsupportedVersionError(ProtocolError):
    """The caller speaks a protocol revision that is not served."""

    code = "protocol.version"

    def __init__(self, requested: str) -> None:
        """Keep the revision that was asked for."""
        super().__init__("Unsupported protocol version")
        self.requested: str = requested


@final
class InvalidParamsError(ProtocolError):
    """The parameters do not have the method's shape."""

    code = "protocol.params"


@final
class MethodNotAllowedError(ProtocolError):
    """The method does not exist for this caller."""

    code = "protocol.method"


class RotationError(AgentsError):
    """A credential cannot be replaced as asked; the one that was there goes on working."""

    code = "rotation"
    exit_code = 9


@final
class IssuerError(RotationError):
    """Whoever makes credentials did not do what it was asked for."""

    code = "rotation.issuer"


@final
class IssuerUncertainError(RotationError):
    """An issuer may have done what it was asked for, or not: somebody has to look."""

    code = "rotation.uncertain"


@final
class IssuerPersonError(RotationError):
    """A person has to do what no program can."""

    code = "rotation.person"


@final
class RotationBusyError(RotationError):
    """A rotation of the same credential is under way."""

    code = "rotation.busy"


@final
class RotationUnknownError(RotationError):
    """There is no such rotation, or nothing of the kind can be done to it now."""

    code = "rotation.unknown"


class StateError(AgentsError):
    """What is on disk or what runs is not as it has to be."""

    code = "state"
    exit_code = 10


@final
class LockHeldError(StateError):
    """Another process holds the lock."""

    code = "state.locked"


@final
class StateCorruptError(StateError):
    """A state file cannot be understood; nothing was changed."""

    code = "state.corrupt"


@final
class StateUnwritableError(StateError):
    """The state cannot be written, so nothing may go on that a crash must not lose."""

    code = "state.unwritable"


@final
class PinsChangedError(StateError):
    """What an operator saw is not what there is any more; nothing was changed."""

    code = "state.pins_changed"


@final
class IncidentUnknownError(StateError):
    """There is no such incident, or nothing of the kind can be done to it now."""

    code = "incident.unknown"


@final
class RecordUnavailableError(StateError):
    """The record of calls cannot be written, so no call is made."""

    code = "audit.unavailable"


@final
class OutcomeUnrecordedError(StateError):
    """A call was made, and how it ended cannot be recorded, so it is not told."""

    code = "audit.unrecorded"


@final
class RecordChangedError(StateError):
    """The record is not as it was written."""

    code = "audit.changed"
    exit_code = 13


@final
class NotRunningError(StateError):
    """Nothing runs in this project."""

    code = "state.not_running"


@final
class ControlUnavailableError(StateError):
    """The control plane runs and does not answer."""

    code = "state.control"
