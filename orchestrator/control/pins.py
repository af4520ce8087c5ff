"""Which tool definitions a person has seen, and which of the live ones nobody has; pure.

An agent acts on what a tool says of itself. So what a server said at first is *pinned*, and a tool
that says something else later, or that was promised and shows itself later, is *held* until a
person has looked at it. A tool that is promised anew is the operator's own change: it is pinned as
it is seen first.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Annotated, Final, Literal, cast

from pydantic import Field, model_validator

from orchestrator.errors import MalformedMessageError, UpstreamProtocolError
from orchestrator.model.base import Json, JsonObject, Model
from orchestrator.model.names import RoleField, ServerField, ToolField, ToolName
from orchestrator.model.snapshot import Era
from orchestrator.protocol.canonical import canonical as in_one_way
from orchestrator.protocol.jsonrpc import MAX_DEPTH, check_breadth, encode

# All definitions of a role together; they are kept, shown and compared.
LONGEST: Final = 4 * 1024 * 1024
# Only the revision 2025-11-25 knows it; a server of both eras leaves it out toward modern clients.
# Source: MCP 2025-11-25, Tools, execution.
_OF_ONE_ERA: Final = "execution"


class Pin(Model):
    """One definition that was accepted.

    Attributes:
        era: The era in which it was shown.
        sha256: Of the text.
        text: The definition, as canonical JSON; instructions as a JSON text.
        since: When it was pinned.
        approved: Whether a person did it; otherwise it was seen first.
    """

    era: Era
    sha256: str
    text: str
    since: str
    approved: bool = False

    @model_validator(mode="after")
    def _is_whole(self) -> "Pin":
        if digest(self.text) != self.sha256:
            raise ValueError("a definition does not match its sha256")
        return self


Accepted = Annotated[tuple[Pin, ...], Field(strict=False)]


class Pins(Model):
    """What is pinned of one server in one role; the content of a file.

    A tool has several pins where processes of one role show it differently and all of it was
    approved.

    Attributes:
        format: Version of this layout; another one is refused.
        role: The role.
        server: The server.
        promised: Every tool that the role was ever promised.
        tools: The accepted definitions of each tool.
        instructions: The accepted instructions.
    """

    format: Literal[1] = 1
    role: RoleField
    server: ServerField
    promised: Annotated[frozenset[ToolField], Field(strict=False)] = frozenset()
    tools: dict[ToolField, Accepted] = Field(default_factory=dict)
    instructions: Accepted = ()


@dataclass(frozen=True, slots=True)
class Live:
    """What one process shows now.

    Attributes:
        era: The era in which it was asked.
        tools: Canonical definitions of the tools that the role is promised, by name.
        instructions: Canonical instructions.
    """

    era: Era
    tools: Mapping[ToolName, str]
    instructions: str


@dataclass(frozen=True, slots=True)
class Held:
    """What agents do not get, as nobody has approved it.

    Attributes:
        tools: Names of tools, sorted.
        instructions: Whether instructions are among it.
    """

    tools: tuple[ToolName, ...] = ()
    instructions: bool = False

    def __bool__(self) -> bool:
        """Tell whether anything is held."""
        return bool(self.tools) or self.instructions


def canonical(value: Json) -> str:
    """Write a JSON value in the one way that all equal values share.

    Raises:
        UpstreamProtocolError: It is nested too deeply, or there is no JSON for it.
    """
    if _is_too_deep(value):
        raise _too_deep()
    try:
        return in_one_way(value).decode()
    except (TypeError, ValueError) as error:
        raise UpstreamProtocolError("the server describes a tool in what is no JSON") from error


def _too_deep() -> UpstreamProtocolError:
    return UpstreamProtocolError("the server describes a tool with too many levels")


def digest(text: str) -> str:
    """Hash a canonical text."""
    return hashlib.sha256(text.encode()).hexdigest()


def look(
    promised: AbstractSet[ToolName], era: Era, tools: Iterable[JsonObject], instructions: str
) -> Live:
    """Take down what a process shows.

    Args:
        promised: Tools that the role is promised; others are nobody's business here.
        era: The era in which it was asked.
        tools: Definitions as the server wrote them.
        instructions: What it says that models should know, or nothing.

    Raises:
        UpstreamProtocolError: It is more than anybody could look at.
    """
    own = {name: tool for tool in tools if (name := ToolName(str(tool["name"]))) in promised}
    _check_size([*own.values(), instructions])
    return Live(era, {name: canonical(own[name]) for name in own}, canonical(instructions))


def _check_size(told: list[Json]) -> None:
    """Refuse more than anybody could look at, before it is looked at closely, which is slow."""
    try:
        text = encode(told)
        check_breadth(text)
    except RecursionError as error:
        raise _too_deep() from error
    except (ValueError, MalformedMessageError) as error:
        raise UpstreamProtocolError(
            "the server describes its tools with too many values"
        ) from error
    if len(text) > LONGEST:
        raise UpstreamProtocolError(
            f"the server describes its tools with more than {LONGEST // 1024} KiB"
        )


def see_first(pins: Pins, promised: AbstractSet[ToolName], live: Live, now: str) -> Pins:
    """Pin what is seen for the first time.

    Args:
        pins: What is pinned so far, empty before the first attestation.
        promised: Tools that the role is promised now.
        live: What a process shows.
        now: The time.

    Returns:
        The pins, the same object if there is nothing new.
    """
    if pins.instructions and promised <= pins.promised:
        return pins
    fresh = {
        name: (_pin(live.era, text, now),)
        for name, text in live.tools.items()
        if name not in pins.promised
    }
    return pins.model_copy(
        update={
            "promised": pins.promised.union(promised),
            "tools": {**pins.tools, **fresh},
            "instructions": pins.instructions or (_pin(live.era, live.instructions, now),),
        }
    )


def hold(pins: Pins, lives: Iterable[Live]) -> Held:
    """Tell what of the live definitions was not accepted."""
    tools: set[ToolName] = set()
    instructions = False
    for live in lives:
        tools |= {
            name
            for name, text in live.tools.items()
            if not is_accepted(pins.tools.get(name, ()), live.era, text)
        }
        instructions = instructions or not is_accepted(
            pins.instructions, live.era, live.instructions
        )
    return Held(tuple(sorted(tools)), instructions)


def live_hash(lives: Iterable[Live]) -> str:
    """Hash everything that is live, in whatever order it is told."""
    shown: set[str] = set()
    for live in lives:
        tools: JsonObject = dict(live.tools.items())
        shown.add(canonical([live.era, live.instructions, tools]))
    return digest("\n".join(sorted(shown)))


def accept(pins: Pins, promised: AbstractSet[ToolName], lives: Iterable[Live], now: str) -> Pins:
    """Pin exactly what is live, in place of all that was; a pin that still holds stays as it is.

    Tools that the role is not promised keep theirs: nobody could show them.
    """
    tools: dict[ToolName, tuple[Pin, ...]] = {
        name: accepted for name, accepted in pins.tools.items() if name not in promised
    }
    instructions: tuple[Pin, ...] = ()
    for live in lives:
        for name, text in live.tools.items():
            before = pins.tools.get(name, ())
            tools[name] = _with(tools.get(name, ()), before, live.era, text, now)
        instructions = _with(instructions, pins.instructions, live.era, live.instructions, now)
    return pins.model_copy(
        update={
            "promised": pins.promised.union(promised),
            "tools": tools,
            "instructions": instructions,
        }
    )


def is_accepted(accepted: Iterable[Pin], era: Era, text: str) -> bool:
    """Whether a definition is one of those that were accepted.

    In an era in which none was seen yet, one of the other era counts for it.
    """
    texts = {pin.text: pin.era for pin in accepted}
    if text in texts or era in texts.values():
        return text in texts
    return _of_both_eras(text) in map(_of_both_eras, texts)


def _of_both_eras(text: str) -> str:
    if f'"{_OF_ONE_ERA}"' not in text:
        return text
    value = cast("Json", json.loads(text))
    if not isinstance(value, dict):
        return text
    return canonical({key: each for key, each in value.items() if key != _OF_ONE_ERA})


def _with(
    pinned: tuple[Pin, ...], before: Iterable[Pin], era: Era, text: str, now: str
) -> tuple[Pin, ...]:
    """Add a definition to those that are accepted; one that was accepted before keeps its date."""
    if any(pin.text == text for pin in pinned):
        return pinned
    old = next((pin for pin in before if pin.text == text), None)
    return (*pinned, _pin(era, text, now, approved=True) if old is None else old)


def _pin(era: Era, text: str, now: str, *, approved: bool = False) -> Pin:
    return Pin(era=era, sha256=digest(text), text=text, since=now, approved=approved)


def _is_too_deep(value: Json) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in (
                node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
            )
        ]
        if not level:
            return False
    return True
