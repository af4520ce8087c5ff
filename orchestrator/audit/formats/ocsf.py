"""The Open Cybersecurity Schema Framework: each line as an event of the class API Activity.

What the class has no place for is in `unmapped`, under our own names.

Source: https://schema.ocsf.io, 1.6.0, class 6003 (api_activity), category 6.
"""

from typing import TYPE_CHECKING, Final

import orjson

from orchestrator.audit.chain import digest
from orchestrator.audit.formats.base import (
    PRODUCT,
    Format,
    is_failure,
    milliseconds_of,
    number_of,
    product_version,
    text_of,
    weight_of,
)
from orchestrator.audit.story import describe, resources_of

if TYPE_CHECKING:
    from orchestrator.model.base import Json, JsonObject

VERSION: Final = "1.6.0"
_CLASS: Final = 6003
_ACTIVITIES: Final = {1: "Create", 2: "Read", 3: "Update", 4: "Delete", 99: "Other"}
_STATUSES: Final = {1: "Success", 2: "Failure", 99: "Other"}
# By the number from which on they hold.
_SEVERITIES: Final = ((8, 5, "Critical"), (6, 4, "High"), (4, 3, "Medium"), (3, 2, "Low"))
_MAPPED: Final = frozenset(
    {
        *("agent", "client", "code", "duration_us", "event", "method", "outcome", "request"),
        *("resources", "role", "run", "seq", "session", "status", "time", "tool", "workload"),
    }
)
_ENDS: Final = {".issued": 1, ".added": 1, ".revoked": 4, ".removed": 4}


def render(line: bytes, told: "JsonObject") -> bytes:
    """Write one event."""
    activity, status = _activity(told), _status(told)
    severity, severity_name = _severity(told)
    event: JsonObject = {
        "activity_id": activity,
        "activity_name": _ACTIVITIES[activity],
        "category_uid": 6,
        "category_name": "Application Activity",
        "class_uid": _CLASS,
        "class_name": "API Activity",
        "type_uid": _CLASS * 100 + activity,
        "type_name": f"API Activity: {_ACTIVITIES[activity]}",
        "time": milliseconds_of(told),
        "severity_id": severity,
        "severity": severity_name,
        "status_id": status,
        "status": _STATUSES[status],
        "message": describe(told),
        "metadata": _metadata(line, told),
        "actor": _actor(told),
        "api": _api(told),
        "src_endpoint": {"name": text_of(told, "client") or text_of(told, "agent") or PRODUCT},
    }
    if code := text_of(told, "code"):
        event["status_code"] = code
    if detail := text_of(told, "outcome") or text_of(told, "reason"):
        event["status_detail"] = detail
    if "duration_us" in told:
        event["duration"] = number_of(told, "duration_us") // 1000
    if "status" in told:
        event["http_response"] = {"code": number_of(told, "status")}
    if "workload" in told:
        event["dst_endpoint"] = {"svc_name": text_of(told, "workload")}
    if resources := resources_of(told):
        event["resources"] = [{"type": name, "name": value} for name, value in resources.items()]
    event["unmapped"] = {name: value for name, value in told.items() if name not in _MAPPED}
    return orjson.dumps(event)


def _activity(told: "JsonObject") -> int:
    kind, event = told.get("class"), text_of(told, "event")
    if kind is not None:
        return 2 if kind == "READ" else 3
    if event in {"outcome", "decision", "stream"}:
        return 2
    return next((number for end, number in _ENDS.items() if event.endswith(end)), 99)


def _status(told: "JsonObject") -> int:
    if is_failure(told):
        return 2
    # Whether it will succeed is not known yet.
    return 99 if told.get("event") in {"intent", "shadow", "stream"} else 1


def _severity(told: "JsonObject") -> tuple[int, str]:
    weight = weight_of(told)
    for least, number, name in _SEVERITIES:
        if weight >= least:
            return number, name
    return 1, "Informational"


def _metadata(line: bytes, told: "JsonObject") -> "JsonObject":
    metadata: JsonObject = {
        "version": VERSION,
        "product": {"name": PRODUCT, "vendor_name": PRODUCT, "version": product_version()},
        "uid": digest(line),
        "sequence": number_of(told, "seq"),
        "event_code": text_of(told, "event"),
        "log_name": "audit",
        "original_time": text_of(told, "time"),
    }
    if run := text_of(told, "run"):
        metadata["correlation_uid"] = run
    return metadata


def _actor(told: "JsonObject") -> "JsonObject":
    # One of these has to be there; the program itself is the one that nobody asked to act.
    actor: JsonObject = {"app_name": text_of(told, "client") or PRODUCT}
    if who := text_of(told, "agent") or text_of(told, "by"):
        user: dict[str, Json] = {"name": who, "type_id": 99, "type": "Agent"}
        if "agent" not in told:
            user |= {"type_id": 2, "type": "Admin"}
        actor["user"] = user
    if session := text_of(told, "session"):
        actor["session"] = {"uid": session}
    return actor


def _api(told: "JsonObject") -> "JsonObject":
    operation = text_of(told, "tool") or text_of(told, "method") or text_of(told, "event")
    api: JsonObject = {"operation": operation}
    if role := text_of(told, "role"):
        api["service"] = {"name": role}
    if request := text_of(told, "request"):
        api["request"] = {"uid": request}
    response: JsonObject = {}
    if "status" in told:
        response["code"] = number_of(told, "status")
    if code := text_of(told, "code"):
        response["error"] = code
    if response:
        api["response"] = response
    return api


OCSF: Final = Format("ocsf", "application/jsonl", render)
