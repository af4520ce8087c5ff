"""Checks that go beyond one key: a server file with itself, a role file with its server."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final, cast

from pydantic import BaseModel

from orchestrator.config.containercheck import check_container
from orchestrator.config.launchers import refused_launcher
from orchestrator.config.places import (
    OF_A_BOOTSTRAP,
    OF_AN_INSTANCE,
    OF_SETTINGS,
    unknown_placeholders,
)
from orchestrator.config.problems import did_you_mean, quoted
from orchestrator.config.rulecheck import check_rules, where_it_is
from orchestrator.config.secretlike import (
    is_harmless,
    is_secret_name,
    looks_known,
    looks_random,
)
from orchestrator.config.yamlfile import Document, Loc, texts
from orchestrator.errors import FileProblem
from orchestrator.model.container import is_pinned
from orchestrator.model.desired import BOOTSTRAP_ROLE
from orchestrator.model.names import BandName, SecretName
from orchestrator.model.notify import Pager, Webhook
from orchestrator.model.receipt import problems
from orchestrator.model.role import Role
from orchestrator.model.secret import KEPT, SecretRef
from orchestrator.model.server import Bands, Bootstrap, Launch, Server
from orchestrator.model.settings import Settings

# A role's name is part of its instance's, its log's and its home's.
_TAKEN: Final = frozenset({BOOTSTRAP_ROLE, "agentsd", "engine"})
_AS_REFERENCE: Final = "put it under `secrets:` as a reference, such as env:NAME"
_OPTION: Final = re.compile(r"--?([A-Za-z][\w-]*)=.+", re.DOTALL)


def check_server(server: Server, document: Document, stem: str) -> Iterator[FileProblem]:
    """Check one server file.

    Args:
        server: What it says.
        document: Where it says it.
        stem: The file's name without its ending.
    """
    if server.server != stem:
        yield document.problem(
            ("server",), f"{quoted(server.server)} is not the file's name", f"write {stem}"
        )
    yield from _literals(document)
    yield from _check_bands(server, document)
    yield from _check_tools(server, document)
    yield from _check_launch(server, document)
    yield from check_container(server, document)
    yield from _check_container_texts(server, document)
    for index, name in enumerate(server.asks):
        if name in server.asks[:index]:
            yield document.problem(
                ("asks", index), f"{quoted(name)} stands here twice", "remove it"
            )
    if server.bootstrap is not None:
        yield from _check_bootstrap(server, server.bootstrap, document)


def check_role(
    role: Role, document: Document, stem: str, servers: Mapping[str, Server | None]
) -> Iterator[FileProblem]:
    """Check one role file against its server.

    Args:
        role: What it says.
        document: Where it says it.
        stem: The file's name without its ending.
        servers: Servers by file name, None for a file that has mistakes of its own.
    """
    if role.role != stem:
        yield document.problem(
            ("role",), f"{quoted(role.role)} is not the file's name", f"write {stem}"
        )
    if stem in _TAKEN or stem.startswith(f"{BOOTSTRAP_ROLE}-"):
        yield document.problem(
            ("role",), f"{quoted(stem)} is the name of a part of Bandmaster", "take another name"
        )
    yield from _literals(document)
    yield from _plain_variables(role.env, document, ("env",))
    yield from _twice(role.env, role.secrets, document, ())
    yield from _check_references(role.secrets, document, ("secrets",), OF_AN_INSTANCE)
    yield from _placeholders(role.env, document, ("env",), OF_AN_INSTANCE)
    if role.restart.backoff > role.restart.backoff_max:
        yield document.problem(
            ("restart", "backoff"), "is longer than backoff_max", "write a shorter one"
        )
    if role.standby and role.instances != "per-role":
        yield document.problem(
            ("standby",),
            "stands by for the process that all agents share, and here they share none",
            "remove it, or `instances:`",
        )
    if role.server not in servers:
        yield document.problem(
            ("server",), f"no server file {quoted(role.server)}", did_you_mean(role.server, servers)
        )
        return
    server = servers[role.server]
    if server is None:
        return
    problems = list(_role_bands(role.bands, server.bands, document, ("bands",)))
    yield from problems
    yield from _accepted(role, server, document)
    if server.modes is None and role.mode != "agent":
        yield document.problem(
            ("mode",), f"the server {server.server} does not know modes", "remove this line"
        )
    if not problems and not server.tools_of(role.band_names, role.mode):
        yield document.problem(("bands",), "these bands have no tool in this mode")
    elif not problems:
        yield from check_rules(role, server, document)


def check_settings(settings: Settings, document: Document) -> Iterator[FileProblem]:
    """Check that no secret stands in `agents.yaml`.

    Args:
        settings: What it says.
        document: Where it says it.
    """
    yield from _literals(document)
    docker = settings.docker
    if docker.image is not None and not docker.allow_tag and not is_pinned(docker.image):
        yield document.problem(
            ("docker", "image"), "is a tag, which may be another image tomorrow",
            "name it by digest, NAME@sha256:..., or by the id of a local one, sha256:...; "
            "or add `allow_tag: true`",
        )  # fmt: skip
    for loc, reference in _references_in(settings, ()):
        yield from _check_reference(reference, document, loc, OF_SETTINGS)
    for name, target in settings.notify.items():
        if isinstance(target, Pager):
            place: Loc = ("notify", name, "command")
            yield from _check_words(target.command, document, place, OF_SETTINGS)
        elif isinstance(target, Webhook) and _holds_secret(target.webhook):
            yield document.problem(
                ("notify", name, "webhook"),
                "looks like a secret: whoever knows this URL may write there",
                "keep it elsewhere and write a reference, such as env:ALERTS_URL",
            )


def _holds_secret(url: str | SecretRef) -> bool:
    """Tell whether a part of a URL looks like a secret."""
    if isinstance(url, SecretRef):
        return False
    return any(map(looks_random, re.split("[/?&=]", url.partition("://")[2])))


def _references_in(value: object, loc: Loc) -> Iterator[tuple[Loc, SecretRef]]:
    """Find every reference in settings, with its place."""
    match value:
        case SecretRef():
            yield loc, value
        case BaseModel():
            for name, field in type(value).model_fields.items():
                inner = cast("object", getattr(value, name))
                yield from _references_in(inner, (*loc, field.alias or name))
        case dict():
            for key, inner in cast("dict[str, object]", value).items():
                yield from _references_in(inner, (*loc, key))
        case _:
            pass


def check_launcher(
    server: Server, document: Document, roles: Collection[Role]
) -> Iterator[FileProblem]:
    """Check that a server is not started through something that must not see secrets.

    Args:
        server: The server.
        document: Its file.
        roles: The roles that use it.
    """
    has_secrets = any(role.secrets for role in roles) or bool(
        server.bootstrap and server.bootstrap.secrets
    )
    command = server.launch.command
    if command and (refused := refused_launcher(command, has_secrets=has_secrets)):
        yield document.problem(("launch", "command", 0), *refused)


def _check_bands(server: Server, document: Document) -> Iterator[FileProblem]:
    bands = server.bands
    for index, name in enumerate(bands.names):
        if name in bands.names[:index]:
            yield document.problem(("bands", "names", index), f"{quoted(name)} stands here twice")
    if bands.full is not None and bands.variable is None:
        yield document.problem(
            ("bands", "full"), "has no variable to go into", "add `variable:`, or remove it"
        )
    modes = server.modes
    if modes is None:
        return
    if modes.from_band is not None and modes.from_band not in bands.names:
        yield _unknown_band(modes.from_band, bands, document, ("modes", "from_band"))
    if modes.variable == bands.variable:
        yield document.problem(
            ("modes", "variable"), "is the variable of the bands too", "name another one"
        )


def _check_tools(server: Server, document: Document) -> Iterator[FileProblem]:
    for name, tool in server.tools.items():
        loc: Loc = ("tools", name)
        if tool.band not in server.bands.names:
            yield _unknown_band(tool.band, server.bands, document, (*loc, "band"))
        for problem in problems(tool.receipt):
            yield document.problem((*loc, "receipt"), "cannot be filled in", problem)
        if server.modes is None and len(tool.modes) == 1:
            yield document.problem(
                (*loc, "modes"),
                "the server does not know modes",
                "remove this key, or describe `modes:` of the server",
            )


def _check_launch(server: Server, document: Document) -> Iterator[FileProblem]:
    launch = server.launch
    for name in _own_variables(server):
        for key in ("env", "accepts"):
            loc: Loc = ("launch", key, name)
            if loc in document.keys:
                yield document.problem(
                    loc, "Bandmaster sets this variable itself", "remove it", at_key=True
                )
    yield from _plain_variables(launch.env, document, ("launch", "env"))
    yield from _check_transport(launch, document)
    known = (*OF_AN_INSTANCE, launch.listen) if launch.transport == "http" else OF_AN_INSTANCE
    yield from _placeholders(launch.env, document, ("launch", "env"), known)
    if launch.command is not None:
        yield from _check_words(launch.command, document, ("launch", "command"), known)
    if launch.directory is not None:
        yield from _unknown_words(
            launch.directory, document, ("launch", "directory"), OF_AN_INSTANCE
        )


def _check_container_texts(server: Server, document: Document) -> Iterator[FileProblem]:
    """Refuse secrets in what is said of a container, and variables that are not the file's to set.

    What is said to the engine can be read there by whoever may ask it.
    """
    container = server.container
    if container is None:
        return
    loc: Loc = ("container", "env")
    for name in _own_variables(server):
        if (*loc, name) in document.keys:
            yield document.problem(
                (*loc, name), "Bandmaster sets this variable itself", "remove it", at_key=True
            )
    yield from _plain_variables(container.env, document, loc)
    for index, word in enumerate(container.command):
        yield from _secret_word(word, document, ("container", "command", index))


def _check_words(
    words: Sequence[str], document: Document, loc: Loc, known: tuple[str, ...]
) -> Iterator[FileProblem]:
    """Check the arguments of a command."""
    for index, word in enumerate(words):
        yield from _unknown_words(word, document, (*loc, index), known)
        yield from _secret_word(word, document, (*loc, index))


def _secret_word(word: str, document: Document, loc: Loc) -> Iterator[FileProblem]:
    option = _OPTION.fullmatch(word)
    if looks_random(word) or (option and is_secret_name(option[1].replace("-", "_"))):
        yield document.problem(
            loc,
            "looks like a secret, and every user of the machine can read a command's arguments",
            _AS_REFERENCE,
        )


def _check_references(
    secrets: Mapping[SecretName, SecretRef],
    document: Document,
    loc: Loc,
    known: tuple[str, ...],
) -> Iterator[FileProblem]:
    for name, reference in secrets.items():
        yield from _check_reference(reference, document, (*loc, name), known)


def _check_reference(
    reference: SecretRef, document: Document, loc: Loc, known: tuple[str, ...]
) -> Iterator[FileProblem]:
    """Check what may not stand in a file, and the program that tells a secret, if one does."""
    if any((KEPT, "true") in each.options for each in reference.chain()):
        yield document.problem(
            loc, "says `kept=true`, which Bandmaster adds for containers itself", "leave it out"
        )
    if (program := reference.program) is not None:
        yield from _check_words(program.argv, document, (*loc, "command"), known)
        env = {SecretName(key): value for key, value in program.env}
        yield from _plain_variables(env, document, (*loc, "env"))


def _check_transport(launch: Launch, document: Document) -> Iterator[FileProblem]:
    if launch.transport == "stdio":
        for key in ("listen", "path"):
            if ("launch", key) in document.keys:
                yield document.problem(
                    ("launch", key), "is of a server that speaks HTTP",
                    "add `transport: http`, or remove this line", at_key=True,
                )  # fmt: skip
        return
    word = f"{{{launch.listen}}}"
    if launch.command is None:  # only containers, which are looked at elsewhere
        return
    if not any(word in text for text in (*launch.command, *launch.env.values())):
        yield document.problem(
            ("launch", "transport"),
            "nothing tells the server where to listen",
            f"put {word} into its command or env",
        )


def _check_bootstrap(
    server: Server, bootstrap: Bootstrap, document: Document
) -> Iterator[FileProblem]:
    top: Loc = ("bootstrap",)
    for key in ("env", "secrets"):
        for name in _own_variables(server):
            if (*top, key, name) in document.keys:
                yield document.problem(
                    (*top, key, name), "Bandmaster sets this variable itself", "remove it",
                    at_key=True,
                )  # fmt: skip
    yield from _plain_variables(bootstrap.env, document, (*top, "env"))
    yield from _placeholders(bootstrap.env, document, (*top, "env"), OF_A_BOOTSTRAP)
    yield from _twice(bootstrap.env, bootstrap.secrets, document, top)
    yield from _check_references(bootstrap.secrets, document, (*top, "secrets"), OF_A_BOOTSTRAP)
    yield from _bootstrap_files(bootstrap, document)
    problems = list(_role_bands(bootstrap.bands, server.bands, document, (*top, "bands")))
    yield from problems
    bands = None if bootstrap.bands == "full" else bootstrap.bands
    offered = server.tools_of(bands, bootstrap.mode)
    for index, call in enumerate(bootstrap.calls):
        loc: Loc = (*top, "calls", index)
        if call.tool not in server.tools:
            yield document.problem(
                (*loc, "tool"),
                f"the server has no tool {quoted(call.tool)}",
                did_you_mean(call.tool, server.tools),
            )
        elif not problems and call.tool not in offered:
            yield document.problem(
                (*loc, "tool"),
                f"{quoted(call.tool)} does not exist in these bands and this mode",
                where_it_is(server, call.tool, bootstrap.mode),
            )
        for text_loc, text in texts(call.arguments, (*loc, "arguments")):
            yield from _unknown_words(text, document, text_loc, OF_A_BOOTSTRAP)
            if looks_random(text):
                yield document.problem(
                    text_loc, "looks like a secret", "no secret is an argument of a tool"
                )


def _bootstrap_files(bootstrap: Bootstrap, document: Document) -> Iterator[FileProblem]:
    places = [(("bootstrap", "generate", name), name) for name in bootstrap.generate]
    made = [(("bootstrap", "produces", n), name) for n, name in enumerate(bootstrap.produces)]
    for old, new in bootstrap.moves.items():
        places += [(("bootstrap", "moves", old), old), (("bootstrap", "moves", old), new)]
    for loc, name in (*places, *made):
        if not name.startswith("{state}/") or ".." in name.split("/") or name.endswith("/"):
            yield document.problem(
                loc, "has to be a file inside the state", "begin it with {state}/", at_key=True
            )
        else:
            yield from _unknown_words(name, document, loc, OF_A_BOOTSTRAP)


def _own_variables(server: Server) -> tuple[str, ...]:
    """Variables that tell the server its bands and its mode."""
    modes = server.modes.variable if server.modes else None
    return tuple(name for name in (server.bands.variable, modes) if name is not None)


def _role_bands(
    wanted: Sequence[BandName] | str, bands: Bands, document: Document, loc: Loc
) -> Iterator[FileProblem]:
    """Check the bands that a role or a bootstrap asks for."""
    if isinstance(wanted, str):
        return
    unknown = False
    for index, name in enumerate(wanted):
        if name not in bands.names:
            unknown = True
            yield _unknown_band(name, bands, document, (*loc, index))
        elif name in wanted[:index]:
            unknown = True
            yield document.problem((*loc, index), f"{quoted(name)} stands here twice", "remove it")
    if unknown or not bands.cumulative:
        return
    top = max(bands.names.index(name) for name in wanted)
    right = bands.names[: top + 1]
    if tuple(wanted) != right:
        missing = [name for name in right if name not in wanted]
        yield document.problem(
            loc,
            f"{_listed(missing)} missing" if missing else "are not in the server's order",
            f"bands of this server are cumulative; write [{', '.join(right)}]",
        )


def _listed(names: Sequence[str]) -> str:
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'}"


def _unknown_band(name: str, bands: Bands, document: Document, loc: Loc) -> FileProblem:
    return document.problem(
        loc, f"the server has no band {quoted(name)}", did_you_mean(name, bands.names)
    )


def _accepted(role: Role, server: Server, document: Document) -> Iterator[FileProblem]:
    own = _own_variables(server)
    accepts = server.launch.accepts
    for key, names in (("env", role.env), ("secrets", role.secrets)):
        for name in names:
            loc: Loc = (key, name)
            if name in own:
                yield document.problem(
                    loc, "Bandmaster sets this variable itself",
                    "say it with `bands:` and `mode:`", at_key=True,
                )  # fmt: skip
            elif name not in accepts:
                yield document.problem(
                    loc, f"the server {server.server} does not accept this variable",
                    f"{did_you_mean(name, accepts)}; the list stands in its `launch: accepts:`",
                    at_key=True,
                )  # fmt: skip


def _twice(
    env: Collection[str], secrets: Collection[str], document: Document, loc: Loc
) -> Iterator[FileProblem]:
    for name in env:
        if name in secrets:
            yield document.problem(
                (*loc, "env", name), "stands under `secrets:` too", "keep one", at_key=True
            )


def _plain_variables(
    env: Mapping[SecretName, str], document: Document, loc: Loc
) -> Iterator[FileProblem]:
    """Refuse secrets among plain variables, by name and by value."""
    for name, value in env.items():
        if "\0" in value:
            yield document.problem((*loc, name), "holds a NUL character", "remove it")
        elif looks_random(value) or (is_secret_name(name) and not is_harmless(value)):
            yield document.problem((*loc, name), "looks like a secret", _AS_REFERENCE)


def _placeholders(
    env: Mapping[SecretName, str], document: Document, loc: Loc, known: tuple[str, ...]
) -> Iterator[FileProblem]:
    for name, value in env.items():
        yield from _unknown_words(value, document, (*loc, name), known)


def _unknown_words(
    text: str, document: Document, loc: Loc, known: tuple[str, ...]
) -> Iterator[FileProblem]:
    for word in unknown_placeholders(text, known):
        names = ", ".join(f"{{{each}}}" for each in known)
        yield document.problem(loc, f"unknown placeholder {quoted(word)}", f"known: {names}")


def _literals(document: Document) -> Iterator[FileProblem]:
    """Refuse secrets of a known format wherever they stand; others are looked for in `env`."""
    for loc, text in texts(document.data, ()):
        if loc[-1:] == ("image",) and is_pinned(text):
            continue  # a digest is as random as a key
        if looks_known(text) and not {"env", "secrets", "command", "arguments"} & set(loc):
            yield document.problem(loc, "looks like a secret", _AS_REFERENCE)
