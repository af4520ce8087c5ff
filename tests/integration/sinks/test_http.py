"""The record by HTTP: nothing is lost, whatever the receiver does."""

from __future__ import annotations

import ssl
from email.utils import formatdate
from typing import TYPE_CHECKING, cast

import orjson
import pytest
from pydantic import SecretStr

from orchestrator.audit.formats.choose import FORMATS
from orchestrator.audit.sinks.http import HttpOutlet, Post, _wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.sinks.conftest import Answer, HttpReceiver, Place, Wait

CANARY = "canary-sink-token-81"
OK: Answer = (200, {}, b"")


def to(
    url: str, token: Callable[[], SecretStr] | None = None, form: str = "jsonl"
) -> Callable[[], HttpOutlet]:
    """Give the way to a receiver."""

    def make() -> HttpOutlet:
        media_type = FORMATS[form].media_type
        post = Post(url, media_type, ssl.create_default_context(), token)
        return HttpOutlet(post, FORMATS[form])

    return make


def test_every_line_comes_as_it_was_written(
    place: Place, receiver: HttpReceiver, wait: Wait
) -> None:
    """The receiver holds the same bytes, in order and batches, with the numbers in a header."""
    place.fill(121)
    worker = place.sink(to(receiver.url))
    wait(lambda: len(receiver.lines) == 121)
    place.fill(124)
    wait(lambda: len(receiver.lines) == 124)
    assert receiver.lines == place.lines()
    assert len(receiver.taken[0].splitlines()) == 50
    assert receiver.seen[0]["x-bandmaster-seq"] == "1-50"
    assert receiver.seen[0]["content-type"] == "application/jsonl"
    wait(lambda: worker.progress.seq == 124)
    assert worker.progress.error == ""


def test_a_sink_goes_on_where_it_stopped(place: Place, receiver: HttpReceiver, wait: Wait) -> None:
    """One that begins again reads nothing twice, also over the begin of a new file."""
    place.fill(11)
    first = place.sink(to(receiver.url))
    wait(lambda: first.progress.seq == 11)
    place.end(first)
    assert place.log._writer is not None
    place.log._writer.journal.turn()
    place.fill(21)
    second = place.sink(to(receiver.url))
    wait(lambda: second.progress.seq == 21)
    assert receiver.lines == place.lines()


def test_a_receiver_that_is_down_gets_all_when_it_is_back(
    place: Place, receive: Callable[[int], HttpReceiver], wait: Wait
) -> None:
    """Lines wait in the record, the sink says why, and then they come."""
    gone = receive(0)
    port = gone.port
    gone.__exit__(None, None, None)
    place.fill(201)
    worker = place.sink(to(f"http://127.0.0.1:{port}/ingest"))
    wait(lambda: worker.progress.error == "nothing listens there")
    place.fill(206)
    back = receive(port)
    wait(lambda: worker.progress.seq == 206)
    assert back.lines == place.lines()
    assert worker.progress.error == ""


def test_a_busy_receiver_is_asked_again(place: Place, receiver: HttpReceiver, wait: Wait) -> None:
    """What says try later, or has trouble of its own, gets the same lines again."""
    answers: list[Answer] = [
        (503, {"retry-after": "0"}, b""),
        (429, {}, b""),
        (500, {}, b""),
        (408, {}, b""),
        (401, {}, b""),
        (302, {"location": "/else"}, b""),
    ]
    receiver.judge = lambda _: answers.pop(0) if answers else OK
    place.fill(31)
    worker = place.sink(to(receiver.url))
    wait(lambda: worker.progress.seq == 31)
    assert receiver.lines == place.lines()
    assert place.refused() == []
    assert [each["x-bandmaster-seq"] for each in receiver.seen] == ["1-31"] * 7


def test_refused_lines_are_kept_and_the_next_ones_come(
    place: Place, receiver: HttpReceiver, wait: Wait
) -> None:
    """A batch that the receiver never takes lies beside, with the reason, and stops nobody."""
    receiver.judge = lambda body: (422, {}, b"") if b'"r60"' in body else OK
    place.fill(150)
    worker = place.sink(to(receiver.url))
    wait(lambda: worker.progress.seq == 150)
    record = place.lines()
    assert receiver.lines == record[:50] + record[100:]
    refused = place.refused()
    assert [each["seq"] for each in refused] == list(range(51, 101))
    assert [str(each["line"]).encode() for each in refused] == record[50:100]
    assert {each["reason"] for each in refused} == {"it answered with status 422"}
    assert worker.progress.refused == 50


def test_too_large_a_batch_is_brought_in_pieces(
    place: Place, receiver: HttpReceiver, wait: Wait
) -> None:
    """Only a line that is too large alone is refused."""
    receiver.judge = lambda body: (
        (413, {}, b"") if b'"r20"' in body or body.count(b"\n") > 3 else OK
    )
    place.fill(40)
    worker = place.sink(to(receiver.url))
    wait(lambda: worker.progress.seq == 40)
    assert [each["seq"] for each in place.refused()] == [21]
    record = place.lines()
    assert receiver.lines == record[:20] + record[21:]


def test_the_secret_is_shown_and_nowhere_else(
    place: Place, receiver: HttpReceiver, wait: Wait, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is read anew when the receiver does not know it any more, and is in no file and no log."""
    tokens = [CANARY, f"{CANARY}-old"]
    receiver.judge = lambda _: (
        OK if receiver.seen[-1]["authorization"] == f"Bearer {CANARY}" else (401, {}, b"")
    )
    place.fill(3)
    worker = place.sink(to(receiver.url, lambda: SecretStr(tokens.pop())))
    wait(lambda: worker.progress.seq == 3)
    assert tokens == []
    place.end(worker)
    assert CANARY not in "".join(capfd.readouterr())
    for path in (place.directory / "sinks").iterdir():
        assert CANARY.encode() not in path.read_bytes()


@pytest.mark.parametrize("text", ["", "two words", "a\r\nx-evil: 1", "ünïcode"])
def test_a_secret_that_is_no_header_is_not_sent(
    place: Place, receiver: HttpReceiver, wait: Wait, text: str
) -> None:
    """Nothing is sent, and the reason does not repeat it."""
    worker = place.sink(to(receiver.url, lambda: SecretStr(text)))
    wait(lambda: "its secret is empty" in worker.progress.error)
    assert receiver.seen == []
    assert not text or text not in worker.progress.error


def test_ocsf_comes_as_one_event_a_line(place: Place, receiver: HttpReceiver, wait: Wait) -> None:
    """The numbers of the lines are in the events."""
    place.fill(6)
    worker = place.sink(to(receiver.url, form="ocsf"))
    wait(lambda: worker.progress.seq == 6)
    events = [cast("dict[str, dict[str, int]]", orjson.loads(line)) for line in receiver.lines]
    assert [event["metadata"]["sequence"] for event in events] == [1, 2, 3, 4, 5, 6]


def test_a_receiver_may_ask_for_patience() -> None:
    """`Retry-After` is seconds or a date, is never longer than an hour, and rubbish is nothing."""
    assert _wait("7") == 7.0
    assert _wait("99999999999999") == 3600.0
    assert 3000 < _wait(formatdate(usegmt=True, timeval=4102444800)) <= 3600.0
    assert _wait("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert [_wait(text) for text in ("", "soon", "-5", "1e9", "٣")] == [0.0] * 5


def test_patience_is_kept(place: Place, receiver: HttpReceiver, wait: Wait) -> None:
    """A receiver that asks for an hour is left alone, and the sink still ends at once."""
    receiver.judge = lambda _: (503, {"retry-after": "3600"}, b"")
    worker = place.sink(to(receiver.url))
    wait(lambda: worker.progress.error == "it answered with status 503")
    place.fill(10)
    place.end(worker)
    assert len(receiver.seen) == 1
