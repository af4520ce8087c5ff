"""What is set from outside, and what all parts of one gateway have in common."""

from dataclasses import dataclass

from orchestrator.clock import Clock
from orchestrator.model.base import JsonObject


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """What may be set.

    Attributes:
        version: What the gateway calls itself.
        hosts: Host headers that are served beside the loopback's own, with their port if any.
        origins: Origins that browsers may come from, beside the loopback's own.
        max_body_bytes: Largest body of a request.
        max_open: How many requests of one token may be open at the same time, streams aside.
        max_streams: How many streams of one token may be open at the same time.
        max_held_bytes: How much of their bodies may be kept, until each is written to an instance.
        call_seconds: Longest time that a call may take at the instance.
        target_patience_seconds: How long a call waits for an instance that is on its way.
        max_waiting: How many calls of one role may wait so.
        hang_up_patience_seconds: Age of a call from which on a hang-up of its caller is looked for.
        ping_seconds: How often a stream on which nothing happens shows that it lives.
        shutdown_seconds: How long calls in flight are waited for when the gateway ends.
        keep_alive_seconds: How long an idle connection stays open; longer than clients keep theirs,
            so that it is they who close it and no call meets a closing connection.
    """

    version: str = "0"
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    max_body_bytes: int = 4 * 1024 * 1024
    max_open: int = 64
    max_streams: int = 256
    max_held_bytes: int = 32 * 1024 * 1024
    call_seconds: float = 300.0
    target_patience_seconds: float = 10.0
    max_waiting: int = 64
    hang_up_patience_seconds: float = 0.02
    ping_seconds: float = 15.0
    shutdown_seconds: float = 5.0
    keep_alive_seconds: int = 75


@dataclass(frozen=True, slots=True)
class Common:
    """What all parts have in common.

    Attributes:
        info: What the gateway says of itself, to agents and to instances.
        boot: A text that no other run of the gateway uses; it is in the ids of requests, so that
            answers to an earlier gateway's questions match none of this one's.
        clock: Where time comes from.
    """

    info: JsonObject
    boot: str
    clock: Clock
