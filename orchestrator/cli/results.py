"""What a tool answered, for a person."""

import json
from collections.abc import Callable, Iterator
from typing import Final

from orchestrator.model.base import Json, JsonObject
from orchestrator.model.text import visible
from orchestrator.protocol import jsonrpc

Shown = Callable[[str], str]
_KIB: Final = 1024


def lines_of(result: JsonObject, *, is_terminal: bool) -> Iterator[str]:
    """Lay a result out: text as text, structured content as JSON, anything else as a line.

    Args:
        result: The result of `tools/call`.
        is_terminal: Whether it goes to a terminal: then nothing in it may steer it. Elsewhere text
            stays as it is, byte for byte.
    """
    shown: Shown = visible if is_terminal else str
    structured = result.get("structuredContent")
    content = result.get("content")
    for block in content if isinstance(content, list) else []:
        # Servers repeat structured content as a text, for callers that know no better.
        if structured is None or not _repeats(block, structured):
            yield from _block(block, shown)
    if structured is not None:
        yield visible(json.dumps(structured, indent=2, ensure_ascii=False))


def _repeats(block: Json, structured: Json) -> bool:
    text = block.get("text") if isinstance(block, dict) and block.get("type") == "text" else None
    if not isinstance(text, str):
        return False
    try:
        return jsonrpc.decode(text.encode("utf-8", "surrogatepass")) == structured
    except jsonrpc.UnreadableMessageError:
        return False


def _block(block: Json, shown: Shown) -> Iterator[str]:
    if not isinstance(block, dict):
        return
    match block:
        case {"type": "text", "text": str(text)}:
            yield shown(text)
        case {"type": "image" | "audio" as kind, "data": str(data)}:
            yield f"[{kind}: {_media(block)}, {_size(data)}]"
        case {"type": "resource", "resource": {"text": str(text), **rest}}:
            yield f"[resource: {_word(rest.get('uri'))}, {_media(rest)}]"
            yield shown(text)
        case {"type": "resource", "resource": {"blob": str(data), **rest}}:
            yield f"[resource: {_word(rest.get('uri'))}, {_media(rest)}, {_size(data)}]"
        case {"type": "resource_link"}:
            yield f"[link: {_word(block.get('name'))}, {_word(block.get('uri'))}]"
        case _:
            yield f"[{_word(block.get('type'))}]"


def _media(block: JsonObject) -> str:
    return _word(block.get("mimeType"))


def _word(value: Json) -> str:
    return visible(value, "") if isinstance(value, str) and value else "unknown"


def _size(base64: str) -> str:
    """Tell how many bytes a Base64 text stands for."""
    size = len(base64) * 3 // 4 - base64[-2:].count("=")
    for unit in ("bytes", "KiB"):
        if size < _KIB:
            return f"{size:.0f} {unit}"
        size /= _KIB
    return f"{size:.1f} MiB"
