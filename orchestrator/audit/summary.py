"""What may be kept of a call's arguments: what they are called and how large they are.

Values are kept only of arguments that the server file names: those that tell which thing a call is
about, such as an address. Each is short, and none that looks like a secret is kept.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, TypeAlias

from orchestrator.model.base import Json, JsonObject
from orchestrator.model.secret_formats import find_secret

Named: TypeAlias = dict[str, str]
# Stands for what is no name of ours: whoever wrote it may have put a token into its place.
NO_NAME: Final = "?"
MOST_ARGUMENTS: Final = 16
LONGEST_VALUE: Final = 128
# So much is looked at for a secret that begins in what is kept.
_LOOK: Final = 512
_LONGEST_NAME: Final = 256
# Short words with something between them; no key or token is.
_WORDS: Final = re.compile(r"\$?[A-Za-z0-9]{1,31}(?:[_./-][A-Za-z0-9]{1,31}){0,7}")
# No secret that is looked for is shorter; and a number is one by its name only.
_SHORT: Final = 16
_HEX: Final = re.compile(r"0x[0-9a-fA-F]{1,64}")
# What may hold a password, and is no part of what a resource is called.
_PRIVATE: Final = re.compile(r"(?<=//)[^/@]*@|[?#].*", re.DOTALL)


def keep_name(text: str) -> str:
    """Keep what somebody wrote as a name if it looks like one."""
    return _keep_name(text) if len(text) <= _LONGEST_NAME else NO_NAME


@lru_cache(4096)
def _keep_name(text: str) -> str:
    return text if _WORDS.fullmatch(text) and not find_secret(text.encode()) else NO_NAME


def name_client(info: Json) -> str:
    """Tell which program a caller says that it is; empty if it says nothing."""
    if not isinstance(info, dict):
        return ""
    name, version = info.get("name"), info.get("version")
    if not isinstance(name, str) or not name:
        return ""
    known = keep_name(name.replace(" ", "-"))
    if not isinstance(version, str) or not version:
        return known
    return f"{known}/{keep_name(version)}"


def summarize(arguments: JsonObject | None) -> Named:
    """Tell of each argument what kind of value it has, and how large it is; never the value."""
    if not arguments:
        return {}
    told: Named = {}
    for name, value in arguments.items():
        if len(told) == MOST_ARGUMENTS:
            told[NO_NAME] = f"{len(arguments)} in all"
            break
        told[keep_name(name)] = _kind(value)
    return told


def _kind(value: Json) -> str:
    # The commonest first, and exact types: this runs with each call.
    kind = type(value)
    if kind is str:
        return f"text({len(value)})"  # pyright: ignore[reportArgumentType] - it is a text
    if kind is int:
        return "integer"
    if kind is bool:
        return "boolean"
    if isinstance(value, dict):
        return f"object({len(value)})"
    if isinstance(value, list):
        return f"list({len(value)})"
    return "null" if value is None else "number"


def pick(arguments: JsonObject | None, names: Sequence[str]) -> Named:
    """Tell the values of the arguments that say which thing a call is about.

    Args:
        arguments: The call's arguments.
        names: Which of them are meant.
    """
    if not arguments:
        return {}
    return {name: _show(arguments[name]) for name in names if name in arguments}


def name_resource(uri: Json) -> Named:
    """Tell which resource is read."""
    return {"uri": _keep_text(_PRIVATE.sub("", uri[:_LOOK]))} if isinstance(uri, str) else {}


def _show(value: Json) -> str:
    if isinstance(value, str):
        return _keep_text(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and value.bit_length() <= LONGEST_VALUE:
        return str(value)
    return _kind(value)


def _keep_text(text: str) -> str:
    # Most are short words and addresses, in which there is nothing to be looked for.
    is_plain = len(text) < _SHORT or _HEX.fullmatch(text) is not None
    if not is_plain and find_secret(text[:_LOOK].encode("utf-8", "replace")):
        return NO_NAME
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."
