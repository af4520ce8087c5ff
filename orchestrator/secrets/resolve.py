"""Turns references into values, with the checks that are the same for every store."""

import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, assert_never, final

from pydantic import SecretStr

from orchestrator.clock import Clock, SystemClock
from orchestrator.errors import SecretError, SecretNotFoundError, SecretStoreUnavailableError
from orchestrator.model.names import SecretName
from orchestrator.model.secret import ISSUED, Scheme, SecretRef
from orchestrator.model.stores import DEFAULT_STORE, Account, AwsAccount, VaultAccount
from orchestrator.secrets.asking import Question, Result, ask_all
from orchestrator.secrets.base import Secret, SecretStore
from orchestrator.secrets.dotenv import DotenvStore
from orchestrator.secrets.env import EnvironmentStore
from orchestrator.secrets.file import FileStore
from orchestrator.secrets.fingerprint import Fingerprints
from orchestrator.secrets.redact import LIVE

# Shorter ones could be guessed, and could not be taken out of logs without hitting other words.
SHORTEST: Final = 8
PATIENCE_SECONDS: Final = 10.0
# Stores that give up by themselves say why; we wait a little longer for that.
_MARGIN_SECONDS: Final = 1.0
_SURROGATES: Final = range(0xD800, 0xE000)


@final
class SecretResolver:
    """Resolves references, anew each time, so that a changed value is seen."""

    def __init__(  # noqa: PLR0913  the last three are for few callers
        self,
        project_root: Path,
        state: Path,
        environment: Mapping[str, SecretStr],
        *,
        accounts: Mapping[str, Account] | None = None,
        fingerprints: Fingerprints | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Keep the places; stores are set up when they are asked.

        Args:
            project_root: The project's directory, for `{project}` and `.env`.
            state: The directory of its state, for `{state}`.
            environment: The variables that `env:` looks into first.
            accounts: Stores that are reached over the network, by name.
            fingerprints: Marks the values that are looked up; none are marked without it.
            clock: Tells what has expired.
        """
        self._root = project_root
        self._places = {"{project}/": f"{project_root}/", "{state}/": f"{state}/"}
        self._environment = EnvironmentStore(environment, project_root / ".env")
        self._accounts = accounts or {}
        self._fingerprints = fingerprints
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._stores: dict[Scheme, SecretStore] = {
            "env": self._environment,
            "dotenv": DotenvStore(),
            "file": FileStore(),
        }

    def resolve(self, reference: SecretRef) -> SecretStr:
        """Return the value of one reference.

        Raises:
            SecretNotFoundError: There is none, or an empty one.
            SecretStoreUnavailableError: Its store cannot be read or trusted, or what it holds
                cannot be a secret.
        """
        return self.look_up(reference).value

    def look_up(self, reference: SecretRef) -> Secret:
        """Return the value of one reference, and what its store knows of it.

        Raises:
            SecretNotFoundError: As `resolve`.
            SecretStoreUnavailableError: As `resolve`.
        """
        [result] = ask_all([self._question(reference)])
        if isinstance(result, SecretError):
            raise result
        return result

    def resolve_all(
        self,
        secrets: Mapping[SecretName, SecretRef],
        issued: Mapping[str, SecretStr] | None = None,
    ) -> Mapping[SecretName, SecretStr]:
        """Return the values of all variables of one role, asking their stores at the same time.

        Args:
            secrets: The references, by variable.
            issued: The fields of the role's own credential, for `issued:` references.

        Raises:
            SecretStoreUnavailableError: At least one has a store that cannot be used.
            SecretNotFoundError: At least one is missing, and every store can be used.
        """
        results = self.look_up_all(secrets, issued)
        errors = {name: each for name, each in results.items() if isinstance(each, SecretError)}
        if errors:
            raise _merged(errors)
        return {name: each.value for name, each in results.items() if isinstance(each, Secret)}

    def look_up_all(
        self,
        secrets: Mapping[SecretName, SecretRef],
        issued: Mapping[str, SecretStr] | None = None,
    ) -> Mapping[SecretName, Result]:
        """Do the same, with what is known of each value, or an error for each that has none."""
        results: dict[SecretName, Result] = {}
        asked: dict[SecretName, Question] = {}
        for name, reference in secrets.items():
            if reference.scheme in ISSUED:
                results[name] = self._issued(reference, issued)
            else:
                asked[name] = self._question(reference)
        results.update(zip(asked, ask_all(list(asked.values())), strict=True))
        return {name: results[name] for name in secrets}

    def _question(self, reference: SecretRef) -> Question:
        reference = reference.filled(self._fill)
        patience = PATIENCE_SECONDS
        if reference.program is not None:
            patience = max(patience, reference.program.timeout.total_seconds())
        if reference.scheme in {"vault", "aws-sm"} and (account := self._account(reference)):
            patience = max(patience, account.timeout.total_seconds())
        return Question(
            name=str(reference),
            store=f"{reference.scheme} {reference.store}",
            patience=patience + _MARGIN_SECONDS,
            ask=lambda: self._read(reference),
        )

    def _fill(self, text: str) -> str:
        if text == "{python}":
            return sys.executable
        for placeholder, place in self._places.items():
            if text.startswith(placeholder):
                return place + text.removeprefix(placeholder)
        return text

    def _account(self, reference: SecretRef) -> Account | None:
        return self._accounts.get(reference.store or DEFAULT_STORE)

    def _read(self, reference: SecretRef) -> Secret:
        """Ask the store itself; takes as long as it takes."""
        return self._checked(reference, self._store(reference.scheme).read(reference))

    def _checked(self, reference: SecretRef, secret: Secret) -> Secret:
        value = secret.value.get_secret_value()
        if not value:
            raise SecretNotFoundError(f"{reference} is empty")
        if "\0" in value:
            raise SecretStoreUnavailableError(f"{reference} holds a NUL character")
        if any(ord(letter) in _SURROGATES for letter in value):
            raise SecretStoreUnavailableError(f"{reference} is no UTF-8 text")
        if len(value) < SHORTEST:
            raise SecretStoreUnavailableError(
                f"{reference} is too short for a secret", hint=f"At least {SHORTEST} characters."
            )
        LIVE.learn([secret.value])
        if secret.expires_at is not None and secret.expires_at <= self._clock.now():
            raise SecretStoreUnavailableError(
                f"{reference} expired at {secret.expires_at:%Y-%m-%d %H:%M:%S} UTC"
            )
        if self._fingerprints is None:
            return secret
        return replace(secret, fingerprint=self._fingerprints.of(secret.value))

    def _issued(self, reference: SecretRef, issued: Mapping[str, SecretStr] | None) -> Result:
        if issued is None:
            return SecretStoreUnavailableError(
                f"{reference} is made by rotations, and known to the daemon only"
            )
        value = issued.get(reference.name)
        if value is None:
            known = ", ".join(sorted(name or "the whole" for name in issued))
            return SecretNotFoundError(
                f"{reference}: the role's credential has no such field", hint=f"It has: {known}."
            )
        try:
            return self._checked(reference, Secret(value))
        except SecretError as error:
            return error

    def _store(self, scheme: Scheme) -> SecretStore:
        with self._lock:
            store = self._stores.get(scheme)
            if store is None:
                store = self._stores[scheme] = self._open(scheme)
            return store

    def _open(self, scheme: Scheme) -> SecretStore:  # noqa: C901, PLR0911  one line for each store
        """Set up a store; those that few use are imported here, to keep `agents` quick."""
        # ruff: disable[PLC0415]  as said above
        match scheme:
            case "env" | "dotenv" | "file":
                return self._stores[scheme]
            case "docker-secret":
                from orchestrator.secrets.docker_secret import DockerSecretStore

                return DockerSecretStore()
            case "systemd-cred":
                from orchestrator.secrets.systemd_cred import SystemdCredentialStore

                return SystemdCredentialStore(self._environment)
            case "keyring":
                from orchestrator.secrets.keyring import KeyringStore

                return KeyringStore(self._environment)
            case "op":
                from orchestrator.secrets.op import OnePasswordStore

                return OnePasswordStore(self._environment)
            case "age":
                from orchestrator.secrets.age import AgeStore

                return AgeStore(self._read)
            case "command":
                from orchestrator.secrets.command import CommandStore

                return CommandStore(self._root, self._read)
            case "secretspec":
                from orchestrator.secrets.secretspec import SecretSpecStore

                return SecretSpecStore(self._environment, self._root)
            case "vault":
                from orchestrator.secrets.vault import VaultStore
                from orchestrator.secrets.vault_client import VaultClient

                return VaultStore({
                    name: VaultClient(name, account, self.resolve, self._root)
                    for name, account in self._accounts.items()
                    if isinstance(account, VaultAccount)
                })  # fmt: skip
            case "aws-sm":
                from orchestrator.secrets.aws import AwsStore
                from orchestrator.secrets.aws_client import AwsClient

                return AwsStore({
                    name: AwsClient(name, account, self.resolve)
                    for name, account in self._accounts.items()
                    if isinstance(account, AwsAccount)
                })  # fmt: skip
            case "issued" | "vault-lease":
                raise SecretStoreUnavailableError(
                    f"{scheme}: is made by rotations, and known to the daemon only"
                )
        # ruff: enable[PLC0415]
        assert_never(scheme)


def _merged(errors: Mapping[SecretName, SecretError]) -> SecretError:
    message = "\n".join(f"{name}: {error}" for name, error in errors.items())
    hints = dict.fromkeys(error.hint for error in errors.values() if error.hint)
    is_missing = all(isinstance(error, SecretNotFoundError) for error in errors.values())
    kind = SecretNotFoundError if is_missing else SecretStoreUnavailableError
    return kind(message, hint="\n".join(hints) or None)
