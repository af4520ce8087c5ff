"""What is told to people outside, and how whoever has something to tell hands it over."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

# `<part>.<what>`, such as `approval.required` or `incident.started`.
Topic: TypeAlias = str
DeliveryState: TypeAlias = Literal["delivered", "failed", "trying"]


@dataclass(frozen=True, slots=True)
class Link:
    """Where a person can go from a message.

    Attributes:
        label: What it says.
        url: Where it leads; it may let whoever has it act, so it is written to no log.
    """

    label: str
    url: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of a message at one target.

    Attributes:
        target: The target's name in agents.yaml.
        state: `delivered`, `failed` for good, or `trying` again later.
        tries: How often it was tried.
        note: Why it failed last, in words; empty if it did not.
    """

    target: str
    state: DeliveryState
    tries: int = 0
    note: str = ""


class Notifier(Protocol):
    """Tells people. Each target is tried a bounded number of times; nothing here ever raises."""

    def send(
        self,
        topic: Topic,
        title: str,
        text: str,
        links: Sequence[Link] | Callable[[str], Sequence[Link]] = (),
        *,
        owner: str = "",
    ) -> None:
        """Tell something in the background; returns at once.

        Args:
            topic: What it is about, for targets that do not want everything.
            title: One line.
            text: More lines, plain; it may hold what agents wrote, and is escaped for each target.
            links: Where to go from there; or what makes them for a target, told its name, so that
                each gets links of its own.
            owner: The role's owner as its file says; a mail address in it gets the mail, too.
        """
        ...

    async def deliver(  # noqa: PLR0913  the same, and how long it is waited for
        self,
        topic: Topic,
        title: str,
        text: str,
        links: Sequence[Link] | Callable[[str], Sequence[Link]] = (),
        *,
        owner: str = "",
        grace: float = 10.0,
    ) -> tuple[Delivery, ...]:
        """Tell something, and wait a moment for what becomes of it.

        What is still being tried when `grace` seconds are over goes on in the background.
        """
        ...
