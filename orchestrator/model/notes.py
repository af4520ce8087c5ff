"""What the control plane tells the record: who decided what about what."""

from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

NoteFields: TypeAlias = Mapping[str, str | int]
# Keeps what nobody has to wait for: it is written soon, from any thread, and stops nothing.
Mention: TypeAlias = Callable[[str, NoteFields], None]


def mention_nothing(_: str, __: NoteFields, /) -> None:
    """Keep nothing."""


class Notes(Protocol):
    """Keeps what happened beside calls: decisions of people, tokens, lives of instances."""

    async def tell(self, event: str, fields: NoteFields, /) -> None:
        """Keep one event; it is on disk when this returns.

        What people decide is told before it takes effect, so that no effect is without its line.

        Args:
            event: What happened, such as `approval.approved`.
            fields: About what, by name; never a secret, an argument, or a text of an agent's that
                was not looked at.

        Raises:
            RecordUnavailableError: It cannot be kept; what it is about must not be done.
        """
        ...
