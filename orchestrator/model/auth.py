"""What `auth:` in `agents.yaml` may say: which tokens agents show."""

import re
from datetime import timedelta
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import AfterValidator, Field, StringConstraints, WithJsonSchema, model_validator

from orchestrator.model.base import Duration, Model
from orchestrator.model.names import AgentField, AgentName, RoleField, RoleName

WORKSTATION = AgentName("workstation")

Algorithm: TypeAlias = Literal["EdDSA", "ES256", "RS256"]
ALGORITHMS: tuple[Algorithm, ...] = ("EdDSA", "ES256", "RS256")
LONGEST_LEEWAY = timedelta(seconds=60)

_LOOPBACK = r"(localhost|127\.0\.0\.1|\[::1\])"
_NAME = r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?"
# No user, no query, no fragment; without TLS this machine only.
_ORIGIN = rf"(https://({_NAME}|\[[0-9A-Fa-f:.]+\])|http://{_LOOPBACK})(:[0-9]{{1,5}})?"
BASE_PATTERN = rf"^{_ORIGIN}$"
URL_PATTERN = rf"^{_ORIGIN}(/[A-Za-z0-9._~%!$&'()*+,;=:@/-]*)?$"
# Source: RFC 6749, section 3.3.
SCOPE_PATTERN = r"^[\x21\x23-\x5B\x5D-\x7E]{1,128}$"


def _check_base(text: str) -> str:
    if not re.fullmatch(BASE_PATTERN, text):
        raise ValueError(
            "the gateway's address is https:// with a host and maybe a port, and no path; "
            "http:// for this machine only"
        )
    return text.lower()


def _check_url(text: str) -> str:
    if not re.fullmatch(URL_PATTERN, text):
        raise ValueError("this has to be an https:// URL; http:// for this machine only")
    return text


def _check_scope(text: str) -> str:
    if not re.fullmatch(SCOPE_PATTERN, text):
        raise ValueError("a scope is one word without quotes")
    return text


BaseField = Annotated[
    str,
    AfterValidator(_check_base),
    WithJsonSchema({"type": "string", "pattern": BASE_PATTERN}),
]
UrlField = Annotated[
    str,
    StringConstraints(max_length=2048),
    AfterValidator(_check_url),
    WithJsonSchema({"type": "string", "pattern": URL_PATTERN}),
]
ScopeField = Annotated[
    str, AfterValidator(_check_scope), WithJsonSchema({"type": "string", "pattern": SCOPE_PATTERN})
]
ClaimField = Annotated[str, StringConstraints(min_length=1, max_length=255)]


class OAuthAgent(Model):
    """Which agent a subject or a client of the identity provider is.

    Attributes:
        subject: The token's `sub`.
        client_id: The token's `client_id`; where `subject` is given too, both have to match.
        agent: The agent; limits, sessions and records belong to it.
        roles: The roles that it may use, whatever its token says about roles.
    """

    subject: ClaimField | None = None
    client_id: ClaimField | None = None
    agent: AgentField
    roles: Annotated[tuple[RoleField, ...], Field(min_length=1, strict=False)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.subject is None and self.client_id is None:
            raise ValueError("an agent is known by its subject, its client_id, or both")
        if self.agent == WORKSTATION:
            raise ValueError("workstation is the name of this machine's own agent")
        return self


class Auth(Model):
    """Which tokens agents show.

    Attributes:
        mode: `static`: tokens that Bandmaster issues. `oauth`: access tokens of an identity
            provider; of the static ones only the workstation's own go on working, on this machine.
        issuer: The identity provider's issuer URL, exactly as its tokens say it.
        jwks: Where its keys are; found in its metadata if left out.
        algorithms: Signatures that are accepted.
        leeway: By how much clocks may differ, at most 60s.
        base: Where agents reach the gateway from outside, such as https://agents.example.com; a
            role's address, BASE/ROLE/mcp, is the audience that its tokens have to name.
        scopes: Scopes that a token has to have, all of them.
        agents: Who is who.
    """

    mode: Literal["static", "oauth"] = "static"
    issuer: UrlField | None = None
    jwks: UrlField | None = None
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1, strict=False)] = ALGORITHMS
    leeway: Duration = timedelta(seconds=30)
    base: BaseField | None = None
    scopes: Annotated[tuple[ScopeField, ...], Field(max_length=32, strict=False)] = ()
    agents: Annotated[tuple[OAuthAgent, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mode == "static":
            if self.issuer or self.jwks or self.base or self.scopes or self.agents:
                raise ValueError("these keys are for `mode: oauth`")
            return self
        for name, value in (("issuer", self.issuer), ("base", self.base), ("agents", self.agents)):
            if not value:
                raise ValueError(f"`mode: oauth` needs `{name}`")
        if self.leeway > LONGEST_LEEWAY:
            raise ValueError("the leeway is at most 60s")
        known = [(one.subject, one.client_id) for one in self.agents]
        if len(set(known)) < len(known):
            raise ValueError("a subject or client_id stands under `agents` twice")
        return self

    def url_of(self, role: RoleName) -> str:
        """Tell a role's address, which is the audience of its tokens."""
        return f"{self.base}/{role}/mcp"

    @property
    def hosts(self) -> tuple[str, ...]:
        """The Host header by which the gateway is reached from outside."""
        return () if self.base is None else (self.base.partition("//")[2],)
