"""Requests to a Vault or OpenBao server: bounded, sent once, and with no value in any error."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Final, Literal, Protocol, TypeAlias, cast, final
from urllib.parse import quote

from pydantic import SecretStr, TypeAdapter, ValidationError

from orchestrator.errors import SecretError, SecretStoreUnavailableError
from orchestrator.model.base import HIDE_INPUT, Json, JsonObject
from orchestrator.model.secret import SecretRef
from orchestrator.model.stores import VaultAccount
from orchestrator.secrets.base import missing_library
from orchestrator.secrets.redact import LIVE

Method: TypeAlias = Literal["get", "post", "put", "delete", "list"]
Resolve: TypeAlias = Callable[[SecretRef], SecretStr]

LIMIT_BYTES: Final = 1024 * 1024
# A login that ends while a request with it is under way is of no use.
_LOGIN_MARGIN: Final = 10.0
_FORBIDDEN: Final = 403
_FAILED: Final = 500
_OBJECT: Final = TypeAdapter(JsonObject, config=HIDE_INPUT)
UNKNOWN_ACCESSOR: Final = "it knows no such token"
UNKNOWN_LEASE: Final = "it knows no such lease"
# What servers say, and what it means; the server's own words could hold anything.
_MEANINGS: Final = (
    ("vault is sealed", "it is sealed"),
    ("check-and-set", "somebody else wrote there"),
    ("invalid accessor", UNKNOWN_ACCESSOR),
    ("invalid lease", UNKNOWN_LEASE),
    ("lease not found", UNKNOWN_LEASE),
    ("invalid role or secret", "it refuses the login by approle"),
    ("invalid secret id", "it refuses the login by approle"),
    ("invalid role_id", "it refuses the login by approle"),
    ("no handler for route", "it has nothing mounted there"),
    ("unsupported path", "it knows no such path"),
    ("unknown role", "it knows no such role"),
    ("permission denied", "it refuses the login, or the login may not do this"),
)
_STATUSES: Final = {
    307: "it sends to another server, which is not followed",
    400: "it refuses the request",
    403: "it refuses the login, or the login may not do this",
    404: "nothing is there",
    405: "it knows no such request",
    412: "it has not caught up yet",
    429: "too many requests, or a standby server",
    472: "a standby server of a disaster recovery",
    473: "a standby server",
    501: "it is not initialised",
    503: "it is sealed or under maintenance",
}
# Failures before a byte of the request was sent, as requests and urllib3 call them.
_UNSENT: Final = {
    "ConnectTimeout": "cannot be reached",
    "ConnectTimeoutError": "cannot be reached",
    "InvalidHeader": "the login is none",
    "InvalidURL": "its address is none",
    "NameResolutionError": "cannot be reached",
    "NewConnectionError": "cannot be reached",
    "SSLError": "its certificate is not accepted",
    "SSLCertVerificationError": "its certificate is not accepted",
}


class _Response(Protocol):
    status_code: int
    iter_content: Callable[[int], Iterator[bytes]]

    def close(self) -> None: ...


class _Session(Protocol):
    trust_env: bool


class _Adapter(Protocol):
    session: _Session

    def request(
        self, method: str, url: str, *, json: Json, params: dict[str, str], stream: bool
    ) -> _Response: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class VaultAnswer:
    """What a server said.

    Attributes:
        status: The HTTP status; 0 if no answer came.
        body: What it sent, empty if that was no JSON object; may hold values.
        problem: Why it is no success, in words without any value; empty if it is one.
        hint: What to do about it, or None.
        may_have_happened: Whether the server may have done what it was asked for.
    """

    status: int
    body: JsonObject = field(default_factory=dict[str, Json], repr=False)
    problem: str = ""
    hint: str | None = None
    may_have_happened: bool = False

    @property
    def is_success(self) -> bool:
        """Whether the server did what it was asked for."""
        return not self.problem

    def part(self, key: str) -> JsonObject:
        """Return an object inside the body, empty if there is none."""
        value = self.body.get(key)
        return value if isinstance(value, dict) else {}


@final
class VaultClient:
    """One server and the login there. Blocks; every verb may be used by several threads at once."""

    def __init__(self, name: str, account: VaultAccount, resolve: Resolve, root: Path) -> None:
        """Keep the facts; nothing is sent yet.

        Args:
            name: The store's name, for messages.
            account: The server and the login.
            resolve: Gives the value of a reference, for the login.
            root: The project's directory, where a relative `ca` is looked for.
        """
        self.name = name
        self.seconds = account.timeout.total_seconds()
        self._account = account
        self._resolve = resolve
        self._verify: str | bool = str(root / account.ca) if account.ca else True
        self._lock = Lock()
        self._login: tuple[SecretStr, float] | None = None

    def call(
        self,
        method: Method,
        path: str,
        body: JsonObject | None = None,
        *,
        params: dict[str, str] | None = None,
        token: SecretStr | None = None,
    ) -> VaultAnswer:
        """Send one request, with our own login unless a token is given; never raises.

        Args:
            method: The HTTP method.
            path: The path behind `/v1/`, as plain text.
            body: What to send.
            params: What to ask for behind `?`.
            token: Another token than our own.
        """
        try:
            if token is not None:
                return self._send(method, path, body, params or {}, token)
            own, is_fresh = self._own_token()
            answer = self._send(method, path, body, params or {}, own)
            if answer.status == _FORBIDDEN and self._account.approle and not is_fresh:
                # The login may have been taken back meanwhile; what was refused was not done.
                self.forget_login()
                own, _ = self._own_token()
                answer = self._send(method, path, body, params or {}, own)
        except SecretError as error:
            return VaultAnswer(0, problem=f"cannot be opened: {error}", hint=error.hint)
        return answer

    def forget_login(self) -> None:
        """Log in anew for the next request, where there is a login to be made."""
        with self._lock:
            self._login = None

    def failure(self, answer: VaultAnswer) -> SecretStoreUnavailableError:
        """Make an error of an answer that is no success."""
        return SecretStoreUnavailableError(
            f"the store {self.name}: {answer.problem}", hint=answer.hint
        )

    def _own_token(self) -> tuple[SecretStr, bool]:
        """Return our token, and whether it was made just now."""
        if self._account.token is not None:
            return self._resolve(self._account.token), True
        with self._lock:
            if self._login is not None and time.monotonic() < self._login[1]:
                return self._login[0], False
            self._login = self._log_in()
            return self._login[0], True

    def _log_in(self) -> tuple[SecretStr, float]:
        approle = self._account.approle
        if approle is None:
            raise SecretStoreUnavailableError("it has no login")
        secret_id = self._resolve(approle.secret_id).get_secret_value()
        began = time.monotonic()
        answer = self._send(
            "post",
            f"auth/{approle.mount}/login",
            {"role_id": approle.role_id, "secret_id": secret_id},
            {},
            None,
        )
        if not answer.is_success:
            raise SecretStoreUnavailableError(answer.problem)
        auth = answer.part("auth")
        text, life = auth.get("client_token"), auth.get("lease_duration")
        if not isinstance(text, str) or not text or not isinstance(life, int):
            raise SecretStoreUnavailableError("its answer to the login is none")
        LIVE.learn([SecretStr(text)])
        # 0 is a token that does not end.
        ends = began + life - _LOGIN_MARGIN if life else float("inf")
        return SecretStr(text), ends

    def _send(
        self,
        method: Method,
        path: str,
        body: JsonObject | None,
        params: dict[str, str],
        token: SecretStr | None,
    ) -> VaultAnswer:
        segments = path.split("/")
        if {"", ".", ".."} & set(segments):
            # An HTTP library would make another path of it.
            return VaultAnswer(0, problem="a path has an empty part")
        adapter = self._adapter(token)
        url = "v1/" + "/".join(quote(segment, safe="") for segment in segments)
        deadline = time.monotonic() + self.seconds
        try:
            response = adapter.request(method, url, json=body, params=params, stream=True)
            try:
                content = _read(response, deadline)
            finally:
                response.close()
        except OSError as error:
            # Everything that requests raises is an OSError.
            return _no_answer(error)
        finally:
            adapter.close()
        return _answer(response.status_code, content)

    def _adapter(self, token: SecretStr | None) -> _Adapter:
        try:
            from hvac.adapters import RawAdapter  # noqa: PLC0415 # an extra
        except ImportError:
            raise missing_library("vault") from None
        # Its own annotations are narrower than what it takes.
        make = cast("Callable[..., _Adapter]", RawAdapter)
        adapter = make(
            base_uri=self._account.address,
            token=token.get_secret_value() if token else None,
            verify=self._verify,
            timeout=self.seconds,
            # Another server would be shown the token.
            allow_redirects=False,
            namespace=self._account.namespace,
            # Its exceptions hold what the server sent.
            ignore_exceptions=True,
            strict_http=True,
        )
        # No proxy, no ~/.netrc: nobody else is shown the token.
        adapter.session.trust_env = False
        return adapter


def _read(response: _Response, deadline: float) -> bytes:
    content = b""
    for chunk in response.iter_content(4096):
        content += chunk
        if len(content) > LIMIT_BYTES or time.monotonic() > deadline:
            raise TimeoutError
    return content


def _no_answer(error: OSError) -> VaultAnswer:
    for name in _names(error):
        if name in _UNSENT:
            return VaultAnswer(0, problem=_UNSENT[name])
    if type(error) is OSError:
        # requests found the file of authorities missing, before it sent anything.
        return VaultAnswer(0, problem="its file of authorities cannot be read")
    return VaultAnswer(0, problem="does not answer", may_have_happened=True)


def _names(error: BaseException) -> Iterator[str]:
    """Tell the kinds of an error and of what it was made of; its words are not looked at."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        here = waiting.pop()
        if not isinstance(here, BaseException) or id(here) in seen:
            continue
        seen.add(id(here))
        yield type(here).__name__
        reason: object = getattr(here, "reason", None)
        waiting += [reason, here.__cause__, here.__context__]
        waiting += cast("tuple[object, ...]", here.args)


def _answer(status: int, content: bytes) -> VaultAnswer:
    try:
        body = _OBJECT.validate_json(content or b"{}")
    except ValidationError:
        body = None
    if status in {200, 202, 204}:
        if body is None:
            return VaultAnswer(status, problem="its answer is no JSON", may_have_happened=True)
        return VaultAnswer(status, body)
    body = body or {}
    said = json.dumps(body.get("errors")).lower()
    problem = next((meaning for words, meaning in _MEANINGS if words in said), "")
    problem = problem or _STATUSES.get(status, f"it answers with status {status}")
    # A server that tells what went wrong made nothing; what stands before it may not know.
    has_told = isinstance(body.get("errors"), list)
    may_have_happened = status >= _FAILED and not has_told
    return VaultAnswer(status, body, problem, may_have_happened=may_have_happened)
