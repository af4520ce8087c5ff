"""The record as OpenTelemetry logs, read by the official definitions."""

from __future__ import annotations

import importlib
import os
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NotRequired, TypedDict, cast

import orjson
import pytest

from orchestrator.audit.reader import parse
from orchestrator.audit.record import CallRecord
from orchestrator.audit.sinks.base import Entry
from orchestrator.audit.sinks.http import Post
from orchestrator.audit.sinks.otlp import MEDIA_TYPE, OtlpOutlet, render
from orchestrator.model.names import AgentName, RoleName

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.sinks.conftest import HttpReceiver, Place, Wait

TRACE = "0af7651916cd43dd8448eb211c80319c"


def to(url: str) -> Callable[[], OtlpOutlet]:
    """Give the way to a collector."""
    return lambda: OtlpOutlet(Post(url, MEDIA_TYPE, ssl.create_default_context()))


def fill(place: Place) -> list[Entry]:
    """Write lines of several kinds, and give them as a sink gets them."""
    call = CallRecord("intent", "r1", RoleName("treasury"), AgentName("claude"))
    call.trace_id, call.resources = TRACE, {"to": "0xabc"}
    place.log.record(call)
    place.log.record(CallRecord("decision", "r2", RoleName("treasury"), status=403))
    place.log.note("approval.denied", {"by": "operator:anna", "reason": "nö\n\u202e"})
    entries: list[Entry] = []
    for line in place.lines():
        told = parse(line)
        assert told is not None
        entries.append(Entry(line, told, int(str(told["seq"]))))
    return entries


class Attribute(TypedDict):
    """A named value."""

    key: str
    value: dict[str, object]


class Record(TypedDict):
    """A log record, as far as it is looked at."""

    timeUnixNano: str
    severityNumber: int
    severityText: str
    eventName: str
    body: dict[str, str]
    attributes: list[Attribute]
    traceId: NotRequired[str]


def records(body: bytes) -> list[Record]:
    """Read the records of a batch."""
    batch = cast("dict[str, list[dict[str, list[dict[str, list[Record]]]]]]", orjson.loads(body))
    return batch["resourceLogs"][0]["scopeLogs"][0]["logRecords"]


def test_batches_are_what_the_official_definitions_say(place: Place) -> None:
    """Every key, type and number is read, and means what was written."""
    try:
        service = importlib.import_module("opentelemetry.proto.collector.logs.v1.logs_service_pb2")
        json_format = importlib.import_module("google.protobuf.json_format")
    except ImportError:
        assert "BANDMASTER_TEST_ALL" not in os.environ, "opentelemetry-proto is not installed"
        pytest.skip("opentelemetry-proto is not installed")
    make = cast("Callable[[], object]", vars(service)["ExportLogsServiceRequest"])
    read = cast("Callable[[bytes, object], object]", vars(json_format)["Parse"])
    write = cast("Callable[..., object]", vars(json_format)["MessageToDict"])
    body = render(fill(place))
    # Unknown keys and wrong types end in an error here.
    message = read(body, make())
    assert write(message, use_integers_for_enums=True) == cast("object", orjson.loads(body))


def test_batches_say_what_matters(place: Place) -> None:
    """Severity by weight, the trace in hexadecimal, exact times, and the line itself."""
    entries = fill(place)
    found = records(render(entries))
    assert [each["severityText"] for each in found] == ["INFO", "INFO", "INFO", "WARN", "WARN"]
    assert [each["severityNumber"] for each in found] == [9, 9, 9, 13, 13]
    assert [each.get("traceId") for each in found] == [None, None, TRACE, None, None]
    assert "\u202e" not in found[4]["body"]["stringValue"]
    for record, entry in zip(found, entries, strict=True):
        told = {each["key"]: each["value"] for each in record["attributes"]}
        assert str(told["log.record.original"]["stringValue"]).encode() == entry.line
        assert told["bandmaster.seq"] == {"intValue": str(entry.seq)}
        assert record["eventName"] == f"bandmaster.{entry.told['event']}"
        moment = datetime.fromisoformat(str(entry.told["time"]))
        since = moment - datetime(1970, 1, 1, tzinfo=UTC)
        assert int(record["timeUnixNano"]) == since // timedelta(microseconds=1) * 1000


def test_a_collector_gets_all(place: Place, receiver: HttpReceiver, wait: Wait) -> None:
    """Batch after batch, as JSON."""
    place.fill(120)
    receiver.judge = lambda _: (200, {}, b'{"partialSuccess":{}}')
    worker = place.sink(to(receiver.url))
    wait(lambda: worker.progress.seq == 120)
    assert receiver.seen[0]["content-type"] == "application/json"
    found: list[str] = []
    for body in receiver.taken:
        found += [str(each["attributes"][-1]["value"]["stringValue"]) for each in records(body)]
    assert [each.encode() for each in found] == place.lines()
    assert worker.progress.refused == 0


@pytest.mark.parametrize("count", ['"2"', "2"])
def test_what_a_collector_rejects_is_kept(
    place: Place, receiver: HttpReceiver, wait: Wait, count: str
) -> None:
    """It does not say which ones, so the whole batch lies beside, and is not sent again."""
    answer = f'{{"partialSuccess":{{"rejectedLogRecords":{count},"errorMessage":"no"}}}}'.encode()
    receiver.judge = lambda _: (200, {}, answer)
    place.fill(10)
    worker = place.sink(to(receiver.url))
    wait(lambda: worker.progress.seq == 10)
    assert len(receiver.seen) == 1
    assert {each["reason"] for each in place.refused()} == {"it rejected 2 of these 10 lines"}
    assert len(place.refused()) == 10


@pytest.mark.parametrize(
    "answer", [b"", b"yes", b"[]", b'{"partialSuccess":{"rejectedLogRecords":0}}']
)
def test_an_answer_without_a_word_is_a_yes(
    place: Place, receiver: HttpReceiver, wait: Wait, answer: bytes
) -> None:
    """A collector that took all says nothing, or that it rejected none."""
    receiver.judge = lambda _: (200, {}, answer)
    place.fill(3)
    worker = place.sink(to(receiver.url))
    wait(lambda: worker.progress.seq == 3)
    assert place.refused() == []
