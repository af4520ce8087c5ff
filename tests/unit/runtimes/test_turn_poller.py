"""The engine's loop polls what it asked for in this turn, and nothing else."""

import os
import socket
import time

from orchestrator.runtimes.supervisord_plugin import TurnPoller


def test_what_can_be_read_and_written_is_told() -> None:
    """A pipe with a byte in it is readable, its other end writable."""
    reading, writing = os.pipe()
    poller = TurnPoller()
    _ = os.write(writing, b"x")
    poller.register_readable(reading)
    poller.register_writable(writing)

    assert poller.poll(1) == ([reading], [writing])
    os.close(reading)
    os.close(writing)


def test_both_directions_of_one_descriptor_are_told() -> None:
    """A socket that is asked for both is told for both."""
    here, there = socket.socketpair()
    with here, there:
        _ = there.send(b"x")
        poller = TurnPoller()
        poller.register_readable(here.fileno())
        poller.register_writable(here.fileno())

        assert poller.poll(1) == ([here.fileno()], [here.fileno()])


def test_a_number_that_was_taken_again_does_not_end_the_wait() -> None:
    """What was asked for in an earlier turn is forgotten, whatever its number means now."""
    poller = TurnPoller()
    reading, writing = os.pipe()
    poller.register_readable(reading)
    assert poller.poll(0) == ([], [])
    os.close(writing)
    other, broken = os.pipe()
    os.close(other)
    _ = os.dup2(broken, reading)  # a pipe without a reader: poll reports an error at once

    begun = time.monotonic()
    assert poller.poll(0.2) == ([], [])
    assert time.monotonic() - begun >= 0.15
    os.close(reading)
    os.close(broken)


def test_an_error_is_told_to_whoever_asked() -> None:
    """A pipe whose reader is gone counts as writable, so that its handler learns of it."""
    reading, writing = os.pipe()
    os.close(reading)
    poller = TurnPoller()
    poller.register_writable(writing)

    assert poller.poll(1) == ([], [writing])
    os.close(writing)
