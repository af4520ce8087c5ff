"""Every error a tool can answer with, in the six categories of the structured error shape.

WalletError
├── InvalidInputError   validation     fix the input and try again
├── UpstreamError       upstream       may pass; try again later
├── FlowError           flow           carry out the required action first
├── AuthError           auth           stop and tell the operator
├── LimitError          limit          wait for the window to pass
└── NotAvailableError   not_available  switched off here; do not retry
SettingsError           the environment is wrong; the process does not start

Messages are written here or by our own code, never taken from a caught exception, so that no
path, secret or argument value can travel to a client.
"""

from typing import ClassVar, Final, Literal, NotRequired, TypedDict

from walletserver.codes import Code

Category = Literal["validation", "upstream", "flow", "auth", "limit", "not_available"]

EXIT_CONFIG: Final = 78


class ErrorBody(TypedDict):
    """The wire shape of one error."""

    category: Category
    code: str
    message: str
    requiredAction: NotRequired[str]
    retryAfterMs: NotRequired[int]


class WalletError(Exception):
    """An expected failure that a client can act on."""

    category: ClassVar[Category]

    def __init__(self, code: Code, message: str, *, retry_after_ms: int | None = None) -> None:
        """Keep the parts of the answer.

        Args:
            code: Which failure this is.
            message: One sentence for a person, free of argument values.
            retry_after_ms: How long to wait before trying again, where that is known.
        """
        super().__init__(code)
        self.code = code
        self.message = message
        self.required_action: str | None = None
        self.retry_after_ms = retry_after_ms

    def body(self) -> ErrorBody:
        """Return the error as it goes on the wire."""
        body = ErrorBody(category=self.category, code=self.code.value, message=self.message)
        if self.required_action is not None:
            body["requiredAction"] = self.required_action
        if self.retry_after_ms is not None:
            body["retryAfterMs"] = self.retry_after_ms
        return body


class InvalidInputError(WalletError):
    """The arguments are wrong."""

    category = "validation"


class UpstreamError(WalletError):
    """The ledger behind this server failed, perhaps only for now."""

    category = "upstream"


class FlowError(WalletError):
    """A step is missing before this call, or a policy denied it."""

    category = "flow"

    def __init__(
        self, code: Code, message: str, required_action: str, *, retry_after_ms: int | None = None
    ) -> None:
        """Keep the parts of the answer.

        Args:
            code: Which failure this is.
            message: One sentence for a person, free of argument values.
            required_action: One instruction in plain words; always present in this category.
            retry_after_ms: How long to wait before trying again, where that is known.
        """
        super().__init__(code, message, retry_after_ms=retry_after_ms)
        self.required_action = required_action


class AuthError(WalletError):
    """The agent token is not good for this call."""

    category = "auth"


class LimitError(WalletError):
    """A request quota is used up; for backends that have one."""

    category = "limit"


class NotAvailableError(WalletError):
    """This server does not offer what was asked for."""

    category = "not_available"


class SettingsError(Exception):
    """An environment variable has a value the server does not start with."""

    def __init__(self, variable: str, problem: str) -> None:
        """Name the variable and what is wrong, never its value.

        Args:
            variable: Name of the environment variable.
            problem: What a good value looks like.
        """
        super().__init__(f"{variable}: {problem}")
        self.variable = variable
        self.problem = problem
