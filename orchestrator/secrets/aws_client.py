"""Requests to AWS Secrets Manager: bounded, sent once, and with no value in any error."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Final, Literal, TypeAlias, cast, final

from pydantic import SecretStr, TypeAdapter, ValidationError

from orchestrator.errors import SecretError, SecretStoreUnavailableError
from orchestrator.model.base import HIDE_INPUT, Json, JsonObject
from orchestrator.model.secret import SecretRef
from orchestrator.model.stores import AwsAccount
from orchestrator.secrets.base import missing_library

Verb: TypeAlias = Literal[
    "create_secret",
    "describe_secret",
    "get_random_password",
    "get_secret_value",
    "put_secret_value",
    "update_secret_version_stage",
]
Resolve: TypeAlias = Callable[[SecretRef], SecretStr]

CURRENT: Final = "AWSCURRENT"
PENDING: Final = "AWSPENDING"
PREVIOUS: Final = "AWSPREVIOUS"
NOT_FOUND: Final = "ResourceNotFoundException"
EXISTS: Final = "ResourceExistsException"

_ANSWER: Final = TypeAdapter(dict[str, object], config=HIDE_INPUT)
_JSON: Final = TypeAdapter(Json, config=HIDE_INPUT)
_STAGES: Final = TypeAdapter(dict[str, frozenset[str]], config=HIDE_INPUT)
# What the service says, by its code, and what it means; its own words could hold anything.
_MEANINGS: Final = {
    NOT_FOUND: "there is no such secret or version",
    EXISTS: "a version of this name has another content",
    "AccessDeniedException": "the login may not do this",
    "DecryptionFailure": "the key of the secret cannot be used",
    "EncryptionFailure": "the key of the secret cannot be used",
    "ExpiredToken": "the login has expired",
    "ExpiredTokenException": "the login has expired",
    "IncompleteSignature": "the login is refused",
    "InvalidClientTokenId": "the login is refused",
    "InvalidRequestException": "not possible now; is the secret marked for deletion?",
    "InvalidSignatureException": "the login is refused, or this machine's clock is wrong",
    "LimitExceededException": "the secret has as many versions as it may",
    "RequestExpired": "this machine's clock is wrong",
    "ThrottlingException": "too many requests",
    "UnrecognizedClientException": "the login is refused",
}
# Failures before the request was sent, as botocore calls them.
_UNSENT: Final = {
    "ConnectTimeoutError": "cannot be reached",
    "EndpointConnectionError": "cannot be reached",
    "NoCredentialsError": "no login is found",
    "PartialCredentialsError": "the login is not complete",
    "CredentialRetrievalError": "the login cannot be had",
    "MetadataRetrievalError": "the login cannot be had",
    "ParamValidationError": "the request has no proper form",
    "ProfileNotFound": "there is no such profile",
    "ProxyConnectionError": "cannot be reached",
    "SSLError": "its certificate is not accepted",
}
_FAILED: Final = 500


@dataclass(frozen=True, slots=True)
class AwsAnswer:
    """What the service said.

    Attributes:
        body: What it sent; may hold values.
        problem: Why it is no success, in words without any value; empty if it is one.
        hint: What to do about it, or None.
        code: The service's name of the problem; empty if no answer came.
        may_have_happened: Whether the service may have done what it was asked for.
    """

    body: Mapping[str, object] = field(default_factory=dict[str, object], repr=False)
    problem: str = ""
    hint: str | None = None
    code: str = ""
    may_have_happened: bool = False

    @property
    def is_success(self) -> bool:
        """Whether the service did what it was asked for."""
        return not self.problem

    def text(self, key: str) -> str:
        """Return a text of the body, empty if there is none."""
        value = self.body.get(key)
        return value if isinstance(value, str) else ""

    def stages(self) -> Mapping[str, frozenset[str]]:
        """Return the labels of each version, from `describe_secret`."""
        return _STAGES.validate_python(self.body.get("VersionIdsToStages") or {})


@final
class AwsClient:
    """Secrets Manager in one region. Blocks; every verb may be used by several threads at once."""

    def __init__(self, name: str, account: AwsAccount, resolve: Resolve) -> None:
        """Keep the facts; nothing is sent yet.

        Args:
            name: The store's name, for messages.
            account: The region and the login.
            resolve: Gives the value of a reference, for the login.
        """
        self.name = name
        self.region = account.region
        self._account = account
        self._resolve = resolve
        self._lock = Lock()
        self._client: tuple[tuple[str, ...], object] | None = None

    def call(self, verb: Verb, **parameters: object) -> AwsAnswer:
        """Send one request; never raises.

        Args:
            verb: The method of boto3's client.
            parameters: Its parameters, by the service's own names.
        """
        try:
            client = self._made(self._keys())
            method = cast("Callable[..., object]", getattr(client, verb))
            return AwsAnswer(_ANSWER.validate_python(method(**parameters)))
        except SecretError as error:
            return AwsAnswer(problem=f"cannot be opened: {error}", hint=error.hint)
        except Exception as error:  # noqa: BLE001 # botocore's errors have no base of their own
            return _refusal(error)

    def failure(self, answer: AwsAnswer) -> SecretStoreUnavailableError:
        """Make an error of an answer that is no success."""
        return SecretStoreUnavailableError(
            f"the store {self.name}: {answer.problem}", hint=answer.hint
        )

    def _keys(self) -> tuple[str, ...]:
        account = self._account
        return tuple(
            self._resolve(reference).get_secret_value()
            for reference in (account.access_key, account.secret_key, account.session_token)
            if reference is not None
        )

    def _made(self, keys: tuple[str, ...]) -> object:
        # A client takes a tenth of a second to make. Keys are asked for anew each time, so that a
        # changed one is seen.
        with self._lock:
            if self._client is None or self._client[0] != keys:
                self._client = (keys, self._make(keys))
            return self._client[1]

    def _make(self, keys: tuple[str, ...]) -> object:
        try:
            from boto3.session import Session  # noqa: PLC0415 # an extra
            from botocore.config import Config  # noqa: PLC0415 # an extra
        except ImportError:
            raise missing_library("aws") from None
        for name in ("boto3", "botocore"):
            # At DEBUG they write whole requests down.
            logging.getLogger(name).setLevel(logging.WARNING)
        account = self._account
        seconds = account.timeout.total_seconds()
        access_key, secret_key, session_token = (*keys, None, None, None)[:3]
        make_session = cast("Callable[..., object]", Session)
        session = make_session(
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            aws_session_token=session_token,
            region_name=account.region,
            profile_name=account.profile,
        )
        config: object = Config(
            connect_timeout=seconds,
            read_timeout=seconds,
            # Another address is named by the store or not at all: one that a variable or
            # ~/.aws/config names would be shown the login over plain http, and could tell any
            # value. The daemon has no variables of a proxy, so nobody else has.
            ignore_configured_endpoint_urls=True,
            proxies={},
            # Whoever asks knows when to ask again.
            retries={"total_max_attempts": 1, "mode": "standard"},
        )
        make = cast("Callable[..., object]", getattr(session, "client"))  # noqa: B009
        return make("secretsmanager", endpoint_url=account.endpoint, config=config)


def _refusal(error: Exception) -> AwsAnswer:
    kind = type(error).__name__
    response = cast("object", getattr(error, "response", None))
    if not isinstance(response, dict):
        problem = _UNSENT.get(kind)
        return AwsAnswer(
            problem=problem or "does not answer", may_have_happened=problem is None, code=""
        )
    facts = cast("dict[str, dict[str, object]]", response)
    code = str(facts.get("Error", {}).get("Code", ""))
    status = facts.get("ResponseMetadata", {}).get("HTTPStatusCode")
    has_failed = isinstance(status, int) and status >= _FAILED
    problem = _MEANINGS.get(code) or ("it failed" if has_failed else "it refuses the request")
    return AwsAnswer(problem=problem, code=code, may_have_happened=has_failed)


def read_object(text: str) -> JsonObject | None:
    """Read a JSON object, None if the text is none."""
    try:
        value = _JSON.validate_json(text)
    except ValidationError:
        return None
    return value if isinstance(value, dict) else None
