"""From an identity provider's access token to a principal.

Who an agent is and what it may use is told by our own configuration alone: the token proves who
shows it, and claims about roles or groups are not read. What was verified once is found again by
its hash until it ends, is denied, or the provider's keys are read anew.

Source: RFC 7519, RFC 8725, RFC 9068; MCP 2026-07-28, Authorization.
"""

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NoReturn, TypeAlias, cast, final

import jwt

from orchestrator.clock import Clock
from orchestrator.errors import (
    TokenExpiredError,
    TokenRevokedError,
    TokenScopeError,
    TokenUnknownError,
)
from orchestrator.model.auth import WORKSTATION, Auth, OAuthAgent
from orchestrator.model.base import Json, JsonObject
from orchestrator.model.names import RoleName, TokenId
from orchestrator.tokens.denial import Denial, name_token
from orchestrator.tokens.keys import LONGEST_LIFE, Keys, Tell
from orchestrator.tokens.mint import PREFIX
from orchestrator.tokens.verify import Principal, Proof, TokenIndex

_LONGEST: Final = 8 * 1024
_FORMAT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_STATIC: Final = re.compile(rb"bearer +" + PREFIX.encode(), re.IGNORECASE)
# An access token, or one that does not say what it is; no logout token, no proof of a key.
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_REQUIRED: Final = ("exp", "iat", "iss", "aud", "sub")
_SEEN: Final = 4096
_TOLD_EVERY_SECONDS: Final = 1.0

Concerns: TypeAlias = Callable[[Principal], bool]


@dataclass(frozen=True, slots=True)
class _Seen:
    principal: Principal
    revision: int


def _ignore(_: Concerns) -> None:
    """Tell nobody."""


@final
class OAuthTokens:
    """Access tokens of one identity provider, and the workstation's own static ones.

    Attributes:
        auth: The configuration.
        on_denied: Is told which principals may go on with nothing that they have open.
    """

    def __init__(
        self,
        auth: Auth,
        static: TokenIndex,
        keys: Callable[[Callable[[], None]], Keys],
        *,
        clock: Clock,
        tell: Tell,
    ) -> None:
        """Accept what the configuration names, from now on.

        Args:
            auth: The configuration, whose mode is `oauth`.
            static: Static tokens, of which the workstation's alone are accepted.
            keys: Makes the provider's keys, given who wants to hear that they were read anew.
            clock: Where time comes from.
            tell: Is told, as an event and a reason, why a token with a good signature is refused.
        """
        self.on_denied: Callable[[Concerns], None] = _ignore
        self.auth: Auth = auth
        self._static = static
        self._issuer = str(auth.issuer)
        self._clock = clock
        self._tell = tell
        self._told_at = float("-inf")
        self._keys = keys(self._forget)
        self._seen: dict[bytes, _Seen] = {}
        # Grows whenever something that was verified might not be so any more.
        self._revision = 0
        self._denied_tokens: frozenset[str] = frozenset()
        self._denied_subjects: dict[str, datetime] = {}
        self._denied_roles: dict[str, datetime] = {}

    @property
    def on_closed(self) -> Callable[[TokenId], None]:
        """Is told of static tokens that end early."""
        return self._static.on_closed

    @on_closed.setter
    def on_closed(self, tell: Callable[[TokenId], None]) -> None:
        self._static.on_closed = tell

    def verify_header(self, value: bytes, audience: RoleName) -> Principal:
        """Tell who sent a header that was learned before, or one with a static token.

        Raises:
            TokenError: Nobody who may use the role.
        """
        principal = self._find(value, audience)
        if principal is not None:
            return principal
        if is_static(value):
            principal = self._static.verify_header(value, audience)
            if principal.agent == WORKSTATION:
                return principal
        raise TokenUnknownError("The token is not known here")

    async def prepare(self) -> bool:
        """Ask for the provider's keys before the first token comes; tells whether they are here."""
        return await self._keys.prepare()

    def knows(self, value: bytes, audience: RoleName) -> bool:
        """Tell whether a header was learned, and is good still."""
        return self._find(value, audience) is not None

    async def learn(self, value: bytes, audience: RoleName) -> None:
        """Verify an access token, so that `verify_header` knows it; may have to wait for keys.

        Raises:
            TokenUnknownError: It is no good token for this role's address.
            TokenExpiredError: Its time is over.
            TokenRevokedError: It was denied.
            TokenScopeError: It is good, and does not open the role.
            TokenUncheckedError: The identity provider's keys are not to be had.
        """
        text = _bearer(value)
        key = await self._keys.find(self._key_id(text))
        if key is None:
            raise TokenUnknownError("The key is not known")
        # From here on without a pause: what is denied meanwhile makes the revision another one.
        revision = self._revision
        principal = self._check(text, self._decode(text, key, audience), audience)
        if len(self._seen) >= _SEEN:
            self._seen.clear()
        self._seen[hashlib.sha256(value).digest()] = _Seen(principal, revision)

    def load(self, denials: Iterable[Denial]) -> None:
        """Refuse what was denied before the start."""
        for denial in denials:
            self._note(denial)

    def deny(self, denial: Denial) -> None:
        """Refuse something from the next request on, and end what it has open."""
        self._note(denial)
        self.on_denied(self._is_denied)

    def _note(self, denial: Denial) -> None:
        if denial.issuer != self.auth.issuer:
            return
        match denial.kind:
            case "token":
                self._denied_tokens |= {denial.name}
            case "subject":
                self._denied_subjects = _later(self._denied_subjects, denial)
            case "role":
                self._denied_roles = _later(self._denied_roles, denial)
        self._forget()

    def _forget(self) -> None:
        self._revision += 1

    def _is_denied(self, principal: Principal) -> bool:
        proof = principal.proof
        if proof is None:
            return False
        if principal.token_id in self._denied_tokens or self._static.is_closed(principal.role):
            return True
        moments = (
            self._denied_subjects.get(proof.subject),
            self._denied_roles.get(principal.role),
        )
        return any(until is not None and proof.issued_at <= until for until in moments)

    def _find(self, value: bytes, audience: RoleName) -> Principal | None:
        seen = self._seen.get(hashlib.sha256(value).digest())
        if seen is None or seen.revision != self._revision:
            return None
        principal = seen.principal
        if principal.role != audience or self._clock.now() >= principal.expires_at:
            return None
        return principal

    def _key_id(self, text: str) -> str:
        """Tell which key a token names, before anybody is asked for keys."""
        try:
            header = cast("JsonObject", jwt.get_unverified_header(text))
        except jwt.PyJWTError:
            raise TokenUnknownError("The token cannot be read") from None
        kid, kind = header.get("kid"), header.get("typ", "JWT")
        if header.get("alg") not in self.auth.algorithms:
            raise TokenUnknownError("The algorithm is not accepted")
        if not isinstance(kind, str) or kind.lower() not in _TYPES:
            raise TokenUnknownError("It is no access token")
        if not isinstance(kid, str) or not kid:
            raise TokenUnknownError("The token names no key")
        return kid

    def _decode(self, text: str, key: jwt.PyJWK, audience: RoleName) -> JsonObject:
        """Verify signature, issuer and audience; times are looked at by our own clock."""
        try:
            claims = cast(
                "JsonObject",
                jwt.decode(
                    text,
                    key,
                    algorithms=[*self.auth.algorithms],
                    audience=self.auth.url_of(audience),
                    issuer=self.auth.issuer,
                    options={
                        "require": [*_REQUIRED],
                        "strict_aud": True,
                        "verify_exp": False,
                        "verify_iat": False,
                        "verify_nbf": False,
                        "enforce_minimum_key_length": True,
                    },
                ),
            )
        # Behind a good signature, so it tells nothing to strangers, and much to an operator.
        except jwt.InvalidAudienceError:
            self._refuse(f"its audience is not {self.auth.url_of(audience)} alone")
        except jwt.InvalidIssuerError:
            self._refuse("its issuer is another one")
        except jwt.MissingRequiredClaimError:
            self._refuse(f"it lacks one of the claims {', '.join(_REQUIRED)}")
        except jwt.PyJWTError:
            raise TokenUnknownError("The token is not valid") from None
        if "cnf" in claims:
            self._refuse("it is bound to a key, whose proof is not asked for here")
        return claims

    def _check(self, text: str, claims: JsonObject, audience: RoleName) -> Principal:
        """Make a principal of claims that are proved, if they are good now, and for the role."""
        issued, ends = self._times(claims)
        subject, jti = str(claims["sub"]), claims.get("jti")
        token_id = (
            name_token(self._issuer, "jti", jti)
            if isinstance(jti, str)
            # Without its signature: of one good signature others can be made.
            else name_token(self._issuer, "text", text.rpartition(".")[0])
        )
        known = self._agent_of(subject, claims.get("client_id"))
        principal = Principal(
            known.agent,
            audience,
            token_id,
            ends,
            Proof(self._issuer, subject, issued, f"oauth:{known.agent}/{audience}"),
        )
        if self._is_denied(principal):
            raise TokenRevokedError("The token was denied")
        if audience not in known.roles:
            self._tell_reason(f"{known.agent} may not use the role")
            raise TokenScopeError("The agent may not use this role")
        granted = claims.get("scope")
        words = granted.split() if isinstance(granted, str) else ()
        if not set(self.auth.scopes) <= set(words):
            self._tell_reason("a scope is missing")
            raise TokenScopeError("The token lacks a scope")
        return principal

    def _times(self, claims: JsonObject) -> tuple[datetime, datetime]:
        """Tell when the token was issued and when it is refused; both have to be sensible.

        Raises:
            TokenExpiredError: Its time is over.
            TokenUnknownError: It is not valid yet, or valid for too long.
        """
        now, leeway = self._clock.now().timestamp(), self.auth.leeway.total_seconds()
        issued, ends = _number(claims["iat"]), _number(claims["exp"])
        begins = _number(claims["nbf"]) if "nbf" in claims else issued
        # What is no number compares with nothing, so each has to be true.
        if not (issued <= now + leeway and begins <= now + leeway):
            self._refuse("it is not valid yet")
        if not 0 < ends - issued <= LONGEST_LIFE.total_seconds() + leeway:
            self._refuse("it lives longer than 15 minutes")
        if not now < ends + leeway:
            raise TokenExpiredError("The token's time is over")
        return (
            datetime.fromtimestamp(issued, UTC),
            datetime.fromtimestamp(ends + leeway, UTC),
        )

    def _agent_of(self, subject: str, client_id: Json) -> OAuthAgent:
        """Tell who that is; who could be two agents is nobody."""
        found = [
            one
            for one in self.auth.agents
            if one.subject in {None, subject} and one.client_id in (None, client_id)
        ]
        if len(found) != 1:
            self._refuse("no agent has this subject and client_id, or more than one")
        return found[0]

    def _refuse(self, reason: str) -> NoReturn:
        self._tell_reason(reason)
        raise TokenUnknownError("The token is not valid")

    def _tell_reason(self, reason: str) -> None:
        now = self._clock.monotonic()
        if now >= self._told_at + _TOLD_EVERY_SECONDS:
            self._told_at = now
            self._tell("token_refused", reason)


def _later(known: dict[str, datetime], denial: Denial) -> dict[str, datetime]:
    return {**known, denial.name: max(known.get(denial.name, denial.until), denial.until)}


# Who tells the gateway who shows a token.
Verifier: TypeAlias = TokenIndex | OAuthTokens


def is_static(value: bytes) -> bool:
    """Tell whether a header holds what looks like a static token."""
    return _STATIC.match(value) is not None


def _bearer(value: bytes) -> str:
    scheme, _, text = value.decode("latin-1").partition(" ")
    text = text.strip()
    if scheme.lower() != "bearer" or len(text) > _LONGEST or not _FORMAT.fullmatch(text):
        raise TokenUnknownError("No access token")
    return text


def _number(value: Json) -> float:
    """Read a NumericDate; what is none is no number, and neither early nor late."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return float("nan")
    try:
        return float(value)
    except OverflowError:
        return float("nan")
