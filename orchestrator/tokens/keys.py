"""The keys that an identity provider signs with: fetched beside the event loop, kept in memory.

A refusal costs the provider nothing: keys are asked for at most once in a while, whatever callers
show, and all who wait share one question. When the provider does not answer, the keys that are
known go on for as long as a token lives that it signed before.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Final, TypeAlias, final
from urllib.parse import urlsplit

from jwt import PyJWK

from orchestrator.clock import Clock
from orchestrator.errors import TokenUncheckedError
from orchestrator.model.base import Json
from orchestrator.tokens.fetch import FetchError, fetch_json

# How long keys are taken for new.
LIFESPAN_SECONDS: Final = 300.0
# Between two questions about a key that nobody knows, and between two that failed while there are
# keys; without any the provider is asked sooner.
COOLDOWN_SECONDS: Final = 30.0
RETRY_SECONDS: Final = 5.0
# No token is good for longer (leeway aside), so older keys have nothing left to vouch for.
LONGEST_LIFE: Final = timedelta(minutes=15)
MOST_KEYS: Final = 100
# Longest time that a request waits for a question; what is asked goes on without it.
PATIENCE_SECONDS: Final = 12.0

KeySet: TypeAlias = Mapping[str, PyJWK]
Tell: TypeAlias = Callable[[str, str], None]


@final
class Keys:
    """The keys of one identity provider, by their ids."""

    def __init__(  # noqa: PLR0913 - five settings, and who is told
        self,
        issuer: str,
        jwks: str | None,
        algorithms: frozenset[str],
        *,
        clock: Clock,
        tell: Tell,
        on_read: Callable[[], None],
    ) -> None:
        """Know nothing yet; `prepare`, or the first token that needs a key, has them fetched.

        Args:
            issuer: The provider's issuer URL.
            jwks: Where its keys are; None to find that in its metadata.
            algorithms: Keys for others are left out.
            clock: Where time comes from.
            tell: Is told, as an event and a reason, when the keys are to be had and when not.
            on_read: Is told that the keys were read anew.
        """
        self._issuer = issuer
        self._jwks = jwks
        self._algorithms = algorithms
        self._clock = clock
        self._tell = tell
        self._on_read = on_read
        self._found = ""
        self._keys: KeySet = {}
        self._read_at = -LIFESPAN_SECONDS
        self._next_at = float("-inf")
        self._asking: asyncio.Future[None] | None = None
        self._is_failing = False

    async def prepare(self) -> bool:
        """Ask for the keys before anybody needs them; tells whether there are any."""
        if not self._keys:
            asking = self._ask(self._clock.monotonic())
            if asking is not None:
                await asyncio.shield(asking)
        return bool(self._keys)

    async def find(self, kid: str) -> PyJWK | None:
        """Tell the key with this id, or None if the provider has none.

        Raises:
            TokenUncheckedError: The provider's keys are not to be had, so nobody knows.
        """
        now = self._clock.monotonic()
        if kid not in self._keys or now >= self._read_at + LIFESPAN_SECONDS:
            asking = self._ask(now)
            if asking is not None and (kid not in self._keys or self._are_too_old(now)):
                with suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(asking), PATIENCE_SECONDS)
        if self._are_too_old(self._clock.monotonic()):
            raise TokenUncheckedError("The identity provider's keys are not to be had")
        return self._keys.get(kid)

    def _are_too_old(self, now: float) -> bool:
        longest = LIFESPAN_SECONDS + LONGEST_LIFE.total_seconds()
        return not self._keys or now >= self._read_at + longest

    def _ask(self, now: float) -> "asyncio.Future[None] | None":
        """Begin to ask, or join who asks already; None where it is too soon."""
        if self._asking is None and now >= self._next_at:
            loop = asyncio.get_running_loop()
            self._asking = loop.create_future()
            # A daemon thread: no end of the gateway waits for a provider that does not answer.
            threading.Thread(target=self._run, args=(loop,), name="keys", daemon=True).start()
        return self._asking

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            found: KeySet | str = self._read()
        except FetchError as error:
            found = str(error)
        except Exception as error:  # noqa: BLE001 - whatever rubbish came: those who wait must hear
            found = f"the answer cannot be read ({type(error).__name__})"
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._take, found)

    def _take(self, found: KeySet | str) -> None:
        now = self._clock.monotonic()
        if isinstance(found, str):
            self._found = ""
            self._next_at = now + (RETRY_SECONDS if self._are_too_old(now) else COOLDOWN_SECONDS)
            if not self._is_failing:
                self._is_failing = True
                self._tell("keys_unavailable", found)
        else:
            self._read_at = now
            self._next_at = now + COOLDOWN_SECONDS
            self._keys = found
            self._on_read()
            if self._is_failing:
                self._is_failing = False
                self._tell("keys_available", "")
        asking, self._asking = self._asking, None
        if asking is not None and not asking.done():
            asking.set_result(None)

    # In a thread.

    def _read(self) -> KeySet:
        url = self._jwks or self._found or self._discover()
        members = fetch_json(url).get("keys")
        if not isinstance(members, list):
            raise FetchError("the answer is no set of keys")
        keys: dict[str, PyJWK] = {}
        for member in members[:MOST_KEYS]:
            key = self._make(member)
            if key is not None and key.key_id is not None:
                _ = keys.setdefault(key.key_id, key)
        if not keys:
            raise FetchError("there is no key that could be used")
        self._found = url
        return keys

    def _make(self, member: Json) -> PyJWK | None:
        if not isinstance(member, dict) or member.get("use", "sig") != "sig":
            return None
        kid = member.get("kid")
        if not isinstance(kid, str) or not kid:
            return None
        try:
            key = PyJWK.from_dict(member)
        except Exception:  # noqa: BLE001 - one key that nobody can read is no reason to do without the others
            return None
        return key if key.algorithm_name in self._algorithms else None

    def _discover(self) -> str:
        """Find where the keys are in the provider's metadata.

        Source: RFC 8414, section 3; OpenID Connect Discovery 1.0, section 4.
        """
        parts = urlsplit(self._issuer)
        origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
        reasons: list[str] = []
        for url in (
            f"{origin}/.well-known/oauth-authorization-server{path}",
            f"{origin}{path}/.well-known/openid-configuration",
        ):
            try:
                metadata = fetch_json(url)
            except FetchError as error:
                reasons.append(str(error))
                continue
            found = metadata.get("jwks_uri")
            if metadata.get("issuer") != self._issuer:
                reasons.append("the metadata is another issuer's")
            elif not isinstance(found, str) or not self._is_safe(found):
                reasons.append("the metadata names no place for keys that could be used")
            else:
                return found
        raise FetchError("no metadata: " + "; ".join(dict.fromkeys(reasons)))

    def _is_safe(self, url: str) -> bool:
        """Whether keys may be taken from there: over TLS, unless the issuer itself is local."""
        own, there = urlsplit(self._issuer), urlsplit(url)
        if there.scheme == "https":
            return True
        return there.scheme == own.scheme == "http" and there.hostname == own.hostname
