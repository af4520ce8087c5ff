"""Checks what files say about credentials: issuers in `agents.yaml`, rotations in role files."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from orchestrator.config.launchers import refused_launcher
from orchestrator.config.places import OF_A_BOOTSTRAP, unknown_placeholders
from orchestrator.config.problems import did_you_mean, quoted
from orchestrator.config.rulecheck import where_it_is
from orchestrator.config.secretlike import (
    is_harmless,
    is_secret_name,
    looks_known,
    looks_random,
)
from orchestrator.config.yamlfile import Document, Loc, texts
from orchestrator.errors import FileProblem
from orchestrator.model.base import JsonObject, format_duration
from orchestrator.model.issuers import (
    IMPLIED,
    CommandIssuer,
    IssuerSettings,
    ManualIssuer,
    Verb,
    WalletSuiteIssuer,
)
from orchestrator.model.issuers_cloud import LEASE_PATH_PATTERN, AwsSmIssuer, VaultLeaseIssuer
from orchestrator.model.names import SecretName, ToolName
from orchestrator.model.role import Role
from orchestrator.model.rotation import OLDEST, AgentRotation, Delivery, UpstreamRotation
from orchestrator.model.secret import ISSUED, SecretRef
from orchestrator.model.server import Server
from orchestrator.model.settings import Settings
from orchestrator.model.stores import DEFAULT_STORE, aws_regions, aws_store

MINTING_TOOL: Final = ToolName("create_agent_api_key")

_AS_REFERENCE: Final = "put it under `secrets:` as a reference, such as env:NAME"
_PROGRAM: Final = re.compile(r"\{python\}|(?:/|\{project\}/|\{state\}/).+")
_PLACE: Final = re.compile(r"(?:/|\{project\}/|\{state\}/).*[^/]")
_OPTION: Final = re.compile(r"--?([A-Za-z][\w-]*)=.+", re.DOTALL)
# What the role's own server and the issuer's programs are given may not come from an issuer.
_NO_ISSUED: Final = "is for the secrets of a role"
_BY_PROGRAM: Final = frozenset({"api", "disable"})


def check_issuers(settings: Settings, document: Document) -> Iterator[FileProblem]:
    """Check `issuers:` and `vault:`.

    Args:
        settings: What the file says.
        document: Where it says it.
    """
    for name, issuer in settings.issuers.items():
        loc: Loc = ("issuers", name)
        if name.startswith(IMPLIED):
            yield document.problem(
                loc, f"names that begin with {IMPLIED} stand for leases of roles",
                "take another name", at_key=True,
            )  # fmt: skip
        yield from _variables(issuer.env, issuer.secrets, document, loc)
        if isinstance(issuer, VaultLeaseIssuer | AwsSmIssuer):
            yield from _service(issuer, settings, document, loc)
        else:
            yield from _own(issuer, settings, document, loc)
    if (key := settings.vault.key) is not None and key.scheme in ISSUED:
        yield document.problem(("vault", "key"), _NO_ISSUED, "name another place")


def _own(
    issuer: CommandIssuer | ManualIssuer | WalletSuiteIssuer,
    settings: Settings,
    document: Document,
    loc: Loc,
) -> Iterator[FileProblem]:
    match issuer:
        case CommandIssuer():
            yield from _command(issuer, document, loc)
        case ManualIssuer():
            if issuer.probe is not None:
                yield from _program(issuer.probe, document, (*loc, "probe"))
        case WalletSuiteIssuer():
            yield from _texts(issuer.arguments, document, (*loc, "arguments"))
    if issuer.keep is not None:
        scheme, _, rest = issuer.keep.partition("://")
        if scheme == "vault":
            kind, store = "vault", rest.partition("/")[0]
        else:
            kind, store = "aws", aws_store(rest, aws_regions(settings.stores))
        yield from _store(store or DEFAULT_STORE, kind, settings, document, (*loc, "keep"))


def _service(
    issuer: VaultLeaseIssuer | AwsSmIssuer, settings: Settings, document: Document, loc: Loc
) -> Iterator[FileProblem]:
    match issuer:
        case VaultLeaseIssuer():
            yield from _store(issuer.store, "vault", settings, document, (*loc, "store"))
            yield from _texts(issuer.parameters, document, (*loc, "parameters"))
            if isinstance(issuer.probe, tuple):
                yield from _program(issuer.probe, document, (*loc, "probe"))
        case AwsSmIssuer():
            yield from _store(issuer.store, "aws", settings, document, (*loc, "store"))
            for verb, words in issuer.verbs.items():
                yield from _program(words, document, (*loc, "verbs", verb))


def check_rotation(
    role: Role,
    document: Document,
    server: Server | None,
    settings: Settings | None,
) -> Iterator[FileProblem]:
    """Check `rotation:` of a role, and the secrets that issuers make.

    Args:
        role: The role.
        document: Where its file says it.
        server: Its server, None if that has mistakes of its own.
        settings: The settings of the project, None if they have mistakes.
    """
    yield from _agents(role.rotation.agent, document)
    upstream = role.rotation.upstream
    issued = {name: ref for name, ref in role.secrets.items() if ref.scheme in ISSUED}
    yield from _leases(role, issued, settings, document)
    if upstream is None:
        if issued and all(ref.scheme == "issued" for ref in issued.values()):
            name = next(iter(issued))
            yield document.problem(
                ("secrets", name), "nothing issues it", "add `rotation: upstream: issuer:`"
            )
        return
    if not issued:
        yield document.problem(
            ("rotation", "upstream"), "no secret of this role would be replaced",
            "write `issued:` as the reference of one under `secrets:`", at_key=True,
        )  # fmt: skip
    if upstream.every > OLDEST:
        yield _too_old(document, ("rotation", "upstream", "every"))
    yield from _check_call(role, upstream, server, document)
    if upstream.issuer is not None and settings is not None:
        yield from _issuer(upstream.issuer, issued, server, settings.issuers, document)


def check_shared_secrets(
    roles: Iterable[tuple[Role, Document]], settings: Settings | None
) -> Iterator[FileProblem]:
    """Refuse roles that would replace the same secret of AWS: it has one current version.

    Args:
        roles: Roles, with where their files say it.
        settings: The settings of the project, None if they have mistakes.
    """
    first: dict[tuple[str, str], str] = {}
    for role, document in roles:
        upstream = role.rotation.upstream
        name = "" if upstream is None else upstream.issuer or ""
        issuer = None if settings is None else settings.issuers.get(name)
        if not isinstance(issuer, AwsSmIssuer) or "{role}" in issuer.secret:
            continue
        other = first.setdefault((issuer.store, issuer.secret), role.role)
        if other != role.role:
            yield document.problem(
                ("rotation", "upstream", "issuer"),
                f"replaces the secret {issuer.secret}, as the role {other} does",
                "write {role} in the issuer's `secret`, or give each role an issuer of its own",
            )


def check_bootstrap_secrets(server: Server, document: Document) -> Iterator[FileProblem]:
    """Refuse secrets of a bootstrap that an issuer would have to make: there is none for it.

    Args:
        server: The server.
        document: Where its file says it.
    """
    secrets = {} if server.bootstrap is None else server.bootstrap.secrets
    for name, reference in secrets.items():
        if reference.scheme in ISSUED:
            yield document.problem(("bootstrap", "secrets", name), _NO_ISSUED, "name another place")


def rotation_notes(role: Role, issuers: Mapping[str, IssuerSettings]) -> tuple[str, ...]:
    """Tell what a person should know of a rotation that is sound, in sentences."""
    upstream = role.rotation.upstream
    issuer = issuers.get(upstream.issuer or "") if upstream is not None else None
    if upstream is None or issuer is None:
        return ()
    made, notes = f"issuer {upstream.issuer}", list[str]()
    if not (isinstance(issuer, VaultLeaseIssuer) or issuer.overlap):
        hold = format_duration(upstream.hold)
        notes.append(f"{made} knows no overlap: calls wait, up to {hold}, at each rotation")
    match issuer:
        case CommandIssuer():
            by_person, probes = issuer.revoke == "manual", issuer.probes
        case ManualIssuer():
            by_person, probes = True, issuer.probe is not None
        case WalletSuiteIssuer():
            by_person, probes = True, False
        case VaultLeaseIssuer():
            by_person, probes = False, issuer.probe is not None or issuer.makes_tokens
        case AwsSmIssuer():
            by_person = issuer.overlap and "revoke" not in issuer.verbs
            probes = "test" in issuer.verbs
    if by_person:
        told = "" if probes else ", and to confirm it: nobody else can tell"
        notes.append(f"{made}: a person has to end each old credential{told}")
    elif not probes:
        notes.append(
            f"{made} cannot tell what is accepted: old ones are ended, and not proved dead"
        )
    return tuple(f"{role.role}: {note}" for note in notes)


# agents.yaml


def _variables(
    env: Mapping[SecretName, str],
    secrets: Mapping[SecretName, SecretRef],
    document: Document,
    loc: Loc,
) -> Iterator[FileProblem]:
    for name, value in env.items():
        place = (*loc, "env", name)
        if "\0" in value:
            yield document.problem(place, "holds a NUL character", "remove it")
        elif looks_random(value) or (is_secret_name(name) and not is_harmless(value)):
            yield document.problem(place, "looks like a secret", _AS_REFERENCE)
        yield from _words(value, document, place)
        if name in secrets:
            yield document.problem(place, "stands under `secrets:` too", "keep one", at_key=True)
    for name, reference in secrets.items():
        if reference.scheme in ISSUED:
            yield document.problem((*loc, "secrets", name), _NO_ISSUED, "name another place")


def _command(issuer: CommandIssuer, document: Document, loc: Loc) -> Iterator[FileProblem]:
    for key, words in (("run", issuer.run), *((verb, issuer.verbs[verb]) for verb in issuer.verbs)):
        place = (*loc, "run") if key == "run" else (*loc, "verbs", key)
        if words is not None:
            yield from _program(words, document, place)
    declared: dict[Verb, tuple[bool, str]] = {
        "mint": (True, ""),
        "probe": (issuer.probes, "probes: true"),
        "revoke": (issuer.revoke in _BY_PROGRAM, "revoke: api"),
        "list": (issuer.lists, "lists: true"),
    }
    for verb, (wanted, line) in declared.items():
        if wanted and issuer.command(verb) is None:
            yield document.problem(
                loc, f"no program is there for {verb}", f"add `run:`, or `verbs: {verb}:`",
                at_key=True,
            )  # fmt: skip
        if verb in issuer.verbs and not wanted:
            yield document.problem(
                (*loc, "verbs", verb), "is never asked for", f"add `{line}`, or remove it",
                at_key=True,
            )  # fmt: skip
    if issuer.revoke == "expiry" and issuer.max_life is None:
        yield document.problem(
            (*loc, "revoke"), "a credential that ends by its time alone needs one",
            "add `max_life:`",
        )  # fmt: skip


def _program(words: Sequence[str], document: Document, loc: Loc) -> Iterator[FileProblem]:
    if not _PROGRAM.fullmatch(words[0]):
        yield document.problem(
            (*loc, 0), "the program has to be named by its whole path",
            "begin it with /, {project}/ or {state}/, or write {python}",
        )  # fmt: skip
    elif refused := refused_launcher(words, has_secrets=True):
        yield document.problem((*loc, 0), *refused)
    for index, word in enumerate(words):
        place = (*loc, index)
        yield from _words(word, document, place)
        option = _OPTION.fullmatch(word)
        if "\0" in word:
            yield document.problem(place, "holds a NUL character", "remove it")
        elif (
            looks_known(word)
            or looks_random(word)
            or (option and is_secret_name(option[1].replace("-", "_")))
        ):
            yield document.problem(
                place,
                "looks like a secret, and every user of the machine can read a program's arguments",
                _AS_REFERENCE,
            )


def _words(text: str, document: Document, loc: Loc) -> Iterator[FileProblem]:
    for word in unknown_placeholders(text, OF_A_BOOTSTRAP):
        names = ", ".join(f"{{{each}}}" for each in OF_A_BOOTSTRAP)
        yield document.problem(loc, f"unknown placeholder {quoted(word)}", f"known: {names}")


def _texts(value: JsonObject, document: Document, loc: Loc) -> Iterator[FileProblem]:
    for place, text in texts(value, loc):
        if looks_known(text) or looks_random(text):
            yield document.problem(place, "looks like a secret", "no secret is an argument")


def _store(
    name: str, kind: str, settings: Settings, document: Document, loc: Loc
) -> Iterator[FileProblem]:
    """Check that a store is there, and one of the right kind."""
    fitting = [each for each, account in settings.stores.items() if account.kind == kind]
    if name not in fitting:
        place = loc if document.look(loc) is not None else loc[:-1]
        problem = f"there is no store {quoted(name)} of kind {kind} under `stores:`"
        yield document.problem(place, problem, did_you_mean(name, fitting), at_key=place != loc)


# roles/NAME.yaml


def _agents(rule: AgentRotation, document: Document) -> Iterator[FileProblem]:
    loc: Loc = ("rotation", "agent")
    if rule.every > OLDEST:
        yield _too_old(document, (*loc, "every"))
    if rule.overlap >= rule.every:
        yield document.problem(
            (*loc, "overlap"),
            "has to be shorter than `every`",
            f"less than {format_duration(rule.every)}",
        )
    if rule.quiet > rule.overlap:
        yield document.problem(
            (*loc, "quiet"), "is longer than the old token works",
            f"at most {format_duration(rule.overlap)}, as `overlap`",
        )  # fmt: skip
    for name, delivery in rule.deliver.items():
        yield from _delivery(delivery, document, (*loc, "deliver", name))


def _delivery(delivery: Delivery, document: Document, loc: Loc) -> Iterator[FileProblem]:
    if (delivery.file is None) == (delivery.command is None):
        yield document.problem(
            loc, "needs one place", "write either `file:` or `command:`", at_key=True
        )
        return
    if delivery.command is not None:
        if delivery.command:
            yield from _program(delivery.command, document, (*loc, "command"))
        else:
            yield document.problem((*loc, "command"), "names no program", "write [/path/program]")
    if delivery.file is not None and (
        not _PLACE.fullmatch(delivery.file) or ".." in delivery.file.split("/")
    ):
        yield document.problem(
            (*loc, "file"), "has to be a file with its whole path",
            "begin it with /, {state}/ or {project}/",
        )  # fmt: skip


def _too_old(document: Document, loc: Loc) -> FileProblem:
    return document.problem(
        loc, "no credential grows older than 90 days", f"at most {format_duration(OLDEST)}"
    )


def _leases(
    role: Role,
    issued: Mapping[SecretName, SecretRef],
    settings: Settings | None,
    document: Document,
) -> Iterator[FileProblem]:
    """Check references to leases, which are all parts of one credential."""
    leases = {name: ref for name, ref in issued.items() if ref.scheme == "vault-lease"}
    first = next(iter(leases.values()), None)
    upstream = role.rotation.upstream
    for name, ref in leases.items():
        if first is not None and (ref.store, ref.path) != (first.store, first.path):
            yield document.problem(
                ("secrets", name), "is another lease than the first one",
                "a role has one lease; take its fields by #FIELD",
            )  # fmt: skip
        elif not re.fullmatch(LEASE_PATH_PATTERN, ref.path):
            yield document.problem(
                ("secrets", name), "is no path of a lease", "write it without %-codes"
            )
        elif settings is not None:
            store = ref.store or DEFAULT_STORE
            yield from _store(store, "vault", settings, document, ("secrets", name))
    for name, ref in issued.items():
        if first is not None and ref.scheme == "issued":
            yield document.problem(
                ("secrets", name), "stands beside a lease", "a role has one credential that rotates"
            )
    if first is not None and upstream is not None and upstream.issuer is not None:
        yield document.problem(
            ("rotation", "upstream", "issuer"), "the references to a lease are the issuer already",
            "remove it", at_key=True,
        )  # fmt: skip
    if first is None and upstream is not None and upstream.issuer is None:
        yield document.problem(
            ("rotation", "upstream"), "says not who makes the credential", "add `issuer:`",
            at_key=True,
        )  # fmt: skip


def _check_call(
    role: Role, upstream: UpstreamRotation, server: Server | None, document: Document
) -> Iterator[FileProblem]:
    if upstream.check is None or server is None:
        return
    loc: Loc = ("rotation", "upstream", "check", "tool")
    name, promise = upstream.check.tool, server.tools_of(role.band_names, role.mode)
    harmless = [each for each in promise if server.tools[each].kind == "READ"]
    if name not in server.tools:
        yield document.problem(
            loc, f"the server has no tool {quoted(name)}", did_you_mean(name, harmless)
        )
    elif name not in promise:
        yield document.problem(
            loc, f"the role has no tool {quoted(name)}", where_it_is(server, name, role.mode)
        )
    elif name not in harmless:
        yield document.problem(
            loc, f"{quoted(name)} is of class {server.tools[name].kind}",
            f"a check changes nothing: name one of class READ; {did_you_mean(name, harmless)}",
        )  # fmt: skip


def _issuer(
    name: str,
    issued: Mapping[SecretName, SecretRef],
    server: Server | None,
    issuers: Mapping[str, IssuerSettings],
    document: Document,
) -> Iterator[FileProblem]:
    loc: Loc = ("rotation", "upstream", "issuer")
    if name not in issuers:
        guess = did_you_mean(name, issuers)
        yield document.problem(loc, f"agents.yaml has no issuer {quoted(name)}", guess)
        return
    if not isinstance(issuers[name], WalletSuiteIssuer):
        return
    for variable, reference in issued.items():
        if reference.name:
            yield document.problem(
                ("secrets", variable), "a wallet's token has no fields", "write `issued:`"
            )
    if server is None:
        return
    tool = server.tools.get(MINTING_TOOL)
    if tool is None or server.modes is None or "owner" not in tool.modes:
        yield document.problem(
            loc, f"the server {server.server} has no tool {MINTING_TOOL} for owners",
            "such an issuer is for roles of a wallet server",
        )  # fmt: skip
