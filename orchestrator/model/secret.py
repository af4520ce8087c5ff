"""What a secret reference is, as data; values are never here."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from types import MappingProxyType
from typing import Final, Literal, TypeAlias
from urllib.parse import quote, unquote

from typing_extensions import override

from orchestrator.errors import SecretRefError
from orchestrator.model.base import Json, JsonObject, format_duration

Scheme: TypeAlias = Literal[
    "env",
    "dotenv",
    "file",
    "docker-secret",
    "systemd-cred",
    "keyring",
    "vault",
    "vault-lease",
    "aws-sm",
    "op",
    "age",
    "secretspec",
    "issued",
    "command",
]

# What the rotation engine resolves, as part of the role's own credential; no store does.
ISSUED: Final[frozenset[Scheme]] = frozenset({"issued", "vault-lease"})
# Variables that a store takes from the environment beside those that references name. Whether
# they are set is the store's concern.
VARIABLES: Final[Mapping[Scheme, tuple[str, ...]]] = MappingProxyType({
    "systemd-cred": ("CREDENTIALS_DIRECTORY",),
    "keyring": ("DBUS_SESSION_BUS_ADDRESS",),
    "op": ("OP_SERVICE_ACCOUNT_TOKEN", "OP_CONNECT_HOST", "OP_CONNECT_TOKEN"),
})  # fmt: skip
COMMAND_TIMEOUT: Final = timedelta(seconds=10)

_NAME = r"[A-Za-z_][A-Za-z0-9_]{0,127}"
_FILE_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,127}"
_FIELD = r"[A-Za-z0-9_][A-Za-z0-9_. -]{0,127}"
_PLACE = r"(?:/|\{state\}/|\{project\}/)"
_BACKEND = r"(?P<store>[a-z][a-z0-9-]{0,31})?"
# One part of a path; what is not in here is written with %.
_PART = r"(?:[A-Za-z0-9._~!$'()*+,;:@-]|%[0-9A-Fa-f]{2})+"
_QUERY = r"(?:\?(?P<query>[A-Za-z0-9._~!$'()*+,;:@/=&%-]+))?"


@dataclass(frozen=True, slots=True)
class _Form:
    """How references of one scheme look.

    Attributes:
        shown: The form, for people.
        pattern: The same for machines.
        options: What may stand behind `?`, with the form of each value.
    """

    shown: str
    pattern: str
    options: Mapping[str, str] = field(default_factory=dict[str, str])


# Of `file:`, and added by us alone: the file may be its directory's owner's, a container's user.
KEPT: Final = "kept"

_FORMS: Final[Mapping[Scheme, _Form]] = MappingProxyType({
    "env": _Form("env:NAME", rf"env:(?P<name>{_NAME})"),
    "dotenv": _Form(
        "dotenv:/absolute/.env#NAME",
        rf"dotenv:(?://)?(?P<path>{_PLACE}.*)#(?P<name>{_NAME})",
    ),
    # A name that itself ends like an option needs the option behind it.
    "file": _Form(
        "file:/absolute/path",
        rf"file:(?://)?(?P<path>{_PLACE}.+?)(?:\?(?P<query>(?:follow|kept)=(?:true|false)))?",
        {"follow": "true|false", KEPT: "true"},
    ),
    "docker-secret": _Form("docker-secret:NAME", rf"docker-secret:(?P<name>{_FILE_NAME})"),
    "systemd-cred": _Form("systemd-cred:NAME", rf"systemd-cred:(?P<name>{_FILE_NAME})"),
    "keyring": _Form("keyring://SERVICE/USER", rf"keyring://(?P<path>{_PART})/(?P<name>{_PART})"),
    "vault": _Form(
        "vault://BACKEND/MOUNT/PATH#FIELD",
        rf"vault://{_BACKEND}/(?P<path>{_PART}(?:/{_PART})+){_QUERY}#(?P<name>{_FIELD})",
        {"version": "[1-9][0-9]{0,8}"},
    ),
    "vault-lease": _Form(
        "vault-lease://BACKEND/PATH#FIELD",
        rf"vault-lease://{_BACKEND}/(?P<path>{_PART}(?:/{_PART})+)#(?P<name>{_FIELD})",
    ),
    "aws-sm": _Form(
        "aws-sm://NAME-OR-ARN#KEY, or without #KEY",
        rf"aws-sm://(?P<path>[A-Za-z0-9/_+=.@:-]{{1,2048}}){_QUERY}(?:#(?P<name>{_FIELD}))?",
        {"stage": "[A-Za-z0-9_+=.@!-]{1,256}", "version": "[A-Za-z0-9-]{32,64}"},
    ),
    "op": _Form(
        "op://VAULT/ITEM/FIELD",
        rf"op://(?P<path>[A-Za-z0-9_. -]+(?:/[A-Za-z0-9_. -]+){{2,3}}){_QUERY}",
        {"attribute": "[a-z]{1,32}", "ssh-format": "[a-z]{1,32}"},
    ),
    "age": _Form(
        "age:/absolute/file.age?identity=REFERENCE#KEY, or without #KEY",
        rf"age:(?://)?(?P<path>{_PLACE}.+)\?(?P<query>identity=[^?&#]+)(?:#(?P<name>{_NAME}))?",
        {"identity": ".+"},
    ),
    "secretspec": _Form(
        "secretspec:NAME",
        rf"secretspec:(?P<name>{_NAME}){_QUERY}",
        {"profile": "[A-Za-z0-9_-]{1,64}", "scope": "[A-Za-z0-9_-]{1,64}"},
    ),
    "issued": _Form('"issued:" (with the quotes) or issued:FIELD', rf"issued:(?P<name>{_FIELD})?"),
})  # fmt: skip
SCHEMES: Final[tuple[Scheme, ...]] = (*_FORMS, "command")
# For editors, whose engine knows no named groups.
TEXT_PATTERN: Final = re.sub(
    r"\(\?P<\w+>", "(?:", f"^(?:{'|'.join(form.pattern for form in _FORMS.values())})$"
)
COMMAND_FORM: Final = "{command: [/absolute/program, argument]}"
FORMS: Final = (
    "env:NAME or file:/absolute/path; the other schemes are "
    f"{', '.join(scheme for scheme in SCHEMES if scheme not in {'env', 'file'})}"
)
_LIKE_AN_OPTION = re.compile(r"\?[a-z-]+=[^/]*$")


@dataclass(frozen=True, slots=True)
class Program:
    """A program that tells a secret.

    Attributes:
        argv: Its file, absolute or beginning with a placeholder, and its arguments.
        timeout: How long it may take.
        env: Plain variables that it has beside a short baseline.
    """

    argv: tuple[str, ...]
    timeout: timedelta = COMMAND_TIMEOUT
    env: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class SecretRef:
    """Where a secret is kept.

    Attributes:
        scheme: The store.
        path: Where in the store. A file for `dotenv`, `file` and `age`, which may begin with
            `{state}/` or `{project}/`; the service for `keyring`; as it was written, %-codes
            included, for all others.
        name: The variable, field or key; empty if the whole is meant.
        store: The backend, for schemes with several; empty for the default one.
        options: What stood behind `?`, by name in alphabetical order.
        inner: The reference that this one needs: the identity of `age`, the input of `command`.
        program: What `command` runs.
    """

    scheme: Scheme
    path: str
    name: str
    store: str = ""
    options: tuple[tuple[str, str], ...] = ()
    inner: "SecretRef | None" = None
    program: Program | None = None

    @override
    def __str__(self) -> str:
        text = self._written(self.scheme)
        query = "&".join(f"{key}={quote(value, safe='/:@')}" for key, value in self.options)
        if self.scheme == "file" and not query and _LIKE_AN_OPTION.search(self.path):
            query = "follow=false"
        if self.scheme == "age":
            # What may not stand there raw would end the identity.
            query = "identity=" + re.sub(r"[%?&#]", lambda c: f"%{ord(c[0]):02X}", str(self.inner))
        text += f"?{query}" if query else ""
        is_fragment = self.scheme in {"dotenv", "vault", "vault-lease", "aws-sm", "age"}
        return f"{text}#{self.name}" if is_fragment and self.name else text

    def _written(self, scheme: Scheme) -> str:
        """Write what stands before `?` and `#`."""
        match scheme:
            case "env" | "docker-secret" | "systemd-cred" | "secretspec" | "issued":
                return f"{scheme}:{self.name}"
            case "dotenv" | "file" | "age":
                return f"{scheme}:{self.path}"
            case "keyring":
                return f"keyring://{self.path}/{self.name}"
            case "vault" | "vault-lease":
                return f"{scheme}://{self.store}/{self.path}"
            case "aws-sm" | "op":
                return f"{scheme}://{self.path}"
            case "command":
                # For people only; arguments could be told nowhere else. See `data`.
                return f"command:{self.program.argv[0] if self.program else ''}"

    def option(self, name: str) -> str:
        """Tell the value of an option; empty if it is not given."""
        return dict(self.options).get(name, "")

    def chain(self) -> "Iterator[SecretRef]":
        """Go through this reference and those that it needs."""
        yield self
        if self.inner is not None:
            yield from self.inner.chain()

    def filled(self, fill: Callable[[str], str]) -> "SecretRef":
        """Return the same reference with placeholders replaced in paths and arguments."""
        program = self.program
        if program is not None:
            program = replace(program, argv=tuple(fill(word) for word in program.argv))
        inner = self.inner.filled(fill) if self.inner is not None else None
        return replace(self, path=fill(self.path), inner=inner, program=program)

    def data(self) -> Json:
        """Return what a file says: a text, or a mapping for `command`."""
        program = self.program
        if program is None:
            return str(self)
        table: JsonObject = {
            "command": list(program.argv),
            "timeout": format_duration(program.timeout),
            "env": dict(program.env),
        }
        if self.inner is not None:
            table["stdin"] = str(self.inner)
        return table

    @classmethod
    def parse(cls, text: str) -> "SecretRef":
        """Read a reference of any scheme but `command`, which is no text.

        Raises:
            SecretRefError: The text is none; its own words are never repeated, it may be a secret.
        """
        scheme = _scheme_of(text)
        form = _FORMS[scheme]
        match = re.fullmatch(form.pattern, text)
        if match is None:
            raise _malformed(scheme)
        parts = match.groupdict(default="")
        options = _options(scheme, form, parts.get("query", ""))
        path, inner = parts.get("path", ""), None
        match scheme:
            case "file":
                if not options and _LIKE_AN_OPTION.search(path):
                    raise _malformed(scheme)
                if options.get("follow") == "false":
                    options = {}
            case "age":
                inner = _identity(options.pop("identity"))
            case "aws-sm":
                if len(options) > 1:
                    raise SecretRefError(
                        "an aws-sm: reference with a stage and a version", hint="Name one of them."
                    )
            case _:
                pass
        store = parts.get("store", "")
        return cls(
            scheme, path, parts.get("name", ""), store, tuple(sorted(options.items())), inner
        )


def inner_reference(text: str) -> SecretRef:
    """Read a reference that another one needs.

    Raises:
        SecretRefError: It is none, or of a kind that cannot stand there.
    """
    reference = SecretRef.parse(text)
    if reference.scheme in {"age", *ISSUED}:
        raise SecretRefError(
            f"{reference.scheme}: cannot stand inside another reference",
            hint="Take a reference that needs no other, such as file:/absolute/path.",
        )
    return reference


def variables_of(reference: SecretRef) -> Iterator[str]:
    """Tell the variables of the environment that a reference may need to be resolved."""
    for each in reference.chain():
        if each.scheme == "env":
            yield each.name
        yield from VARIABLES.get(each.scheme, ())


def _scheme_of(text: str) -> Scheme:
    head, colon, _ = text.partition(":")
    if colon:
        for scheme in _FORMS:
            if scheme == head:
                return scheme
        if head == "command":
            raise SecretRefError("command: is a mapping, not a text", hint=f"Write {COMMAND_FORM}.")
    raise SecretRefError(
        "not a secret reference; a secret itself never stands in a file", hint=f"Write {FORMS}."
    )


def _options(scheme: Scheme, form: _Form, query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in query.split("&") if query else ():
        key, equals, raw = part.partition("=")
        value = unquote(raw)
        if not equals or key in options or not re.fullmatch(form.options.get(key, r"(?!)"), value):
            raise _malformed(scheme)
        options[key] = value
    return options


def _identity(text: str) -> SecretRef:
    # The error of the inner one says which of the two is wrong, without its words either.
    try:
        return inner_reference(text)
    except SecretRefError as error:
        raise SecretRefError(
            f"the identity in an age: reference: {error}", hint=error.hint
        ) from error


def _malformed(scheme: Scheme) -> SecretRefError:
    form = _FORMS[scheme]
    known = ", ".join(f"?{key}=..." for key in form.options if key != KEPT)
    options = f" Options: {known}" if known else ""
    return SecretRefError(f"a malformed {scheme}: reference", hint=f"Write {form.shown}.{options}")
