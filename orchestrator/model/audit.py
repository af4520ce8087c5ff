"""What `agents.yaml` may say of the record."""

from typing import Literal, TypeAlias

from pydantic import Field

from orchestrator.model.base import Model, PositiveDuration
from orchestrator.model.sinks import Sink, SinkField

WhenFull: TypeAlias = Literal["refuse", "read-on"]


class Audit(Model):
    """How long the record is kept, and what happens while it cannot be written.

    Attributes:
        keep: How long lines are kept at least; older files are removed, and a signed line says so.
            Without it nothing is ever removed.
        when_full: What is done while the record cannot be written, such as on a full disk:
            `refuse` every request, or `read-on`: READ tools and lists go on without a line, which
            are counted, and everything else stops.
        sinks: Where each line is brought to beside, by a name.
    """

    keep: PositiveDuration | None = None
    when_full: WhenFull = "refuse"
    sinks: dict[SinkField, Sink] = Field(default_factory=dict)
