"""All formats, by name."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from orchestrator.audit.formats.base import Format
from orchestrator.audit.formats.cef import CEF
from orchestrator.audit.formats.csv import CSV
from orchestrator.audit.formats.jsonl import JSONL
from orchestrator.audit.formats.ocsf import OCSF

FORMATS: Final[Mapping[str, Format]] = MappingProxyType(
    {one.name: one for one in (JSONL, OCSF, CEF, CSV)}
)
