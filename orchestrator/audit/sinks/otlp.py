"""Batches to a collector of OpenTelemetry, as OTLP/HTTP in JSON.

Source: OpenTelemetry, OTLP Specification 1.9 (JSON Protobuf Encoding, Partial Success) and Logs
Data Model (Severity Fields).
"""

import re
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, cast, final

import orjson
from typing_extensions import override

from orchestrator.audit.formats.base import (
    PRODUCT,
    milliseconds_of,
    product_version,
    text_of,
    weight_of,
)
from orchestrator.audit.sinks.base import Entry, Outlet, RefusedError, gently
from orchestrator.audit.sinks.http import Post
from orchestrator.audit.story import describe
from orchestrator.model.text import visible

if TYPE_CHECKING:
    from orchestrator.model.base import Json, JsonObject

MEDIA_TYPE: Final = "application/json"
# By the weight from which on they hold.
_SEVERITIES: Final = ((9, 21, "FATAL"), (7, 17, "ERROR"), (4, 13, "WARN"), (3, 10, "INFO2"))
_TRACE: Final = re.compile(r"(?!0{32})[0-9a-f]{32}")
_DIGITS: Final = 19  # of a number of 64 bits
_FRACTION: Final = re.compile(r"\.([0-9]{1,9})")


def render(entries: Sequence[Entry]) -> bytes:
    """Write a batch as one request; numbers of 64 bits are texts, as its encoding wants it."""
    resource = {
        "service.name": PRODUCT.lower(),
        "service.version": product_version(),
        "host.name": socket.gethostname(),
    }
    scope: JsonObject = {"name": "bandmaster.audit", "version": product_version()}
    now = str(time.time_ns())
    records: list[Json] = [_record(entry, now) for entry in gently(entries)]
    return orjson.dumps(
        {
            "resourceLogs": [
                {
                    "resource": {
                        "attributes": [
                            {"key": key, "value": {"stringValue": value}}
                            for key, value in resource.items()
                        ]
                    },
                    "scopeLogs": [{"scope": scope, "logRecords": records}],
                }
            ]
        }
    )


def _record(entry: Entry, now: str) -> "JsonObject":
    number, name = 9, "INFO"
    for least, severity, text in _SEVERITIES:
        if weight_of(entry.told) >= least:
            number, name = severity, text
            break
    record: JsonObject = {
        "timeUnixNano": _nanoseconds(entry.told),
        "observedTimeUnixNano": now,
        "severityNumber": number,
        "severityText": name,
        "eventName": f"bandmaster.{text_of(entry.told, 'event')}",
        "body": {"stringValue": visible(describe(entry.told), "")},
        "attributes": [
            *(
                {"key": f"bandmaster.{key}", "value": _value(value)}
                for key, value in entry.told.items()
                if value is not None
            ),
            # What the chain and its hashes hold for is these bytes.
            {"key": "log.record.original", "value": {"stringValue": _text(entry.line)}},
        ],
    }
    if _TRACE.fullmatch(trace := text_of(entry.told, "trace")):
        record["traceId"] = trace
    return record


def _nanoseconds(told: "JsonObject") -> str:
    milliseconds = milliseconds_of(told)
    fraction = _FRACTION.search(text_of(told, "time"))
    if not milliseconds or fraction is None:
        return str(milliseconds * 1_000_000)
    return str(milliseconds // 1000 * 1_000_000_000 + int(fraction[1].ljust(9, "0")))


def _value(value: "Json") -> "JsonObject":
    match value:
        case int() if not isinstance(value, bool):
            return {"intValue": str(value)}
        case str():
            return {"stringValue": value}
        case list():
            return {"arrayValue": {"values": [_value(each) for each in value if each is not None]}}
        case dict():
            inner: list[Json] = [
                {"key": key, "value": _value(each)}
                for key, each in value.items()
                if each is not None
            ]
            return {"kvlistValue": {"values": inner}}
        case _:  # the record has no others
            return {"stringValue": orjson.dumps(value).decode()}


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace")


@final
class OtlpOutlet(Outlet):
    """Sends lines as log records."""

    def __init__(self, post: Post) -> None:
        """Mean this collector.

        Args:
            post: The way there.
        """
        self._post = post

    @override
    def send(self, entries: Sequence[Entry]) -> None:
        answer = self._post.send(render(entries), entries)
        if rejected := _rejected(answer):
            # Which ones it does not say, and it must not be asked again.
            raise RefusedError(f"it rejected {rejected} of these {len(entries)} lines")

    @override
    def close(self) -> None:
        self._post.close()


def _rejected(answer: bytes) -> int:
    """Tell how many records an answer says were not taken."""
    try:
        told = cast("object", orjson.loads(answer))
    except ValueError:
        return 0
    partial = cast("JsonObject", told).get("partialSuccess") if isinstance(told, dict) else None
    count = partial.get("rejectedLogRecords") if isinstance(partial, dict) else None
    text = str(count)
    return int(text[:_DIGITS]) if text.isascii() and text.isdecimal() else 0
