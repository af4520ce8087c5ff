"""`agents secrets check`: resolves every reference, and shows what it found but for the value."""

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from orchestrator.cli.output import paint, say, say_json, table
from orchestrator.cli.project import Checked, check_project
from orchestrator.errors import (
    SecretError,
    SecretNotFoundError,
    SecretStoreUnavailableError,
)
from orchestrator.model.names import SecretName
from orchestrator.model.secret import ISSUED, SecretRef
from orchestrator.secrets.base import Secret
from orchestrator.secrets.fingerprint import Fingerprints
from orchestrator.secrets.resolve import SecretResolver

_COLOURS: Final = {"found": "green", "missing": "red", "untrusted": "red"}


@dataclass(frozen=True, slots=True)
class _Row:
    role: str
    variable: SecretName
    reference: SecretRef
    state: str
    secret: Secret | None = None
    error: SecretError | None = None

    def as_json(self) -> dict[str, object]:
        ends = self.secret and self.secret.expires_at
        return {
            "role": self.role,
            "variable": self.variable,
            "reference": self.reference.data(),
            "state": self.state,
            "fingerprint": self.secret.fingerprint if self.secret else None,
            "version": (self.secret.version_id if self.secret else "") or None,
            "expires_at": ends.isoformat() if ends else None,
            "problem": str(self.error) if self.error else None,
            "hint": self.error.hint if self.error else None,
        }

    def as_cells(self) -> tuple[str, ...]:
        mark = self.secret.fingerprint if self.secret else "-"
        state = paint(self.state, _COLOURS.get(self.state, "dim"))
        return (self.role, self.variable, state, mark, str(self.reference))


def check(project: Path | None, only: tuple[str, ...], *, as_json: bool) -> None:
    """Resolve the references of roles, of the bootstraps of their servers, and of issuers.

    Raises:
        SecretNotFoundError: At least one has no value; all are shown.
        SecretStoreUnavailableError: At least one has a store that cannot be used; the same.
    """
    checked = check_project(project, None, only)
    rows = list(_rows(checked))
    if as_json:
        say_json({"secrets": [row.as_json() for row in rows]})
    elif not rows:
        say("no secrets")
    else:
        head = ("ROLE", "VARIABLE", "STATE", "FINGERPRINT", "REFERENCE")
        say("\n".join(table(head, [row.as_cells() for row in rows])))
    errors = [row.error for row in rows if row.error is not None]
    if not errors:
        return
    missing = all(isinstance(error, SecretNotFoundError) for error in errors)
    kind = SecretNotFoundError if missing else SecretStoreUnavailableError
    lines = [f"{row.role}: {row.variable}: {row.error}" for row in rows if row.error]
    hints = dict.fromkeys(error.hint for error in errors if error.hint)
    raise kind("\n".join(lines), hint="\n".join(hints) or None)


def _rows(checked: Checked) -> Iterator[_Row]:
    paths, wanted = checked.paths, checked.desired
    environment = {
        name: SecretStr(os.environ[name]) for name in checked.variables if name in os.environ
    }
    resolver = SecretResolver(
        paths.root,
        paths.state,
        environment,
        accounts=checked.project.settings.stores,
        fingerprints=Fingerprints(paths.fingerprint_key),
    )
    made = {path for one in wanted.bootstraps.values() for path in one.files}
    for role, spec in wanted.roles.items():
        yield from _of_one(role, spec.secrets, resolver, made)
    for server, one in wanted.bootstraps.items():
        yield from _of_one(f"bootstrap of {server}", one.spec.secrets, resolver, made)
    for name, issuer in wanted.credentials.issuers.items():
        yield from _of_one(f"issuer {name}", issuer.secrets, resolver, made)


def _of_one(
    role: str,
    secrets: Mapping[SecretName, SecretRef],
    resolver: SecretResolver,
    made: Collection[str],
) -> Iterator[_Row]:
    later = {name: why for name, ref in secrets.items() if (why := _why_later(ref, made))}
    asked = {name: ref for name, ref in secrets.items() if name not in later}
    results: Mapping[SecretName, Secret | SecretError] = resolver.look_up_all(asked)
    for name, reference in secrets.items():
        match results.get(name):
            case Secret() as secret:
                yield _Row(role, name, reference, "found", secret=secret)
            case SecretNotFoundError() as error:
                yield _Row(role, name, reference, "missing", error=error)
            case SecretError() as error:
                yield _Row(role, name, reference, "untrusted", error=error)
            case None:
                yield _Row(role, name, reference, later[name])


def _why_later(reference: SecretRef, made: Collection[str]) -> str:
    """Say why a value cannot be there yet; empty if it can."""
    if reference.scheme in ISSUED:
        return "by rotation"
    if any(each.path in made and not Path(each.path).exists() for each in reference.chain()):
        return "by bootstrap"
    return ""
