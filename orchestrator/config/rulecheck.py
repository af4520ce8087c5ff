"""Checks what a role file says about its calls: limits, narrowed tools, sums, resources."""

from collections.abc import Iterator
from itertools import chain

from orchestrator.config.problems import did_you_mean, quoted
from orchestrator.config.yamlfile import Document, Loc
from orchestrator.errors import FileProblem
from orchestrator.model.names import ToolName
from orchestrator.model.role import Mode, Role
from orchestrator.model.rules import Readable
from orchestrator.model.server import Server
from orchestrator.protocol.resource_uri import UriRule


def check_rules(role: Role, server: Server, document: Document) -> Iterator[FileProblem]:
    """Check the rules of a role whose server and bands are right.

    Args:
        role: The role.
        server: Its server.
        document: Where the role file says it.
    """
    yield from _check_tools(role, server, document)
    yield from _check_limits(role, document)
    yield from _check_approval(role, document)
    yield from _check_sums(role, document)
    yield from _check_twice(role.resources, document, "resources")
    yield from _check_twice(role.prompts, document, "prompts")
    yield from _check_uris(role.resources, document)
    if role.tools:
        # Its library takes a moment to load, and most projects have no such rule.
        from orchestrator.config.schemacheck import check_schemas  # noqa: PLC0415

        yield from check_schemas(role, document)


def where_it_is(server: Server, name: ToolName, mode: Mode) -> str:
    """Tell what it takes to have a tool that the server has."""
    tool = server.tools[name]
    return f"it needs mode: {tool.modes[0]}" if mode not in tool.modes else _of_band(tool.band)


def _of_band(band: str) -> str:
    return f"it needs the band {band}"


def _check_tools(role: Role, server: Server, document: Document) -> Iterator[FileProblem]:
    """Check that every tool that is named is one of the role's."""
    promise = server.tools_of(role.band_names, role.mode)
    shadowed = ()
    if role.shadow is not None and role.shadow.tools != "all-writes":
        shadowed = role.shadow.tools
    named: Iterator[tuple[Loc, ToolName]] = chain(
        ((("tools", name), name) for name in role.tools),
        ((("limits", "tools", name), name) for name in role.limits.tools),
        ((("sums", index, "tool"), one.tool) for index, one in enumerate(role.sums)),
        (
            (_place_of_approval(document, index), one.tool)
            for index, one in enumerate(role.approval)
            if one.tool is not None
        ),
        ((("shadow", "tools", index), name) for index, name in enumerate(shadowed)),
    )
    for loc, name in named:
        is_key = loc[-1] == name
        if name not in server.tools:
            problem = f"the server has no tool {quoted(name)}"
            yield document.problem(loc, problem, did_you_mean(name, promise), at_key=is_key)
        elif name not in promise:
            problem = f"the role has no tool {quoted(name)}"
            wanted = where_it_is(server, name, role.mode)
            yield document.problem(loc, problem, wanted, at_key=is_key)


def _place_of_approval(document: Document, index: int) -> Loc:
    """Tell where an approval names its tool: in an object, or as a word alone."""
    inside: Loc = ("approval", index, "tool")
    return inside if inside in document.keys else ("approval", index)


def _check_approval(role: Role, document: Document) -> Iterator[FileProblem]:
    named = [(one.kind, one.tool) for one in role.approval]
    for index, name in enumerate(named):
        if name in named[:index]:
            yield document.problem(("approval", index), "the same stands above", "keep one")


def _check_limits(role: Role, document: Document) -> Iterator[FileProblem]:
    limits = role.limits
    places: list[tuple[Loc, bool]] = [
        (loc, limit.burst is not None and limit.calls_per_minute is None)
        for loc, limit in (
            (("limits",), limits),
            (("limits", "agent"), limits.agent),
            *((("limits", "tools", name), limit) for name, limit in limits.tools.items()),
        )
    ]
    for loc, is_alone in places:
        if is_alone:
            yield document.problem(
                (*loc, "burst"), "has no rate to go with", "add `calls_per_minute:`, or remove it",
                at_key=True,
            )  # fmt: skip
    if any(each.concurrency for each in (limits, limits.agent, *limits.tools.values())):
        return
    for key in sorted(limits.model_fields_set & {"queue", "queue_patience"}):
        yield document.problem(
            ("limits", key), "nothing waits where nothing limits how many calls are under way",
            "add `concurrency:`, or remove it", at_key=True,
        )  # fmt: skip


def _check_sums(role: Role, document: Document) -> Iterator[FileProblem]:
    for index, one in enumerate(role.sums):
        if not all(one.argument.split(".")):
            yield document.problem(
                ("sums", index, "argument"), "is no argument", "write amount, or transfer.amount"
            )
        if any(
            (one.tool, one.argument, one.window) == (other.tool, other.argument, other.window)
            for other in role.sums[:index]
        ):
            yield document.problem(("sums", index), "the same sum stands above", "keep one")


def _check_twice(names: Readable, document: Document, key: str) -> Iterator[FileProblem]:
    for index, name in enumerate(() if names == "all" else names):
        if name in names[:index]:
            yield document.problem((key, index), "stands here twice", "remove it")


def _check_uris(uris: Readable, document: Document) -> Iterator[FileProblem]:
    for index, uri in enumerate(() if uris == "all" else uris):
        words = ""
        try:
            _ = UriRule(uri)
        except ValueError as error:
            words = str(error)
        if words:
            yield document.problem(("resources", index), "cannot be allowed", words)
