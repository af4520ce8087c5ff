r"""ArcSight's Common Event Format, version 0.

In the header `\` and `|` are escaped, in the extension `\` and `=` and line ends; there is no
other rule, so whatever else steers a terminal or a parser is written as `\uXXXX`.

Source: Micro Focus, ArcSight Common Event Format, Implementation Standard.
"""

from typing import TYPE_CHECKING, Final

from orchestrator.audit.formats.base import (
    PRODUCT,
    Format,
    milliseconds_of,
    number_of,
    product_version,
    text_of,
    weight_of,
)
from orchestrator.audit.story import describe, resources_of
from orchestrator.model.text import visible

if TYPE_CHECKING:
    from orchestrator.model.base import JsonObject

# Fields of the format's own dictionary, and ours for each.
_FIELDS: Final = (
    ("suser", "agent"),
    ("suid", "token"),
    ("sourceServiceName", "client"),
    ("duser", "by"),
    ("destinationServiceName", "role"),
    ("dproc", "workload"),
    ("dpid", "pid"),
    ("act", "method"),
    ("outcome", "outcome"),
    ("fileHash", "arguments_sha256"),
)
# The fields that are ours alone, with their label.
_CUSTOM: Final = (
    ("cs1", "tool", "tool"),
    ("cs2", "class", "class"),
    ("cs3", "rule", "rule"),
    ("cs4", "policy", "policy"),
    ("cs5", "approval", "approval"),
    ("cs6", "run", "run"),
)


def render(_: bytes, told: "JsonObject") -> bytes:
    """Write one event."""
    name = text_of(told, "tool") or text_of(told, "method") or text_of(told, "event")
    header = (PRODUCT, PRODUCT, product_version(), text_of(told, "event"), name)
    words = [f"rt={milliseconds_of(told)}", f"externalId={number_of(told, 'seq')}"]
    words += [f"{key}={_value(text_of(told, ours))}" for key, ours in _FIELDS if ours in told]
    for key, ours, label in _CUSTOM:
        if ours in told:
            words += [f"{key}={_value(text_of(told, ours))}", f"{key}Label={label}"]
    if code := text_of(told, "code") or text_of(told, "reason"):
        words.append(f"reason={_value(code)}")
    if "duration_us" in told:
        words += [f"cn1={number_of(told, 'duration_us')}", "cn1Label=duration_us"]
    if "request" in told:
        words += [f"flexString1={_value(text_of(told, 'request'))}", "flexString1Label=request"]
    if about := " ".join(f"{key}={value}" for key, value in resources_of(told).items()):
        words += [f"flexString2={_value(about)}", "flexString2Label=resources"]
    words.append(f"msg={_value(describe(told))}")
    head = "|".join(map(_part, header))
    return f"CEF:0|{head}|{weight_of(told)}|{' '.join(words)}".encode("utf-8", "replace")


def _part(text: str) -> str:
    return visible(text, keep="").replace("\\", "\\\\").replace("|", "\\|")


def _value(text: str) -> str:
    seen = visible(text, keep="\n\r").replace("\\", "\\\\").replace("=", "\\=")
    return seen.replace("\n", "\\n").replace("\r", "\\r")


CEF: Final = Format("cef", "text/plain", render)
