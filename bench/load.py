"""Load from `wrk`: many callers that make the same call again and again, and check the answers."""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

# Written so that a reply is checked only where that is asked for: to look at each takes wrk as
# long as to make the call, and would measure wrk.
_SCRIPT: Final = """
local told = 0
function init(args)
  local heads = {{ {heads} }}
  made = {{}}
  for i, headers in ipairs(heads) do
    headers["Host"] = wrk.headers["Host"]
    made[i] = wrk.format("POST", nil, headers, {body})
  end
end
local at = 0
function request()
  at = at % #made + 1
  return made[at]
end
{check}
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'FIGURES {{"calls":%d,"micros":%d,"bytes":%d,"refused":%d,"broken":%d,"p50":%f,"p99":%f}}\\n',
    summary.requests, summary.duration, summary.bytes, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""
_CHECK: Final = """
function response(status, headers, body)
  if status ~= 200 or not body:find('"text":%s*"hi"') then
    told = told + 1
    if told < 4 then io.write("WRONG " .. status .. " " .. body .. "\\n") end
  end
end
"""


@dataclass(frozen=True, slots=True)
class Calls:
    """What one gateway is asked.

    Attributes:
        url: Where.
        heads: Headers of the callers, who take turns.
        body: The body of every call.
    """

    url: str
    heads: Sequence[Mapping[str, str]]
    body: bytes


@dataclass(frozen=True, slots=True)
class Figures:
    """How one run went.

    Attributes:
        calls: Calls answered.
        per_second: Calls answered a second.
        p50: Median time of a call, in milliseconds.
        p99: Time that one call in a hundred takes longer than, in milliseconds.
        reply_bytes: Bytes of one reply, head and all; whole if all replies are of one size.
    """

    calls: int
    per_second: float
    p50: float
    p99: float
    reply_bytes: float


class WrongAnswerError(Exception):
    """A gateway answered wrongly, or not at all: its figures would mean nothing."""


class NobodyAnsweredError(WrongAnswerError):
    """A gateway answered nobody in the time that was measured."""


def make_calls(calls: Calls, callers: int, seconds: int, *, is_checked: bool = False) -> Figures:
    """Make calls, each caller on a connection of its own.

    Raises:
        NobodyAnsweredError: No call was answered.
        WrongAnswerError: Some were not answered with 200, or, if that is checked, not with the
            right words.
    """
    heads = ", ".join(
        "{ "
        + ", ".join(f"[{_quote(name)}] = {_quote(value)}" for name, value in head.items())
        + " }"
        for head in calls.heads
    )
    body, check = _quote(calls.body.decode()), _CHECK if is_checked else ""
    script, name = tempfile.mkstemp(prefix="bm-", suffix=".lua")
    _ = os.write(script, _SCRIPT.format(heads=heads, body=body, check=check).encode())
    os.close(script)
    try:
        words = ["wrk", "-t1", f"-c{callers}", f"-d{seconds}s", "--timeout", "30s", "-s", name]
        done = subprocess.run([*words, calls.url], capture_output=True, text=True, check=True)
    finally:
        Path(name).unlink()
    before, found, told = done.stdout.partition("FIGURES ")
    if not found or "WRONG " in before:
        raise WrongAnswerError(f"{calls.url}: {before[-1000:]}{done.stderr[-1000:]}")
    figures = cast("dict[str, float]", json.loads(told.splitlines()[0]))
    if figures["refused"] or figures["broken"]:
        raise WrongAnswerError(f"{calls.url}: {told.splitlines()[0]}")
    if not figures["calls"]:
        raise NobodyAnsweredError(calls.url)
    count = int(figures["calls"])
    return Figures(
        count,
        count / figures["micros"] * 1e6,
        figures["p50"] / 1000,
        figures["p99"] / 1000,
        figures["bytes"] / count,
    )


def _quote(text: str) -> str:
    """Write a text as Lua reads it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
