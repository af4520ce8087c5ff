"""The record as OpenTelemetry logs, read by the official definitions."""

from __future__ import annotations

import importlib
import json
import os
import ssl
from typing import TYPE_CHECKING

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


def test_batches_are_what_the_official_definitions_say(place: Place) -> None:
    """Every key and type is one that the protocol has, and each line is in it as it was written."""
    try:
        service = importlib.import_module(
            "opentelemetry.proto.collector.logs.v1.logs_service_pb2"
        )
        json_format = importlib.import_module("google.protobuf.json_format")
    except ImportError:
        assert "BANDMASTER_TEST_ALL" not in os.environ, "opentelemetry-proto is not installed"
        pytest.skip("opentelemetry-proto is not installed")
    entries = fill(place)
    # Unknown keys and wrong types end in an error here.
    read = json_format.Parse(render(entries), service.ExportLogsServiceRequest())
    (resource,) = read.resource_logs
    names = {each.key: each.value.string_value for each in resource.resource.attributes}
    assert names["service.name"] == "bandmaster"
    records = resource.scope_logs[0].log_records
    assert len(records) == len(entries)
    for record, entry in zip(records, entries, strict=True):
        told = {each.key: each.value for each in record.attributes}
        assert told["log.record.original"].string_value.encode() == entry.line
        assert told["bandmaster.seq"].int_value == entry.seq
        assert record.event_name == f"bandmaster.{entry.told['event']}"
        seconds, rest = divmod(record.time_unix_nano, 10**9)
        time = str(entry.told["time"])
        assert (rest // 1000, seconds > 1_700_000_000) == (int(time[20:26]), True)
    assert records[2].attributes[-2].key.startswith("bandmaster.")
    nested = {each.key: each.value for each in records[2].attributes}["bandmaster.resources"]
    assert nested.kvlist_value.values[0].value.string_value == "0xabc"


def test_batches_say_what_matters(place: Place) -> None:
    """Severity by weight, the trace in hexadecimal, big numbers as texts."""
    body = json.loads(render(fill(place)))
    records = body["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    assert [record["severityText"] for record in records] == ["INFO", "INFO", "INFO", "WARN", "WARN"]
    assert [record["severityNumber"] for record in records] == [9, 9, 9, 13, 13]
    assert [record.get("traceId") for record in records] == [None, None, TRACE, None, None]
    assert isinstance(records[0]["timeUnixNano"], str)
    assert "\u202e" not in records[4]["body"]["stringValue"]


def test_a_collector_gets_all(place: Place, receiver: HttpReceiver, wait: Wait) -> None:
    """Batch after batch, as JSON."""
    place.fill(120)
    receiver.judge = lambda _: (200, {}, b'{"partialSuccess":{}}')
    worker = place.sink(to(receiver.url))
    wait(lambda: worker.progress.seq == 120)
    assert receiver.seen[0]["content-type"] == "application/json"
    found: list[str] = []
    for body in receiver.taken:
        scope = orjson.loads(body)["resourceLogs"][0]["scopeLogs"][0]
        found += [record["attributes"][-1]["value"]["stringValue"] for record in scope["logRecords"]]
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


@pytest.mark.parametrize("answer", [b"", b"yes", b"[]", b'{"partialSuccess":{"rejectedLogRecords":0}}'])
def test_an_answer_without_a_word_is_a_yes(
    place: Place, receiver: HttpReceiver, wait: Wait, answer: bytes
) -> None:
    """A collector that took all says nothing, or that it rejected none."""
    receiver.judge = lambda _: (200, {}, answer)
    place.fill(3)
    worker = place.sink(to(receiver.url))
    wait(lambda: worker.progress.seq == 3)
    assert place.refused() == []
