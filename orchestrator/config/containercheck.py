"""Checks what files say about containers: of servers, `container:`; of roles, where they run."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from orchestrator.config.keepcheck import check_keep
from orchestrator.config.places import InsidePlaces, unknown_placeholders
from orchestrator.config.problems import quoted
from orchestrator.config.yamlfile import Document, Loc
from orchestrator.errors import FileProblem
from orchestrator.model.container import Container, is_pinned
from orchestrator.model.destination import parse_destination
from orchestrator.model.issuers import WalletSuiteIssuer
from orchestrator.model.role import Role
from orchestrator.model.server import Server
from orchestrator.model.settings import Settings

_FILLED: Final = ("python", "role")
_NOT_KEPT: Final = "`keep:` the directory that it is in, with its place inside"


def check_container(server: Server, document: Document) -> Iterator[FileProblem]:
    """Check how a server is started in a container.

    Args:
        server: What its file says.
        document: Where it says it.
    """
    container = server.container
    if container is None:
        if server.bootstrap is not None and server.bootstrap.keep:
            yield document.problem(
                ("bootstrap", "keep"), "is of containers, and this server describes none",
                "remove it, or describe `container:`",
            )  # fmt: skip
        if server.launch.command is None:
            yield document.problem(
                ("launch", "command"), "nothing says how this server is started",
                "name its program here, or its image under `container:`",
            )  # fmt: skip
        return
    if not container.allow_tag and not is_pinned(container.image):
        yield document.problem(
            ("container", "image"), "is a tag, which may be another image tomorrow",
            "name it by digest, NAME@sha256:..., or by the id of a local one, sha256:...; "
            "or add `allow_tag: true`",
        )  # fmt: skip
    yield from check_keep(container, server.bootstrap, document)
    yield from _check_places(server, container, document)
    yield from _check_port(container, document)
    if server.launch.transport == "http":
        yield from _check_listening(server, container, document)


def _check_places(
    server: Server, container: Container, document: Document
) -> Iterator[FileProblem]:
    """Find places of this machine that there are not inside the container."""
    inside, own = InsidePlaces(container.keep), dict(container.keep)
    known = _FILLED
    if server.launch.transport == "http":
        known = (*_FILLED, server.launch.listen)
    texts: list[tuple[Loc, str]] = [
        (("container", "command", index), word) for index, word in enumerate(container.command)
    ]
    for key in ("container", "launch"):
        given = container.env if key == "container" else server.launch.env
        texts += [((key, "env", name), value) for name, value in given.items()]
    if server.bootstrap is not None and server.launch.command is None:
        env, own = server.bootstrap.env, own | server.bootstrap.keep
        texts += [(("bootstrap", "env", name), value) for name, value in env.items()]
    for loc, text in texts:
        places = InsidePlaces(own) if loc[0] == "bootstrap" else inside
        for word in unknown_placeholders(places.fill(text), known):
            if word in {"state", "project"}:
                yield document.problem(
                    loc, f"nothing of {{{word}}} is inside the container there", _NOT_KEPT
                )
            elif loc[0] == "container":
                names = ", ".join(f"{{{each}}}" for each in ("state", "project", *known))
                yield document.problem(
                    loc, f"unknown placeholder {quoted(word)}", f"known: {names}"
                )


def _check_port(container: Container, document: Document) -> Iterator[FileProblem]:
    """Find words that mean nothing to a server that listens on a port of its container."""
    http = container.http
    if http is None:
        return
    words: dict[Loc, str] = {("env", name): value for name, value in http.env.items()}
    words |= {("command", index): word for index, word in enumerate(http.command)}
    words |= {("health", index): word for index, word in enumerate(http.health)}
    inside, known = InsidePlaces(container.keep), (*_FILLED, "port")
    for loc, text in words.items():
        for word in unknown_placeholders(inside.fill(text), known):
            yield document.problem(
                ("container", "http", *loc), f"{{{word}}} means nothing inside the container",
                "known: {role}, {port}, and directories under `keep:`",
            )  # fmt: skip


def _check_listening(
    server: Server, container: Container, document: Document
) -> Iterator[FileProblem]:
    word = f"{{{server.launch.listen}}}"
    told = (*container.command, *container.env.values(), *server.launch.env.values())
    if not any(word in text for text in told):
        yield document.problem(
            ("container",),
            "nothing tells the server inside where to listen",
            f"put {word} into its command or env",
        )


def check_kind(
    role: Role, document: Document, server: Server | None, settings: Settings | None
) -> Iterator[FileProblem]:
    """Check what a role says of the engine that runs it.

    Args:
        role: What its file says.
        document: Where it says it.
        server: Its server, None if that has mistakes of its own.
        settings: The settings, None if they have.
    """
    if role.runtime == "process":
        yield from _check_process(role, document, server)
        return
    if role.user is not None:
        yield document.problem(
            ("user",), "is of processes; a container runs as a user of its image",
            "say `user:` under `container:` of the server",
        )  # fmt: skip
    if server is not None and server.container is None:
        yield document.problem(
            ("runtime",), f"the server {server.server} says nothing of containers",
            "describe its image under `container:` there, or write process",
        )  # fmt: skip
    yield from _check_egress(role, document, settings)
    if server is not None and settings is not None:
        yield from _check_owner(role, document, server, settings)


def _check_egress(
    role: Role, document: Document, settings: Settings | None
) -> Iterator[FileProblem]:
    for index, text in enumerate(role.egress):
        if text in role.egress[:index]:
            yield document.problem(("egress", index), f"{text} stands here twice", "remove it")
        address = parse_destination(text).address
        if address is not None and (address.is_unspecified or address.is_multicast):
            yield document.problem(
                ("egress", index), "is no address of one machine", "name a host or its address"
            )
    if role.egress and settings is not None and settings.docker.image is None:
        yield document.problem(
            ("egress",),
            "needs Bandmaster's own image, for the proxy that lets nothing else out",
            "name it in agents.yaml: `docker: {image: NAME@sha256:...}`",
        )


def _check_owner(
    role: Role, document: Document, server: Server, settings: Settings
) -> Iterator[FileProblem]:
    upstream = role.rotation.upstream
    issuer = settings.issuers.get(upstream.issuer or "") if upstream is not None else None
    if isinstance(issuer, WalletSuiteIssuer) and server.launch.command is None:
        yield document.problem(
            ("rotation", "upstream"),
            "its issuer needs an owner's instance, which is a process of this machine",
            f"add `launch: command:` to the server {server.server}",
        )


def _check_process(role: Role, document: Document, server: Server | None) -> Iterator[FileProblem]:
    if role.egress:
        yield document.problem(
            ("egress",), "a process can reach whatever this machine can, and nothing holds it back",
            "write `runtime: container`, or remove this key",
        )  # fmt: skip
    if server is not None and server.launch.command is None and server.container is not None:
        loc: Loc = ("runtime",) if ("runtime",) in document.keys else ("server",)
        yield document.problem(
            loc, f"the server {server.server} names no program for processes",
            "write `runtime: container`, or add `launch: command:` there",
        )  # fmt: skip


def check_shared_files(
    roles: Mapping[str, tuple[Role, Document]], shares: Callable[[str], bool]
) -> Iterator[FileProblem]:
    """Refuse roles that share files and run as different users in different engines.

    Args:
        roles: Roles by name, each with its document.
        shares: Tells whether instances of a server, by its name, share files.
    """
    first: dict[str, Role] = {}
    for _, (role, document) in sorted(roles.items()):
        if not shares(role.server):
            continue
        other = first.setdefault(role.server, role)
        if other.runtime != role.runtime:
            yield document.problem(
                ("runtime",), f"its server shares files with the role {other.role}, which runs as "
                f"a {other.runtime}",
                "let all roles of such a server run in the same way",
            )  # fmt: skip
